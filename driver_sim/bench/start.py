"""The shape `start`: how soon a hub serves on a large database, and what it holds in memory before anybody has asked."""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from driver_sim.bench.lines import DispatcherLine, Line, Lost, connect
from driver_sim.bench.parts import Result, close, wait
from driver_sim.bench.stage import Stage, StageError

FLEETS = 50
GEOFENCES = 20
"""In each fleet."""
ONE_ON_A_TRIP = 20
"""One vehicle in so many is under way on a trip."""
STARTS = 3
"""So often it is started: the figures of time are the medians."""
MANY = 10_000
"""Vehicles: with fewer it is started once, as for a trial."""
START_SECONDS = 120.0
"""At most."""
WEST, SOUTH, WIDTH = 9.0, 46.5, 1.0
"""Degrees: where the vehicles of every fleet are."""
SCREEN = (WEST, SOUTH, WEST + WIDTH / 4, SOUTH + WIDTH / 4)
"""A sixteenth of them."""
SomeLine = TypeVar("SomeLine", bound=Line)


async def start(stage: Stage, count: int, _seconds: float) -> Result:
    """A hub starts on a database with so many vehicles in 50 fleets; then a driver, a passenger and a dispatcher come."""
    stage.kill(graceful=True)
    empty = await _started(stage)
    await _fill(stage, count)
    times: list[dict[str, float]] = []
    for _ in range(STARTS if count >= MANY else 1):
        stage.kill(graceful=True)
        began = time.perf_counter()
        times.append(await _started(stage))
        served, lines = await _served(stage, began)
        times[-1] |= served
        close(lines)
    stage.kill(graceful=True)
    await _started(stage)
    await wait(stage.settle_seconds, "start: memory")
    alone = stage.memory()
    _, lines = await _served(stage, time.perf_counter())
    beside = stage.memory()
    *_, screen = lines
    assert isinstance(screen, DispatcherLine)
    close(lines)
    return {
        "vehicles": count,
        "fleets": FLEETS,
        "trips": len(stage.trips),
        "geofences": FLEETS * GEOFENCES,
        "starts": len(times),
        "ready_after_s (empty)": empty["ready_after_s"],
        **{name: statistics.median(found[name] for found in times) for name in times[0]},
        "served_after_most_s": max(found["served_after_s"] for found in times),
        "vehicles_on_screen": screen.in_view,
        "hub_memory_mb (nobody)": alone / 2**20,
        "hub_memory_mb (three clients)": beside / 2**20,
    }


async def _started(stage: Stage) -> dict[str, float]:
    began = time.perf_counter()
    await stage.start(START_SECONDS)
    ready = time.perf_counter() - began
    return {"ready_after_s": ready, "ready_hub_cpu_s": (await stage.cost()).hub}


async def _served(stage: Stage, began: float) -> tuple[dict[str, float], list[Line]]:
    """When a driver's first fix was acknowledged, a passenger had its snapshot, and a dispatcher its fleet's; all at once."""
    at: dict[str, float] = {}

    async def driver() -> Line:
        line = await _let_in(stage, lambda: stage.driver(0, 1.0, (SOUTH, WEST)))
        line.report()
        while line.acknowledged == 0 and line.closed is None:  # noqa: ASYNC110  no event: nobody else waits for an ack
            await asyncio.sleep(0.001)
        if line.closed is not None:
            raise StageError(f"a driver was closed with {line.closed}")
        at["first_ack_after_s"] = time.perf_counter() - began
        return line

    async def passenger() -> Line:
        line = await _let_in(stage, lambda: stage.watcher(0))
        at["snapshot_after_s"] = time.perf_counter() - began
        return line

    async def dispatcher() -> Line:
        line = await _let_in(stage, lambda: stage.dispatcher(SCREEN))
        at["fleet_snapshot_after_s"] = time.perf_counter() - began
        return line

    try:
        async with asyncio.timeout(START_SECONDS):
            lines = await asyncio.gather(driver(), passenger(), dispatcher())
    except TimeoutError:
        raise StageError(f"after {START_SECONDS:g} s not all three were served") from None
    return {**at, "served_after_s": max(at.values())}, list(lines)


async def _let_in(stage: Stage, make: Callable[[], SomeLine]) -> SomeLine:
    """A line that is served; it tries again where it is turned away."""
    while True:
        line = make()
        try:
            await connect([line], stage.port, timeout=START_SECONDS)
        except (Lost, OSError):
            await asyncio.sleep(0.01)
        else:
            return line


async def _fill(stage: Stage, count: int) -> None:
    """By SQL: vehicles by turns in the fleets, spread evenly, each heard of just now."""
    await stage.sql.execute(
        f"""
        -- Nobody falls silent while it is measured.
        INSERT INTO fleets (fleet_id, name, signal_lost_after)
        SELECT 'start-' || n, 'Fleet ' || n, 3600 FROM generate_series(0, {FLEETS - 1}) n;
        INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate)
        SELECT 'start-' || n, 'start-' || n % {FLEETS}, 'Van ' || n, 'van', 'FL ' || n FROM generate_series(0, {count - 1}) n;
        CREATE TEMPORARY TABLE made AS
        SELECT vehicle, vehicle_id, fleet_id, fleet, substr(vehicle_id, 7)::int AS n FROM vehicles JOIN fleets USING (fleet_id);
        INSERT INTO trips (trip_id, fleet_id, vehicle, status, version, pickup, dropoff, created_at, started_at)
        SELECT 'start-trip-' || n, fleet_id, vehicle, 'enroute_to_pickup', 2, place, place, now(), now()
        FROM made, (SELECT '{{"latitude": {SOUTH}, "longitude": {WEST}}}'::jsonb AS place) p
        WHERE n / {FLEETS} % {ONE_ON_A_TRIP} = 0 ORDER BY n;
        INSERT INTO trip_spans (trip, vehicle, started_at) SELECT trip, vehicle, started_at FROM trips;
        INSERT INTO latest_positions (vehicle, trip, fleet, fix_time, server_time, accuracy, speed, bearing, battery, point)
        SELECT m.vehicle, t.trip, m.fleet, now(), now(), 4.5, 8.5, 90, 0.8, ST_SetSRID(
            ST_MakePoint({WEST} + {WIDTH} * (n * 0.6180339887 % 1), {SOUTH} + {WIDTH} * (n * 0.7548776662 % 1)), 4326
        )
        FROM made m LEFT JOIN trips t USING (vehicle);
        INSERT INTO geofences (fleet_id, geofence_id, shape, properties)
        SELECT f.fleet_id, 'fence-' || g, ST_Buffer(ST_SetSRID(ST_MakePoint(
            {WEST} + {WIDTH} * (g * 0.6180339887 % 1), {SOUTH} + {WIDTH} * (g * 0.7548776662 % 1)
        ), 4326)::geography, 500)::geometry, jsonb_build_object('name', 'Fence ' || g)
        FROM fleets f, generate_series(1, {GEOFENCES}) g WHERE f.fleet_id LIKE 'start-%';
        DROP TABLE made
        """,
        timeout=600,
    )
    for command in ("VACUUM ANALYZE", "CHECKPOINT"):
        await stage.sql.execute(command, timeout=600)
    stage.fleet = "start-0"
    stage.vehicles = ["start-0"]
    stage.trips = [row["trip_id"] for row in await stage.sql.fetch("SELECT trip_id FROM trips ORDER BY trip")]
