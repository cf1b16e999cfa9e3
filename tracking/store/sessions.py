"""Driver sessions: the last seq handled of each. The transaction that stores fixes moves it."""

from collections.abc import Sequence

from tracking.store.pool import Connection


async def find_all(connection: Connection, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], tuple[int, int]]:
    """`(session, handled_seq)` of those of several `(vehicle, name)` that exist."""
    rows = await connection.fetch(
        """
        SELECT vehicle, name, session, handled_seq
        FROM unnest($1::int[], $2::text[]) AS wanted (vehicle, name) JOIN sessions USING (vehicle, name)
        """,
        [vehicle for vehicle, _ in wanted],
        [name for _, name in wanted],
    )
    return {(row["vehicle"], row["name"]): (row["session"], row["handled_seq"]) for row in rows}


async def open(connection: Connection, vehicle: int, name: str) -> tuple[int, int]:
    """`(session, handled_seq)` of the vehicle's session of this name. It is made if it is new."""
    return (await open_all(connection, [(vehicle, name)]))[vehicle, name]


async def open_all(connection: Connection, wanted: Sequence[tuple[int, str]]) -> dict[tuple[int, str], tuple[int, int]]:
    """The same for several distinct `(vehicle, name)`. Vehicles that were removed are left out. Needs an open transaction."""
    # This order is the recorder's, which may lock them just now. Nobody else can have locked new rows.
    rows = await connection.fetch(
        """
        WITH wanted AS (SELECT * FROM unnest($1::int[], $2::text[]) AS wanted (vehicle, name)),
        known AS MATERIALIZED (
            SELECT s.session, s.vehicle, s.name, s.handled_seq FROM wanted JOIN sessions s USING (vehicle, name)
            ORDER BY s.session FOR UPDATE OF s
        ),
        made AS (
            INSERT INTO sessions (vehicle, name)
            SELECT w.vehicle, w.name
            -- A vehicle that was removed gets none. The others do.
            FROM wanted w JOIN (
                SELECT vehicle FROM vehicles WHERE vehicle = ANY($1::int[]) ORDER BY vehicle FOR KEY SHARE
            ) v USING (vehicle)
            WHERE NOT EXISTS (SELECT FROM known k WHERE k.vehicle = w.vehicle AND k.name = w.name)
            ON CONFLICT (vehicle, name) DO UPDATE SET name = EXCLUDED.name
            RETURNING session, vehicle, name, handled_seq
        )
        SELECT * FROM known UNION ALL SELECT * FROM made
        """,
        [vehicle for vehicle, _ in wanted],
        [name for _, name in wanted],
    )
    return {(row["vehicle"], row["name"]): (row["session"], row["handled_seq"]) for row in rows}


async def move(
    connection: Connection, sessions: Sequence[int], handled: Sequence[int], known: Sequence[int]
) -> dict[int, int | None]:
    """Raises `handled_seq` of each session, their rows locked until the transaction ends, always in the same order.

    Returns the value before, for sessions whose value was not `known`; None for a session that is gone.
    """
    rows = await connection.fetch(
        """
        WITH before AS MATERIALIZED (
            SELECT session, handled_seq FROM sessions WHERE session = ANY($1::bigint[]) ORDER BY session FOR UPDATE
        ),
        new AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new (session, handled, known)),
        moved AS (
            UPDATE sessions SET handled_seq = new.handled, moved_at = now() FROM before JOIN new USING (session)
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


async def put_back(connection: Connection, lost: Sequence[tuple[int, int, str, int]]) -> set[int]:
    """Makes rows of sessions anew. They were removed because nothing came for long, and now a fix has come.

    `lost` are `(session, vehicle, name, handled_seq)`. Returns the sessions whose vehicle exists. Needs an open transaction.
    """
    rows = await connection.fetch(
        """
        WITH lost AS (
            SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[]) AS lost (session, vehicle, name, handled)
        ),
        -- The sessions of a vehicle are removed with it.
        there AS MATERIALIZED (
            SELECT vehicle FROM vehicles WHERE vehicle = ANY($2::int[]) ORDER BY vehicle FOR KEY SHARE
        )
        INSERT INTO sessions AS old (session, vehicle, name, handled_seq) OVERRIDING SYSTEM VALUE
        SELECT session, vehicle, name, handled FROM lost JOIN there USING (vehicle)
        -- A session of the same name was begun meanwhile.
        ON CONFLICT (vehicle, name) DO UPDATE SET handled_seq = greatest(old.handled_seq, EXCLUDED.handled_seq)
        RETURNING vehicle, name
        """,
        *map(list, zip(*lost, strict=True)),
    )
    back = {(row["vehicle"], row["name"]) for row in rows}
    return {session for session, vehicle, name, _ in lost if (vehicle, name) in back}
