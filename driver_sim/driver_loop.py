"""A simulated driver: it drives one trip after the other, and reports at the interval that the hub asks for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from driver_sim.client import DriverClient
from driver_sim.itineraries import Itineraries, Itinerary, itinerary_of
from driver_sim.motion import Moment, Motion
from driver_sim.outbox import Request
from driver_sim.receiver import DeadZone, Receiver
from driver_sim.roads import Edge
from tracking.model import Clock, TripStatus, system_clock
from tracking.protocol.driver import TripStatusChange
from tracking.protocol.http import TripView

logger = logging.getLogger(__name__)

TripMaker = Callable[[Itinerary, bool], Awaitable[TripView]]
"""Asks the backend for a trip along an itinerary. True: the trip before it failed and may still block the vehicle."""

_decode_change = msgspec.json.Decoder(TripStatusChange).decode


class _TripTaken(Exception):
    """The trip is canceled, or assigned to another vehicle. The driver leaves it at the next junction."""


class DriverLoop:
    """Drives one vehicle.

    Without `make_trip` it stands and waits for trips that a dispatcher assigns. `pace` is simulated seconds a second: at 2.0
    the vehicle drives twice as fast, and reports twice the speed. `clock` gives the instants of the fixes and, with `pace`,
    the vehicle's own time. The client's `on_trip` must call `taken`, and its `on_done` must call `answered`.
    """

    def __init__(
        self,
        vehicle_id: str,
        client: DriverClient,
        itineraries: Itineraries,
        make_trip: TripMaker | None,
        *,
        zones: Sequence[DeadZone] = (),
        pace: float = 1.0,
        clock: Clock = system_clock,
    ) -> None:
        self.vehicle_id = vehicle_id
        self.trips_done = 0
        self._client = client
        rng = itineraries.rng
        self._roads = itineraries.roads
        self._itineraries = itineraries
        self._make_trip = make_trip
        self._rng = rng
        self._zones = zones
        self._pace = pace
        self._clock = clock
        self._receiver = Receiver(rng)
        self._haste = rng.uniform(0.88, 1.0)
        self._here = itineraries.start()
        self._heading = rng.uniform(0.0, 360.0)
        self._trip_id: str | None = None
        self._trouble = False
        self._lost: set[str] = set()
        self._assigned: dict[str, TripView] = {}
        self._read_at: int | None = None
        self._due: float | None = None

    async def run(self) -> None:
        """Drive until cancelled."""
        # Otherwise drivers that started together would always report together.
        await asyncio.sleep(self._rng.uniform(0.0, min(self._client.interval, 2.0)) / self._pace)
        while True:
            try:
                await self._work()
                self.trips_done += 1
                self._trouble = False
            except _TripTaken:
                self._trouble = True
                logger.info("%s: trip %s was taken away", self.vehicle_id, self._trip_id)
            self._trip_id = None
            await self._stand(self._rng.uniform(6.0, 20.0))

    # --- what the hub sends ------------------------------------------------------------------------------------------

    def taken(self, trip: TripView) -> None:
        """The hub sent a trip: it is ours to drive next, or no longer ours."""
        ours = not isinstance(trip.vehicle, msgspec.UnsetType) and trip.vehicle.vehicle_id == self.vehicle_id
        if not ours or trip.status.over:
            self._assigned.pop(trip.trip_id, None)
            if not ours or trip.status is TripStatus.CANCELED:
                self._lost.add(trip.trip_id)
        elif trip.trip_id != self._trip_id and trip.status is TripStatus.NEW:
            self._assigned[trip.trip_id] = trip

    def answered(self, request: Request, code: str | None, detail: str | None) -> None:
        """A refused status change means that the trip has changed without this driver knowing."""
        if code is None:
            return
        logger.info("%s: %s was refused, %s: %s", self.vehicle_id, request.frame.decode(), code, detail)
        try:
            self._lost.add(_decode_change(request.frame).trip_id)
        except msgspec.DecodeError:
            return

    # --- a trip ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        itinerary, trip_id = await self._next()
        self._trip_id = trip_id
        self._lost &= {trip_id}
        advance = self._client.advance
        advance(trip_id, TripStatus.ENROUTE_TO_PICKUP)
        await self._drive(itinerary.legs[0].edges)
        advance(trip_id, TripStatus.ARRIVED_AT_PICKUP)
        await self._stand(self._rng.uniform(5.0, 15.0))
        advance(trip_id, TripStatus.ENROUTE_TO_DROPOFF)
        for leg in itinerary.legs[1:-1]:
            await self._drive(leg.edges)
            advance(trip_id, TripStatus.ARRIVED_AT_STOP)
            await self._stand(self._rng.uniform(8.0, 20.0))
            advance(trip_id, TripStatus.ENROUTE_TO_DROPOFF)
        await self._drive(itinerary.legs[-1].edges)
        advance(trip_id, TripStatus.COMPLETE)

    async def _next(self) -> tuple[Itinerary, str]:
        """A trip that a dispatcher assigned to this vehicle, or one that it makes itself."""
        while True:
            for trip_id in list(self._assigned):
                trip = self._assigned.pop(trip_id)
                if trip_id not in self._lost:
                    return itinerary_of(trip, self._roads, self._here), trip_id
            if self._make_trip is not None:
                break
            await self._stand(self._client.interval)
        itinerary = self._itineraries.next(self._here)
        making = asyncio.ensure_future(self._make_trip(itinerary, self._trouble))
        try:
            # A vehicle that waits for its backend still reports its position.
            while not making.done():
                await self._stand(self._client.interval, until=making)
            trip = making.result()
        finally:
            making.cancel()
        self._assigned.pop(trip.trip_id, None)
        return itinerary, trip.trip_id

    # --- moving and reporting ----------------------------------------------------------------------------------------

    async def _drive(self, edges: list[Edge]) -> None:
        if not edges:
            return
        motion = Motion(edges, haste=self._haste)
        began = self._clock()
        while True:
            driven = (self._clock() - began) / 1000.0 * self._pace
            moment = motion.at(driven)
            self._heading = moment.bearing
            self._report(moment)
            if driven >= motion.duration:
                break
            if self._trip_id in self._lost:
                self._here = moment.edge.end
                raise _TripTaken
            await self._next_report(left=(motion.duration - driven) / self._pace)
        self._here = edges[-1].end

    async def _stand(self, seconds: float, until: asyncio.Future[TripView] | None = None) -> None:
        latitude, longitude = self._roads.nodes[self._here]
        edge = self._roads.leaving[self._here][0]
        ends = self._clock() + seconds * 1000.0 / self._pace
        while self._clock() < ends:
            self._report(Moment(latitude, longitude, 0.0, self._heading, 0.0, edge))
            if self._trip_id in self._lost:
                raise _TripTaken
            await self._next_report(left=(ends - self._clock()) / 1000.0, until=until)
            if until is not None and until.done():
                return

    def _report(self, moment: Moment) -> None:
        now = self._clock()
        # One leg ends where the next begins. The same place is not reported twice.
        if self._read_at is not None and now - self._read_at < 200:
            return
        since = 0.0 if self._read_at is None else (now - self._read_at) / 1000.0
        self._read_at = now
        here = (moment.latitude, moment.longitude)
        self._client.set_signal(not moment.edge.tunnel and not any(zone.covers(here) for zone in self._zones))
        if moment.edge.tunnel:
            return
        reading = self._receiver.read(moment, since)
        self._client.report(
            reading.latitude,
            reading.longitude,
            fix_time=now,
            accuracy=reading.accuracy,
            altitude=reading.altitude,
            speed=round(reading.speed * self._pace, 2),
            bearing=reading.bearing,
            battery=reading.battery,
        )

    async def _next_report(self, left: float, until: asyncio.Future[TripView] | None = None) -> None:
        """Wait until the next report is due, `left` seconds have passed, or `until` is done."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._due is None or self._due <= now:
            # Keep the rhythm, but skip the reports that were missed.
            following = (self._due or now) + self._client.interval
            self._due = following if following > now else now + self._client.interval
        pause = max(0.0, min(self._due - now, left))
        if until is None:
            await asyncio.sleep(pause)
        else:
            await asyncio.wait((until,), timeout=pause)
