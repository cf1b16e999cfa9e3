"""A small world that changes at random: some hubs on one database, and all who speak to them, in one process.

async with Station(url, seed) as station:
    async with World(station, seed) as world:
        await world.live(steps)     # changes, fixes, connections, kills, cuts, in an order that the seed decides
        await world.come_to_rest()  # everything is committed and applied
        wrongs = await judge(world)
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from unittest import mock

import asyncpg

import tracking.service
from tests.changes.stand_ins import Device, Heard, Message, StandInWire
from tests.changes.turns import ShakyDatabase, Turns, answer_lost
from tests.support.hub_process import SECRET
from tracking.app import _read_revoked
from tracking.auth import Auth, Issued, Principal, Role
from tracking.config import Rate, load
from tracking.errors import Refusal, StoreUnavailable, TokenRefused
from tracking.live import follower
from tracking.model import NEXT_STATUS, Fleet, Place, Trip, TripStatus, Vehicle, system_clock
from tracking.service import Service, assemble
from tracking.sockets.connection import Connection
from tracking.sockets.dispatcher import DispatcherConnection
from tracking.sockets.driver import DriverConnection
from tracking.sockets.passenger import PassengerConnection
from tracking.store import changes
from tracking.store import pool as pools
from tracking.store.changes import Change, Cursor, Row

T = TypeVar("T")

HOUR = 3_600_000
STUCK_SECONDS = 20.0
WAIT_SECONDS = 0.2
PLACES = (Place(47.14, 9.52), Place(47.16, 9.51))
ROUTES = tuple({"type": "LineString", "coordinates": [[9.52, 47.14], [9.5 + n / 100, 47.16]]} for n in range(3))
YARDS = tuple(
    b'{"type":"Polygon","coordinates":[[[9,40],[%d,40],[%d,41],[9,41],[9,40]]]}' % (east, east) for east in (10, 11, 12)
)
_PLENTY = Rate(1_000_000, 1.0)

_numbers: ContextVar[list[int] | None] = ContextVar("numbers", default=None)
"""The numbers of the transactions that this task's change told the log of."""


class Applied(NamedTuple):
    at: int
    row: Row


class Answer(NamedTuple):
    """A change that succeeded: by which transaction, and when its hub said so. `waited` (s) since it was asked."""

    hub: "FuzzHub"
    what: str
    transaction: int
    at: int
    waited: float


class FuzzHub:
    """A hub with the tasks that matter here."""

    def __init__(self, station: "Station", name: str, turns: Turns) -> None:
        self.name = name
        self._station = station
        self.world: World | None = None
        auth = Auth(station.settings, station.clock)
        self._database = type("_Database", (ShakyDatabase,), {"turns": turns})
        with mock.patch.object(tracking.service, "Database", self._database):
            self.service: Service = assemble(station.settings, station.url, auth, station.clock)
        self.applied: list[Applied] = []
        self.began = 0
        """The number of the change that the log ended with when this hub began."""
        self.alive = False
        self.let_go_at = 0
        """When it let go of vehicles the last time, which it does in an hour otherwise."""
        self.requests: set[asyncio.Task[None]] = set()
        self.wires: list[StandInWire] = []
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return self.name

    @property
    def databases(self) -> list[ShakyDatabase]:
        service = self.service
        return [
            database
            for database in (service.database, service.recording, service.following, service.housekeeping, service.exports)
            if isinstance(database, ShakyDatabase)
        ]

    @property
    def following(self) -> ShakyDatabase:
        assert isinstance(self.service.following, ShakyDatabase)
        return self.service.following

    @property
    def cut(self) -> bool:
        return self.following.away

    def join(self, world: "World") -> Self:
        """From now on it is that world's."""
        self.world = world
        self._database.turns = world.turns  # type: ignore[attr-defined]
        self.applied, self.wires, self.let_go_at = [], [], 0
        self.began = self.service.follower.applied
        return self

    async def read_all(self, pools: dict[int, Any]) -> Self:
        """Begins to the extent that it knows what a hub does that has just begun, by pools that are open."""
        for number, database in enumerate(self.databases):
            if number not in pools:
                await database.open()
                pools[number] = database._pool
            database._pool = pools[number]
        await self.service.follower.begin()
        await _read_revoked(self.service)
        works = (self.service.monitor.run(), self.service.loader.run())
        self._tasks = [asyncio.create_task(work) for work in works]
        return self

    async def forget_all(self) -> None:
        for database in self.databases:
            database._pool = None
        await self.end()

    async def begin(self) -> Self:
        service = self.service
        for database in self.databases:
            await database.open()
        assert isinstance(service.recording, ShakyDatabase)
        service.recording.lossy = 0.02
        while service.auth.revoked is None:
            with contextlib.suppress(StoreUnavailable):
                await _read_revoked(service)
            await asyncio.sleep(0)
        self.began = service.follower.applied
        service.follower._on_applied = self._note
        works = (
            service.recorder.run(),
            service.follower.run(),
            service.follower.listen(),
            service.latest.run(),
            service.revisions.run(),
            service.refiling.run(),
            service.monitor.run(),
            service.loader.run(),
            service.silences.run(),
            service.events.deliver(),
        )
        self._tasks = [asyncio.create_task(work) for work in works]
        self.alive = True
        return self

    def _note(self, row: Row) -> None:
        if self.world is not None:
            self.applied.append(Applied(self.world.stamp(), row))

    def kill(self) -> None:
        """All that it holds in memory is lost, and whoever is connected or waits for an answer is told nothing."""
        self.alive = False
        for task in (*self._tasks, *self.requests):
            task.cancel()
        for wire in self.wires:
            wire.leave()
        for database in self.databases:
            database.end()

    async def end(self) -> None:
        self.kill()
        await asyncio.gather(*self._tasks, *self.requests, return_exceptions=True)

    def catches_up(self) -> None:
        self.following.away = self.following.deaf = False

    def ask(self, what: str, work: Callable[[], Awaitable[object]], *, lost: bool = False) -> None:
        """Carries a change out, beside all others."""
        task = asyncio.create_task(self._ask(what, work, lost))
        self.requests.add(task)
        task.add_done_callback(lambda done: self._asked(what, done))

    def _asked(self, what: str, task: asyncio.Task[None]) -> None:
        self.requests.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.alive:
            assert self.world is not None
            self.world.faults.append(f"{what} failed: {error!r}")

    async def _ask(self, what: str, work: Callable[[], Awaitable[object]], lost: bool) -> None:
        _numbers.set([])
        answer_lost.set(lost)
        loop = asyncio.get_running_loop()
        began = loop.time()
        world = self.world
        assert world is not None
        with contextlib.suppress(Refusal, StoreUnavailable, TokenRefused):
            await work()
            if self.alive and (numbers := _numbers.get()):
                waited = loop.time() - began
                world.answers.append(Answer(self, what, numbers[-1], world.stamp(), waited))

    def connect(self, token: str, make: Callable[[StandInWire, Principal], Connection]) -> StandInWire:
        assert self.world is not None
        wire = StandInWire(self.world.stamp)
        self.wires.append(wire)

        async def come() -> None:
            principal = await self.service.auth.authenticate(token)
            await make(wire, principal).run()

        self.ask("a connection", come)
        return wire


class Passenger:
    """Somebody who watches one trip, and comes back to where they were. `views` are their connections, in order."""

    def __init__(self, hub: FuzzHub, trip_id: str, wire: StandInWire, token: str) -> None:
        self.hub = hub
        self.trip_id = trip_id
        self.wire = wire
        self.token = token


class Station:
    """A database with its hubs, which one world after the other lives on.

    `other_clock`: the hubs' clock is an hour ahead of the database's, and is turned.
    """

    def __init__(
        self,
        url: str,
        seed: str,
        *,
        hubs: int = 2,
        mutation: Callable[[str], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        """`mutation` is one of `mutations`, which its hubs live with."""
        self.url = url
        self._mutation = mutation
        self.settings = load(
            database_url=url,
            jwt_secret=SECRET,
            commit_interval=0.0,
            ack_interval=0.0,
            latest_interval=0.05,
            connections_per_address=1_000_000,
            **{
                f"budget_{name}": _PLENTY
                for name in ("writes", "shares", "sessions", "connects", "frames", "looks", "fixes", "backlog", "messages")
            },
        )
        self.other_clock = random.Random(seed).random() < 0.5
        self.turned = HOUR if self.other_clock else 0
        self.hubs = [FuzzHub(self, f"hub {n}", Turns(seed)) for n in range(hubs)]
        self.pools: dict[int, Any] = {}
        """of hubs that only read"""
        self._stack = contextlib.AsyncExitStack()

    def clock(self) -> int:
        return system_clock() + self.turned

    async def __aenter__(self) -> Self:
        self._stack.enter_context(quickly())
        if self._mutation is not None:
            await self._stack.enter_async_context(self._mutation(self.url))
        self.witness = await asyncpg.connect(self.url)
        await pools._set_codecs(self.witness)
        for hub in self.hubs:
            await hub.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hub in self.hubs:
            await hub.end()
        for pool in self.pools.values():
            pool.terminate()
        await self.witness.close()
        await self._stack.aclose()


class World:
    def __init__(self, station: Station, seed: str) -> None:
        self.station = station
        self.seed = seed
        self.rng = random.Random(seed)
        self.turns = Turns(seed)
        self.clock = station.clock
        self.witness = station.witness
        self.settings = station.settings
        self.other_clock = station.other_clock
        self._at = 0
        self.name = uuid.uuid4().hex[:8]
        self.fleets = [f"fleet-{self.name}-{n}" for n in range(2)]
        self.vehicles = [f"van-{self.name}-{n}" for n in range(3)]
        self.trips: dict[str, Trip | None] = {}
        """All that were made, as far as is known, as they were when they were last changed."""
        self.fleet_of: dict[str, str] = {}
        """The vehicles', as far as is known."""
        self.devices: list[Device] = []
        self.passengers: list[Passenger] = []
        self.screens: list[tuple[FuzzHub, str, StandInWire]] = []
        self.drivers: list[tuple[FuzzHub, str, StandInWire]] = []
        self.shares: list[tuple[str, str, Issued]] = []
        self.jtis: list[str] = []
        self.answers: list[Answer] = []
        self.faults: list[str] = []
        self.hubs = station.hubs
        self.former: list[FuzzHub] = []
        self.done: list[str] = []
        """What was done, for whoever reads of a failure."""

    def stamp(self) -> int:
        self._at += 1
        return self._at

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        for hub in self.hubs:
            hub.join(self)
        services = [hub.service for hub in self.hubs]
        await asyncio.gather(*(services[0].fleets.put(Fleet(fleet, ""), may_create=True) for fleet in self.fleets))
        for name in self.vehicles:
            self._new_device(name)
            self.fleet_of[name] = self.rng.choice((*self.fleets, self.fleets[0]))
        await asyncio.gather(
            *(services[0].vehicles.put(Vehicle(name, fleet), own=None) for name, fleet in self.fleet_of.items())
        )
        await asyncio.gather(*(self._create_trip(self.hub(), name) for name in self.vehicles))
        for vehicle_id in self.vehicles[:2]:
            self.connect_driver(vehicle_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.turns.be_calm()
        for hub in self.hubs:
            for wire in hub.wires:
                wire.leave()
            hub.world = None
        for hub in self.former:
            await hub.end()

    async def live(self, steps: int) -> None:
        self.turns.calm = False
        operations = list(OPERATIONS)
        weights = [OPERATIONS[operation] for operation in operations]
        for _ in range(steps):
            if self.rng.random() < 0.75:
                operation = self.rng.choices(operations, weights)[0]
                operation(self)
            for _ in range(self.rng.choice((0, 1, 2, 3))):
                self.turns.let_go()
            for _ in range(self.rng.choice((0, 1, 1, 3))):
                await asyncio.sleep(0)
            if self.rng.random() < 0.3:
                # As long as an answer of the database's takes.
                await asyncio.sleep(0.001)
            if self.rng.random() < 0.1:
                self.tick()

    def tick(self) -> None:
        for hub in self.hubs:
            for _ in hub.service.hub.fleets.ticking():
                pass

    async def come_to_rest(self) -> None:
        """All that was asked for is carried out, and all that was committed is applied."""
        self.turns.be_calm()
        for hub in self.hubs:
            # Those that nobody notifies have to ask.
            hub.following.away = False
        async with asyncio.timeout(STUCK_SECONDS):
            while requests := [task for hub in self.hubs for task in hub.requests]:
                await asyncio.wait(requests)
            for hub in self.hubs:
                while await self.behind(hub):
                    await asyncio.sleep(0.002)
            for hub in self.hubs:
                # What was asked for on sockets.
                while any(getattr(wire._listener, "_worker", None) is not None for wire in hub.wires):
                    await asyncio.sleep(0.001)
                await hub.service.recorder.flush()
            for hub in self.hubs:
                while await self.behind(hub) or hub.service.follower._works:
                    await asyncio.sleep(0.002)
                await hub.service.refiling.flush()
            self.tick()

    async def behind(self, hub: FuzzHub) -> bool:
        return bool(hub.service.follower.applied < await self.witness.fetchval("SELECT max(number) FROM changes"))

    def note(self, *words: object) -> None:
        self.done.append(f"{self._at}: " + " ".join(map(str, words)))

    # --- who takes part -----------------------------------------------------------------------------------------------

    def hub(self) -> FuzzHub:
        return self.rng.choice(self.hubs)

    def trip(self) -> str | None:
        """One of the last made, more likely."""
        trips = list(self.trips)[-4:]
        return self.rng.choice(trips) if trips else None

    def vehicle(self) -> str:
        return self.rng.choice(self.vehicles)

    def device_of(self, vehicle_id: str) -> Device:
        return next(device for device in reversed(self.devices) if device.vehicle_id == vehicle_id)

    def _new_device(self, vehicle_id: str) -> Device:
        number = sum(1 for _ in self.devices)
        device = Device(vehicle_id, round(40.0 + 0.05 * number, 2), self.clock())
        self.devices.append(device)
        return device

    def issue(self, role: Role, subject: str) -> str:
        issued = Auth(self.settings, self.clock).issue(role, subject, 7_200)
        self.jtis.append(issued.jti)
        return issued.token

    def principal(self, role: Role, subject: str) -> Principal:
        return Principal(role, subject, f"{role}-{subject}", self.clock() + HOUR, issued_at=self.clock())

    # --- what happens -------------------------------------------------------------------------------------------------

    def create_trip(self) -> None:
        hub, vehicle_id = self.hub(), self.vehicle() if self.rng.random() < 0.8 else None
        self.note("create a trip of", vehicle_id, "at", hub)
        hub.ask("create a trip", lambda: self._create_trip(hub, vehicle_id), lost=self._lost())

    async def _create_trip(self, hub: FuzzHub, vehicle_id: str | None) -> None:
        fleet_id = self.fleet_of[vehicle_id] if vehicle_id is not None else self.rng.choice(self.fleets)
        self._noted(
            await hub.service.trips.create(
                fleet_id=fleet_id, vehicle_id=vehicle_id, pickup=PLACES[0], dropoff=PLACES[1], stops=(), route=None
            )
        )

    def _noted(self, trip: Trip) -> None:
        known = self.trips.get(trip.trip_id)
        if known is None or known.version < trip.version:
            self.trips[trip.trip_id] = trip

    def _lost(self) -> bool:
        return self.rng.random() < 0.04

    def advance(self) -> None:
        self._change_trip(self._next_status)

    def reassign(self) -> None:
        vehicle_id = self.vehicle() if self.rng.random() < 0.8 else None
        self._change_trip(lambda _: {"vehicle_id": vehicle_id})

    def reroute(self) -> None:
        route = self.rng.choice((None, *ROUTES))
        self._change_trip(lambda _: {"route": route})

    def at_once(self) -> None:
        """Two change one trip at once, at one hub or at two."""
        trip_id = self.trip()
        for _ in range(2):
            self._change_trip(self._next_status, trip_id)

    def _next_status(self, trip: Trip | None) -> dict[str, Any]:
        steps = sorted(NEXT_STATUS[trip.status]) if trip is not None else []
        # A trip that ends at once shows nobody anything.
        likely = [status for status in steps if status is not TripStatus.CANCELED] or steps
        if TripStatus.COMPLETE in likely and self.rng.random() < 0.5:
            likely = [TripStatus.COMPLETE]
        if not steps or self.rng.random() < 0.1:
            return {"status": self.rng.choice(list(TripStatus))}
        return {"status": self.rng.choice(likely if self.rng.random() < 0.8 else steps)}

    def _change_trip(self, change: Callable[[Trip | None], dict[str, Any]], trip_id: str | None = None) -> None:
        hub, trip_id = self.hub(), trip_id or self.trip()
        if trip_id is None:
            return self.create_trip()
        said = change(self.trips[trip_id])
        self.note("change", trip_id, said, "at", hub)

        async def change_it() -> None:
            self._noted(await hub.service.trips.change(trip_id, allowed=lambda _: True, **said))

        hub.ask(f"change {trip_id}", change_it, lost=self._lost())

    def delete_trip(self) -> None:
        hub, trip_id = self.hub(), self.trip()
        if trip_id is not None:
            self.note("delete", trip_id, "at", hub)
            hub.ask("delete a trip", lambda: hub.service.trips.delete(trip_id, allowed=lambda _: True, record=_nothing))

    def put_vehicle(self) -> None:
        hub = self.hub()
        vehicle_id = self.vehicle()
        # One with trips does not move.
        fleet_id = self.rng.choice((*self.fleets, self.fleet_of[vehicle_id]))
        vehicle = Vehicle(vehicle_id, fleet_id, name=self.rng.choice(("", "Van", "Bus")))
        self.note("put", vehicle.vehicle_id, "into", vehicle.fleet_id, "at", hub)

        async def put() -> None:
            await hub.service.vehicles.put(vehicle, own=None)
            self.fleet_of[vehicle.vehicle_id] = vehicle.fleet_id

        hub.ask("put a vehicle", put, lost=self._lost())

    def delete_vehicle(self) -> None:
        hub, vehicle_id = self.hub(), self.vehicle()
        fleet_id = self.rng.choice(self.fleets)

        async def delete() -> None:
            if await hub.service.vehicles.remove(vehicle_id, own=None, record=_nothing) is not None:
                # The next one of this id is another, with a device of its own.
                self._new_device(vehicle_id)
                self.fleet_of[vehicle_id] = fleet_id
                if self.rng.random() < 0.8:
                    self.put_anew(vehicle_id, fleet_id)

        self.note("delete", vehicle_id, "at", hub)
        hub.ask("delete a vehicle", delete)

    def put_anew(self, vehicle_id: str, fleet_id: str) -> None:
        hub = self.hub()
        hub.ask("make a vehicle anew", lambda: hub.service.vehicles.put(Vehicle(vehicle_id, fleet_id), own=None))

    def put_fleet(self) -> None:
        hub = self.hub()
        fleet = Fleet(self.rng.choice(self.fleets), self.rng.choice(("", "A", "B")), idle_after=self.rng.choice((60.0, 300.0)))
        hub.ask("put a fleet", lambda: hub.service.fleets.put(fleet, may_create=True), lost=self._lost())

    def put_geofence(self) -> None:
        hub, fleet_id = self.hub(), self.rng.choice(self.fleets)
        yard, geofence_id = self.rng.choice(YARDS), self.rng.choice(("a", "b"))

        async def put() -> None:
            checked = await hub.service.geofences.check(fleet_id, geofence_id, yard, {}, by="someone")
            await hub.service.geofences.put(checked)

        hub.ask("put a geofence", put, lost=self._lost())

    def delete_geofence(self) -> None:
        hub, fleet_id, geofence_id = self.hub(), self.rng.choice(self.fleets), self.rng.choice(("a", "b"))
        hub.ask("delete a geofence", lambda: hub.service.geofences.delete(fleet_id, geofence_id), lost=self._lost())

    def write(self) -> None:
        hub, trip_id = self.hub(), self.trip()
        if trip_id is None:
            return
        text, messages = uuid.uuid4().hex, hub.service.messages
        vehicle_id, fleet_id = self.vehicle(), self.rng.choice(self.fleets)
        work: Callable[[], Awaitable[None]] = self.rng.choice(
            (
                lambda: messages.from_passenger(self.principal(Role.PASSENGER, trip_id), trip_id, text, text),
                lambda: messages.from_driver(self.principal(Role.DRIVER, vehicle_id), trip_id, text, text),
                lambda: messages.from_dispatcher(self.principal(Role.DISPATCHER, fleet_id), fleet_id, trip_id, text, text),
            )
        )
        self.note("write about", trip_id, "at", hub)
        hub.ask("write", work, lost=self._lost())

    def share(self) -> None:
        hub, trip_id = self.hub(), self.trip()
        if trip_id is None:
            return

        async def share() -> None:
            found = await hub.service.shown_trips.get(trip_id)
            if found is not None:
                share, issued = await hub.service.access.share(found[0], 3_600, _nothing)
                self.shares.append((share.share_id, trip_id, issued))
                self.jtis.append(issued.jti)

        hub.ask("share", share)

    def revoke(self) -> None:
        hub = self.hub()
        if self.shares and self.rng.random() < 0.5:
            share_id, _, _ = self.rng.choice(self.shares)
            hub.ask(
                "revoke a share",
                lambda: hub.service.access.revoke_share(share_id, allowed=lambda _: True, record=_nothing),
                lost=self._lost(),
            )
        elif self.jtis:
            jti = self.rng.choice(self.jtis)
            hub.ask("revoke a token", lambda: hub.service.access.revoke_token(jti, _nothing), lost=self._lost())

    def strange_row(self) -> None:
        """What another version may write: of a kind that is not known here, or with a body that is none."""
        hub, trip_id = self.hub(), self.trip()
        kind = self.rng.choice(("trip.painted", "message.posted", "geofence.changed", "event.x", "vehicle.trips", ""))
        subject = self.rng.choice((trip_id or "", self.vehicle(), "no such thing", "\ud7ff"))
        internal = self.rng.choice((None, "text", {"message": "x"}, {"message": -1, "event": -1}, 5))

        async def append() -> None:
            async with hub.service.database.transaction() as connection:
                await changes.append(connection, [Change(kind, subject, self.rng.choice(self.fleets), None, None, internal)])
            _numbers.set(None)

        hub.ask("append a strange row", append)

    def report(self) -> None:
        devices = [device for device in self.devices if device.connected]
        if not devices:
            return self.connect_driver()
        device = self.rng.choice(devices)
        now = self.clock()
        match self.rng.random():
            case chance if chance < 0.7:
                times = [now]
            case chance if chance < 0.85:
                times = [now - self.rng.randrange(40_000 if self.other_clock else 200)]
            case _:
                times = sorted(now - self.rng.randrange(40_000 if self.other_clock else 200) for _ in range(5))
        device.report(times, self.stamp())

    def connect_driver(self, vehicle_id: str | None = None) -> None:
        hub, vehicle_id = self.hub(), vehicle_id or self.vehicle()
        device = self.device_of(vehicle_id)
        token = self.issue(Role.DRIVER, vehicle_id)
        wire = hub.connect(token, lambda wire, principal: DriverConnection(wire.websocket(), hub.service, principal))
        self.drivers.append((hub, vehicle_id, wire))

        def on_heard(message: Message) -> None:
            if message["type"] == "welcome":
                # Once what it is called from has ended.
                asyncio.get_running_loop().call_soon(begin)
            device.heard(message)

        def begin() -> None:
            if wire.open and self.device_of(vehicle_id) is device:
                device.take(hub, wire)
                device.send_again(self.stamp())

        wire.on_heard = on_heard
        self.note("connect", vehicle_id, "to", hub)

    def disconnect_driver(self) -> None:
        devices = [device for device in self.devices if device.connected]
        if devices:
            wire = self.rng.choice(devices).wire
            assert wire is not None
            wire.leave()

    def join(self) -> None:
        trip_id = self.trip()
        if trip_id is None:
            return
        links = [issued.token for _, shared, issued in self.shares if shared == trip_id]
        token = self.rng.choice(links) if links and self.rng.random() < 0.5 else self.issue(Role.PASSENGER, trip_id)
        self._watch(self.hub(), trip_id, token)

    def _watch(self, hub: FuzzHub, trip_id: str, token: str, **query: str) -> None:
        wire = hub.connect(
            token, lambda wire, principal: PassengerConnection(wire.websocket(**query), hub.service, principal, trip_id)
        )
        self.note("watch", trip_id, "at", hub)
        self.passengers.append(Passenger(hub, trip_id, wire, token))

    def leave(self) -> None:
        watching = [passenger for passenger in self.passengers if passenger.wire.open]
        if watching:
            passenger = self.rng.choice(watching)
            passenger.wire.leave()
            if self.rng.random() < 0.7:
                epoch, offset = stand(passenger.wire.heard)
                hub = passenger.hub if passenger.hub.alive else self.hub()
                self._watch(hub, passenger.trip_id, passenger.token, epoch=epoch, offset=str(offset))

    def look(self) -> None:
        hub, fleet_id = self.hub(), self.rng.choice(self.fleets)
        token = self.issue(Role.DISPATCHER, fleet_id)
        wire = hub.connect(
            token, lambda wire, principal: DispatcherConnection(wire.websocket(), hub.service, principal, fleet_id)
        )
        self.screens.append((hub, fleet_id, wire))

    def let_go_of_ingest_vehicles(self) -> None:
        hub = self.hub()
        hub.let_go_at = self.stamp()
        for _ in range(2):
            hub.service.ingest_vehicles.let_go(hub.service.hub.drivers)

    def let_go_of_feeds(self) -> None:
        hub = self.hub().service.hub
        for feed in [feed for feed in hub.feeds.values() if not feed.queues]:
            hub._let_go(feed)

    def kill(self) -> None:
        index = self.rng.randrange(len(self.hubs))
        killed = self.hubs[index]
        self.note("kill", killed)
        killed.kill()
        self.former.append(killed)
        self.hubs[index] = born = FuzzHub(self.station, f"{killed.name.split('.')[0]}.{len(self.former)}", self.turns)
        born.world = self
        # Whoever comes before it has begun is turned away.
        born.ask("begin", born.begin)

    def cut(self) -> None:
        hub = self.hub()
        self.note("cut off", hub)
        hub.following.cut()

    def deafen(self) -> None:
        self.hub().following.deafen()

    def mend(self) -> None:
        for hub in self.hubs:
            hub.catches_up()

    def turn_clock(self) -> None:
        if self.other_clock:
            self.station.turned += self.rng.choice((10, 500, 4_000, 31_000))


OPERATIONS: dict[Callable[[World], None], float] = {
    World.create_trip: 3,
    World.advance: 14,
    World.reassign: 5,
    World.reroute: 1,
    World.at_once: 2,
    World.delete_trip: 1,
    World.put_vehicle: 2,
    World.delete_vehicle: 1,
    World.put_fleet: 1,
    World.put_geofence: 1,
    World.delete_geofence: 0.5,
    World.write: 4,
    World.share: 1,
    World.revoke: 1,
    World.strange_row: 0.7,
    World.report: 20,
    World.connect_driver: 3,
    World.disconnect_driver: 1,
    World.join: 7,
    World.leave: 2,
    World.look: 2,
    World.let_go_of_ingest_vehicles: 1,
    World.let_go_of_feeds: 1,
    World.kill: 0.5,
    World.cut: 0.7,
    World.deafen: 0.5,
    World.mend: 1,
    World.turn_clock: 2,
}


async def _nothing(*_: object) -> None: ...


def stand(heard: list[Heard]) -> tuple[str, int]:
    """The epoch and the offset up to which a passenger has heard a feed."""
    epoch, offset = "", 0
    for _, message in heard:
        epoch = message.get("epoch", epoch)
        offset = message.get("offset", offset)
    return epoch, offset


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """The follower waits less long, and others have their turn between any two rows; transactions are noted."""
    append = changes.append

    async def noted(connection: Any, rows: Sequence[Change]) -> int:
        number = await append(connection, rows)
        numbers = _numbers.get()
        if numbers is not None:
            numbers.append(number)
        return number

    with contextlib.ExitStack() as stack:
        for name, value in {
            "WAIT_SECONDS": WAIT_SECONDS,
            "POLL_SECONDS": 0.02,
            "REST_SECONDS": 0.001,
            "LISTEN_AGAIN_SECONDS": 0.01,
            "SLICE_SECONDS": -1.0,
        }.items():
            stack.enter_context(mock.patch.object(follower, name, value))
        stack.enter_context(mock.patch.object(changes, "append", noted))
        yield


__all__ = ["AsyncIterator", "Cursor", "FuzzHub", "World"]
