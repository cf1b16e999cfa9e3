"""Driver sessions: the last seq handled of each, moved in the transaction that stores the fixes."""

from collections.abc import Sequence

from tracking.store.pool import Connection


async def open(connection: Connection, vehicle: int, name: str) -> tuple[int, int]:
    """`(session, handled_seq)` of the vehicle's session of this name, made where it is new."""
    row = await connection.fetchrow(
        """
        INSERT INTO sessions (vehicle, name) VALUES ($1, $2)
        ON CONFLICT (vehicle, name) DO UPDATE SET name = EXCLUDED.name
        RETURNING session, handled_seq
        """,
        vehicle,
        name,
    )
    assert row is not None
    return row["session"], row["handled_seq"]


async def lock(connection: Connection, sessions: Sequence[int]) -> dict[int, int]:
    """`handled_seq` by session, their rows locked, always in the same order, until the transaction ends."""
    rows = await connection.fetch(
        "SELECT session, handled_seq FROM sessions WHERE session = ANY($1::bigint[]) ORDER BY session FOR UPDATE", sessions
    )
    return {row["session"]: row["handled_seq"] for row in rows}


async def move(connection: Connection, handled: dict[int, int]) -> None:
    """Sets `handled_seq` of each session."""
    await connection.execute(
        """
        UPDATE sessions s SET handled_seq = moved.seq
        FROM unnest($1::bigint[], $2::bigint[]) AS moved (session, seq)
        WHERE s.session = moved.session
        """,
        list(handled),
        list(handled.values()),
    )
