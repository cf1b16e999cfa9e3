"""Hubs on one database, in this process, whose tasks take turns as a seed decides."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Self
from unittest import mock

import asyncpg

import tracking.assembly
from tests.changes.stand_ins import StandInWire
from tests.changes.turns import ShakyDatabase, Turns, answer_lost
from tests.support.hub_process import SECRET
from tracking.assembly import assemble
from tracking.auth import Auth, Principal
from tracking.config import Rate, load
from tracking.errors import Refusal, StoreUnavailable, TokenRefused
from tracking.life import _read_revoked
from tracking.live import follower
from tracking.model import Place, system_clock
from tracking.service import Service
from tracking.sockets.connection import Connection
from tracking.store import changes
from tracking.store import pool as pools
from tracking.store.changes import Change, Row

HOUR = 3_600_000
STUCK_SECONDS = 20.0
WAIT_SECONDS = 0.2
PLACES = (Place(47.14, 9.52), Place(47.16, 9.51))
ROUTES = tuple({"type": "LineString", "coordinates": [[9.52, 47.14], [9.5 + n / 100, 47.16]]} for n in range(3))
YARDS = tuple(
    b'{"type":"Polygon","coordinates":[[[9,40],[%d,40],[%d,41],[9,41],[9,40]]]}' % (east, east) for east in (10, 11, 12)
)
_PLENTY = Rate(1_000_000, 1.0)

told_numbers: ContextVar[list[int] | None] = ContextVar("numbers", default=None)
"""The numbers of the transactions in which this task's change was logged."""


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


class Book:
    """What happened in a world, in order."""

    def __init__(self, seed: str) -> None:
        self.turns = Turns(seed)
        self.answers: list[Answer] = []
        self.faults: list[str] = []
        self.done: list[str] = []
        """What was done, to be printed after a failure."""
        self._at = 0

    def stamp(self) -> int:
        self._at += 1
        return self._at

    def note(self, *words: object) -> None:
        self.done.append(f"{self._at}: " + " ".join(map(str, words)))


class FuzzHub:
    """A hub with the tasks that this needs."""

    def __init__(self, station: "Station", name: str, turns: Turns) -> None:
        self.name = name
        self._station = station
        self.world: Book | None = None
        auth = Auth(station.settings, station.clock)
        self._database = type("_Database", (ShakyDatabase,), {"turns": turns})
        with mock.patch.object(tracking.assembly, "Database", self._database):
            self.service: Service = assemble(station.settings, station.url, auth, station.clock)
        self.applied: list[Applied] = []
        self.began = 0
        """The number of the change that the log ended with when this hub began."""
        self.alive = False
        self.let_go_at = 0
        """When it last dropped vehicles, which it otherwise does every hour."""
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

    def join(self, world: Book) -> Self:
        """The hub belongs to that world from now on."""
        self.world = world
        self._database.turns = world.turns  # type: ignore[attr-defined]
        self.applied, self.wires, self.let_go_at = [], [], 0
        self.began = self.service.follower.applied
        return self

    async def read_all(self, pools: dict[int, Any]) -> Self:
        """Begins only as far as to know what a new hub knows, with pools that are open."""
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
        """Loses all memory. Connections and requests get no answer."""
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
        """Makes a change, concurrently with all others."""
        task = asyncio.create_task(self._ask(what, work, lost))
        self.requests.add(task)
        task.add_done_callback(lambda done: self._asked(what, done))

    def _asked(self, what: str, task: asyncio.Task[None]) -> None:
        self.requests.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.alive:
            assert self.world is not None
            self.world.faults.append(f"{what} failed: {error!r}")

    async def _ask(self, what: str, work: Callable[[], Awaitable[object]], lost: bool) -> None:
        told_numbers.set([])
        answer_lost.set(lost)
        loop = asyncio.get_running_loop()
        began = loop.time()
        world = self.world
        assert world is not None
        with contextlib.suppress(Refusal, StoreUnavailable, TokenRefused):
            await work()
            if self.alive and (numbers := told_numbers.get()):
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


class Station:
    """A database with its hubs, for one world after the other.

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
        """`mutation` is one of `mutations`, in force for all hubs."""
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
        """Pools of hubs that only read."""
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


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """The follower waits less, other tasks run between any two rows, and transactions are noted."""
    append = changes.append

    async def noted(connection: Any, rows: Sequence[Change]) -> int:
        number = await append(connection, rows)
        numbers = told_numbers.get()
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
