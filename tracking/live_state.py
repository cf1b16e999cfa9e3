"""What a committed change does to the live state: to vehicles, feeds, fleets, drivers and tokens in this hub's memory.

The row says what changed. How it is now is read from the store, of what this hub holds, after the rows. So a row is short, it
does not matter which version wrote it, and of many changes of one thing the last counts. What is read may know of a change
whose row comes later: it is read again for that one.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar

import msgspec

from tracking.auth import Auth
from tracking.errors import CloseCode
from tracking.ingest.vehicles import IngestVehicle, IngestVehicles, read_states
from tracking.live.follower import NotRead, NotUnderstood
from tracking.live.hub import Hub
from tracking.model import Clock, Event, EventKind, Fleet, Trip
from tracking.monitor.events import Events
from tracking.monitor.monitor import Monitor
from tracking.store import events, fleets, messages, trips, vehicles
from tracking.store.changes import EVENT, ChangeKind, Row
from tracking.store.messages import Message
from tracking.store.pool import Connection
from tracking.store.trips import Span
from tracking.store.vehicles import Stored

Key = TypeVar("Key")

READ_AT_ONCE = 100
"""Vehicles or trips: a millisecond or two of work each."""
_OF_A_TRIP = frozenset({ChangeKind.TRIP_CREATED, ChangeKind.TRIP_CHANGED, ChangeKind.TRIP_DELETED, ChangeKind.VEHICLE_TRIPS})
_OF_NO_VEHICLE = frozenset(
    # Where a trip means another state of its vehicle, a row of its own says so.
    {*_OF_A_TRIP, ChangeKind.MESSAGE_POSTED, ChangeKind.VEHICLE_DELETED} - {ChangeKind.VEHICLE_TRIPS}
)
_KINDS = frozenset(ChangeKind)
_OF_A_GEOFENCE = frozenset({ChangeKind.GEOFENCE_CHANGED, ChangeKind.GEOFENCE_DELETED})
_EVENTS = frozenset(f"{EVENT}{kind.value}" for kind in EventKind)


class VehicleState(msgspec.Struct):
    """A vehicle, its spans and the trip that its driver is to see; where they were asked for, its trips that are not over."""

    stored: Stored
    spans: list[Span]
    current: Trip | None
    open_trips: list[Trip]


class State:
    """How things are, as far as rows concern them. What is missing is not there; what was not asked for is not in `asked…`."""

    def __init__(self, begun: int = 0) -> None:
        """`begun` is how many trips had been watched by then: see `Hub`."""
        self.begun = begun
        self.asked_vehicles: set[int] = set()
        self.asked_trips: set[str] = set()
        self.asked_messages: set[int] = set()
        self.asked_fleets: set[str] = set()
        self.vehicles: dict[int, VehicleState] = {}
        self.trips: dict[str, Trip] = {}
        self.fleets: dict[str, Fleet] = {}
        self.messages: dict[int, Message] = {}
        self.events: dict[int, Event] = {}
        self.told: set[tuple[str, str]] = set()
        """Who was told of which trip already, as it is now."""


class LiveState:
    """Applies rows of the change log: see `follower.Follows`.

    `on_erased` is told of vehicles that were removed, by their numbers; of a trip that was, with none. `on_spans` gives a
    vehicle its spans as they are now, oldest first.
    """

    def __init__(
        self, ingest_vehicles: IngestVehicles, hub: Hub, monitor: Monitor, events: Events, auth: Auth, clock: Clock
    ) -> None:
        self._ingest_vehicles = ingest_vehicles
        self._hub = hub
        self._monitor = monitor
        self._events = events
        self._auth = auth
        self._clock = clock
        self.on_erased: Callable[[set[int]], None] = lambda _: None
        self.on_spans: Callable[[IngestVehicle, Sequence[Span]], None] = lambda vehicle, spans: vehicle.set_spans(spans)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, connection: Connection, rows: Sequence[Row]) -> State:
        state = State(self._hub.begun)
        renamed: set[int] = set()
        if any(row.kind == ChangeKind.VEHICLE_CHANGED for row in rows):
            watched = {feed.vehicle_id for feed in self._hub.feeds.values()}
        else:
            watched = set()
        wanted_events: set[int] = set()
        for row in rows:
            number, subject = row.vehicle, row.subject
            if number is not None and _changes_vehicle(row.kind) and (subject in watched or self._holds_vehicle(row)):
                state.asked_vehicles.add(number)
                if row.kind != ChangeKind.VEHICLE_TRIPS:
                    renamed.add(number)
            if subject is not None and self._wants_trip(row, subject, state):
                state.asked_trips.add(subject)
            if row.kind == ChangeKind.MESSAGE_POSTED and (message := _number_in(row, "message")) is not None:
                if subject in self._hub.feeds or number in self._ingest_vehicles.by_number:
                    state.asked_messages.add(message)
            elif row.kind == ChangeKind.FLEET_CHANGED and subject is not None and subject in self._hub.fleets.feeds:
                state.asked_fleets.add(subject)
            elif row.kind in _EVENTS and (event := _number_in(row, "event")) is not None:
                feed = self._hub.fleets.feeds.get(row.fleet_id or "")
                if feed is not None and feed.queues:
                    wanted_events.add(event)
        for trip_ids, numbers in zip_longest(_parts(state.asked_trips), _parts(state.asked_vehicles)):
            await self._read_vehicles_and_trips(connection, state, trip_ids or [], numbers or [], renamed)
        if state.asked_messages:
            state.messages = await messages.by_number(connection, list(state.asked_messages))
        if wanted_events:
            state.events = await events.by_id(connection, list(wanted_events))
        for fleet_id in state.asked_fleets:
            fleet = await fleets.get(connection, fleet_id)
            if fleet is not None:
                state.fleets[fleet_id] = fleet
        return state

    async def _read_vehicles_and_trips(
        self, connection: Connection, state: State, trip_ids: list[str], numbers: list[int], renamed: set[int]
    ) -> None:
        stored = {number: known for number in numbers if number not in renamed and (known := self._stored(number)) is not None}
        if len(stored) < len(numbers):
            stored |= await vehicles.by_number(connection, [number for number in numbers if number not in stored])
        found, current, spans = await read_states(connection, numbers, self._clock(), trip_ids=trip_ids)
        state.trips |= found
        called_anew = [number for number in numbers if number in renamed]
        open_trips = await trips.open_of_vehicles(connection, called_anew) if called_anew else {}
        state.vehicles |= {
            number: VehicleState(vehicle, spans.get(number, []), current.get(number), open_trips.get(number, []))
            for number, vehicle in stored.items()
        }

    def _stored(self, number: int) -> Stored | None:
        """A vehicle of which the row says that its trips are others: what it is called is as it is in memory."""
        vehicle = self._ingest_vehicles.by_number.get(number)
        if vehicle is None:
            return None
        return Stored(number, vehicle.vehicle, vehicle.tokens_from, vehicle.joined_at)

    def _holds_vehicle(self, row: Row) -> bool:
        if row.vehicle in self._ingest_vehicles.by_number or row.vehicle in self._hub.fleets.by_number:
            return True
        if row.kind != ChangeKind.VEHICLE_CHANGED or row.subject is None:
            return False
        # One that is new in a fleet that is held; or that has the id of one that is.
        return (
            self._hub.fleets.holds(row.fleet_id or "")
            or row.subject in self._hub.fleets.vehicles
            or self._ingest_vehicles.get(row.subject) is not None
        )

    def _wants_trip(self, row: Row, trip_id: str, state: State) -> bool:
        if trip_id in self._hub.feeds:
            return row.kind != ChangeKind.MESSAGE_POSTED
        if row.kind not in _OF_A_TRIP:
            return False
        if row.kind == ChangeKind.VEHICLE_TRIPS:
            return row.vehicle in state.asked_vehicles
        feed = self._hub.fleets.feeds.get(row.fleet_id or "")
        return feed is not None and bool(feed.queues)

    # --- applying -----------------------------------------------------------------------------------------------------

    def apply(self, row: Row, state: State, as_of: int) -> Awaitable[None] | None:
        self._note(row)
        subject = row.subject
        if row.kind == ChangeKind.VEHICLE_DELETED:
            if subject is not None and row.vehicle is not None and not _is_moved(row):
                self._vehicle_gone(row.vehicle, subject)
            return None
        if row.kind in _OF_A_GEOFENCE:
            return (
                self._monitor.geofence_at(row.fleet_id, subject) if row.fleet_id is not None and subject is not None else None
            )
        if row.kind == ChangeKind.TOKEN_REVOKED:
            if subject is not None:
                self._revoked(subject)
            return None
        if row.kind == ChangeKind.TRIP_DELETED:
            self.on_erased(set())
        if row.vehicle is not None and _changes_vehicle(row.kind):
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
            if row.kind not in _EVENTS:
                raise NotUnderstood("this version does not know the event")
            number = _number_in(row, "event")
            if number is None:
                raise NotUnderstood("it does not say which event it is about")
            if (event := state.events.get(number)) is not None:
                self._events.tell(row.fleet_id or "", event)
        else:
            self._apply_trip(row, subject, state, as_of)
            if row.kind not in _KINDS:
                raise NotUnderstood("this version does not know the kind")
        return None

    def give_up(self, row: Row) -> None:
        """What the row concerns leaves memory. Those who are connected for it come back, and it is read anew for them."""
        if row.kind == ChangeKind.TOKEN_REVOKED:
            # The row says all of it.
            if row.subject is not None:
                self._revoked(row.subject)
            return
        if row.kind.startswith(EVENT):
            return  # It changes nothing here, and the list has it.
        vehicle_ids = self._give_up_vehicle(row, row.vehicle) if row.vehicle is not None else set()
        for feed in list(self._hub.feeds.values()):
            if feed.trip.trip_id == row.subject or any(feed.has_shown(vehicle_id) for vehicle_id in vehicle_ids):
                self._hub.drop_feed(feed.trip.trip_id)
        if row.fleet_id is None or row.kind == ChangeKind.MESSAGE_POSTED:
            return
        fleet = self._hub.fleets.feeds.get(row.fleet_id)
        if fleet is not None and row.kind in _OF_A_GEOFENCE:
            # What screens were told of geofences, nobody tells anew.
            for queue in list(fleet.queues):
                queue.end(CloseCode.GOING_DOWN)
        self._hub.fleets.on_doubt(row.fleet_id)

    def _give_up_vehicle(self, row: Row, number: int) -> set[str]:
        """The ids that the vehicle is known by here, where it may be another than it is known to be."""
        vehicle, live = self._ingest_vehicles.by_number.get(number), self._hub.fleets.by_number.get(number)
        vehicle_ids = {thing.vehicle.vehicle_id for thing in (vehicle, live) if thing is not None}
        if vehicle is not None:
            self._ingest_vehicles.forget(vehicle.vehicle_id)
        for vehicle_id in vehicle_ids:
            driver = self._hub.drivers.get(vehicle_id)
            if driver is not None and driver.number == number:
                driver.close(CloseCode.GOING_DOWN)
        removed = row.kind == ChangeKind.VEHICLE_DELETED
        if not removed and not _changes_vehicle(row.kind):
            return set()
        if live is not None:
            # Not only read again: it may be removed, or in a fleet that is not in memory.
            self._hub.fleets.let_go(live)
            self._hub.fleets.on_doubt(live.feed.fleet.fleet_id)
        if removed and not _is_moved(row):
            self.on_erased({number})
            return vehicle_ids | ({row.subject} if row.subject is not None else set())
        return vehicle_ids

    def _note(self, row: Row) -> None:
        """For whoever reads just now. What was told or written changes nothing that is read."""
        if row.kind.startswith(EVENT) or row.kind == ChangeKind.MESSAGE_POSTED:
            return
        if row.vehicle is not None and (_changes_vehicle(row.kind) or row.kind == ChangeKind.VEHICLE_DELETED):
            self._ingest_vehicles.loading.changed(row.vehicle, row.number)
            self._hub.fleets.loading.changed(row.vehicle, row.number)
        if row.subject is not None:
            self._ingest_vehicles.loading.changed(row.subject, row.number)
            self._hub.fleets.loading.changed(row.subject, row.number)
            self._hub.loading.changed(row.subject, row.number)

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
            # It is removed. The row that says so may have lost its subject by the time that it is read.
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
            self.on_spans(vehicle, found.spans)
        if live is not None and live.as_of < as_of:
            live = self._hub.fleets.know(found.stored.vehicle, found.stored.joined_at, number)
            live.as_of = as_of
            if live.trip != found.current:
                self._hub.fleets.set_trip(vehicle_id, found.current)
        if row.kind == ChangeKind.VEHICLE_CHANGED:
            for trip in found.open_trips:
                self._tell_of_trip(trip, state, as_of)

    def _is_watched_since(self, row: Row, state: State) -> bool:
        """Whether a trip of the vehicle has watchers who came while the others were read, and know it by its former name."""
        if row.kind != ChangeKind.VEHICLE_CHANGED or state.begun == self._hub.begun:
            return False
        return any(feed.vehicle_id == row.subject and feed.as_of < row.number for feed in self._hub.feeds.values())

    def _forget_former(self, vehicle_id: str, number: int) -> None:
        """What was known by this id was another vehicle, and is removed: where it was is not this one's to show."""
        vehicle, live = self._ingest_vehicles.get(vehicle_id), self._hub.fleets.vehicles.get(vehicle_id)
        for former in {thing.number for thing in (vehicle, live) if thing is not None} - {number, 0}:
            if former < number:
                self._vehicle_gone(former, vehicle_id)

    def _vehicle_gone(self, number: int, vehicle_id: str) -> None:
        self.on_erased({number})
        vehicle, live = self._ingest_vehicles.by_number.get(number), self._hub.fleets.by_number.get(number)
        if vehicle is not None:
            self._ingest_vehicles.forget(vehicle_id)
        if live is not None:
            self._hub.fleets.forget(vehicle_id)
        driver = self._hub.drivers.get(vehicle_id)
        if driver is not None and driver.number == number:
            driver.close(CloseCode.NOT_FOUND)
        # Last, so that no snapshot names it.
        self._hub.vehicle_gone(vehicle_id)

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
        """Once for all rows that were read together."""
        self._trip_is(trip, as_of)
        if ("", trip.trip_id) not in state.told:
            state.told.add(("", trip.trip_id))
            self._hub.fleets.trip_changed(trip)

    def _trip_is(self, trip: Trip, as_of: int) -> None:
        feed = self._hub.feeds.get(trip.trip_id)
        if feed is not None and feed.as_of < as_of:
            feed.as_of = as_of
            self._hub.trip_changed(trip)

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
        # One that waited since before the driver came was not told.
        if current is not None and ((trip is not None and trip.status.over) or not driver.knows_trip(current.trip_id)):
            driver.tell_trip(current)
        driver.ask_interval(self._hub.interval_for(current))

    # --- messages and tokens ------------------------------------------------------------------------------------------

    def _message_posted(self, row: Row, trip_id: str, state: State) -> None:
        number = _number_in(row, "message")
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
            return  # it is erased
        if feed is not None:
            feed.publish_message(message.text, message.sender, message.server_time)
        driver = self._hub.drivers.get(vehicle.vehicle_id) if vehicle is not None else None
        if driver is not None and message.sender != "driver":
            driver.tell_message(message.number, trip_id, message.text, message.sender, message.server_time)

    def _revoked(self, jti: str) -> None:
        self._auth.revoke(jti)
        self._hub.revoke(jti)


def _changes_vehicle(kind: str) -> bool:
    """Whether a row of this kind may mean that the vehicle which it names, or its trips, are others. Its removal is no such."""
    return kind not in _OF_NO_VEHICLE and not kind.startswith(EVENT)


def _is_moved(row: Row) -> bool:
    """Whether it tells a fleet that the vehicle left it, and nobody that it was removed."""
    return bool((row.internal or {}).get("moved"))


def _parts(asked: Collection[Key]) -> Iterator[list[Key]]:
    """So many at a time as are taken apart in a step of the event loop."""
    everything = list(asked)
    for begin in range(0, len(everything), READ_AT_ONCE):
        yield everything[begin : begin + READ_AT_ONCE]


def _number_in(row: Row, name: str) -> int | None:
    """A number that the row's body says; None where it is not there, or is none."""
    number = row.internal.get(name) if row.internal is not None else None
    return number if isinstance(number, int) and 0 < number < 2**63 else None
