"""Several hubs in this process, on one real database, with real sockets. An `Exchange` stands for the broker."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg

from tests.support import devices
from tests.support.clients import Api, Message, Passenger, fix, now_ms
from tests.support.clocks import ShiftedClock
from tests.support.hub_process import SECRET
from tests.support.serving import serving
from tests.support.watcher import Line
from tracking.app import create_app
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.cluster.trips import TripsAcrossHubs
from tracking.config import load
from tracking.errors import StoreUnavailable
from tracking.life import Life
from tracking.live.hub import STEPS
from tracking.nodes.local import Exchange, LocalBackplane
from tracking.service import Service

_began = [0]
"""When the test's hubs were started."""


def drive(seq: int) -> Message:
    """The fix of this number: all are a second apart. The first are within the grace before the trip begins."""
    return fix(seq, fix_time=_began[0] - 20_000 + seq * 1_000)


async def until(condition: Callable[[], bool | Awaitable[object]], failure: str) -> None:
    await devices.until(condition, failure, 15.0)


class LossyBackplane(LocalBackplane):
    """Drops packets as `drops` says, which is given the number of each."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self.drops: Callable[[int], bool] = lambda _: False
        self.sent = 0

    async def send(self, node: str, data: bytes) -> None:
        self.sent += 1
        if not self.drops(self.sent):
            await super().send(node, data)


class ClusterHub:
    """A hub of the cluster, with its address."""

    def __init__(self, service: Service, life: Life, backplane: LossyBackplane, url: str) -> None:
        self.service = service
        self.life = life
        self.backplane = backplane
        self.url = url

    @property
    def name(self) -> str:
        return self.service.nodes.node.node

    @property
    def trips(self) -> TripsAcrossHubs:
        assert self.service.across_hubs is not None
        return self.service.across_hubs.trips

    def beat(self) -> None:
        """Visits all feeds, as in a tick interval."""
        for _ in range(STEPS):
            self.service.hub.beat()

    @contextlib.contextmanager
    def not_following(self) -> Iterator[None]:
        """This hub applies no change of the log inside this context, or until `follow_again`."""
        follower = self.service.follower
        read_on, self._may_follow = follower._read_on, asyncio.Event()

        async def wait() -> bool:
            await self._may_follow.wait()
            return await read_on()

        follower._read_on = wait  # type: ignore[method-assign]
        try:
            yield
        finally:
            follower._read_on = read_on  # type: ignore[method-assign]
            self.follow_again()

    def store_nothing(self) -> None:
        """The database is away for the recorder of this hub from now on."""

        async def fail(*_: object) -> int:
            raise StoreUnavailable("away for this test")

        self.service.recorder._store = fail  # type: ignore[method-assign, assignment]

    def follow_again(self) -> None:
        self._may_follow.set()
        self.service.follower.wake()

    def trips_times(self, trip_id: str) -> set[int]:
        """The fix times of the trip's positions that peers have told."""
        return {fix_time for _, fix_time in self.trips.uncommitted.keys(trip_id)}

    def api(self) -> Api:
        return Api(self.url)


class Cluster:
    """`hubs` of one database. `api` talks to the first."""

    def __init__(self, database_url: str, hubs: list[ClusterHub], api: Api, clock: ShiftedClock) -> None:
        self.database_url = database_url
        self.hubs = hubs
        self.api = api
        self.clock = clock
        """of all hubs"""

    def last_change(self) -> int:
        """The last change that any hub has applied."""
        return max(hub.service.follower.applied for hub in self.hubs)

    async def stored_line(self, trip_id: str) -> list[tuple[int, float, float]]:
        """The trip's positions in the store: fix time, longitude, latitude."""
        connection = await asyncpg.connect(self.database_url)
        try:
            rows = await connection.fetch(
                """
                SELECT (date_part('epoch', p.fix_time) * 1000)::bigint, ST_X(p.point), ST_Y(p.point)
                FROM positions p JOIN trips USING (trip)
                WHERE trip_id = $1 AND coalesce(cardinality(p.suspect), 0) = 0 ORDER BY 1
                """,
                trip_id,
            )
            return [tuple(row) for row in rows]
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def cluster(database_url: str, count: int, **settings: Any) -> AsyncIterator[Cluster]:
    """So many hubs that know each other."""
    exchange = Exchange()
    _began[0] = now_ms()
    clock = ShiftedClock()
    async with contextlib.AsyncExitStack() as stack:
        hubs = []
        for number in range(count):
            known = load(
                database_url=database_url,
                jwt_secret=SECRET,
                commit_interval=0,
                ack_interval=0,
                node_name=f"hub {number}",
                **settings,
            )
            backplane = LossyBackplane(exchange)
            life = Life(assemble(known, database_url, Auth(known, clock), clock, backplane=backplane))
            await life.begin()
            stack.push_async_callback(life.end)
            app = create_app(known)
            app.state.service = life.service
            served = await stack.enter_async_context(serving(app))
            hubs.append(ClusterHub(life.service, life, backplane, served.url))
        everybody = {hub.name for hub in hubs}
        await until(
            lambda: all(hub.service.nodes.peers.keys() == everybody - {hub.name} for hub in hubs), "all hubs know each other"
        )
        api = await stack.enter_async_context(Api(hubs[0].url))
        yield Cluster(database_url, hubs, api, clock)


@contextlib.asynccontextmanager
async def nothing_is_read(database_url: str) -> AsyncIterator[None]:
    """Every query of trips, positions and messages waits inside this context."""
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE trips, positions, messages, vehicles IN ACCESS EXCLUSIVE MODE")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


class Watching:
    """A passenger who draws the line, and notes what breaks the protocol."""

    def __init__(self, passenger: Passenger) -> None:
        self.passenger = passenger
        self.line = Line()
        self.messages: list[Message] = []
        self.positions: list[int] = []
        """Fix times, in the order in which they came."""
        self.breaks: list[str] = []
        self.offset = 0
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            message = await self.passenger.connection.recv()
            self._take(_decode(message))

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        kind = message["type"]
        if kind == "snapshot":
            self.offset = message["offset"]
            if "since" not in message:
                self.line.begin(message["track"])
            if "position" in message:
                self.positions.append(message["position"]["fix_time"])
        elif "offset" in message:
            if message["offset"] != self.offset + 1:
                self.breaks.append(f"offset {message['offset']} after {self.offset}")
            self.offset = message["offset"]
            if kind == "position":
                if self.positions and message["fix_time"] <= self.positions[-1]:
                    self.breaks.append(f"position {message['fix_time']} after {self.positions[-1]}")
                self.positions.append(message["fix_time"])
                if not self.line.add(message):
                    self.breaks.append(f"position {message['fix_time']} was on the line already")
            elif kind == "track_revised":
                self.line.revise(message)

    def of_type(self, kind: str) -> list[Message]:
        return [message for message in self.messages if message["type"] == kind]

    async def stop(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._reading


def _decode(data: str | bytes) -> Message:
    message: Message = json.loads(data)
    return message


def is_whole(hubs: Cluster, watcher: Watching, trip_id: str) -> Callable[[], Awaitable[bool]]:
    """A condition: the passenger's line is the stored one."""

    async def check() -> bool:
        return watcher.line.points == await hubs.stored_line(trip_id)

    return check


@contextlib.asynccontextmanager
async def watching(url: str, trip_id: str, query: str = "") -> AsyncIterator[Watching]:
    """A passenger who has the snapshot."""
    async with Passenger(url, trip_id, query=query) as passenger:
        watcher = Watching(passenger)
        await until(lambda: bool(watcher.of_type("snapshot")), "the snapshot")
        try:
            yield watcher
        finally:
            await watcher.stop()
