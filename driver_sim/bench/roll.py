"""The shape `roll`: all hubs are replaced by turns, under load. Nobody may lose anything, and everybody is soon back.

It is run in two ways: hubs on one port, which their supervisor replaces (`tracking serve --workers`), and hubs on ports of
their own behind a load balancer, which somebody stops and starts one after the other. In the second way a client connects to
the next hub that accepts: what a load balancer would do, without its cost.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from statistics import fmean
from typing import Protocol

from driver_sim.bench.environment import Environment
from driver_sim.bench.hub import Hub
from driver_sim.bench.load import Result, drained, report, wait
from driver_sim.bench.returning import RESTART, Driver, Passenger, Returning
from driver_sim.bench.workers import Workers

MOST_HUBS = 3
ROLL_SECONDS = 180.0
"""At most, for all hubs."""
STOP_SECONDS = 60.0
"""At most, for one hub: longer than it drains."""
BEGIN_SECONDS = 60.0
"""At most, until everybody is served for the first time."""
LATE_SECONDS = 25.0
"""Who is away for longer is counted as not back."""
WHOLE_SECONDS = 10.0
"""At most, for lines to be whole after the last report."""
ABRUPT = 0
"""The close code of a connection that ended without one."""


class Hubs(Protocol):
    """Hubs that can be replaced by turns."""

    def ports(self) -> Sequence[int]: ...
    async def roll(self) -> None: ...
    def connections(self) -> list[int]: ...


class _Supervised:
    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def ports(self) -> Sequence[int]:
        return [self._workers.port]

    async def roll(self) -> None:
        await self._workers.roll(ROLL_SECONDS)

    def connections(self) -> list[int]:
        return self._workers.connections()


class _Separate:
    def __init__(self, hubs: Sequence[Hub]) -> None:
        self._hubs = hubs
        self._turns = itertools.count()

    def ports(self) -> Sequence[int]:
        first = next(self._turns)
        return [self._hubs[(first + n) % len(self._hubs)].port for n in range(len(self._hubs))]

    async def roll(self) -> None:
        for hub in self._hubs:
            await hub.stop(STOP_SECONDS)
            await hub.start()

    def connections(self) -> list[int]:
        return [hub.connections() for hub in self._hubs]


@contextlib.asynccontextmanager
async def _supervised(environment: Environment, count: int) -> AsyncIterator[Hubs]:
    workers = environment.workers(count)
    try:
        await workers.start()
        yield _Supervised(workers)
    finally:
        await workers.stop()


@contextlib.asynccontextmanager
async def _separate(environment: Environment, count: int) -> AsyncIterator[Hubs]:
    await environment.run_hubs(count)
    yield _Separate(environment.hubs)


WAYS = {"workers": _supervised, "separate": _separate}


async def roll(environment: Environment, count: int, seconds: float) -> list[Result]:
    """So many drivers at 1 Hz, each with one passenger, while all hubs are replaced; and `seconds` after that."""
    hubs = min(MOST_HUBS, max(environment.hub_counts))
    await environment.set_up(count)
    results = []
    for name in environment.ways:
        async with WAYS[name](environment, hubs) as made:
            results.append(
                {"way": name, "hubs": hubs, "clients": 2 * count, **await _rolled(environment, made, count, seconds)}
            )
    return results


async def _rolled(environment: Environment, hubs: Hubs, count: int, seconds: float) -> Result:
    drivers = [environment.returning_driver(n, hubs.ports) for n in range(count)]
    passengers = [environment.returning_passenger(n, hubs.ports) for n in range(count)]
    clients: list[Returning] = [*drivers, *passengers]
    running = [asyncio.create_task(client.run()) for client in clients]
    try:
        await asyncio.wait_for(_all_served(clients), BEGIN_SECONDS)
        at_first = [len(client.refused) for client in clients]
        reporting = asyncio.create_task(report(drivers, 1.0, ROLL_SECONDS + seconds + 10, "roll"))
        await asyncio.sleep(environment.settle_seconds)
        before = hubs.connections()
        began = time.perf_counter()
        await hubs.roll()
        took = time.perf_counter() - began
        await wait(seconds, "roll: afterwards")
        # Hubs even out their clients, so some are on their way.
        late = time.perf_counter() - LATE_SECONDS
        not_back = sum(client.away_since is not None and client.away_since < late for client in clients)
        after = hubs.connections()
        with contextlib.suppress(asyncio.CancelledError):
            reporting.cancel()
            await reporting  # raises what was wrong with it
        await drained(drivers)
        not_whole = await _not_whole(environment, passengers)
        refused = Counter(why for client, n in zip(clients, at_first, strict=True) for why in client.refused[n:])
        return {
            "roll_s": took,
            **await _stored(environment, drivers),
            **_ends(clients),
            "refused": refused.total(),
            "refused_why": [f"{why}: {times}" for why, times in refused.items()],
            "not_back": not_back,
            **_away("driver", drivers),
            **_away("passenger", passengers),
            **{f"came_back ({way})": sum(p.ways.count(way) for p in passengers) for way in ("added", "whole")},
            "lines_not_whole": not_whole,
            "breaks": sum(passenger.all_breaks for passenger in passengers),
            **{f"connections_{when}": counts for when, counts in (("before", before), ("after", after))},
            "connections_most (times the mean)": max(after) / max(1.0, fmean(after)),
        }
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _all_served(clients: Sequence[Returning]) -> None:
    for client in clients:
        await client.served.wait()


async def _stored(environment: Environment, drivers: Sequence[Driver]) -> Result:
    stored = await environment.stored_seqs()
    lost = twice = 0
    for driver in drivers:
        seqs = stored.get(driver.session, [])
        lost += driver.acknowledged - len({seq for seq in seqs if seq <= driver.acknowledged})
        twice += len(seqs) - len(set(seqs))
    return {
        "sent": sum(driver.sent for driver in drivers),
        "acknowledged_not_stored": lost,
        "stored_twice": twice,
        "not_acknowledged": sum(driver.sent - driver.acknowledged for driver in drivers),
        "rejected": sum(driver.rejected for driver in drivers),
    }


def _ends(clients: Sequence[Returning]) -> Result:
    codes = Counter(code for client in clients for code in client.ends)
    return {
        "ends (1012)": codes.pop(RESTART, 0),
        "ends (reset)": codes.pop(ABRUPT, 0),
        "ends (other)": codes.total(),
        "ends_other": [f"{code}: {times}" for code, times in codes.items()],
    }


def _away(who: str, clients: Sequence[Returning]) -> Result:
    """For how long they were without a hub."""
    took = sorted(seconds for client in clients for seconds in client.away)
    if not took:
        return {}
    return {
        **{f"{who}_away_p{part}_s": took[min(len(took) - 1, len(took) * part // 100)] for part in (50, 99)},
        f"{who}_away_most_s": took[-1],
    }


async def _not_whole(environment: Environment, passengers: Sequence[Passenger]) -> int:
    """How many passengers do not have the stored line."""
    deadline = time.perf_counter() + WHOLE_SECONDS
    while True:
        lines = await environment.lines()
        wrong = sum(passenger.fix_times != lines.get(passenger.trip_id, set()) for passenger in passengers)
        if not wrong or time.perf_counter() > deadline:
            return wrong
        await asyncio.sleep(0.5)
