"""Homes and terms on a real PostgreSQL: who may write what of a vehicle."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.positions import a_position, a_vehicle
from tracking.cluster import claims
from tracking.demo.postgres import Cluster
from tracking.model import Event, EventKind
from tracking.store import events, geofence_stays, homes, latest_positions, migrations, positions, sessions
from tracking.store.homes import Home
from tracking.store.pool import Database


async def test_a_claim_raises_the_term_of_all_sessions_unless_the_node_has_the_home(store: Database) -> None:
    vehicle, known = await a_vehicle(store, "van")
    async with store.transaction() as connection:
        claimed = await homes.claim(connection, [(vehicle, "session"), (vehicle, "new"), (10**6, "gone")], "one")
    assert set(claimed) == {(vehicle, "session"), (vehicle, "new")}
    assert claimed[vehicle, "session"] == (known, 0, 1, None)
    async with store.transaction() as connection:
        again = await homes.claim(connection, [(vehicle, "session")], "one")
        assert again[vehicle, "session"] == (known, 0, 1, Home(1, "one", "new"))
        other = await homes.claim(connection, [(vehicle, "session")], "other")
        assert other[vehicle, "session"] == (known, 0, 2, Home(1, "one", "session"))
    async with store.connection() as connection:
        rows = await connection.fetch("SELECT name, term FROM sessions ORDER BY name")
        assert [tuple(row) for row in rows] == [("new", 2), ("session", 2)]
        assert await homes.of(connection, [vehicle, 10**6]) == {vehicle: Home(2, "other", "session")}


async def test_no_write_of_a_former_home_succeeds(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "van")
    beside, its_session = await a_vehicle(store, "beside")
    async with store.transaction() as connection:
        await homes.claim(connection, [(vehicle, "session"), (beside, "session")], "former")
        await homes.claim(connection, [(vehicle, "session")], "present")
    async with store.transaction() as connection:
        # In the same group, what is of another vehicle is moved.
        moved = await sessions.move(connection, [session, its_session], [5, 5], [0, 0], [1, 1])
        assert moved == ({}, {(session, 1)})
        assert (await sessions.move(connection, [session, its_session], [5, 5], [0, 5], [2, 1])) == ({}, set())
        opened, lost = await homes.open_sessions(connection, [(vehicle, "another", 1), (beside, "another", 1)])
        assert (list(opened), lost) == ([(beside, "another")], {vehicle})
        # The row of a session is gone. It is not made again for a former home.
        await connection.execute("DELETE FROM sessions")
        missing = [(session, vehicle, "session", 5, 1), (its_session, beside, "session", 5, 1), (99, 10**6, "none", 5, 1)]
        assert await sessions.put_back(connection, missing) == ({its_session}, {session})
        found = [Event(number, EventKind.ENTER, name, 0, geofence_id="g") for number, name in enumerate(("van", "beside"), 1)]
        numbers, ours = [vehicle, beside], [1, 1]
        assert await events.insert(connection, ["fleet"] * 2, numbers, found, terms=ours) == {2}
        assert [stay.vehicle for stay in await geofence_stays.of_vehicles(connection, numbers)] in ([], [beside])
        latest = [a_position(vehicle, session, 1), a_position(beside, its_session, 1)]
        await latest_positions.move(connection, latest, ours)
        assert set(await latest_positions.newest(connection, numbers)) == {beside}
        assert await positions.file_anew(connection, vehicle, [], 1) is None
        assert await positions.file_anew(connection, vehicle, [], 2) == []


async def test_claims_and_commits_that_run_into_each_other_never_deadlock(store: Database) -> None:
    made = [await a_vehicle(store, f"van-{number}") for number in range(12)]
    rng = random.Random(1)
    refused = 0

    async def claim(node: str) -> None:
        for _ in range(25):
            some = rng.sample(made, 6)
            async with store.transaction() as connection:
                await homes.claim(connection, [(vehicle, rng.choice(("session", "other"))) for vehicle, _ in some], node)

    async def commit(term: int) -> None:
        nonlocal refused
        for seq in range(1, 60):
            some = rng.sample(made, 8)
            async with store.transaction() as connection:
                numbers = [session for _, session in some]
                moved = await sessions.move(connection, numbers, [seq] * 8, [0] * 8, [term + seq] * 8)
                refused += len(moved.lost)
            async with store.transaction() as connection:
                ids = await events.reserve(connection, 4)
                vans = rng.sample(range(12), 4)
                found = [Event(event, EventKind.IDLE, f"van-{van}", 0) for event, van in zip(ids, vans, strict=True)]
                await events.insert(connection, ["fleet"] * 4, [None] * 4, found, terms=[1] * 4)

    await asyncio.gather(claim("one"), claim("other"), claim("third"), commit(0), commit(10))
    assert refused


async def test_a_hub_that_stopped_within_a_copy_does_not_keep_its_vehicles(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALLED_SECONDS", 0.3)
    vehicle, session = await a_vehicle(store, "van")
    copying = asyncio.Event()

    async def stopped() -> AsyncIterator[bytes]:
        copying.set()
        await asyncio.Event().wait()
        yield b""

    async def commit() -> None:
        async with store.transaction() as connection:
            await sessions.move(connection, [session], [5], [0], [0])
            await connection.copy_to_table("positions", source=stopped())

    stalled = asyncio.create_task(commit())
    await copying.wait()
    # Before the client of this process gives its statement up, which a hub that is stopped does not.
    async with asyncio.timeout(5):
        claimed = await claims.Claims(store, "node").claim(vehicle, "session")
    assert claimed is not None and (claimed.session, claimed.handled) == (session, 0)
    stalled.cancel()
    await asyncio.gather(stalled, return_exceptions=True)


async def test_a_database_with_sessions_gets_term_0(cluster: Cluster, tmp_path: Path) -> None:
    """Migrates a database that is in use."""
    cluster.create_database("before_homes")
    url = cluster.url("before_homes")
    for file in migrations.DIRECTORY.glob("*.sql"):
        if file.name < "0028":
            (tmp_path / file.name).write_text(file.read_text())
    await migrations.migrate(url, tmp_path)
    store = Database(url)
    await store.open()
    async with store.connection() as connection:
        await connection.execute("INSERT INTO fleets (fleet_id, name) VALUES ('fleet', 'Fleet')")
        await connection.execute("INSERT INTO vehicles (vehicle_id, fleet_id, name, kind) VALUES ('van', 'fleet', '', 'van')")
        await connection.execute("INSERT INTO sessions (vehicle, name, handled_seq) SELECT vehicle, 'session', 7 FROM vehicles")
    await migrations.migrate(url)
    async with store.transaction() as connection:
        [(vehicle, session, term)] = await connection.fetch("SELECT vehicle, session, term FROM sessions")
        assert term == 0
        assert await sessions.move(connection, [session], [8], [7], [0]) == ({}, set())
        claimed = await homes.claim(connection, [(vehicle, "session")], "node")
        assert claimed[vehicle, "session"] == (session, 8, 1, None)
    await store.close()
    cluster.drop_database("before_homes")
