"""The shape `geofences`: vehicles that report ten times a second, without geofences and among a thousand of them."""

import math
import random
from typing import Any

from driver_sim.bench.clients import DriverClient
from driver_sim.bench.environment import Cost, Environment
from driver_sim.bench.fleets import place_of
from driver_sim.bench.load import Result, busy, close, connected, drained, latencies, report, settle_seconds

HERTZ = 10.0
FENCES = 1_000
VERTICES = 24
RADII = (100.0, 600.0)
"""Metres, from a fence's middle to its vertices: they overlap, and cover about half of the map."""
_DEGREE = 111_195.0


async def geofences(environment: Environment, count: int, seconds: float) -> Result:
    """So many vehicles at 10 Hz: what a position costs more when it is held against the fences, and how fast events are."""
    await environment.set_up_fleet(count)
    side = math.ceil(math.sqrt(count))
    drivers = [environment.driver(n, 1 / HERTZ, place_of(n % side, n // side)) for n in range(count)]
    by_id = dict(zip(environment.vehicles, drivers, strict=True))
    screen = environment.dispatcher((-180.0, -1.0, -179.9, 1.0), by_id)  # somewhere else: events come all the same
    await connected(environment, [*drivers, screen], "geofences")
    for driver in drivers:
        driver.sent_at = {}
    without, handled_without = await _phase(environment, drivers, seconds, "without fences")
    await environment.put_geofences({f"fence-{n}": _polygon(random.Random(n), side) for n in range(FENCES)})
    screen.events.clear()
    screen.to_watcher.clear()
    among, handled = await _phase(environment, drivers, seconds, "among fences")
    kinds = list(screen.events)
    await drained(drivers)
    close([*drivers, screen])
    sent = sum(driver.sent for driver in drivers)
    return {
        "vehicles": count,
        "fences": FENCES,
        "positions_per_second": handled / among.at,
        "hub_us_per_fix (without)": 1e6 * without.hub / max(1, handled_without),
        "hub_us_per_fix (among)": 1e6 * among.hub / max(1, handled),
        "events_per_second": len(kinds) / among.at,
        "enters": kinds.count("enter"),
        "exits": kinds.count("exit"),
        **latencies("to_event", screen.to_watcher),
        **busy(among),
        "sent": sent,
        "not_acknowledged": sent - sum(driver.acknowledged for driver in drivers),
    }


async def _phase(environment: Environment, drivers: list[DriverClient], seconds: float, name: str) -> tuple[Cost, int]:
    await report(drivers, HERTZ, settle_seconds(environment, len(drivers)), f"{name}: settling")
    handled = sum(driver.acknowledged for driver in drivers)
    before = await environment.cost()
    await report(drivers, HERTZ, seconds, name)
    return (await environment.cost()).since(before), sum(driver.acknowledged for driver in drivers) - handled


def _polygon(rng: random.Random, side: int) -> dict[str, Any]:
    """A star-shaped polygon somewhere on the map, as GeoJSON."""
    latitude, longitude = place_of(rng.uniform(0, side), rng.uniform(0, side))
    ring = []
    for vertex in range(VERTICES):
        angle, radius = 2 * math.pi * vertex / VERTICES, rng.uniform(*RADII)
        east = radius * math.cos(angle) / (_DEGREE * math.cos(math.radians(latitude)))
        ring.append([longitude + east, latitude + radius * math.sin(angle) / _DEGREE])
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
