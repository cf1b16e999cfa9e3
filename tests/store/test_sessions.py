"""Sessions on a real PostgreSQL: how commits move them."""

from tests.support.positions import a_vehicle
from tracking.store import sessions
from tracking.store.pool import Connection, Database


async def test_sessions_are_moved_and_what_is_not_as_known_is_told(store: Database) -> None:
    _, one = await a_vehicle(store, "one")
    _, two = await a_vehicle(store, "two")
    missing = 10**9
    async with store.connection() as connection:
        assert await sessions.move(connection, [one, two, missing], [5, 7, 9], [0, 0, 0], [0, 0, 0]) == ({missing: None}, set())
        # A commit whose answer was lost is tried again with more. The row tells what was stored, and never goes back.
        assert await sessions.move(connection, [one, two], [6, 4], [0, 7], [0, 0]) == ({one: 5}, set())
        assert await sessions.move(connection, [one, two], [6, 7], [6, 7], [0, 0]) == ({}, set())


async def test_no_index_keeps_a_commit_from_moving_sessions_in_place(connection: Connection) -> None:
    """The update can be HOT: no index of the table has a column that a commit changes."""
    rows = await connection.fetch("SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'sessions'::regclass")
    assert rows
    assert not [index for (index,) in rows if "handled_seq" in index or "moved_at" in index]
