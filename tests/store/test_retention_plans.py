"""Each batch of retention reads a range of an index, on a real PostgreSQL with tables of thousands of rows."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.clocks import SetClock
from tests.support.retention import EVERYTHING, NOW, gone_until, store_with_van
from tracking.config import load
from tracking.history.retention import Retention
from tracking.store.jobs import Jobs
from tracking.store.pool import Connection, Database
from tracking.store.retention import KINDS


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    async with store_with_van(database_url) as store:
        yield store


@pytest.fixture
async def sql(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        yield connection


_FILL = """
INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'van-' || n, 'fleet' FROM generate_series(2, 8000) n;
INSERT INTO trips (trip_id, fleet_id, status, pickup, dropoff, created_at, ended_at)
SELECT n::text, 'fleet', 'complete', '{}', '{}', now() - n * interval '1 min', now() - n * interval '1 min'
FROM generate_series(8000, 1, -1) n;
INSERT INTO trip_spans (trip, vehicle, started_at, ended_at)
SELECT n, n, now() - interval '10 days', now() FROM generate_series(1, 8000) n;
INSERT INTO events (fleet_id, vehicle, kind, server_time)
SELECT 'fleet', 1 + n % 100, 'idle', now() - n * interval '1 min' FROM generate_series(8000, 1, -1) n;
INSERT INTO messages (trip, sender, author, client_id, text, server_time)
SELECT n, 'driver', '', n::text, '', now() - interval '15 days' + n * interval '1 min' FROM generate_series(1, 8000) n;
INSERT INTO sessions (vehicle, name, handled_seq, created_at)
SELECT 1 + n % 100, n::text, 1, now() - n * interval '1 min' FROM generate_series(8000, 1, -1) n;
INSERT INTO shares (share_id, trip, jti, created_at, expires_at)
SELECT n::text, n, n::text, now(), now() - n * interval '1 min' FROM generate_series(1, 8000) n;
INSERT INTO revoked_tokens (jti, revoked_at, expires_at)
SELECT n::text, now(), now() - n * interval '1 min' FROM generate_series(1, 8000) n;
INSERT INTO revoked_tokens (jti, revoked_at) SELECT 'u' || n, now() - n * interval '1 min' FROM generate_series(1, 8000) n;
INSERT INTO erased_vehicles (digest, erased_at) SELECT id_digest(n::text), now() FROM generate_series(1, 8000) n;
INSERT INTO trip_summaries (trip, built_at, distance, stops) SELECT n, now(), 1, 1 FROM generate_series(1, 8000) n;
INSERT INTO vehicle_days (vehicle, day, built_at, distance, driving_time, stops, positions, first_fix_time, last_fix_time)
SELECT n, '2026-01-01', now(), 0, 0, 0, 1, now(), now() FROM generate_series(1, 8000) n;
INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
SELECT n, 1, now(), now(), ST_SetSRID(ST_MakePoint(9, 47), 4326) FROM generate_series(1, 8000) n;
INSERT INTO audit (recorded_at, at, action, role, holder, jti, kind, subject)
SELECT now(), now(), 'exported', 'service', '', 'j', 'trip', 't' FROM generate_series(1, 8000) n;
ANALYZE;
"""


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", ()) for node in _nodes(inner))]


async def test_each_batch_reads_a_range_of_an_index(store: Database, sql: Connection) -> None:
    await sql.execute(_FILL)
    small = {"position_days", "fleets"}
    for kind in KINDS:
        statement = kind.statement
        if "purge_audit" in statement:
            # A plan does not show the statements of a function.
            body: str = await sql.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'purge_audit'")
            statement = re.sub(r"\bfollows\b", "$1::bigint", re.sub(r"\bmost\b", "$3::int", body))
            statement = re.sub(r"\bbefore\b", "$2::timestamptz", statement)
        [(text,)] = await sql.fetch(f"EXPLAIN (FORMAT JSON) {_with_values(statement)}")
        whole = json.loads(text) if isinstance(text, str) else text
        nodes = _nodes(whole[0]["Plan"])
        read = {node.get("Relation Name") for node in nodes if node["Node Type"] == "Seq Scan"} - small
        assert not read, f"{kind.name} reads all of {read}"
        assert any("Index" in node["Node Type"] for node in nodes), kind.name
    # With rows to remove, the batches come to an end.
    await gone_until(sql, 0)
    settings = EVERYTHING | {"revoked_retention_days": 10}
    await Retention(Jobs(store, rest=0), store, load(**settings), SetClock(NOW)).work()


def _with_values(statement: str) -> str:
    return statement.replace("$1", "0").replace("$2", "(now() - interval '5 days')").replace("$3", "1000")
