"""Rows that are old enough are removed, and none that are still needed, on a real PostgreSQL."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.clocks import SetClock
from tests.support.positions import DAY
from tests.support.retention import EVERYTHING, NOW, ago, column, gone_until, store_with_van
from tracking.config import load
from tracking.errors import ConfigError
from tracking.history import retention as keeper
from tracking.history.retention import EVERY_MS, Retention
from tracking.store.jobs import Jobs
from tracking.store.pool import Connection, Database
from tracking.store.retention import KINDS, remove_next


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    async with store_with_van(database_url) as store:
        yield store


@pytest.fixture
async def sql(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        yield connection


def retention(
    store: Database,
    clock: SetClock | None = None,
    let_go: dict[str, Callable[[set[str]], None]] | None = None,
    **settings: Any,
) -> Retention:
    kept = load(**dict.fromkeys(EVERYTHING, 0) | settings)
    return Retention(Jobs(store, rows=100, rest=0), store, kept, clock or SetClock(NOW), let_go=let_go)


async def a_trip(sql: Connection, name: str, ended: float | None, *, created: float = 100) -> int:
    """Makes a trip that ended so many days ago; None: it is under way."""
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
    clock = SetClock(NOW)
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
    clock = SetClock(NOW)
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
    clock = SetClock(NOW)
    forgotten: set[str] = set()
    await retention(store, clock, {"revoked_tokens": forgotten.update}, share_retention_days=10).work()
    assert await column(sql, "SELECT share_id FROM shares ORDER BY share_id") == ["expired", "valid"]
    # Tokens without a known expiry are kept, unless a setting says otherwise.
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
    clock = SetClock(NOW)
    await retention(store, clock, session_retention_days=10).work()
    assert await column(sql, "SELECT name FROM sessions ORDER BY session") == ["used", "brings nothing yet"]
    clock.now += EVERY_MS
    # This holds for every setting.
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
    # The hub was killed. Another hub continues, and a third one works at the same time.
    assert await column(sql, "SELECT reached FROM retention WHERE kind = 'events'") == [500]
    other = Database(database_url)
    await other.open()
    both = retention(store, event_retention_days=10), retention(other, event_retention_days=10)
    await asyncio.gather(*(one.work() for one in both))
    await asyncio.gather(*(one.work() for one in both))
    assert await column(sql, "SELECT count(*) FROM events") == [0]
    assert await column(sql, "SELECT removed FROM retention WHERE kind = 'events'") == [2000]
    await other.close()


async def test_a_kind_whose_row_another_hub_has_locked_is_left_to_it(store: Database, sql: Connection) -> None:
    [kind] = [kind for kind in KINDS if kind.name == "events"]
    async with store.transaction() as connection:
        await remove_next(connection, kind, ago(10), 500, NOW)
    await sql.execute("INSERT INTO events (fleet_id, vehicle, kind, server_time) VALUES ('fleet', 1, 'idle', $1)", ago(20))
    async with store.transaction() as other:
        await other.execute("SELECT FROM retention WHERE kind = 'events' FOR UPDATE")
        async with store.transaction() as connection:
            assert await remove_next(connection, kind, ago(10), 500, NOW) is None
    async with store.transaction() as connection:
        removed = await remove_next(connection, kind, ago(10), 500, NOW)
    assert removed is not None and removed.rows == 1


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
