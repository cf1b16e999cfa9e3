"""Shapes that ask questions: the nearest vehicles, and a day's track, out of tables that SQL has filled."""

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tqdm import tqdm

from driver_sim.bench.environment import Environment
from driver_sim.bench.load import Result
from tracking.model import system_clock
from tracking.store import nearest as latest
from tracking.store import vehicle_days
from tracking.store.days import DAY_MS, date_of
from tracking.store.pool import Database

UNTIMED = 20
"""First questions, which are not measured: they make connections, and prepare statements."""
FLEETS = 100
HISTORY_VEHICLES = 250
HISTORY_DAYS = 20
WEST, SOUTH, WIDTH = 9.4, 46.9, 0.5
"""Degrees: where the vehicles are."""


async def nearest(environment: Environment, count: int, _seconds: float) -> Result:
    """The nearest ten of so many vehicles, all of one fleet, then spread over a hundred fleets; nine in ten have a trip."""
    await environment.sql.execute(
        f"""
        INSERT INTO fleets (fleet_id, name) SELECT 'near-' || n, '' FROM generate_series(0, {FLEETS}) n;
        INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'near-' || n, 'near-0' FROM generate_series(1, {count}) n;
        INSERT INTO trips (trip_id, fleet_id, vehicle, pickup, dropoff, created_at)
        SELECT 'near-' || vehicle, fleet_id, vehicle, place, place, now()
        FROM vehicles, (SELECT '{{"latitude": {SOUTH}, "longitude": {WEST}}}'::jsonb AS place) p
        WHERE fleet_id = 'near-0' AND vehicle / 100 % 10 <> 0;
        INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, speed, bearing, battery, point)
        SELECT v.vehicle, f.fleet, now() + interval '1 h', now(), 8.5, 90, 0.8,
            ST_SetSRID(ST_MakePoint({WEST} + random() * {WIDTH}, {SOUTH} + random() * {WIDTH}), 4326)
        FROM vehicles v JOIN fleets f USING (fleet_id) WHERE v.fleet_id = 'near-0';
        ANALYZE
        """
    )
    result: Result = {"vehicles": count, "asked": environment.questions}
    async with _asking(environment) as (get, database):
        for name, fleets in (("one fleet", 1), (f"{FLEETS} fleets", FLEETS)):
            if fleets > 1:
                await environment.sql.execute(
                    f"""
                    UPDATE vehicles SET fleet_id = 'near-' || (1 + vehicle % {FLEETS}) WHERE fleet_id = 'near-0';
                    UPDATE latest_positions l SET fleet = f.fleet FROM vehicles v JOIN fleets f USING (fleet_id)
                    WHERE v.vehicle = l.vehicle;
                    """
                )
                await environment.sql.execute("VACUUM ANALYZE latest_positions")

            def fleet(fleets: int = fleets) -> str:
                return f"near-{random.randint(1, FLEETS) if fleets > 1 else 0}"

            async def over_http(available: str, fleet: Callable[[], str] = fleet) -> int:
                latitude, longitude = _somewhere()
                near = f"{latitude:.6f},{longitude:.6f}"
                answer = await get(f"/fleets/{fleet()}/vehicles", near=near, available=available)
                return len(answer.json()["vehicles"])

            async def alone(fleet: Callable[[], str] = fleet) -> int:
                async with database.connection() as connection:
                    return len(await latest.nearest(connection, fleet(), *_somewhere(), 10))

            result |= await _timed(environment, f"{name}: http", lambda: over_http("false"), 10)
            result |= await _timed(environment, f"{name}: available, http", lambda: over_http("true"), 10)
            result |= await _timed(environment, f"{name}: query", alone, 10)
    return result


async def history(environment: Environment, count: int, _seconds: float) -> Result:
    """A vehicle's day out of so many positions of 250 vehicles in 20 days, stored as they came: all vehicles' side by side."""
    each = max(1, count // HISTORY_VEHICLES // HISTORY_DAYS)
    today = system_clock() // DAY_MS
    days = range(today - HISTORY_DAYS, today)
    stored_seconds = await _store_history(environment, days, each)
    await environment.sql.execute("VACUUM ANALYZE positions", timeout=600)
    total, size = await environment.stored()
    result: Result = {
        "positions": total,
        "stored_gb": size / 1e9,
        "stored_per_second": total / stored_seconds,
        "fixes_of_a_day": each,
        "asked": environment.questions,
    }
    async with _asking(environment) as (get, database):
        # What there is as often as fixes, and how much oftener.
        for format_, mark, more in (("csv", b"\n", 1), ("geojson", b"],[", -1), ("gpx", b"<trkpt", 0)):

            async def over_http(format_: str = format_, mark: bytes = mark, more: int = more) -> int:
                vehicle, day = random.randint(1, HISTORY_VEHICLES), random.choice(days)
                span = {"from": str(day * DAY_MS), "to": str((day + 1) * DAY_MS)}
                answer = await get(f"/vehicles/history-{vehicle}/track", format=format_, **span)
                content: bytes = answer.content
                return content.count(mark) - more

            result |= await _timed(environment, f"{format_}, http", over_http, each)
        numbers = [
            row["vehicle"] for row in await environment.sql.fetch("SELECT vehicle FROM vehicles WHERE fleet_id = 'history'")
        ]

        async def sum_up() -> int:
            async with database.connection() as connection:
                found = await vehicle_days.day_now(connection, random.choice(numbers), random.choice(days))
            return found.positions if found is not None else 0

        result |= await _timed(environment, "summing up", sum_up, each)
    return result


QUERIES: dict[str, Callable[[Environment, int, float], Awaitable[Result]]] = {"nearest": nearest, "history": history}
SETTINGS = {
    "history": {"TRACKING_SUMMARY_DELAY": "1e9"},
    "steps": {"TRACKING_LAG_INTERVAL": "0.002"},
    "flood": {"TRACKING_ACK_INTERVAL": "0"},
    "changes": {"TRACKING_BUDGET_WRITES": "1000000/60"},
}
"""Of the hub, by shape: it is not to sum up twenty days while it is asked for tracks; it is to look at its loop closely; to
acknowledge each commit, so that the ack says how long that took; and to take as many changes as come."""


# --- the parts ----------------------------------------------------------------------------------------------------------


async def _store_history(environment: Environment, days: range, each: int) -> float:
    """Store `each` positions a day of every vehicle. Returns the seconds that it took."""
    await environment.sql.execute(
        f"""
        INSERT INTO fleets (fleet_id, name) VALUES ('history', '');
        INSERT INTO vehicles (vehicle_id, fleet_id)
        SELECT 'history-' || n, 'history' FROM generate_series(1, {HISTORY_VEHICLES}) n;
        INSERT INTO sessions (vehicle, name) SELECT vehicle, 'session-' || vehicle FROM vehicles WHERE fleet_id = 'history';
        """
    )
    begin = time.perf_counter()
    for day in tqdm(days, desc="history: storing", unit=" days", leave=False):
        # Hours of driving, a fix every few seconds, north and back again; every twentieth minute stands.
        await environment.sql.execute("SELECT ensure_positions_partition($1)", date_of(day))
        await environment.sql.execute(
            """
            INSERT INTO positions (
                vehicle, session, seq, fix_time, server_time, accuracy, altitude, speed, bearing, battery, point
            )
            SELECT s.vehicle, s.session, n + ($1::int % 100) * 100000, fix_time, fix_time + interval '200 ms',
                4.5, 460.25, 10, 12.5, 0.83,
                ST_SetSRID(
                    ST_MakePoint(9.5 + s.vehicle * 1e-4, 47 + 0.2 * abs(2.0 * ((n * 1e-3) % 1) - 1) + random() * 5e-5), 4326
                )
            FROM generate_series(1, $2::int) n,
                LATERAL (SELECT to_timestamp(($1::float8 + 0.25 + 0.5 * n / $2) * 86400) AS fix_time) t,
                (SELECT s.* FROM sessions s JOIN vehicles v USING (vehicle) WHERE v.fleet_id = 'history' OFFSET 0) s
            """,
            day,
            each,
            timeout=600,
        )
    return time.perf_counter() - begin


@asynccontextmanager
async def _asking(environment: Environment) -> Any:
    """A client of the hub's API, and the database as the hub has it."""
    database = Database(environment.database_url)
    await database.open()
    headers = {"Authorization": f"Bearer {environment.service_token()}"}
    async with httpx.AsyncClient(base_url=f"{environment.url}/v1", headers=headers, trust_env=False, timeout=60) as http:

        async def get(path: str, **parameters: str) -> httpx.Response:
            return (await http.get(path, params=parameters)).raise_for_status()

        yield get, database
    await database.close()


async def _timed(environment: Environment, name: str, ask: Callable[[], Awaitable[int]], expected: int) -> Result:
    """p50 and p95 of one question after another; `wrong` counts answers that had not as much in them as expected."""
    took: list[float] = []
    wrong = 0
    for number in tqdm(range(UNTIMED + environment.questions), desc=name, unit="", leave=False):
        begin = time.perf_counter()
        found = await ask()
        if number >= UNTIMED:
            took.append(1000 * (time.perf_counter() - begin))
        wrong += found != expected
    took.sort()
    p50, p95 = (took[len(took) * share // 100] for share in (50, 95))
    return {f"{name} p50_ms": p50, f"{name} p95_ms": p95, f"{name} wrong": wrong}


def _somewhere() -> tuple[float, float]:
    """A latitude and a longitude among the vehicles."""
    return SOUTH + random.random() * WIDTH, WEST + random.random() * WIDTH
