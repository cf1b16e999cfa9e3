"""Applies committed changes to the live state: vehicles, feeds, fleets, drivers and tokens in this hub's memory."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from tracking.auth import Auth
from tracking.errors import CloseCode
from tracking.ingest.vehicles import IngestVehicle, IngestVehicles
from tracking.live.follower import NotRead, NotUnderstood
from tracking.live.hub import Hub
from tracking.live_state.reading import State, StateReader
from tracking.live_state.rows import EVENTS, KINDS, OF_A_GEOFENCE, changes_vehicle, is_moved, number_in
from tracking.model import Clock, EventKind, Trip
from tracking.monitor.monitor import Monitor
from tracking.store.changes import EVENT, ChangeKind, Row
from tracking.store.pool import Connection
from tracking.store.trips import Span

_LOST = f"{EVENT}{EventKind.SIGNAL_LOST.value}"
_OF_THE_SIGNAL = (_LOST, f"{EVENT}{EventKind.SIGNAL_BACK.value}")


class Filing(Protocol):
    """Decides which trip each fix of a vehicle belongs to."""

    def set_spans(self, vehicle: IngestVehicle, spans: Sequence[Span]) -> None:
        """The vehicle's spans are these now, oldest first."""
        ...

    def begins_to_show(self, trip: Trip) -> None:
        """The watchers of this trip are shown its vehicle, or another one, from now on."""
        ...


class Forgetting(Protocol):
    """Everything outside the live state that holds data of vehicles and trips."""

    def forget(self, numbers: set[int]) -> None:
        """The vehicles with these numbers were removed; with no numbers: a trip was removed."""
        ...

    def fill_line(self, trip: Trip) -> None:
        """The watchers of this trip have an empty line, because a vehicle of it was removed."""
        ...


class FleetLoading(Protocol):
    """Loads fleets into memory."""

    def read_again(self, fleet_id: str) -> None:
        """What is in memory of the fleet may be wrong."""
        ...


class LiveState:
    """Applies rows of the change log: see `follower.Follows`."""

    def __init__(
        self,
        ingest_vehicles: IngestVehicles,
        hub: Hub,
        monitor: Monitor,
        loader: FleetLoading,
        auth: Auth,
        clock: Clock,
        filing: Filing,
        forgetting: Forgetting,
    ) -> None:
        self._ingest_vehicles = ingest_vehicles
        self._hub = hub
        self._monitor = monitor
        self._loader = loader
        self._auth = auth
        self._clock = clock
        self._filing = filing
        self._forgetting = forgetting
        self._reader = StateReader(ingest_vehicles, hub, clock)

    async def read(self, connection: Connection, rows: Sequence[Row]) -> State:
        return await self._reader.read(connection, rows)

    def apply(self, row: Row, state: State, as_of: int) -> Awaitable[None] | None:
        self._note(row)
        subject = row.subject
        if row.kind == ChangeKind.VEHICLE_DELETED:
            if subject is not None and row.vehicle is not None and not is_moved(row):
                self._vehicle_gone(row.vehicle, subject)
            return None
        if row.kind in OF_A_GEOFENCE:
            return (
                self._monitor.geofence_at(row.fleet_id, subject) if row.fleet_id is not None and subject is not None else None
            )
        if row.kind == ChangeKind.TOKEN_REVOKED:
            if subject is not None:
                self._revoked(subject)
            return None
        if row.kind == ChangeKind.TRIP_DELETED:
            self._forgetting.forget(set())
            if subject is not None and self._hub.trip_exchange is not None:
                self._hub.trip_exchange.trip_gone(subject)
        if row.vehicle is not None and changes_vehicle(row.kind):
            self._apply_vehicle(row, row.vehicle, state, as_of)
        if subject is None:
            if row.kind != ChangeKind.ERASED:
                raise NotUnderstood("it has no subject")
            return None
        if row.kind == ChangeKind.FLEET_CHANGED:
            self._fleet_changed(row, subject, state, as_of)
        elif row.kind == ChangeKind.MESSAGE_POSTED:
            self._message_posted(row, subject, state)
        elif row.kind.startswith(EVENT):
            if row.kind not in EVENTS:
                raise NotUnderstood("this version does not know the event")
            number = number_in(row, "event")
            if number is None:
                raise NotUnderstood("it does not say which event it is about")
            self._monitor.events.numbered(number)
            if row.vehicle is not None and row.kind in _OF_THE_SIGNAL:
                self._monitor.signal_told(row.vehicle, lost=row.kind == _LOST)
            if (event := state.events.get(number)) is not None:
                self._monitor.events.tell(row.fleet_id or "", event)
        else:
            self._apply_trip(row, subject, state, as_of)
            if row.kind not in KINDS:
                raise NotUnderstood("this version does not know the kind")
        return None

    def give_up(self, row: Row) -> None:
        """Drops from memory what the row concerns. Its readers are disconnected, come back, and it is read again."""
        if row.kind == ChangeKind.TOKEN_REVOKED:
            # The row alone is enough.
            if row.subject is not None:
                self._revoked(row.subject)
            return
        if row.kind.startswith(EVENT):
            return  # It changes nothing in memory, and the list of events has it.
        vehicle_ids = self._give_up_vehicle(row, row.vehicle) if row.vehicle is not None else set()
        for feed in list(self._hub.feeds.values()):
            if feed.trip.trip_id == row.subject or any(feed.has_shown(vehicle_id) for vehicle_id in vehicle_ids):
                self._hub.drop_feed(feed.trip.trip_id)
        if row.fleet_id is None or row.kind == ChangeKind.MESSAGE_POSTED:
            return
        fleet = self._hub.fleets.feeds.get(row.fleet_id)
        if fleet is not None and row.kind in OF_A_GEOFENCE:
            # Nobody sends geofences again to screens that are connected.
            for queue in list(fleet.queues):
                queue.end(CloseCode.GOING_DOWN)
        self._loader.read_again(row.fleet_id)

    def _give_up_vehicle(self, row: Row, number: int) -> set[str]:
        """Drops the vehicle. Returns the ids that it has in memory, if the row may have changed it."""
        vehicle, live = self._ingest_vehicles.by_number.get(number), self._hub.fleets.by_number.get(number)
        vehicle_ids = {thing.vehicle.vehicle_id for thing in (vehicle, live) if thing is not None}
        if vehicle is not None:
            self._ingest_vehicles.forget(vehicle.vehicle_id)
        for vehicle_id in vehicle_ids:
            driver = self._hub.drivers.get(vehicle_id)
            if driver is not None and driver.number == number:
                driver.close(CloseCode.GOING_DOWN)
        removed = row.kind == ChangeKind.VEHICLE_DELETED
        if not removed and not changes_vehicle(row.kind):
            return set()
        if live is not None:
            # Reading it again is not enough: it may be removed, or in a fleet that is not in memory.
            self._hub.fleets.let_go(live)
            self._loader.read_again(live.feed.fleet.fleet_id)
        if removed and not is_moved(row):
            self._forgetting.forget({number})
            return vehicle_ids | ({row.subject} if row.subject is not None else set())
        return vehicle_ids

    def _note(self, row: Row) -> None:
        """Marks what changed for loads that are running. Events and messages change nothing that a load reads."""
        if row.subject is not None and self._hub.trip_exchange is not None:
            self._note_for_peers(row, row.subject)
        if row.kind.startswith(EVENT) or row.kind == ChangeKind.MESSAGE_POSTED:
            return
        if row.vehicle is not None and (changes_vehicle(row.kind) or row.kind == ChangeKind.VEHICLE_DELETED):
            self._ingest_vehicles.loading.changed(row.vehicle, row.number)
            self._hub.fleets.loading.changed(row.vehicle, row.number)
        if row.subject is not None:
            self._ingest_vehicles.loading.changed(row.subject, row.number)
            self._hub.fleets.loading.changed(row.subject, row.number)
            self._hub.loading.changed(row.subject, row.number)

    def _note_for_peers(self, row: Row, subject: str) -> None:
        """Remembers when things last changed, so that what other hubs know of them can be compared."""
        if row.kind == ChangeKind.MESSAGE_POSTED:
            self._hub.posted.changed(subject, self._clock())
        elif not row.kind.startswith(EVENT):
            self._hub.changed.changed(subject, row.number)

    # --- vehicles -----------------------------------------------------------------------------------------------------

    def _apply_vehicle(self, row: Row, number: int, state: State, as_of: int) -> None:
        vehicle, live = self._ingest_vehicles.by_number.get(number), self._hub.fleets.by_number.get(number)
        known_as_of = [thing.as_of for thing in (vehicle, live) if thing is not None]
        if number not in state.asked_vehicles:
            if (known_as_of and min(known_as_of) < row.number) or self._is_watched_since(row, state):
                raise NotRead
            return
        found = state.vehicles.get(number)
        if found is None:
            # It was removed. The row of its removal may be blank by the time that it is read.
            for vehicle_id in {thing.vehicle.vehicle_id for thing in (vehicle, live) if thing is not None}:
                self._vehicle_gone(number, vehicle_id)
            return
        vehicle_id = found.stored.vehicle.vehicle_id
        if row.kind == ChangeKind.VEHICLE_CHANGED:
            self._forget_former(vehicle_id, number)
            if live is None and self._hub.fleets.holds(found.stored.vehicle.fleet_id):
                live = self._hub.fleets.know(found.stored.vehicle, found.stored.joined_at, number)
        if vehicle is not None and vehicle.as_of < as_of:
            vehicle.as_of = as_of
            vehicle.vehicle, vehicle.joined_at, vehicle.trip = found.stored.vehicle, found.stored.joined_at, found.current
            vehicle.posted += 1
            self._filing.set_spans(vehicle, found.spans)
        if live is not None and live.as_of < as_of:
            live = self._hub.fleets.know(found.stored.vehicle, found.stored.joined_at, number)
            live.as_of = as_of
            if live.trip != found.current:
                self._hub.fleets.set_trip(vehicle_id, found.current)
        if row.kind == ChangeKind.VEHICLE_CHANGED:
            for trip in found.open_trips:
                self._tell_of_trip(trip, state, as_of)

    def _is_watched_since(self, row: Row, state: State) -> bool:
        """Whether watchers of the vehicle's trip came during the reading, so that they were shown its former name."""
        if row.kind != ChangeKind.VEHICLE_CHANGED or state.begun == self._hub.begun:
            return False
        return any(feed.vehicle_id == row.subject and feed.as_of < row.number for feed in self._hub.feeds.values())

    def _forget_former(self, vehicle_id: str, number: int) -> None:
        """Drops another vehicle that had this id and was removed. Its places must not be shown as this vehicle's."""
        vehicle, live = self._ingest_vehicles.get(vehicle_id), self._hub.fleets.vehicles.get(vehicle_id)
        for former in {thing.number for thing in (vehicle, live) if thing is not None} - {number, 0}:
            if former < number:
                self._vehicle_gone(former, vehicle_id)

    def _vehicle_gone(self, number: int, vehicle_id: str) -> None:
        self._forgetting.forget({number})
        vehicle, live = self._ingest_vehicles.by_number.get(number), self._hub.fleets.by_number.get(number)
        if vehicle is not None:
            self._ingest_vehicles.forget(vehicle_id)
        if live is not None:
            self._hub.fleets.forget(vehicle_id)
        driver = self._hub.drivers.get(vehicle_id)
        if driver is not None and driver.number == number:
            driver.close(CloseCode.NOT_FOUND)
        # This comes last, so that no snapshot names it.
        for trip in self._hub.vehicle_gone(vehicle_id):
            self._forgetting.fill_line(trip)

    # --- fleets -------------------------------------------------------------------------------------------------------

    def _fleet_changed(self, row: Row, fleet_id: str, state: State, as_of: int) -> None:
        feed = self._hub.fleets.feeds.get(fleet_id)
        if feed is None:
            return
        if fleet_id not in state.asked_fleets:
            if feed.as_of < row.number:
                raise NotRead
            return
        fleet = state.fleets.get(fleet_id)
        if fleet is not None and feed.as_of < as_of:
            self._monitor.fleet_changed(fleet)
            feed.as_of = as_of

    # --- trips --------------------------------------------------------------------------------------------------------

    def _apply_trip(self, row: Row, trip_id: str, state: State, as_of: int) -> None:
        feed = self._hub.feeds.get(trip_id)
        if trip_id not in state.asked_trips:
            if feed is not None and feed.as_of < row.number:
                raise NotRead
            return
        trip = state.trips.get(trip_id)
        if row.kind == ChangeKind.VEHICLE_TRIPS:
            self._tell_driver(row, trip_id, trip, state)
            return
        if trip is None:
            self._hub.trip_gone(trip_id)
            if row.kind == ChangeKind.TRIP_DELETED and row.fleet_id is not None:
                self._hub.fleets.trip_gone(row.fleet_id, trip_id)
            return
        self._tell_of_trip(trip, state, as_of)

    def _tell_of_trip(self, trip: Trip, state: State, as_of: int) -> None:
        """Tells watchers and dispatchers once for all rows that were read together."""
        self._trip_is(trip, as_of)
        if ("", trip.trip_id) not in state.told:
            state.told.add(("", trip.trip_id))
            self._hub.fleets.trip_changed(trip)

    def _trip_is(self, trip: Trip, as_of: int) -> None:
        feed = self._hub.feeds.get(trip.trip_id)
        if feed is not None and feed.as_of < as_of:
            feed.as_of = as_of
            if self._hub.trip_changed(trip):
                self._filing.begins_to_show(trip)

    def _tell_driver(self, row: Row, trip_id: str, trip: Trip | None, state: State) -> None:
        found = state.vehicles.get(row.vehicle or 0)
        if found is None:
            return
        vehicle_id = found.stored.vehicle.vehicle_id
        if trip is None:
            self._hub.fleets.forget_trip(vehicle_id, trip_id)
        driver = self._hub.drivers.get(vehicle_id)
        if driver is None or driver.as_of >= row.number or (vehicle_id, trip_id) in state.told:
            return
        state.told.add((vehicle_id, trip_id))
        if trip is None:
            driver.trip_gone(trip_id)
        else:
            driver.tell_trip(trip if trip.vehicle_number == row.vehicle else msgspec.structs.replace(trip, vehicle=None))
        current = found.current
        # A trip that was assigned before the driver connected was not told yet.
        if current is not None and ((trip is not None and trip.status.over) or not driver.knows_trip(current.trip_id)):
            driver.tell_trip(current)
        driver.ask_interval(self._hub.interval_for(current))

    # --- messages and tokens ------------------------------------------------------------------------------------------

    def _message_posted(self, row: Row, trip_id: str, state: State) -> None:
        number = number_in(row, "message")
        if number is None:
            raise ValueError("the row does not say which message it is about")
        vehicle = self._ingest_vehicles.by_number.get(row.vehicle) if row.vehicle is not None else None
        feed = self._hub.feeds.get(trip_id)
        if vehicle is not None:
            vehicle.posted += 1
        if number not in state.asked_messages:
            if feed is not None or vehicle is not None:
                raise NotRead
            return
        message = state.messages.get(number)
        if message is None:
            return  # it was erased
        if feed is not None:
            feed.publish_message(message.text, message.sender, message.server_time)
        driver = self._hub.drivers.get(vehicle.vehicle_id) if vehicle is not None else None
        if driver is not None and message.sender != "driver":
            driver.tell_message(message.number, trip_id, message.text, message.sender, message.server_time)

    def _revoked(self, jti: str) -> None:
        self._auth.revoke(jti)
        self._hub.links.revoke(jti)
