"""A fleet with a vehicle and its trip on two hubs, and ways to delay what those read."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from tests.changes.stand_ins import StandInWire
from tests.changes.station import PLACES, FuzzHub, Station
from tests.changes.turns import READ
from tests.support.devices import until
from tracking.auth import Principal, Role
from tracking.ingest.vehicles import IngestVehicle
from tracking.live.trips import TripFeed
from tracking.model import Fleet, Trip, Vehicle
from tracking.sockets.passenger import PassengerConnection
from tracking.store.changes import Row

SOON = 1.5
"""Seconds within which an expected thing happens."""


class Gate:
    """In place of `Turns`: the first task that has read something waits until `open` is called."""

    calm = True

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.reached = asyncio.Event()

    async def point(self, where: str = "") -> None:
        if where == READ and not self.reached.is_set():
            self.reached.set()
            await self._open.wait()

    def open(self) -> None:
        self._open.set()


@contextlib.contextmanager
def loading_held(hub: FuzzHub) -> Iterator[Gate]:
    """The next load reads, and keeps the result only after the gate is opened."""
    gate = Gate()
    with mock.patch.object(hub.service.database, "turns", gate, create=True):
        yield gate
    gate.open()


class Holding:
    """Holds each reading of a follower until `let_go`, before it is applied."""

    def __init__(self, hub: FuzzHub) -> None:
        self._follower = hub.service.follower
        self._real = self._follower._apply
        self.held: list[Row] = []
        self._goes_on = asyncio.Event()

    async def __aenter__(self) -> "Holding":
        self._follower._apply = self._hold  # type: ignore[method-assign]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._follower._apply = self._real  # type: ignore[method-assign]
        self._goes_on.set()

    async def _hold(self, rows: Any, state: Any) -> bool:
        self.held += rows
        await self._goes_on.wait()
        self._goes_on.clear()
        return await self._real(rows, state)

    async def until_read(self, subject: str) -> None:
        await until(lambda: any(row.subject == subject for row in self.held), f"{subject} is read", 10)

    def let_go(self) -> None:
        self.held.clear()
        self._goes_on.set()


class Scene:
    """A fleet with a vehicle and its trip, on two hubs: changes are made at `there` and watched at `here`."""

    def __init__(self, station: Station) -> None:
        self.here, self.there = station.hubs
        self.station = station

    async def set_up(self) -> "Scene":
        name = f"{id(self):x}-{self.there.service.follower.applied}"
        self.fleet_id, self.vehicle_id = f"fleet-{name}", f"van-{name}"
        await self.there.service.fleets.put(Fleet(self.fleet_id, ""), may_create=True)
        await self.there.service.vehicles.put(Vehicle(self.vehicle_id, self.fleet_id), own=None)
        self.trip = await self.new_trip()
        await self.applied()
        return self

    async def new_trip(self) -> Trip:
        return await self.there.service.trips.create(
            fleet_id=self.fleet_id,
            vehicle_id=self.vehicle_id,
            pickup=PLACES[0],
            dropoff=PLACES[1],
            stops=(),
            route=None,
        )

    async def change(self, at: FuzzHub | None = None, **said: Any) -> Trip:
        hub = at or self.there
        return await hub.service.trips.change(self.trip.trip_id, allowed=lambda _: True, **said)

    async def applied(self) -> None:
        """Waits until both hubs have applied all rows."""
        for hub in (self.here, self.there):
            await until(lambda hub=hub: self._caught_up(hub), "all is applied", SOON)  # type: ignore[misc]

    async def _caught_up(self, hub: FuzzHub) -> bool:
        number = await self.station.witness.fetchval("SELECT max(number) FROM changes")
        return bool(hub.service.follower.applied >= number)

    async def load(self) -> IngestVehicle:
        vehicle = await self.here.service.ingest_vehicles.load(self.vehicle_id)
        assert vehicle is not None
        return vehicle

    async def feed(self) -> TripFeed:
        """Begins the trip's feed as a passenger's connection does."""
        principal = await self._principal(Role.PASSENGER, self.trip.trip_id)
        wire = StandInWire(lambda: 0)
        connection = PassengerConnection(wire.websocket(), self.here.service, principal, self.trip.trip_id)
        return await connection._load()

    async def _principal(self, role: Role, subject: str) -> Principal:
        auth = self.here.service.auth
        return await auth.authenticate(auth.issue(role, subject, 3_600).token)
