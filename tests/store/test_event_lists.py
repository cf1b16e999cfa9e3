"""Lists of a fleet's events on real PostGIS: which events are found, and how many rows are read for them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracking.demo.postgres import Cluster
from tracking.model import EventKind
from tracking.store import event_lists
from tracking.store.pool import Connection, Database

BEGIN = 1_762_500_000_000
EVENTS = 40_000
SECOND = 1_000
"""Milliseconds from one event to the next."""
NOTHING = {**dict.fromkeys(("since", "until", "after", "kind", "vehicle_id", "geofence_id")), "with_late": True}


@pytest.fixture(scope="module")
async def store(cluster: Cluster, template: str) -> AsyncIterator[Database]:
    """Two large fleets whose events alternate, and a small one. `v-0` and `f-0` are rare. Only large fleets have `idle`.

    The clock was set back by five seconds now and then.
    """
    cluster.create_database("events", template)
    database = Database(cluster.url("events"))
    await database.open()
    async with database.connection() as connection:
        await connection.execute(
            f"""
            INSERT INTO fleets (fleet_id, name) VALUES ('even', ''), ('odd', ''), ('small', '');
            INSERT INTO vehicles (vehicle_id, fleet_id)
            SELECT 'v-' || n, CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END FROM generate_series(0, 199) n;
            INSERT INTO events (event, fleet_id, vehicle, kind, geofence_id, server_time, late)
            SELECT n, CASE WHEN n % 1000 = 7 THEN 'small' WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END, vehicle,
                CASE WHEN n % 8000 = 2 THEN 'speeding' WHEN n % 4 = 0 THEN 'enter' WHEN n % 5 = 0 THEN 'exit' ELSE 'idle' END,
                CASE WHEN n % 3 > 0 THEN 'f-' || CASE WHEN n % 4000 = 4 THEN 0 ELSE 1 + n % 19 END END,
                to_timestamp({BEGIN // 1000} + n - 5 * (n / 50 % 2)),
                n % 11 = 5 OR n > {EVENTS - 5_000}
            FROM generate_series(1, {EVENTS}) n
                JOIN vehicles ON vehicle_id = 'v-' || CASE WHEN n % 4000 = 8 THEN 0 ELSE 2 + (n * 7) % 198 END;
            ANALYZE
            """
        )
    yield database
    await database.close()
    cluster.drop_database("events")


@pytest.fixture
async def connection(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        # One plan for all values. The server may choose this at any time.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        yield connection


_instant = st.none() | st.integers(-10, EVENTS + 10).map(lambda second: BEGIN + second * SECOND)
_asked = st.fixed_dictionaries(
    {
        "since": _instant,
        "until": _instant,
        "after": st.none() | st.integers(0, EVENTS + 10),
        "kind": st.none() | st.sampled_from(EventKind),
        "vehicle_id": st.sampled_from([None, None, "v-0", "v-1", "v-2", "v-3", "nobody"]),
        "geofence_id": st.sampled_from([None, None, "f-0", "f-1", "none"]),
        "with_late": st.booleans(),
    }
)


@given(_asked, st.sampled_from(["even", "odd", "small", "none"]), st.sampled_from([1, 2, 7, 100]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_those_are_found_that_were_asked_for(
    connection: Connection, asked: dict[str, Any], fleet_id: str, limit: int
) -> None:
    rows = await connection.fetch(
        """
        SELECT event FROM events e JOIN vehicles v USING (vehicle)
        WHERE e.fleet_id = $1 AND ($2::timestamptz IS NULL OR server_time >= $2::timestamptz)
            AND ($3::timestamptz IS NULL OR server_time < $3::timestamptz) AND ($4::bigint IS NULL OR event > $4)
            AND ($5::text IS NULL OR e.kind = $5) AND ($6::text IS NULL OR vehicle_id = $6)
            AND ($7::text IS NULL OR geofence_id = $7) AND ($8 OR NOT late)
        ORDER BY event
        """,
        fleet_id,
        *(asked[name] for name in NOTHING),
    )
    expected = [row["event"] for row in rows]
    newest = asked["since"] is None and asked["after"] is None
    found = await event_lists.of_fleet(connection, fleet_id, **asked, limit=limit)
    assert [event.event_id for event in found] == (expected[-limit:] if newest else expected[:limit])


MIDDLE = BEGIN + EVENTS // 2 * SECOND


@pytest.mark.parametrize("limit", [20, 1_000])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"fleet_id": "small"},
        {"fleet_id": "small", "kind": EventKind.ENTER},
        {"since": BEGIN},
        {"since": MIDDLE},
        {"until": MIDDLE},
        {"since": MIDDLE, "until": MIDDLE + 20 * SECOND},
        {"since": MIDDLE, "after": EVENTS - 50},
        {"after": EVENTS // 2},
        {"kind": EventKind.SPEEDING},
        {"kind": EventKind.DWELL},
        {"kind": EventKind.SPEEDING, "since": BEGIN + 3 * SECOND},
        {"vehicle_id": "v-0"},
        {"vehicle_id": "v-0", "since": BEGIN},
        {"vehicle_id": "nobody"},
        {"geofence_id": "f-0"},
        {"geofence_id": "none", "since": BEGIN},
        {"with_late": False},
        {"with_late": False, "since": MIDDLE},
    ],
    ids=str,
)
async def test_little_is_read_besides_what_is_found(connection: Connection, asked: dict[str, Any], limit: int) -> None:
    asked = {"fleet_id": "even", **NOTHING, **asked}
    before = await rows_read(connection)
    found = await event_lists.of_fleet(connection, **asked, limit=limit)
    read = await rows_read(connection) - before
    assert read <= 2 * len(found) + 300, f"{read} rows read for {len(found)}"


async def rows_read(connection: Connection) -> int:
    """Rows of `events` that this session's statements read from the table or its indices."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    count: int = await connection.fetchval(
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'events'"
    )
    return count
