"""Driver sessions: the last seq handled of each, moved in the transaction that stores the fixes."""

from collections.abc import Sequence

from tracking.store.pool import Connection


async def find(connection: Connection, vehicle: int, name: str) -> tuple[int, int] | None:
    """The same as `open`, of a session that there is."""
    row = await connection.fetchrow("SELECT session, handled_seq FROM sessions WHERE vehicle = $1 AND name = $2", vehicle, name)
    return (row["session"], row["handled_seq"]) if row is not None else None


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


async def move(
    connection: Connection, sessions: Sequence[int], handled: Sequence[int], known: Sequence[int]
) -> dict[int, int | None]:
    """Raises `handled_seq` of each session, their rows locked until the transaction ends, always in the same order.

    Returns what was there before where that is not what the caller thought to be `known`; None for a session that is gone.
    """
    rows = await connection.fetch(
        """
        WITH before AS MATERIALIZED (
            SELECT session, handled_seq FROM sessions WHERE session = ANY($1::bigint[]) ORDER BY session FOR UPDATE
        ),
        new AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new (session, handled, known)),
        moved AS (
            UPDATE sessions SET handled_seq = new.handled FROM before JOIN new USING (session)
            WHERE sessions.session = new.session AND new.handled > before.handled_seq
        )
        SELECT session, before.handled_seq FROM new LEFT JOIN before USING (session)
        WHERE before.handled_seq IS DISTINCT FROM new.known
        """,
        sessions,
        handled,
        known,
    )
    return {row["session"]: row["handled_seq"] for row in rows}
