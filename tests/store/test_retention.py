"""What is old enough goes, and nothing that is needed still, on a real PostgreSQL."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.store.test_history import Turned
from tracking.config import load
from tracking.errors import ConfigError
from tracking.history import retention as keeper
from tracking.history.retention import EVERY_MS, Retention
from tracking.store.days import DAY_MS
from tracking.store.jobs import Jobs
from tracking.store.pool import Connection, Database
from tracking.store.retention import KINDS, remove_next

DAY = 20_400
NOW = DAY * DAY_MS + 43_200_000
EVERYTHING = {
    "retention_days": 10,
    "summary_retention_days": 20,
    "event_retention_days": 10,
    "message_retention_days": 10,
    "trip_retention_days": 20,
    "session_retention_days": 10,
    "share_retention_days": 10,
    "revoked_retention_days": 400,
}


def ago(days: float) -> int:
    return NOW - int(days * DAY_MS)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    async with database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO fleets (fleet_id, name) VALUES ('fleet', '');
            INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('van', 'fleet');
            """
        )
    yield database
    await database.close()


@pytest.fixture
async def sql(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        yield connection


def retention(
    store: Database,
    clock: Turned | None = None,
    let_go: dict[str, Callable[[set[str]], None]] | None = None,
    **settings: Any,
) -> Retention:
    kept = load(**dict.fromkeys(EVERYTHING, 0) | settings)
    return Retention(Jobs(store, rows=100, rest=0), store, kept, clock or Turned(NOW), let_go=let_go)


async def column(sql: Connection, query: str) -> list[Any]:
    return [row[0] for row in await sql.fetch(query)]


async def a_trip(sql: Connection, name: str, ended: float | None, *, created: float = 100) -> int:
    """A trip that ended so many days ago; None: it is under way."""
    number: int = await sql.fetchval(
        """
        INSERT INTO trips (trip_id, fleet_id, vehicle, status, pickup, dropoff, created_at, started_at, ended_at)
        VALUES ($1, 'fleet', 1, $2, '{}', '{}', $3, $3, $4) RETURNING trip
        """,
        name,
        "enroute_to_dropoff" if ended is None else "complete",
        ago(created),
        None if ended is None else ago(ended),
    )
    await sql.execute(
        "INSERT INTO trip_spans (trip, vehicle, started_at, ended_at) VALUES ($1, 1, $2, $3)",
        number,
        ago(created),
        None if ended is None else ago(ended),
    )
    return number


async def gone_until(sql: Connection, days: int) -> None:
    """Positions were dropped up to so many days ago."""
    await sql.execute("INSERT INTO position_days (day, dropped_at) VALUES (date '1970-01-01' + $1::int, $2)", DAY - days, NOW)


async def test_events_go_and_what_they_are_the_edges_of_stays(store: Database, sql: Connection) -> None:
    for days in (10.6, 10.4, 1):
        await sql.execute(
            "INSERT INTO events (fleet_id, vehicle, kind, server_time) VALUES ('fleet', 1, 'signal_lost', $1)", ago(days)
        )
    await sql.execute("INSERT INTO silences (vehicle, since) VALUES (1, $1)", ago(10.6))
    await retention(store, event_retention_days=10).work()
    # Whole days: the tenth before today is kept.
    assert await column(sql, "SELECT server_time FROM events ORDER BY event") == [ago(10.4), ago(1)]
    assert await column(sql, "SELECT vehicle FROM silences") == [1]


async def test_an_event_of_a_clock_that_was_wrong_holds_up_no_others(store: Database, sql: Connection) -> None:
    for days in (-1000, *(20,) * 300):
        await sql.execute(
            "INSERT INTO events (fleet_id, vehicle, kind, server_time) VALUES ('fleet', 1, 'idle', $1)", ago(days)
        )
    await retention(store, event_retention_days=10).work()
    assert await column(sql, "SELECT server_time FROM events") == [ago(-1000)]


async def test_messages_go_with_the_end_of_their_trip_and_unread_ones_of_a_trip_under_way_stay(
    store: Database, sql: Connection
) -> None:
    for name, ended in (("under way", None), ("long over", 20), ("over", 5)):
        trip = await a_trip(sql, name, ended)
        await sql.execute(
            """
            INSERT INTO messages (trip, sender, author, client_id, text, server_time)
            SELECT $1, 'passenger', '', n::text, $2, $3 FROM generate_series(1, 250) n
            """,
            trip,
            name,
            ago(60),
        )
    await retention(store, message_retention_days=10).work()
    assert await column(sql, "SELECT DISTINCT text FROM messages ORDER BY text") == ["over", "under way"]


async def test_trips_go_with_all_that_is_of_them_once_their_positions_are_gone(store: Database, sql: Connection) -> None:
    for name, ended in (("under way", None), ("over", 15), ("long over", 25), ("older", 40)):
        trip = await a_trip(sql, name, ended)
        await sql.execute("INSERT INTO trip_summaries (trip, built_at, distance, stops) VALUES ($1, $2, 1, 1)", trip, NOW)
        await sql.execute(
            "INSERT INTO shares (share_id, trip, jti, created_at, expires_at) VALUES ($1, $2, $1, $3, $3)", name, trip, NOW
        )
    clock = Turned(NOW)
    work = retention(store, clock, retention_days=10, event_retention_days=10, trip_retention_days=20).work
    await work()
    assert len(await column(sql, "SELECT trip FROM trips")) == 4
    await gone_until(sql, 31)
    clock.now += EVERY_MS
    await work()
    assert await column(sql, "SELECT trip_id FROM trips ORDER BY trip") == ["under way", "over", "long over"]
    await gone_until(sql, 11)
    clock.now += EVERY_MS
    await work()
    assert await column(sql, "SELECT trip_id FROM trips ORDER BY trip") == ["under way", "over"]
    for table in ("trip_spans", "trip_summaries", "shares"):
        assert len(await column(sql, f"SELECT trip FROM {table}")) == 2, table


async def test_summaries_go_when_they_are_old_enough_and_their_positions_are_gone(store: Database, sql: Connection) -> None:
    for name, ended in (("under way", None), ("over", 15), ("long over", 25)):
        trip = await a_trip(sql, name, ended)
        await sql.execute("INSERT INTO trip_summaries (trip, built_at, distance, stops) VALUES ($1, $2, 1, 1)", trip, NOW)
    await sql.execute(
        """
        INSERT INTO vehicle_days (
            vehicle, day, built_at, distance, driving_time, stops, positions, first_fix_time, last_fix_time
        )
        SELECT 1, date '1970-01-01' + $1::int - n, $2, 0, 0, 0, 1, $2, $2 FROM unnest(ARRAY[19, 20, 21]) n
        """,
        DAY,
        NOW,
    )
    for vehicle, days in ((1, 9), (2, 11)):
        await sql.execute(
            """
            INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
            VALUES ($1, 1, $2, $2, ST_SetSRID(ST_MakePoint(9.5, 47.1), 4326))
            """,
            vehicle,
            ago(days),
        )
    clock = Turned(NOW)
    await sql.execute("INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('other', 'fleet')")
    places: set[str] = set()
    work = retention(store, clock, {"latest": places.update}, retention_days=10, summary_retention_days=20).work
    await work()
    assert len(await column(sql, "SELECT day FROM vehicle_days")) == len(await column(sql, "SELECT 1 FROM trip_summaries")) == 3
    assert len(await column(sql, "SELECT vehicle FROM latest_positions")) == 2
    await gone_until(sql, 11)
    clock.now += EVERY_MS
    await work()
    assert await column(sql, f"SELECT date '1970-01-01' + {DAY} - day FROM vehicle_days ORDER BY 1") == [19, 20]
    left = "SELECT trip_id FROM trip_summaries JOIN trips USING (trip) ORDER BY trip"
    assert await column(sql, left) == ["under way", "over"]
    assert await column(sql, "SELECT vehicle FROM latest_positions") == [1]
    assert places == {"other"}


async def test_links_and_revoked_tokens_go_when_they_have_expired_and_not_before(store: Database, sql: Connection) -> None:
    trip = await a_trip(sql, "over", 50)
    for name, days in (("valid", -100), ("expired", 5), ("long expired", 20)):
        await sql.execute(
            """
            INSERT INTO shares (share_id, trip, jti, created_at, expires_at, revoked_at)
            VALUES ($1, $2, $1, $3, $4, $3)
            """,
            name,
            trip,
            ago(60),
            ago(days),
        )
    for name, revoked, expires in (
        ("valid", 60, -100),
        ("just", 60, 0.5),
        ("expired", 60, 2),
        ("new", 300, None),
        ("old", 500, None),
    ):
        await sql.execute(
            "INSERT INTO revoked_tokens (jti, revoked_at, expires_at) VALUES ($1, $2, $3)",
            name,
            ago(revoked),
            None if expires is None else ago(expires),
        )
    clock = Turned(NOW)
    forgotten: set[str] = set()
    await retention(store, clock, {"revoked_tokens": forgotten.update}, share_retention_days=10).work()
    assert await column(sql, "SELECT share_id FROM shares ORDER BY share_id") == ["expired", "valid"]
    # Of those whose expiry nobody knows, none is forgotten unless that is set.
    assert await column(sql, "SELECT jti FROM revoked_tokens ORDER BY jti") == ["just", "new", "old", "valid"]
    assert forgotten == {"expired"}
    clock.now += EVERY_MS
    await retention(store, clock, revoked_retention_days=400).work()
    assert await column(sql, "SELECT jti FROM revoked_tokens ORDER BY jti") == ["just", "new", "valid"]


async def test_sessions_go_when_they_brought_nothing_for_long_or_nothing_at_all(store: Database, sql: Connection) -> None:
    rows = [
        ("used", 60, 1, 5),
        ("long unused", 60, 30, 5),
        ("brought nothing", 0.1, 0.1, 0),
        ("brings nothing yet", 0.01, 0.01, 0),
    ]
    for name, created, moved, handled in rows:
        await sql.execute(
            "INSERT INTO sessions (vehicle, name, created_at, moved_at, handled_seq) VALUES (1, $1, $2, $3, $4)",
            name,
            ago(created),
            ago(moved),
            handled,
        )
    clock = Turned(NOW)
    await retention(store, clock, session_retention_days=10).work()
    assert await column(sql, "SELECT name FROM sessions ORDER BY session") == ["used", "brings nothing yet"]
    clock.now += EVERY_MS
    # Whatever the setting is.
    await retention(store, clock).work()
    assert await column(sql, "SELECT name FROM sessions ORDER BY session") == ["used"]


async def test_it_goes_on_where_it_was_and_several_at_once_remove_each_row_once(
    store: Database, sql: Connection, database_url: str
) -> None:
    await sql.execute(
        "INSERT INTO events (fleet_id, vehicle, kind, server_time) SELECT 'fleet', 1, 'idle', $1 FROM generate_series(1, 2000)",
        ago(20),
    )
    [kind] = [kind for kind in KINDS if kind.name == "events"]
    async with store.transaction() as connection:
        await remove_next(connection, kind, ago(10), 500, NOW)
    # The hub was killed: another goes on with what is left, and a third has it at the same time.
    assert await column(sql, "SELECT reached FROM retention WHERE kind = 'events'") == [500]
    other = Database(database_url)
    await other.open()
    both = retention(store, event_retention_days=10), retention(other, event_retention_days=10)
    await asyncio.gather(*(one.work() for one in both))
    await asyncio.gather(*(one.work() for one in both))
    assert await column(sql, "SELECT count(*) FROM events") == [0]
    assert await column(sql, "SELECT removed FROM retention WHERE kind = 'events'") == [2000]
    await other.close()


async def test_what_the_database_refuses_holds_up_nothing_else(store: Database, sql: Connection) -> None:
    await sql.execute("INSERT INTO events (fleet_id, vehicle, kind, server_time) VALUES ('fleet', 1, 'idle', $1)", ago(20))
    await sql.execute("INSERT INTO sessions (vehicle, name, created_at) VALUES (1, 'unused', $1)", ago(20))
    await sql.execute(
        """
        CREATE FUNCTION refuse () RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse();
        """
    )
    work = retention(store, event_retention_days=10).work
    await work()
    assert await column(sql, "SELECT count(*) FROM events") == [1]
    assert await column(sql, "SELECT count(*) FROM sessions") == [0]
    await sql.execute("DROP TRIGGER refuse ON events")
    await work()
    assert await column(sql, "SELECT count(*) FROM events") == [0]


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
            # A plan shows nothing of what a function does.
            body: str = await sql.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'purge_audit'")
            statement = re.sub(r"\bfollows\b", "$1::bigint", re.sub(r"\bmost\b", "$3::int", body))
            statement = re.sub(r"\bbefore\b", "$2::timestamptz", statement)
        [(text,)] = await sql.fetch(f"EXPLAIN (FORMAT JSON) {_with_values(statement)}")
        whole = json.loads(text) if isinstance(text, str) else text
        nodes = _nodes(whole[0]["Plan"])
        read = {node.get("Relation Name") for node in nodes if node["Node Type"] == "Seq Scan"} - small
        assert not read, f"{kind.name} reads all of {read}"
        assert any("Index" in node["Node Type"] for node in nodes), kind.name
    # And in one that has something to remove they come to an end.
    await gone_until(sql, 0)
    settings = EVERYTHING | {"revoked_retention_days": 10}
    await Retention(Jobs(store, rest=0), store, load(**settings), Turned(NOW)).work()


def _with_values(statement: str) -> str:
    return statement.replace("$1", "0").replace("$2", "(now() - interval '5 days')").replace("$3", "1000")


async def test_the_log_says_what_is_kept_for_ever_beside_positions_that_go(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        keeper.warn(load())
        assert caplog.text == ""
        keeper.warn(load(retention_days=30))
    assert "set TRACKING_EVENT_RETENTION_DAYS and TRACKING_TRIP_RETENTION_DAYS" in caplog.text


@pytest.mark.parametrize(
    "settings, variable",
    [
        ({"session_retention_days": 7}, "TRACKING_SESSION_RETENTION_DAYS"),
        ({"trip_retention_days": 30}, "TRACKING_TRIP_RETENTION_DAYS"),
        ({"trip_retention_days": 30, "retention_days": 30}, "TRACKING_TRIP_RETENTION_DAYS"),
        ({"trip_retention_days": 30, "retention_days": 30, "event_retention_days": 31}, "TRACKING_TRIP_RETENTION_DAYS"),
        ({"event_retention_days": -1}, "TRACKING_EVENT_RETENTION_DAYS"),
    ],
)
def test_a_retention_that_can_not_be(settings: dict[str, Any], variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(**settings)


async def test_a_fleets_counts_are_right_whatever_changes_them(sql: Connection) -> None:
    async def counts() -> list[tuple[int, int]]:
        rows = await sql.fetch("SELECT sum(vehicles), sum(open_trips) FROM fleet_counts GROUP BY fleet_id ORDER BY fleet_id")
        counted = await sql.fetch(
            """
            SELECT (SELECT count(*) FROM vehicles v WHERE v.fleet_id = f.fleet_id),
                (SELECT count(*) FROM trips t WHERE t.fleet_id = f.fleet_id AND t.status NOT IN ('complete', 'canceled'))
            FROM fleets f ORDER BY fleet_id
            """
        )
        assert [tuple(row) for row in rows] == [tuple(row) for row in counted]
        return [tuple(row) for row in rows]

    await sql.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('other', '');
        INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'v' || n, CASE n % 3 WHEN 0 THEN 'other' ELSE 'fleet' END
        FROM generate_series(1, 9) n;
        INSERT INTO trips (trip_id, fleet_id, pickup, dropoff, created_at)
        SELECT n::text, CASE n % 2 WHEN 0 THEN 'other' ELSE 'fleet' END, '{}', '{}', now() FROM generate_series(1, 9) n;
        """
    )
    assert await counts() == [(7, 5), (3, 4)]
    for change in (
        "UPDATE vehicles SET fleet_id = 'other' WHERE vehicle_id IN ('v1', 'v2')",
        "UPDATE trips SET status = 'complete' WHERE trip_id < '4'",
        "UPDATE trips SET status = 'canceled' WHERE trip_id IN ('4', '1')",
        "DELETE FROM vehicles WHERE vehicle_id IN ('v1', 'v4', 'none')",
        "DELETE FROM trips WHERE trip_id IN ('1', '5')",
        """
        INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('v2', 'fleet')
        ON CONFLICT (vehicle_id) DO UPDATE SET fleet_id = 'fleet'
        """,
        "UPDATE trips SET fleet_id = 'other'",
    ):
        await sql.execute(change)
        await counts()
    assert await counts() == [(5, 0), (3, 4)]


async def test_no_index_keeps_a_commit_from_moving_sessions_in_place(sql: Connection) -> None:
    """A HOT update: no index of the table has a column that a commit changes."""
    columns = await column(
        sql,
        """
        SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'sessions'::regclass
        """,
    )
    assert columns
    assert not [index for index in columns if "handled_seq" in index or "moved_at" in index]
