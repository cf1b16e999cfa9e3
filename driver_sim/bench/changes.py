"""The shape `changes`: trips that make steps, how soon those are seen, and what they do to the positions beside them."""

import asyncio
import contextlib
import itertools
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from driver_sim.bench.clients import DispatcherClient, DriverClient, WatcherClient
from driver_sim.bench.environment import Cost, Environment
from driver_sim.bench.http import connect_http
from driver_sim.bench.hub import EnvironmentFailed
from driver_sim.bench.load import Result, busy, close, connected, drained, latencies, report
from driver_sim.bench.writer import Done, Made, Task, TripAt
from tracking.demo.postgres import ROOT

PATCHED = 50
"""Trips whose steps are timed one by one."""
PATCHES_PER_SECOND = 20.0
PATCH_SECONDS = 30.0
"""At most: 600 steps make a p99."""
CHANGES_PER_SECOND = 500.0
CHANGES_PER_TRIP = 10.0
"""A second, at most: with few trips there are fewer changes."""
UNSEEN_FLEETS = 10
UNSEEN_TRIPS = 100
"""In each of them, at most."""
SEEN_SECONDS = 5.0
ELSEWHERE = (-180.0, -1.0, -179.9, 1.0)
"""Bounds without vehicles: changes of trips come all the same."""


async def changes(environment: Environment, count: int, seconds: float) -> Result:
    """Steps of trips one after the other, then 500 a second beside so many drivers at 1 Hz, each with one passenger."""
    await environment.set_up(count)
    trips = [TripAt(trip_id) for trip_id in environment.trips]
    result = await _one_by_one(environment, trips[:PATCHED], min(seconds, PATCH_SECONDS))
    unseen = [TripAt(trip_id) for trip_id in await environment.set_up_unseen(UNSEEN_FLEETS, min(UNSEEN_TRIPS, count))]
    return {**result, **await _beside_positions(environment, trips, unseen, seconds)}


async def _one_by_one(environment: Environment, trips: Sequence[TripAt], seconds: float) -> Result:
    """From sending a PATCH to its answer, and to the passenger's socket."""
    watchers = [environment.watcher(number) for number in range(len(trips))]
    await connected(environment, watchers, "changes")
    client = await connect_http(environment.port, environment.service_token())
    to_answer: list[float] = []
    to_passenger: list[float] = []
    not_seen = 0
    begin = time.perf_counter()
    for number in range(len(trips) + int(PATCHES_PER_SECOND * seconds)):
        trip, watcher = trips[number % len(trips)], watchers[number % len(trips)]
        await asyncio.sleep(begin + number / PATCHES_PER_SECOND - time.perf_counter())
        sent = time.perf_counter()
        answer = await client.patch(f"/v1/trips/{trip.trip_id}", trip.step())
        if answer.status != 200:
            raise EnvironmentFailed(f"the hub refused a step of a trip: {answer.body.decode()}")
        trip.stepped()
        seen = await _seen(watcher, trip.version)
        if number < len(trips):  # statements are prepared by the first ones
            continue
        to_answer.append(answer.at - sent)
        if seen is None:
            not_seen += 1
        else:
            to_passenger.append(seen - sent)
    client.close()
    close(watchers)
    return {
        "patches": len(to_answer),
        "patches_not_seen": not_seen,
        **latencies("patch_to_answer", to_answer),
        **latencies("patch_to_passenger", to_passenger),
    }


async def _beside_positions(
    environment: Environment, trips: Sequence[TripAt], unseen: Sequence[TripAt], seconds: float
) -> Result:
    count = len(trips)
    rate = min(CHANGES_PER_SECOND, CHANGES_PER_TRIP * count)
    drivers = [environment.driver(number, 1.0) for number in range(count)]
    watchers = [environment.watcher(number, driver) for number, driver in enumerate(drivers)]
    screen = environment.dispatcher(ELSEWHERE)
    task = Task(
        environment.port, environment.service_token(), environment.database_url, rate, seconds, [list(trips), list(unseen)]
    )
    await connected(environment, [*drivers, *watchers, screen], "changes")
    for driver in drivers:
        driver.sent_at = {}
    await report(drivers, 1.0, environment.settle_seconds, "changes: settling")
    # Half of those without before and half after, so that what slows down with time is no fault of the changes.
    without = await _phase(environment, drivers, watchers, seconds / 2, "without changes")
    writer = await _Writer.start(task)
    try:
        writer.go()
        during = await _phase(environment, drivers, watchers, seconds, "changes")
        done = await writer.done()
    finally:
        await writer.kill()
    without += await _phase(environment, drivers, watchers, seconds / 2, "without changes")
    await drained(drivers)
    if done.failed:
        raise EnvironmentFailed(f"changes failed: {done.failed}")
    by_trip = {trip.trip_id: watcher for trip, watcher in zip(trips, watchers, strict=True)}
    memory = environment.memory()
    clients = [*drivers, *watchers, screen]
    closed = sum(client.closed is not None for client in clients)
    close(clients)
    made, sent = max(1, len(done.made)), sum(driver.sent for driver in drivers)
    share = during.spent.at / without.spent.at
    return {
        "drivers": count,
        "passengers": count,
        "changes_by": done.by,
        "changes_wanted_per_second": rate,
        "changes_per_second": len(done.made) / during.spent.at,
        **_delays(done, by_trip, screen),
        **without.figures("without"),
        **during.figures("with"),
        "hub_us_per_change": 1e6 * (during.spent.hub - share * without.spent.hub) / made,
        "database_us_per_change": 1e6 * (during.spent.database - share * without.spent.database) / made,
        "writer_us_per_change": 1e6 * done.cpu / made,
        "hub_memory_mb": memory / 2**20,
        "sent": sent,
        "not_acknowledged": sent - sum(driver.acknowledged for driver in drivers),
        "not_delivered": sent - sum(watcher.delivered for watcher in watchers),
        "skipped": sum(watcher.skipped for watcher in watchers),
        "breaks": sum(watcher.breaks for watcher in watchers),
        "closed": closed,
    }


def _delays(done: Done, passengers: Mapping[str, WatcherClient], dispatcher: DispatcherClient) -> Result:
    """How long changes took: to be answered, and to be seen by the passengers of watched trips and by the dispatcher."""
    watched = [made for made in done.made if made.trip_id in passengers]
    to_passenger = [_after(made, passengers[made.trip_id].trip_seen) for made in watched]
    to_dispatcher = [_after(made, dispatcher.trips_seen.get(made.trip_id, {})) for made in watched]
    return {
        "changes_watched": len(watched),
        **latencies("commit" if done.by == "database" else "patch", [change.answered - change.sent for change in done.made]),
        **latencies("change_to_passenger", [took for took in to_passenger if took is not None]),
        **latencies("change_to_dispatcher", [took for took in to_dispatcher if took is not None]),
        "changes_not_seen_by_passengers": to_passenger.count(None),
        "changes_not_seen_by_dispatcher": to_dispatcher.count(None),
    }


@dataclass
class _Phase:
    spent: Cost
    fixes: float
    to_ack: list[float]
    to_watcher: list[float]

    def __add__(self, other: "_Phase") -> "_Phase":
        spent = {name: getattr(self.spent, name) + getattr(other.spent, name) for name in Cost.__dataclass_fields__}
        return _Phase(Cost(**spent), self.fixes + other.fixes, self.to_ack + other.to_ack, self.to_watcher + other.to_watcher)

    def figures(self, name: str) -> Result:
        found = {
            "fixes_per_second": self.fixes / self.spent.at,
            **latencies("to_ack", self.to_ack),
            **latencies("to_watcher", self.to_watcher),
            **busy(self.spent),
        }
        return {f"{key} ({name})": value for key, value in found.items()}


async def _phase(
    environment: Environment, drivers: Sequence[DriverClient], watchers: Sequence[WatcherClient], seconds: float, name: str
) -> _Phase:
    for driver in drivers:
        driver.to_ack.clear()
    for watcher in watchers:
        watcher.to_watcher.clear()
    handled = await environment.metric("tracking_positions_stored_total")
    before = await environment.cost()
    await report(drivers, 1.0, seconds, name)
    return _Phase(
        (await environment.cost()).since(before),
        await environment.metric("tracking_positions_stored_total") - handled,
        list(itertools.chain(*(driver.to_ack for driver in drivers))),
        list(itertools.chain(*(watcher.to_watcher for watcher in watchers))),
    )


class _Writer:
    """A process that makes the changes: in this one they would keep the clients from noticing what comes."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout

    @classmethod
    async def start(cls, task: Task) -> "_Writer":
        """Returns when it is connected. Raises `EnvironmentFailed`."""
        writer = cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "driver_sim.bench.writer", stdin=PIPE, stdout=PIPE, cwd=ROOT
            )
        )
        writer._stdin.write(msgspec.json.encode(task) + b"\n")
        if await writer._stdout.readline() != b"ready\n":
            await writer.kill()
            raise EnvironmentFailed("the writer of changes failed")
        return writer

    def go(self) -> None:
        self._stdin.write(b"\n")

    async def done(self) -> Done:
        text = await self._stdout.read()
        if await self._process.wait() != 0:
            raise EnvironmentFailed("the writer of changes failed")
        return msgspec.json.decode(text, type=Done)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _after(made: Made, seen: Mapping[int, float]) -> float | None:
    """How long after its sending the change was seen, itself or in a later version of the trip; None: never."""
    at = seen.get(made.version)
    if at is None:
        at = min((at for version, at in seen.items() if version > made.version), default=None)
    return None if at is None else at - made.sent


async def _seen(watcher: WatcherClient, version: int) -> float | None:
    """When this version of its trip came; None where it does not come."""
    deadline = time.perf_counter() + SEEN_SECONDS
    # Only when it came counts, not when that is noticed.
    while version not in watcher.trip_seen and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return watcher.trip_seen.get(version)
