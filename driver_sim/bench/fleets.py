"""The shape `fleet`: many vehicles, and dispatchers who look at all of them, or at a part.

What a dispatcher costs is found twice: as what the hub's CPU grows by when dispatchers connect, which is rough, because the
vehicles' own cost is many times that; and as the CPU time of the hub's ticks, which is nearly all of it.
"""

import itertools
import math
import random
from typing import Any

from driver_sim.bench.clients import DispatcherClient, DriverClient
from driver_sim.bench.environment import Environment
from driver_sim.bench.load import Result, close, connected, drained, latencies, report, settle_seconds

ALL_SEE_ALL = 40
"""Dispatchers who see everything, where that is not too much for a screen."""
MAX_SEEN = 2_000
PART = 200
"""Vehicles that a screen of a part holds, about."""
PART_DISPATCHERS = 200
"""So many of them, so that what they cost stands out from what the vehicles cost."""
TIMED = 4
"""Dispatchers who take the time of every update; the others only count."""
PARTS_WITHIN = 500
SPACING = 300.0
"""Metres between neighbours: a part is then some 4 km wide, as on a screen of a city."""
Bounds = tuple[float, float, float, float]
"""west, south, east, north"""
_DEGREE = 111_195.0
_SOUTH, _WEST = 47.0, 9.0


async def fleet(environment: Environment, count: int, seconds: float) -> Result:
    """So many vehicles at 1 Hz, without dispatchers, with some who each see a part, and (up to 2,000) with some who see all."""
    await environment.set_up_fleet(count)
    side = math.ceil(math.sqrt(count))
    drivers = [environment.driver(n, 1.0, place_of(n % side, n // side)) for n in range(count)]
    by_id = dict(zip(environment.vehicles, drivers, strict=True))
    # Neighbours do not report at the same time.
    random.Random(count).shuffle(drivers)
    await connected(environment, drivers, "fleet")
    for driver in drivers:
        driver.sent_at = {}
    result: Result = {"vehicles": count}
    alone = await _phase(environment, drivers, [], seconds, "no dispatchers")
    result["hub_us_per_fix (alone)"] = 1e6 * alone["hub"] / max(1, alone["handled"])
    result["tick_ms (alone)"] = alone["tick_ms"]
    # Screens within the part of the map that `PARTS_WITHIN` vehicles fill overlap as much whatever the fleet holds; those all
    # over the map overlap less, the larger it is, and what is encoded once is shared by fewer.
    within = min(side, math.ceil(math.sqrt(PARTS_WITHIN)))
    parts = {"part": screens_of(PART, PART_DISPATCHERS, within)}
    if side > within:
        parts["scattered"] = screens_of(PART, PART_DISPATCHERS, side)
    if count <= MAX_SEEN:
        parts["all"] = [_bounds(-1, -1, side, side + 2)] * ALL_SEE_ALL
    for name, bounds in parts.items():
        screens = [environment.dispatcher(b, by_id if n < TIMED else None) for n, b in enumerate(bounds)]
        await connected(environment, screens, name)
        phase = await _phase(environment, drivers, screens, seconds, name)
        close(screens)
        delivered = max(1, phase["delivered"])
        ticks = phase["tick_ms"] - alone["tick_ms"]
        result |= {
            f"dispatchers ({name})": len(screens),
            f"in_view ({name})": sum(screen.in_view for screen in screens) / len(screens),
            f"deliveries_per_second ({name})": delivered / phase["at"],
            f"hub_us_per_delivery ({name})": 1e6 * (phase["hub"] - alone["hub"] * phase["at"] / alone["at"]) / delivered,
            f"tick_us_per_delivery ({name})": 1e3 * ticks / delivered,
            f"tick_us_per_dispatcher_second ({name})": 1e3 * ticks / len(screens) / phase["at"],
            f"messages_per_dispatcher_second ({name})": sum(s.messages for s in screens) / len(screens) / phase["at"],
            **{f"{key} ({name})": value for key, value in phase["latencies"].items()},
            f"closed ({name})": sum(screen.closed is not None for screen in screens),
        }
    await drained(drivers)
    close(drivers)
    sent = sum(driver.sent for driver in drivers)
    return {
        **result,
        "sent": sent,
        "not_acknowledged": sent - sum(driver.acknowledged for driver in drivers),
        "hub_memory_mb": environment.memory() / 2**20,
    }


async def _phase(
    environment: Environment, drivers: list[DriverClient], screens: list[DispatcherClient], seconds: float, name: str
) -> dict[str, Any]:
    await report(drivers, 1.0, settle_seconds(environment, len(drivers)), f"{name}: settling")
    for screen in screens:
        screen.delivered = screen.messages = 0
        screen.to_watcher.clear()
    handled = sum(driver.acknowledged for driver in drivers)
    before = await environment.cost()
    ticks = await environment.metric("tracking_fleet_tick_seconds_sum")
    await report(drivers, 1.0, seconds, name)
    spent = (await environment.cost()).since(before)
    return {
        "at": spent.at,
        "hub": spent.hub,
        "handled": sum(driver.acknowledged for driver in drivers) - handled,
        "delivered": sum(screen.delivered for screen in screens),
        "tick_ms": 1000 * (await environment.metric("tracking_fleet_tick_seconds_sum") - ticks),
        "latencies": latencies("to_screen", list(itertools.chain(*(screen.to_watcher for screen in screens)))),
    }


def screens_of(vehicles: int, count: int, side: int) -> list[Bounds]:
    """So many screens of so many vehicles each, somewhere in a square of `side` columns and rows."""
    rng = random.Random(side)
    width = math.sqrt(vehicles) - 1
    corners = [(rng.uniform(0, side - 1 - width), rng.uniform(0, side - 1 - width)) for _ in range(count)]
    return [_bounds(x, y, x + width, y + width) for x, y in corners]


def place_of(column: float, row: float) -> tuple[float, float]:
    """Latitude and longitude of a place in the square of vehicles."""
    latitude = _SOUTH + row * SPACING / _DEGREE
    return latitude, _WEST + column * SPACING / (_DEGREE * math.cos(math.radians(_SOUTH)))


def _bounds(left: float, bottom: float, right: float, top: float) -> Bounds:
    south, west = place_of(left, bottom)
    north, east = place_of(right, top)
    return west, south, east, north
