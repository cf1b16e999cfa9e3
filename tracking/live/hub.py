"""The hub: feeds of watched trips, fleets, connected drivers, and all open connections."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from tracking.auth import Role
from tracking.errors import CloseCode
from tracking.live.fleets import Fleets, Remembered
from tracking.live.kept_updates import KeptBytes
from tracking.live.links import CLOSED_AT_ONCE, Link, Links
from tracking.live.loading import LastChanges, Loading
from tracking.live.reader_queue import ReaderQueue
from tracking.live.shown_vehicle import FleetSlices
from tracking.live.trip_exchange import TripExchange
from tracking.live.trips import TripFeed
from tracking.metrics import DRIVERS, FEEDS
from tracking.model import Clock, Position, Trip
from tracking.protocol.codec import frame
from tracking.protocol.passenger import SnapshotPosition, snapshot_position
from tracking.protocol.shared import Tick

BEATS = 3
"""How often each feed is visited in a tick interval, so that its readers get something at least once in it."""
STEPS = 50
"""Steps in which all feeds are visited once. 4,000 feeds in one step would take the event loop 34 ms."""
T = TypeVar("T")


class Steps(Generic[T]):
    """Goes through a changing collection again and again, in `count` steps of about the same size."""

    def __init__(self, collect: Callable[[], Iterable[T]], count: int) -> None:
        self._collect = collect
        self._count = count
        self._step = 0
        self._items: list[T] = []

    def next(self) -> list[T]:
        """The next part, of the collection as it was when this round began."""
        if self._step == 0:
            self._items = list(self._collect())
        first, last = (len(self._items) * step // self._count for step in (self._step, self._step + 1))
        self._step = (self._step + 1) % self._count
        return self._items[first:last]


class Turns(Generic[T]):
    """Takes each item once in every `count` calls of `next`, counted from when it joined."""

    def __init__(self, count: int) -> None:
        self._turns: list[set[T]] = [set() for _ in range(count)]
        self._turn = 0

    def join(self, item: T) -> set[T]:
        """Its turn comes every `count` calls from now on, until it is removed from the set returned."""
        turn = self._turns[self._turn - 1]
        turn.add(item)
        return turn

    def next(self) -> list[T]:
        turn = self._turns[self._turn]
        self._turn = (self._turn + 1) % len(self._turns)
        return list(turn)


class DriverLink(Link, Protocol):
    """A driver's connection, as the hub sees it. Tickets rise with the order in which connections came."""

    ticket: int
    as_of: int
    """The last change of the log that its driver knew of when it connected."""

    @property
    def number(self) -> int:
        """The store's of the vehicle."""
        ...

    @property
    def said(self) -> str | None:
        """The name of the session that was said on it."""
        ...

    def ask_interval(self, interval: float) -> None: ...

    def tell_trip(self, trip: Trip) -> None: ...

    def knows_trip(self, trip_id: str) -> bool:
        """Whether the driver was told of the trip."""
        ...

    def trip_gone(self, trip_id: str) -> None: ...

    def tell_message(self, number: int, trip_id: str, text: str, sender: str, server_time: int) -> None: ...


class Hub:
    """Live state in one process. `publish` takes every position; it is synchronous.

    `keep_seconds` and `keep_bytes` bound what the trips' feeds keep for readers that return. A feed without readers lives for
    `linger` (s). `interval_*` (s) are asked of drivers: while someone watches, while a trip is under way, and otherwise.
    `remembered` is what is remembered of vehicles elsewhere.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        keep_seconds: float,
        keep_bytes: int,
        linger: float,
        interval_watched: float,
        interval_trip: float,
        interval_idle: float,
        remembered: Remembered | None = None,
    ) -> None:
        self._clock = clock
        self._keep_seconds = keep_seconds
        self._kept = KeptBytes(keep_bytes)
        self._linger_ms = int(linger * 1000)
        self._interval_watched = interval_watched
        self._interval_trip = interval_trip
        self._interval_idle = interval_idle
        self.feeds: dict[str, TripFeed] = {}
        self.begun = 0
        """How many feeds have been begun."""
        self.loading: Loading[str] = Loading()
        """Trips that are being read because somebody is about to watch them."""
        self.fleets = Fleets(FleetSlices(lambda work: asyncio.get_running_loop().call_soon(work)), remembered)
        self.drivers: dict[str, DriverLink] = {}
        self.on_former: Callable[[Position], None] = lambda _: None
        """Told of a position that belongs to the trip's line and does not move the marker.

        It is by a vehicle that the trip no longer has, or older than what another hub accepted before the vehicle came here.
        """
        self.trip_exchange: TripExchange | None = None
        self.applied: Callable[[], int] = lambda: 0
        """Returns the last change of the log that this memory knows of."""
        self.changed: LastChanges[str] = LastChanges()
        """When each trip and vehicle last changed, as numbers of the log."""
        self.posted: LastChanges[str] = LastChanges()
        """When a message was last posted in each trip, as instants."""
        self._erasures: list[set[str]] = []
        self.links = Links()
        self._beaten = Steps(lambda: self.feeds.values(), STEPS)
        self.dispatchers: Turns[ReaderQueue] = Turns(BEATS * STEPS)
        """Dispatchers. Each gets a tick once in a tick interval, counted from when it came, whatever else was sent."""
        for gauge in (DRIVERS, FEEDS):
            gauge.set(0)
        self.over = False
        """Whether another hub has taken over. New connections are sent there."""
        self.draining = False
        """Whether this hub stops and sends its clients to other hubs. No connection is admitted."""
        self.cut_off = False
        """Whether this hub cannot know what may be shown. Only drivers are admitted: see `tracking.cluster.cut_off`."""

    def publish(self, position: Position) -> None:
        """Shows a position to the watchers of its trip and its fleet, if it moves the marker."""
        if self.trip_exchange is not None:
            self.trip_exchange.accepted(position)
        if not position.live:
            return
        if position.trip_id is not None:
            feed = self.feeds.get(position.trip_id)
            if feed is not None and feed.showing:
                fix_time = position.fix_time
                # With several hubs, one of the same time may be the same fix: it comes again where it was not acknowledged.
                newer = fix_time > feed.newest or (fix_time == feed.newest and self.trip_exchange is None)
                if newer and position.vehicle_id == feed.vehicle_id:
                    feed.publish_position(position)
                else:
                    self.on_former(position)
        self.fleets.publish(position)

    def feed(self, trip: Trip, as_of: int = 0) -> TripFeed:
        """The trip's feed, begun now if there is none. `as_of` is the last change of the log that `trip` knows of."""
        feed = self.feeds.get(trip.trip_id)
        if feed is None:
            feed = TripFeed(trip, kept=self._kept, seconds=self._keep_seconds, now=self._clock())
            feed.as_of = as_of
            self.begun += 1
            self.feeds[trip.trip_id] = feed
            FEEDS.set(len(self.feeds))
            if self.trip_exchange is not None:
                self.trip_exchange.begun(feed)
        if not feed.queues:
            # Someone is about to watch it, so it lingers from now on.
            feed.unwatched_since = self._clock()
        return feed

    def trip_changed(self, trip: Trip) -> bool:
        """Tells the trip's watchers. Returns whether they are shown its vehicle, or another one, from now on.

        A trip that is over loses its feed, and its watchers are disconnected.
        """
        feed = self.feeds.get(trip.trip_id)
        if feed is None:
            return False
        if trip.version < feed.trip.version or trip == feed.trip:
            return False
        before = feed.showing, feed.vehicle_id
        feed.publish_trip(trip)
        if self.trip_exchange is not None:
            self.trip_exchange.watched(feed)
        if trip.status.over:
            self._end(feed, CloseCode.TRIP_OVER)
        return feed.showing and before != (True, feed.vehicle_id)

    def trip_over(self, trip_id: str) -> None:
        """The trip is over, though this hub has not read its end."""
        feed = self.feeds.get(trip_id)
        if feed is not None:
            self._end(feed, CloseCode.TRIP_OVER)

    def trip_gone(self, trip_id: str) -> None:
        feed = self.feeds.get(trip_id)
        if feed is not None:
            self._end(feed, CloseCode.NOT_FOUND)

    def drop_feed(self, trip_id: str) -> None:
        """Its watchers are disconnected and come back. The trip is read again for them."""
        feed = self.feeds.get(trip_id)
        if feed is not None:
            self._end(feed, CloseCode.GOING_DOWN)

    def vehicle_gone(self, vehicle_id: str) -> list[Trip]:
        """The vehicle was erased, with all that it drove.

        Returns the watched trips whose line is empty now, and is to be filled from the store.
        """
        begun_anew = []
        for erased in self._erasures:
            erased.add(vehicle_id)
        for feed in self.feeds.values():
            feed.forget(vehicle_id)
            if feed.has_shown(vehicle_id):
                feed.begin_anew(self._newest_of(feed), self._clock())
                begun_anew.append(feed.trip)
        return begun_anew

    @contextlib.contextmanager
    def erased(self) -> Iterator[Collection[str]]:
        """The ids of vehicles that are erased while this is open. What was read of them must not be shown."""
        erased: set[str] = set()
        self._erasures.append(erased)
        try:
            yield erased
        finally:
            # Compared by identity, because two empty sets are equal.
            self._erasures = [other for other in self._erasures if other is not erased]

    def _newest_of(self, feed: TripFeed) -> SnapshotPosition | None:
        live = self.fleets.vehicles.get(feed.vehicle_id)
        position = live.position if live is not None else None
        return snapshot_position(position) if position is not None and position.trip_id == feed.trip.trip_id else None

    def _end(self, feed: TripFeed, code: CloseCode) -> None:
        feed.ended = code
        self._let_go(feed)
        for queue in list(feed.queues):
            queue.end(code)

    def _let_go(self, feed: TripFeed) -> None:
        del self.feeds[feed.trip.trip_id]
        feed.end()
        FEEDS.set(len(self.feeds))
        if self.trip_exchange is not None:
            self.trip_exchange.ended(feed.trip.trip_id)

    def claim(self, vehicle_id: str, driver: DriverLink) -> bool:
        """The newer connection of a vehicle replaces the older, which is closed with 4409. False: this one is the older."""
        other = self.drivers.get(vehicle_id)
        if other is not None and other.ticket > driver.ticket:
            return False
        self.drivers[vehicle_id] = driver
        DRIVERS.set(len(self.drivers))
        if other is not None:
            other.close(CloseCode.REPLACED)
        return True

    def release(self, vehicle_id: str, driver: DriverLink) -> None:
        if self.drivers.get(vehicle_id) is driver:
            del self.drivers[vehicle_id]
            if not self.over:
                DRIVERS.set(len(self.drivers))

    def interval_for(self, trip: Trip | None) -> float:
        """Seconds between fixes that the vehicle on this trip is asked for. The rate follows the demand."""
        if trip is None or not trip.status.under_way:
            return self._interval_idle
        feed = self.feeds.get(trip.trip_id)
        if (feed is not None and feed.queues) or (self.trip_exchange is not None and self.trip_exchange.watches(trip.trip_id)):
            return self._interval_watched
        return self._interval_trip

    def watched(self, feed: TripFeed) -> None:
        """Someone began to watch: the driver is asked for a higher rate at once. `beat` asks for a lower one."""
        feed.unwatched_since = None
        self._ask_interval(feed)

    def beat(self) -> None:
        """To be called `BEATS * STEPS` times in a tick interval. Each call visits a part of the feeds.

        Sends ticks to readers that got nothing for a while, and ends feeds that nobody watches any more.
        """
        now = self._clock()
        tick = frame(Tick(now))
        for feed in self._beaten.next():
            if self.feeds.get(feed.trip.trip_id) is not feed:
                continue  # it has ended since this round began
            feed.beat(tick, now)
            if not feed.queues:
                self._ask_interval(feed)
                if feed.unwatched_since is not None and now - feed.unwatched_since >= self._linger_ms:
                    self._let_go(feed)
        for queue in self.dispatchers.next():
            queue.push(tick)

    def _ask_interval(self, feed: TripFeed) -> None:
        if self.trip_exchange is not None:
            self.trip_exchange.watched(feed)
        # Watchers of the vehicle's next trip do not change how often it reports on this one.
        vehicle = feed.trip.vehicle if feed.trip.status.under_way else None
        driver = self.drivers.get(vehicle.vehicle_id) if vehicle is not None else None
        if driver is not None:
            driver.ask_interval(self.interval_for(feed.trip))

    async def send_all_away(self) -> None:
        """Closes every connection, some at a time. They come back to the hub that has taken over."""
        self.over = True
        await self.links.close_all(CloseCode.GOING_DOWN)

    async def send_readers_away(self) -> None:
        """Closes all connections except drivers', some at a time, and ends all feeds. What comes meanwhile is shown nobody."""
        for number, trip_id in enumerate(list(self.feeds), 1):
            self.drop_feed(trip_id)
            if number % CLOSED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self.links.close_all(CloseCode.GOING_DOWN, lambda principal: principal.role is not Role.DRIVER)
