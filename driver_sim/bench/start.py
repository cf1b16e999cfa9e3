"""The shape `start`: how soon a hub serves on a large database, and what it holds in memory before anybody has asked."""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

from driver_sim.bench.clients import Client, DispatcherClient, Lost, connect
from driver_sim.bench.environment import Environment
from driver_sim.bench.hub import EnvironmentFailed
from driver_sim.bench.load import Result, close, wait

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
SomeClient = TypeVar("SomeClient", bound=Client)


async def start(environment: Environment, count: int, _seconds: float) -> Result:
    """A hub starts on a database with so many vehicles in 50 fleets; then a driver, a passenger and a dispatcher come."""
    environment.kill(graceful=True)
    empty = await _started(environment)
    await _fill(environment, count)
    times: list[dict[str, float]] = []
    for _ in range(STARTS if count >= MANY else 1):
        environment.kill(graceful=True)
        began = time.perf_counter()
        times.append(await _started(environment))
        served, clients = await _served(environment, began)
        times[-1] |= served
        close(clients)
    environment.kill(graceful=True)
    await _started(environment)
    await wait(environment.settle_seconds, "start: memory")
    alone = environment.memory()
    _, clients = await _served(environment, time.perf_counter())
    beside = environment.memory()
    *_, screen = clients
    assert isinstance(screen, DispatcherClient)
    close(clients)
    return {
        "vehicles": count,
        "fleets": FLEETS,
        "trips": len(environment.trips),
        "geofences": FLEETS * GEOFENCES,
        "starts": len(times),
        "ready_after_s (empty)": empty["ready_after_s"],
        **{name: statistics.median(found[name] for found in times) for name in times[0]},
        "served_after_most_s": max(found["served_after_s"] for found in times),
        "vehicles_on_screen": screen.in_view,
        "hub_memory_mb (nobody)": alone / 2**20,
        "hub_memory_mb (three clients)": beside / 2**20,
    }


async def _started(environment: Environment) -> dict[str, float]:
    began = time.perf_counter()
    await environment.start(START_SECONDS)
    ready = time.perf_counter() - began
    return {"ready_after_s": ready, "ready_hub_cpu_s": (await environment.cost()).hub}


async def _served(environment: Environment, began: float) -> tuple[dict[str, float], list[Client]]:
    """When a driver's first fix was acknowledged, a passenger had its snapshot, and a dispatcher its fleet's; all at once."""
    at: dict[str, float] = {}

    async def driver() -> Client:
        line = await _let_in(environment, lambda: environment.driver(0, 1.0, (SOUTH, WEST)))
        line.report()
        while line.acknowledged == 0 and line.closed is None:  # noqa: ASYNC110  no event: nobody else waits for an ack
            await asyncio.sleep(0.001)
        if line.closed is not None:
            raise EnvironmentFailed(f"a driver was closed with {line.closed}")
        at["first_ack_after_s"] = time.perf_counter() - began
        return line

    async def passenger() -> Client:
        line = await _let_in(environment, lambda: environment.watcher(0))
        at["snapshot_after_s"] = time.perf_counter() - began
        return line

    async def dispatcher() -> Client:
        line = await _let_in(environment, lambda: environment.dispatcher(SCREEN))
        at["fleet_snapshot_after_s"] = time.perf_counter() - began
        return line

    try:
        async with asyncio.timeout(START_SECONDS):
            clients = await asyncio.gather(driver(), passenger(), dispatcher())
    except TimeoutError:
        raise EnvironmentFailed(f"after {START_SECONDS:g} s not all three were served") from None
    return {**at, "served_after_s": max(at.values())}, list(clients)


async def _let_in(environment: Environment, make: Callable[[], SomeClient]) -> SomeClient:
    """A line that is served; it tries again where it is turned away."""
    while True:
        line = make()
        try:
            await connect([line], environment.port, timeout=START_SECONDS)
        except (Lost, OSError):
            await asyncio.sleep(0.01)
        else:
            return line


async def _fill(environment: Environment, count: int) -> None:
    """By SQL: vehicles by turns in the fleets, spread evenly, each heard of just now."""
    await environment.sql.execute(
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
        await environment.sql.execute(command, timeout=600)
    environment.fleet = "start-0"
    environment.vehicles = ["start-0"]
    environment.trips = [row["trip_id"] for row in await environment.sql.fetch("SELECT trip_id FROM trips ORDER BY trip")]
