"""The shapes of several hubs: what a position costs when it crosses from hub to hub, and passengers who change hubs."""

import asyncio
import time
from collections.abc import Sequence
from statistics import fmean

from driver_sim.bench.clients import METRES_PER_DEGREE, SPEED, DriverClient, connect
from driver_sim.bench.environment import Environment
from driver_sim.bench.lines import LineClient
from driver_sim.bench.load import Result, close, connected, drained, latencies, measured, report
from driver_sim.bench.traffic import Traffic

TURNS_SECONDS = 15.0
"""From here on each number of hubs is measured twice, in turns; below it once, as for a trial."""
UNWATCHED_SECONDS = 5.0
"""At most."""
CHANGE_HUBS = 3
"""A passenger's first hub, its second one, and its driver's are all different."""
REMEMBERED_SECONDS = 8.0
"""Before passengers change. Hubs must know some seconds more than what a passenger lacks."""
WHOLE_SECONDS = 10.0
"""For lines to be whole after the last report."""
LATITUDE, LONGITUDE = 47.0, 9.521345
SUMMED = {"sent", "lost", "again", "stored_twice", "not_acknowledged", "not_delivered", "skipped", "breaks", "closed"}
SAME = {"hubs", "drivers", "passengers"}
JOINS = "tracking_trip_joins_total"
"""The metric: how passengers were served when they came."""


async def hubs(environment: Environment, count: int, seconds: float) -> list[Result]:
    """So many drivers at 1 Hz, each with one passenger on another hub; on several numbers of hubs by turns."""
    await environment.set_up(count)
    turns = list(environment.hub_counts)
    began = time.perf_counter()
    if seconds >= TURNS_SECONDS:
        turns += reversed(turns)  # so that what slows down with time is no fault of many hubs
    found: dict[int, list[Result]] = {}
    for number in turns:
        await environment.run_hubs(number)
        found.setdefault(number, []).append(
            {
                "hubs": number,
                # Before: a feed goes on for a while after its last reader, who may come back.
                **await _unwatched(environment, _drivers(environment, count, began), min(seconds, UNWATCHED_SECONDS)),
                **await _crossing(environment, _drivers(environment, count, began), seconds),
            }
        )
    results = [_joined(parts) for parts in found.values()]
    for result in results:
        result["hub_us_per_fix (times the first)"] = result["hub_us_per_fix"] / results[0]["hub_us_per_fix"]
    return results


def _drivers(environment: Environment, count: int, began: float) -> list[DriverClient]:
    """Each on its hub, and where it has come to by now: a vehicle that went back, or not on, would be suspect."""
    place = (LATITUDE + (time.perf_counter() - began) * SPEED / METRES_PER_DEGREE, LONGITUDE)
    drivers = [environment.driver(n, 1.0, place) for n in range(count)]
    for n, driver in enumerate(drivers):
        driver.hub = n % len(environment.hubs)
    return drivers


async def _crossing(environment: Environment, drivers: Sequence[DriverClient], seconds: float) -> Result:
    several = len(environment.hubs)
    watchers = [environment.watcher(n, driver) for n, driver in enumerate(drivers)]
    for n, watcher in enumerate(watchers):
        watcher.hub = (n + 1) % several
    traffic = Traffic(environment)
    before = await environment.stored_twice()
    result = await measured(environment, drivers, watchers, 1.0, seconds, f"{several} hubs", look=traffic.look)
    return {
        **result,
        "stored_twice": await environment.stored_twice() - before,
        "broker_us_per_fix": 1e6 * traffic.cpu / max(1.0, result["fixes_per_second"] * traffic.seconds),
        "between_hubs_bytes_per_fix": traffic.bytes / max(1.0, result["fixes_per_second"] * traffic.seconds),
        "broker_messages_per_second": traffic.messages / traffic.seconds,
    }


async def _unwatched(environment: Environment, drivers: Sequence[DriverClient], seconds: float) -> Result:
    """The same drivers without passengers: nothing of theirs may reach the broker."""
    several = len(environment.hubs)
    traffic = Traffic(environment)
    result = await measured(environment, drivers, [], 1.0, seconds, f"{several} hubs, unwatched", look=traffic.look)
    wanted = ("hub_us_per_fix", "lost", "closed")
    return {
        **{f"{name} (unwatched)": result[name] for name in wanted},
        "broker_messages_per_second (unwatched)": traffic.messages / traffic.seconds,
        "positions_to_broker (unwatched)": traffic.positions,
    }


def _joined(parts: Sequence[Result]) -> Result:
    """Of several turns: counts together, other figures on average."""
    result: Result = {}
    for name, value in parts[0].items():
        values = [part[name] for part in parts]
        if name in SAME or value is None:
            result[name] = value
        elif name.removesuffix(" (unwatched)") in SUMMED or name.startswith("positions_"):
            result[name] = sum(values)
        else:
            result[name] = fmean(values)
    return result


async def hubs_change(environment: Environment, count: int, seconds: float) -> Result:
    """So many passengers, each with a driver at 1 Hz, change to another hub at once. Their hub lives on."""
    await environment.set_up(count)
    await environment.run_hubs(CHANGE_HUBS)
    drivers = [environment.driver(n, 1.0) for n in range(count)]
    before = [environment.line_client(n) for n in range(count)]
    for n in range(count):
        drivers[n].hub, before[n].hub = n % CHANGE_HUBS, (n + 1) % CHANGE_HUBS
    await connected(environment, [*drivers, *before], "hubs-change")
    await report(drivers, 1.0, REMEMBERED_SECONDS if environment.settle_seconds else 1.0, "hubs-change: settling")
    joins = await _joins(environment)
    reporting = asyncio.create_task(report(drivers, 1.0, max(2.0, seconds), "hubs-change"))
    began = time.perf_counter()
    close(before)
    after = [environment.line_client(n, client) for n, client in enumerate(before)]
    for n, client in enumerate(after):
        client.hub = (n + 2) % CHANGE_HUBS
    await asyncio.gather(
        *(
            connect([client for client in after if client.hub == number], hub.port, at_once=count)
            for number, hub in enumerate(environment.hubs)
        )
    )
    await reporting
    await drained(drivers)
    not_whole = await _not_whole(environment, after)
    served = {name: value - joins.get(name, 0.0) for name, value in (await _joins(environment)).items()}
    closed = sum(client.closed is not None for client in (*drivers, *after))
    close([*drivers, *after])
    return {
        "passengers": count,
        **latencies("change_to_snapshot", [client.snapshot_at - began for client in after if client.snapshot_at]),
        **latencies("change_to_position", [client.position_at - began for client in after if client.position_at]),
        "all_have_a_position_after_s": max((client.position_at or float("inf")) - began for client in after),
        "added_to_the_line": sum(client.added for client in after),
        **{f"served ({name})": value for name, value in served.items()},
        "lines_not_whole": not_whole,
        "breaks": sum(client.breaks for client in after),
        "closed": closed,
    }


async def _joins(environment: Environment) -> dict[str, float]:
    """How passengers were served, by kind, of all hubs."""
    found: dict[str, float] = {}
    for metrics in await environment.metrics_of_all():
        for name, value in metrics.items():
            if name.startswith(f"{JOINS}{{"):
                kind = name.split('"')[1]
                found[kind] = found.get(kind, 0.0) + value
    return found


async def _not_whole(environment: Environment, clients: Sequence[LineClient]) -> int:
    """How many passengers do not have the stored line."""
    deadline = time.perf_counter() + WHOLE_SECONDS
    while True:
        lines = await environment.lines()
        wrong = sum(client.line != lines.get(client.trip_id, set()) for client in clients)
        if not wrong or time.perf_counter() > deadline:
            return wrong
        await asyncio.sleep(0.5)
