"""A process that changes trips, so many a second: by transactions of its own, as another hub would, or over HTTP.

    Task as JSON, in one line         from standard input
    "ready"                           to standard output, once it is connected; then it waits for another line
    Done as JSON                      to standard output, when its time is over

It writes to the change log as the service does. Code that has no change log is changed over HTTP.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import msgspec
import uvloop

from driver_sim.bench.clients import Lost
from driver_sim.bench.http import HttpClient, connect_http
from tracking.model import TripStatus
from tracking.protocol.http import TripView
from tracking.store import trips
from tracking.store.pool import Connection, Database

HANDS = 8
"""Changes that may be under way at once, each of other trips."""
_LOG = "tracking.store.changes"
NEXT = {
    TripStatus.ENROUTE_TO_PICKUP: TripStatus.ARRIVED_AT_PICKUP,
    TripStatus.ARRIVED_AT_PICKUP: TripStatus.ENROUTE_TO_DROPOFF,
    TripStatus.ENROUTE_TO_DROPOFF: TripStatus.ARRIVED_AT_STOP,
    TripStatus.ARRIVED_AT_STOP: TripStatus.ENROUTE_TO_DROPOFF,
}
"""Steps that a trip under way can make for ever."""


class TripAt(msgspec.Struct):
    """A trip, and how it stands."""

    trip_id: str
    status: TripStatus = TripStatus.ENROUTE_TO_PICKUP
    version: int = 2

    def step(self) -> bytes:
        """The body of a PATCH that takes it one step further."""
        return b'{"version":%d,"status":"%s"}' % (self.version, NEXT[self.status].encode())

    def stepped(self) -> None:
        self.status = NEXT[self.status]
        self.version += 1


class Task(msgspec.Struct):
    """`trips` are lists that are changed by turns: as many changes go to each list, however long it is."""

    port: int
    token: str
    database_url: str
    rate: float
    """changes a second"""
    seconds: float
    trips: list[list[TripAt]]


class Made(NamedTuple):
    """A change that was committed, and when, by `time.perf_counter`, its COMMIT or its PATCH was sent and answered."""

    trip_id: str
    version: int
    sent: float
    answered: float


class Done(msgspec.Struct):
    by: str
    """`database` or `http`"""
    made: list[Made]
    failed: dict[str, int]
    """How many changes failed, by the reason."""
    cpu: float
    """seconds"""


def by_database() -> bool:
    """Whether this code has a change log that a writer can append to."""
    return find_spec(_LOG) is not None


class Refused(Exception):
    """A change was not made."""


class _Hand(Protocol):
    """Makes one change after another."""

    async def change(self, trip: TripAt) -> tuple[float, float]:
        """When it was sent, and when it was answered. Raises `Refused`."""
        ...


class _ByHttp:
    def __init__(self, client: HttpClient) -> None:
        self._client = client

    async def change(self, trip: TripAt) -> tuple[float, float]:
        sent = time.perf_counter()
        try:
            answer = await self._client.patch(f"/v1/trips/{trip.trip_id}", trip.step())
        except Lost as error:
            raise Refused(str(error)) from None
        if answer.status != 200:
            raise Refused(f"status {answer.status}")
        return sent, answer.at


class _ByDatabase:
    """Updates the trip's row and appends to the log: what the service's own transaction does, without its questions."""

    def __init__(self, connection: Connection, known: dict[str, tuple[int, int, dict[str, Any]]]) -> None:
        """`known` are by id the numbers of each trip and its vehicle, and the trip as HTTP shows it."""
        self._connection = connection
        self._known = known
        self._log = import_module(_LOG)

    async def change(self, trip: TripAt) -> tuple[float, float]:
        number, vehicle, view = self._known[trip.trip_id]
        status, version = NEXT[trip.status], trip.version + 1
        view = {**view, "status": status, "version": version}
        # Not one round trip more than needed: what another hub spends is not this machine's to bear.
        updated = await self._connection.execute(
            "BEGIN; "
            f"UPDATE trips SET status = '{status}', version = {version} WHERE trip = {number} AND version = {trip.version}"
        )
        if updated != "UPDATE 1":
            await self._connection.execute("ROLLBACK")
            raise Refused("another version")
        kinds, change = self._log.ChangeKind, self._log.Change
        of_vehicle = change(kinds.VEHICLE_TRIPS, trip.trip_id, vehicle=vehicle)
        await self._log.append(
            self._connection, [of_vehicle, change(kinds.TRIP_CHANGED, trip.trip_id, view["fleet_id"], vehicle, public=view)]
        )
        sent = time.perf_counter()
        await self._connection.execute("COMMIT")
        return sent, time.perf_counter()


@asynccontextmanager
async def _hands(task: Task, count: int) -> AsyncIterator[list[_Hand]]:
    async with AsyncExitStack() as stack:
        if not by_database():
            clients = [await connect_http(task.port, task.token) for _ in range(count)]
            for client in clients:
                stack.callback(client.close)
            yield [_ByHttp(client) for client in clients]
            return
        database = Database(task.database_url)
        await database.open()
        stack.push_async_callback(database.close)
        connections = [await stack.enter_async_context(database.connection()) for _ in range(count)]
        known = await _known(connections[0], [trip.trip_id for trip in itertools.chain(*task.trips)])
        yield [_ByDatabase(connection, known) for connection in connections]


async def _known(connection: Connection, trip_ids: Sequence[str]) -> dict[str, tuple[int, int, dict[str, Any]]]:
    numbers = {row["trip"]: row["vehicle"] for row in await connection.fetch("SELECT trip, vehicle FROM trips")}
    found = await trips.get_all(connection, trip_ids)
    return {
        trip_id: (trip.number, numbers[trip.number], msgspec.to_builtins(TripView.of(trip))) for trip_id, trip in found.items()
    }


async def _write(task: Task) -> Done:
    count = min(HANDS, *(len(group) for group in task.trips))
    made: list[Made] = []
    failed: Counter[str] = Counter()

    async def work(number: int, hand: _Hand, begin: float) -> None:
        mine = [itertools.cycle(group[number::count]) for group in task.trips]
        for turn in range(int(task.rate * task.seconds / count)):
            due = begin + (turn * count + number) / task.rate
            now = time.perf_counter()
            if now > begin + task.seconds:
                return
            if due > now:
                await asyncio.sleep(due - now)
            trip = next(mine[turn % len(mine)])
            try:
                sent, answered = await hand.change(trip)
            except Refused as error:
                failed[str(error)] += 1
                continue
            trip.stepped()
            made.append(Made(trip.trip_id, trip.version, sent, answered))

    async with _hands(task, count) as hands:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begin = time.perf_counter()
        spent = time.process_time()
        async with asyncio.TaskGroup() as group:
            for number, hand in enumerate(hands):
                group.create_task(work(number, hand, begin))
    return Done("database" if by_database() else "http", made, dict(failed), time.process_time() - spent)


if __name__ == "__main__":
    done = uvloop.run(_write(msgspec.json.decode(sys.stdin.readline(), type=Task)))
    sys.stdout.buffer.write(msgspec.json.encode(done))
