"""Reads from the store what rows of the change log concern, as far as this hub holds it.

A row says what changed. The current state is read after the rows. So a row is short, the version that wrote it does not matter,
and of many changes of one thing the last counts. What is read may already include a change whose row comes later. That row
causes another reading.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import TypeVar

import msgspec

from tracking.ingest.vehicles import IngestVehicles, read_states
from tracking.live.hub import Hub
from tracking.live_state.rows import EVENTS, OF_A_TRIP, changes_vehicle, number_in
from tracking.model import Clock, Event, Fleet, Trip
from tracking.store import events, fleets, messages, trips, vehicles
from tracking.store.changes import ChangeKind, Row
from tracking.store.messages import Message
from tracking.store.pool import Connection
from tracking.store.trips import Span
from tracking.store.vehicles import Stored

Key = TypeVar("Key")

READ_AT_ONCE = 100
"""Vehicles or trips in one question: a millisecond or two of work for each kind."""


class VehicleState(msgspec.Struct):
    """A vehicle, its spans, the trip that its driver is to see, and, if they were asked for, its trips that are not over."""

    stored: Stored
    spans: list[Span]
    current: Trip | None
    open_trips: list[Trip]


class State:
    """The current state of what rows concern. A thing in `asked_…` that was not found does not exist."""

    def __init__(self, begun: int = 0) -> None:
        """`begun` is `Hub.begun` before the reading: how many trips had been watched by then."""
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
        """Drivers (by vehicle) and dispatchers ("") who were told of a trip as it is now."""


class StateReader:
    """Reads the state that rows concern. It asks only for what ingest and the hub hold in memory."""

    def __init__(self, ingest_vehicles: IngestVehicles, hub: Hub, clock: Clock) -> None:
        self._ingest_vehicles = ingest_vehicles
        self._hub = hub
        self._clock = clock

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
            if number is not None and changes_vehicle(row.kind) and (subject in watched or self._holds_vehicle(row)):
                state.asked_vehicles.add(number)
                if row.kind != ChangeKind.VEHICLE_TRIPS:
                    renamed.add(number)
            if subject is not None and self._wants_trip(row, subject, state):
                state.asked_trips.add(subject)
            if row.kind == ChangeKind.MESSAGE_POSTED and (message := number_in(row, "message")) is not None:
                if subject in self._hub.feeds or number in self._ingest_vehicles.by_number:
                    state.asked_messages.add(message)
            elif row.kind == ChangeKind.FLEET_CHANGED and subject is not None and subject in self._hub.fleets.feeds:
                state.asked_fleets.add(subject)
            elif row.kind in EVENTS and (event := number_in(row, "event")) is not None:
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
        """The vehicle from memory, for a row that changed only its trips."""
        vehicle = self._ingest_vehicles.by_number.get(number)
        if vehicle is None:
            return None
        return Stored(number, vehicle.vehicle, vehicle.tokens_from, vehicle.joined_at)

    def _holds_vehicle(self, row: Row) -> bool:
        if row.vehicle in self._ingest_vehicles.by_number or row.vehicle in self._hub.fleets.by_number:
            return True
        if row.kind != ChangeKind.VEHICLE_CHANGED or row.subject is None:
            return False
        # A vehicle that is new in a fleet in memory, or has the id of a vehicle in memory.
        return (
            self._hub.fleets.holds(row.fleet_id or "")
            or row.subject in self._hub.fleets.vehicles
            or self._ingest_vehicles.get(row.subject) is not None
        )

    def _wants_trip(self, row: Row, trip_id: str, state: State) -> bool:
        if trip_id in self._hub.feeds:
            return row.kind != ChangeKind.MESSAGE_POSTED
        if row.kind not in OF_A_TRIP:
            return False
        if row.kind == ChangeKind.VEHICLE_TRIPS:
            return row.vehicle in state.asked_vehicles
        feed = self._hub.fleets.feeds.get(row.fleet_id or "")
        return feed is not None and bool(feed.queues)


def _parts(asked: Collection[Key]) -> Iterator[list[Key]]:
    """Parts of `READ_AT_ONCE`, each decoded in one step of the event loop."""
    everything = list(asked)
    for begin in range(0, len(everything), READ_AT_ONCE):
        yield everything[begin : begin + READ_AT_ONCE]
