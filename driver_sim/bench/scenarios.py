"""The scenarios of load. Each connects its clients, lets the hub settle, measures a while, and counts what was lost."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable

from driver_sim.bench.changes import changes
from driver_sim.bench.clients import Client, Lost, connect
from driver_sim.bench.environment import Environment
from driver_sim.bench.fleets import fleet
from driver_sim.bench.geofences import geofences
from driver_sim.bench.hubs import hubs, hubs_change
from driver_sim.bench.hubs_fleet import hubs_fleet
from driver_sim.bench.load import Result, at_once, close, connected, drained, latencies, measured, report, wait
from driver_sim.bench.roll import roll
from driver_sim.bench.start import start

POPULAR_HZ = 10.0
SLOW_HZ = 40.0
SLOW_SECONDS = 25.0
"""Long enough for more than the system and the high-water mark hold."""
FLOOD_DRIVERS = 1_000
FLOOD_FIRST = 10_000
FLOOD_STEP = 10_000
FLOOD_LAST = 150_000
FLOOD_SECONDS = 5.0
FLOOD_BEARABLE = 1.0
"""Seconds from report to ack (p99) past which the hub has not kept up."""
LONG_STEP = 0.005
"""Seconds: no step of the hub's event loop should be longer."""
RETURN_SECONDS = 120.0


async def idle(environment: Environment, count: int, seconds: float) -> Result:
    """Bytes of the hub for one connection that is open and silent."""
    await environment.set_up(count)
    # What is allocated once, and the pools that the first connections fill, are not the connections'.
    warm: list[Client] = [environment.driver(n, 1.0) for n in range(200)]
    await connected(environment, warm, "warming up")
    close(warm)
    await asyncio.sleep(1.0)
    result: Result = {}
    before = environment.memory()
    drivers: list[Client] = [environment.driver(n, 1.0) for n in range(count)]
    await connected(environment, drivers, "drivers")
    await asyncio.sleep(environment.settle_seconds)
    result["driver_kb"] = (environment.memory() - before) / count / 1024
    between = environment.memory()
    watchers: list[Client] = [environment.watcher(n) for n in range(count)]
    await connected(environment, watchers, "passengers")
    await asyncio.sleep(environment.settle_seconds)
    result["passenger_kb"] = (environment.memory() - between) / count / 1024
    cost = await environment.cost()
    await wait(seconds, "idle")
    spent = (await environment.cost()).since(cost)
    result["hub_cpu_percent"] = 100 * spent.hub / spent.at
    close([*drivers, *watchers])
    return {"connections": 2 * count, **result}


async def trips(environment: Environment, count: int, seconds: float) -> Result:
    """So many drivers at 1 Hz, each with one passenger."""
    return await _trips(environment, count, seconds)


async def _trips(environment: Environment, count: int, seconds: float, look: Callable[[], Awaitable[None]] = at_once) -> Result:
    await environment.set_up(count)
    drivers = [environment.driver(n, 1.0) for n in range(count)]
    watchers = [environment.watcher(n, driver) for n, driver in enumerate(drivers)]
    return await measured(environment, drivers, watchers, 1.0, seconds, "trips", look=look)


async def steps(environment: Environment, count: int, seconds: float) -> Result:
    """The same load, and a hub that measures its event loop every 2 ms: how late it comes, and its own long steps."""
    seen: list[dict[str, float]] = []

    async def look() -> None:
        seen.append(await environment.metrics())

    result = await _trips(environment, count, seconds, look)
    before, after = seen
    spent = {name: value - before.get(name, 0.0) for name, value in after.items()}
    for name in ("lag", "step"):
        metric = f"tracking_loop_{name}_seconds"
        total = spent[f"{metric}_count"]
        counts = {float(key.split('"')[1]): value for key, value in spent.items() if key.startswith(f"{metric}_bucket")}
        result |= {
            f"loop_{name}_times": total,
            f"loop_{name}_over_5_ms": total - counts[LONG_STEP],
            f"loop_{name}_most_ms": f"<= {1000 * min(bound for bound, below in counts.items() if below == total):g}",
        }
    return result


async def popular(environment: Environment, count: int, seconds: float) -> Result:
    """One driver at 10 Hz, and so many passengers."""
    await environment.set_up(1)
    driver = environment.driver(0, 1 / POPULAR_HZ)
    return await measured(
        environment, [driver], [environment.watcher(0, driver) for _ in range(count)], POPULAR_HZ, seconds, "popular"
    )


async def slow(environment: Environment, count: int, seconds: float) -> Result:
    """One driver at 40 Hz, so many passengers, and one who stops reading: what the hub holds for it, what the others notice."""
    await environment.set_up(1)
    driver = environment.driver(0, 1 / SLOW_HZ)
    watchers = [environment.watcher(0, driver) for _ in range(count)]
    reader = environment.watcher(0)
    reader.receive_buffer = 4096  # so that what it does not read stays with the hub
    await connected(environment, [driver, *watchers, reader], "slow")
    driver.sent_at = {}
    result: Result = {}
    await report([driver], SLOW_HZ, environment.settle_seconds, "settling")
    assert reader.transport is not None
    for phase in ("warming up", "all read", "one does not"):
        if phase == "one does not":
            reader.transport.pause_reading()
        for watcher in watchers:
            watcher.to_watcher.clear()
        memory = environment.memory()
        await report([driver], SLOW_HZ, max(seconds, SLOW_SECONDS), phase)
        late = [took for watcher in watchers for took in watcher.to_watcher]
        result |= {f"{name} ({phase})": value for name, value in latencies("to_watcher", late).items()}
        result[f"hub_grew_kb ({phase})"] = (environment.memory() - memory) / 1024
    # What it was still owed comes now: the newest, and word of what was left out.
    reader.transport.resume_reading()
    await drained([driver])
    await asyncio.sleep(1.0)
    close([driver, *watchers, reader])
    lost = {"slow_delivered": reader.delivered, "slow_skipped": reader.skipped, "slow_breaks": reader.breaks}
    return {"passengers": count, "sent": driver.sent, **lost, **result}


async def flood(environment: Environment, _count: int, _seconds: float) -> Result:
    """More and more durable fixes a second, in frames of one, until something gives."""
    await environment.set_up(FLOOD_DRIVERS)
    steps: list[Result] = []
    for rate in range(FLOOD_FIRST, FLOOD_LAST, FLOOD_STEP):
        each = rate / FLOOD_DRIVERS
        drivers = [environment.driver(n, 1 / each) for n in range(FLOOD_DRIVERS)]
        step = await measured(environment, drivers, [], each, FLOOD_SECONDS, f"flood {rate}/s", settle=1.0)
        steps.append(step)
        behind = step["fixes_per_second"] < 0.97 * rate
        if behind or step["lost"] or step["closed"] or step["to_ack_p99_ms"] > FLOOD_BEARABLE * 1000:
            break
    kept = [step for step in steps if step["fixes_per_second"] and step is not steps[-1]] or steps
    best, last = kept[-1], steps[-1]
    busy = {name: last[f"{name}_cpu_percent"] for name in ("hub", "database", "load")}
    return {
        **best,
        "gave_at_per_second": last["fixes_per_second"],
        "gave": f"CPU in percent of one core: {', '.join(f'{name} {value:.0f}' for name, value in busy.items())}",
        "steps": steps,
    }


async def come_back(environment: Environment, count: int, _seconds: float) -> Result:
    """The hub is killed and started, and so many clients, half of them drivers, are at its door at once."""
    half = count // 2
    await environment.set_up(half)

    def clients() -> list[Client]:
        return [client for n in range(half) for client in (environment.driver(n, 1.0), environment.watcher(n))]

    await connected(environment, clients(), "before")
    environment.kill()
    began = time.perf_counter()
    await environment.start()
    started = time.perf_counter()
    served: list[float] = []
    tries = 0

    async def again(make: Callable[[], Client]) -> None:
        nonlocal tries
        while True:
            tries += 1
            try:
                await connect([make()], environment.port, timeout=RETURN_SECONDS)
            except (Lost, OSError):
                await asyncio.sleep(0.1)
                continue
            served.append(time.perf_counter() - started)
            return

    makers = [[lambda n=n: environment.driver(n, 1.0), lambda n=n: environment.watcher(n)] for n in range(half)]
    async with asyncio.timeout(RETURN_SECONDS):
        await asyncio.gather(*(again(make) for make in itertools.chain(*makers)))
    return {
        "clients": 2 * half,
        "tries": tries,
        "hub_ready_after_s": started - began,
        "half_served_after_s": statistics.median(served),
        "all_served_after_s": max(served),
    }


SHAPES: dict[str, Callable[[Environment, int, float], Awaitable[Result | list[Result]]]] = {
    "idle": idle,
    "trips": trips,
    "steps": steps,
    "popular": popular,
    "slow": slow,
    "flood": flood,
    "return": come_back,
    "fleet": fleet,
    "geofences": geofences,
    "changes": changes,
    "start": start,
    "hubs": hubs,
    "hubs-change": hubs_change,
    "hubs-fleet": hubs_fleet,
    "roll": roll,
}
