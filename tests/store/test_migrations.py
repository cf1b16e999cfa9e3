"""Migrations on a real database."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tracking.demo.postgres import ROLE, Cluster
from tracking.errors import MigrationError, StoreUnavailable
from tracking.store.migrations import AUDIT_PARAMETER, DIRECTORY, check, migrate, read


@pytest.fixture
def empty_url(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"empty_{abs(hash(request.node.nodeid)):x}"
    cluster.create_database(name)
    yield cluster.url(name)
    cluster.drop_database(name)


async def test_twice_and_at_once_changes_nothing_more(empty_url: str) -> None:
    names = [migration.name for migration in read()]
    applied = await asyncio.gather(migrate(empty_url), migrate(empty_url))
    assert sorted(applied, key=len) == [[], names]


async def test_an_edited_migration_is_refused(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    await migrate(empty_url, copy)
    first = sorted(copy.glob("*.sql"))[0]
    first.write_text(first.read_text() + "\n-- an afterthought\n")
    with pytest.raises(MigrationError, match="edited"):
        await migrate(empty_url, copy)


async def test_one_that_fails_leaves_nothing_behind(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (id int);")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (id int); SELECT 1/0;")
    with pytest.raises(MigrationError, match="0002_second"):
        await migrate(empty_url, tmp_path)
    connection = await asyncpg.connect(empty_url)
    assert await connection.fetchval("SELECT to_regclass('first') IS NOT NULL AND to_regclass('second') IS NULL")
    await connection.close()


async def test_a_database_from_the_future_is_refused(empty_url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (id int);")
    (tmp_path / "0002_second.sql").write_text("CREATE TABLE second (id int);")
    await migrate(empty_url, tmp_path)
    (tmp_path / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match="newer"):
        await migrate(empty_url, tmp_path)
    with pytest.raises(MigrationError, match="newer"):
        await check(empty_url, tmp_path)


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_second.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationError, match="numbered"):
        read(tmp_path)


async def test_events_of_before_are_not_late(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    [own] = copy.glob("*_late_events.sql")
    for later in sorted(copy.glob("*.sql")):
        if later.name >= own.name:
            later.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('f', '');
        INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('v', 'f');
        INSERT INTO events (fleet_id, vehicle, kind, server_time)
        SELECT 'f', vehicle, 'enter', now() FROM vehicles, generate_series(1, 1000)
        """
    )
    await migrate(empty_url)
    assert await connection.fetchval("SELECT count(*) FROM events WHERE NOT late") == 1000
    await connection.close()


async def test_a_database_that_is_not_migrated_is_told_apart(empty_url: str) -> None:
    with pytest.raises(MigrationError, match="tracking migrate"):
        await check(empty_url)
    await migrate(empty_url)
    await check(empty_url)


async def test_no_database_is_said_in_one_line() -> None:
    with pytest.raises(StoreUnavailable, match="can't reach"):
        await migrate("postgresql://nobody@127.0.0.1:1/nothing")


async def test_tokens_revoked_with_their_links_are_known_to_expire_with_them(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    newest = sorted(copy.glob("*.sql"))
    for migration in newest[newest.index(next(copy.glob("*_revoked_until.sql"))) :]:
        migration.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('taxis', 'Taxis');
        INSERT INTO trips (trip_id, fleet_id, pickup, dropoff, created_at) VALUES ('trip', 'taxis', '{}', '{}', now());
        INSERT INTO shares (share_id, trip, jti, created_at, expires_at)
        SELECT 'share', trip, 'link', now(), '2026-01-02 03:04:05Z' FROM trips;
        INSERT INTO revoked_tokens (jti, revoked_at) VALUES ('link', now()), ('other', now());
        """
    )
    await migrate(empty_url)
    rows = await connection.fetch("SELECT jti, extract(epoch FROM expires_at) AS expires FROM revoked_tokens ORDER BY jti")
    await connection.close()
    assert [(row["jti"], row["expires"]) for row in rows] == [("link", 1767323045), ("other", None)]


async def test_what_a_database_holds_is_taken_along(empty_url: str, tmp_path: Path) -> None:
    """A database from before sessions were UUIDs, names were composed, and a `client_id` belonged to one token."""
    old = tmp_path / "sql"
    old.mkdir()
    for path in sorted(DIRECTORY.glob("*.sql"))[:9]:
        shutil.copy(path, old)
    await migrate(empty_url, old)
    connection = await asyncpg.connect(empty_url)
    upper, both = "0B6F4A52-7C1E-4D0A-9D5F-3A8E2C41B790", "AAAAAAAA-7C1E-4D0A-9D5F-3A8E2C41B790"
    await connection.execute(
        f"""
        INSERT INTO fleets (fleet_id, name) VALUES ('f', E'Zu\\u0308rich'), ('g', 'plain');
        INSERT INTO vehicles (vehicle_id, fleet_id, name, plate) VALUES ('v', 'f', E'Su\\u0308d', 'FL 7');
        INSERT INTO sessions (vehicle, name, handled_seq)
        SELECT vehicle, s.name, s.seq FROM vehicles,
            (VALUES ('{upper}', 7), ('{both}', 8), ('{both.lower()}', 9), ('=1+1', 10)) AS s (name, seq);
        INSERT INTO geofences (fleet_id, geofence_id, shape, properties)
        SELECT 'f', id, ST_SetSRID(ST_GeomFromText('POLYGON((9 47,9.1 47,9.1 47.1,9 47))'), 4326), properties::jsonb
        FROM (VALUES ('a', E'{{"name": "Gru\\u0308n", "x": 1}}'), ('b', '{{"name": 7}}'), ('c', '{{}}')) AS p (id, properties);
        INSERT INTO trips (trip_id, fleet_id, pickup, dropoff, stops, created_at)
        VALUES ('t', 'f', E'{{"latitude":1,"longitude":2,"name":"Gru\\u0308n"}}', '{{"latitude":1}}', '[]', now());
        INSERT INTO messages (trip, sender, client_id, text, server_time)
        SELECT trip, sender, '1', 'hello', now() FROM trips, (VALUES ('driver'), ('passenger')) AS s (sender);
        """
    )
    await migrate(empty_url)

    async def column(query: str) -> list[object]:
        return [row[0] for row in await connection.fetch(query)]

    assert await column("SELECT name FROM fleets ORDER BY fleet_id") == ["Zürich", "plain"]
    assert await column("SELECT name FROM vehicles WHERE search_key LIKE search_pattern('fl7')") == ["Süd"]
    assert await column("SELECT name FROM sessions ORDER BY handled_seq") == [upper.lower(), both, both.lower(), "=1+1"]
    names = await column("SELECT properties ->> 'name' FROM geofences ORDER BY geofence_id")
    assert names == ["Grün", "7", None]
    assert await column("SELECT pickup ->> 'name' FROM trips") == ["Grün"]
    assert await column("SELECT author FROM messages") == [b"", b""]
    await connection.close()


async def test_lines_of_before_segments_stay_and_joined_ones_are_made_anew(empty_url: str, tmp_path: Path) -> None:
    for path in sorted(DIRECTORY.glob("*.sql")):
        if path.name < "0010":
            shutil.copy(path, tmp_path)
    await migrate(empty_url, tmp_path)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('f', 'F');
        INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('a', 'f'), ('b', 'f');
        INSERT INTO trips (trip_id, fleet_id, status, pickup, dropoff, created_at, started_at, ended_at, compacted, vehicle)
        SELECT name, 'f', 'complete', '{}', '{}', now(), now(), now(), true, 2 FROM unnest(ARRAY['one', 'two']) name;
        INSERT INTO trip_spans (trip, vehicle, started_at, ended_at)
        VALUES
            (1, 2, '2020-01-01 00:00Z', now()),
            (2, 1, '2020-01-01 00:00Z', '2020-01-01 00:10Z'),
            (2, 2, '2020-01-01 00:10Z', now());
        INSERT INTO trip_summaries (trip, built_at, distance, stops, line)
        SELECT trip, now(), 1, 0, 'SRID=4326;LINESTRING M (9 47 1577836800000, 9.1 47 1577836801000)' FROM trips;
        """
    )
    lines = await connection.fetch("SELECT trip, line FROM trip_summaries ORDER BY trip")
    assert await migrate(empty_url) == [migration.name for migration in read() if migration.number >= 10]
    assert await connection.fetch("SELECT trip, line FROM trip_summaries ORDER BY trip") == lines
    assert await connection.fetchval("SELECT array_agg(trip) FROM trips WHERE NOT compacted") == [2]
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE trip_summaries SET line = 'SRID=4326;POINT(1 2)'")
    await connection.close()


async def test_names_of_before_are_put_into_nfc_whatever_stands_in_them(empty_url: str, tmp_path: Path) -> None:
    """In JSON a line feed is a backslash and an n. An accent after it would join the n."""
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    newest = sorted(copy.glob("*.sql"))
    for migration in newest[newest.index(next(copy.glob("*_search_key.sql"))) :]:
        migration.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    apart, together = "Zu\u0308rich\n\u0301\x1f\u0307", "Z\u00fcrich\n\u0301\x1f\u0307"
    place, bare = {"latitude": 47.5, "longitude": 8, "name": apart}, {"latitude": 47.5, "longitude": 8}
    await connection.execute("INSERT INTO fleets (fleet_id, name) VALUES ('taxis', $1)", apart)
    await connection.execute(
        """
        INSERT INTO trips (trip_id, fleet_id, pickup, dropoff, stops, created_at)
        VALUES ('named', 'taxis', $1, $2, $3, now()), ('bare', 'taxis', $2, $2, '[]', now())
        """,
        *(json.dumps(value) for value in (place, bare, [bare, place, bare])),
    )
    await migrate(empty_url)
    rows = await connection.fetch("SELECT pickup, dropoff, stops FROM trips ORDER BY trip_id DESC")
    fleet = await connection.fetchval("SELECT name FROM fleets")
    await connection.close()
    named = place | {"name": together}
    assert [[json.loads(value) for value in row] for row in rows] == [[named, bare, [bare, named, bare]], [bare, bare, []]]
    assert fleet == together


async def test_a_vehicle_that_moved_before_that_was_noted_joined_after_its_last_trip_elsewhere(
    empty_url: str, tmp_path: Path
) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    [own] = copy.glob("*_erasure.sql")
    for later in sorted(copy.glob("*.sql")):
        if later.name >= own.name:
            later.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('old', ''), ('new', '');
        INSERT INTO vehicles (vehicle_id, fleet_id) VALUES ('moved', 'new'), ('watched', 'new'), ('stayed', 'old');
        INSERT INTO trips (trip_id, fleet_id, vehicle, status, pickup, dropoff, created_at, started_at, ended_at)
        SELECT vehicle_id, 'old', vehicle, 'complete', '{}', '{}', '2026-01-01', '2026-01-01', '2026-01-02 UTC'
        FROM vehicles WHERE vehicle_id <> 'watched';
        INSERT INTO events (fleet_id, vehicle, kind, server_time)
        SELECT 'old', vehicle, 'idle', '2026-01-03 UTC' FROM vehicles WHERE vehicle_id = 'watched'
        """
    )
    await migrate(empty_url)
    joined = await connection.fetch("SELECT vehicle_id, joined_at::date::text FROM vehicles ORDER BY vehicle")
    assert [tuple(row) for row in joined] == [("moved", "2026-01-02"), ("watched", "2026-01-03"), ("stayed", None)]
    await connection.close()


async def test_what_fleets_had_before_is_counted(empty_url: str, tmp_path: Path) -> None:
    copy = tmp_path / "sql"
    shutil.copytree(DIRECTORY, copy)
    [own] = copy.glob("*_retention.sql")
    for later in sorted(copy.glob("*.sql")):
        if later.name >= own.name:
            later.unlink()
    await migrate(empty_url, copy)
    connection = await asyncpg.connect(empty_url)
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) VALUES ('f', ''), ('empty', '');
        INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'v' || n, 'f' FROM generate_series(1, 3) n;
        INSERT INTO trips (trip_id, fleet_id, status, pickup, dropoff, created_at)
        SELECT n::text, 'f', CASE WHEN n > 2 THEN 'complete' ELSE 'new' END, '{}', '{}', now() FROM generate_series(1, 5) n;
        INSERT INTO sessions (vehicle, name) VALUES (1, 'before');
        """
    )
    before = await connection.fetchval("SELECT now()")
    await migrate(empty_url)
    rows = await connection.fetch("SELECT fleet_id, vehicles, open_trips FROM fleet_counts ORDER BY fleet_id")
    assert [tuple(row) for row in rows] == [("empty", 0, 0), ("f", 3, 2)]
    # A session from before counts as used just now, because nobody knows.
    assert await connection.fetchval("SELECT moved_at > $1 FROM sessions", before)
    await connection.close()


async def test_an_owner_who_is_no_superuser_is_told_what_a_superuser_must_prepare(empty_url: str, cluster: Cluster) -> None:
    superuser = await asyncpg.connect(empty_url)
    database, role = str(await superuser.fetchval("SELECT current_database()")), "owner_without_privileges"
    url = empty_url.replace(f"//{ROLE}@", f"//{role}@")
    assert url != empty_url
    try:
        await superuser.execute(f"CREATE ROLE {role} LOGIN; ALTER DATABASE {database} OWNER TO {role}")
        for preparation in (
            "CREATE EXTENSION postgis; CREATE EXTENSION pg_trgm",
            f"GRANT SET ON PARAMETER {AUDIT_PARAMETER} TO {role}",
        ):
            with pytest.raises(MigrationError, match="let a superuser run") as refused:
                await migrate(url)
            assert preparation.removesuffix(role).strip() in str(refused.value)
            await superuser.execute(preparation)
        await migrate(url)
        await check(url)
    finally:
        await superuser.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")
        await superuser.close()
