"""Driver sessions: the last seq handled of each. The transaction that stores fixes moves it."""

from collections.abc import Sequence
from typing import NamedTuple

from tracking.store import homes
from tracking.store.pool import Connection


class Moved(NamedTuple):
    """What `move` found. `others` has the value before, for sessions whose value was not `known`; None if the row is gone.

    `lost` are the `(session, term)` of rows that have another term: their vehicle's home is another hub.
    """

    others: dict[int, int | None]
    lost: set[tuple[int, int]]


async def open(connection: Connection, vehicle: int, name: str) -> tuple[int, int]:
    """`(session, handled_seq)` of the session of this name, of a vehicle without a home. It is made if it is new."""
    opened, _ = await homes.open_sessions(connection, [(vehicle, name, 0)])
    return opened[vehicle, name]


async def move(
    connection: Connection, sessions: Sequence[int], handled: Sequence[int], known: Sequence[int], terms: Sequence[int]
) -> Moved:
    """Raises `handled_seq` of each session, their rows locked until the transaction ends, always in the same order.

    Sessions whose term is not that of `terms` stay as they are.
    """
    rows = await connection.fetch(
        """
        WITH before AS MATERIALIZED (
            SELECT session, handled_seq, term FROM sessions WHERE session = ANY($1::bigint[]) ORDER BY session FOR UPDATE
        ),
        new AS (
            SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS new (session, handled, known, term)
        ),
        moved AS (
            UPDATE sessions SET handled_seq = new.handled, moved_at = now() FROM before JOIN new USING (session)
            WHERE sessions.session = new.session AND new.handled > before.handled_seq AND before.term = new.term
        )
        SELECT session, before.handled_seq, new.term, before.term <> new.term AS lost FROM new LEFT JOIN before USING (session)
        WHERE before.handled_seq IS DISTINCT FROM new.known OR before.term <> new.term
        """,
        sessions,
        handled,
        known,
        terms,
    )
    return Moved(
        {row["session"]: row["handled_seq"] for row in rows if not row["lost"]},
        {(row["session"], row["term"]) for row in rows if row["lost"]},
    )


async def put_back(connection: Connection, missing: Sequence[tuple[int, int, str, int, int]]) -> tuple[set[int], set[int]]:
    """Makes rows of sessions anew. They were removed because nothing came for long, and now a fix has come.

    `missing` are `(session, vehicle, name, handled_seq, term)`. Returns the sessions whose row is there again, and those whose
    vehicle has another term. Sessions of removed vehicles are in neither. Needs an open transaction.
    """
    rows = await connection.fetch(
        """
        WITH missing AS (
            SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[], $5::bigint[])
                AS missing (session, vehicle, name, handled, term)
        ),
        -- The sessions of a vehicle are removed with it.
        there AS MATERIALIZED (
            SELECT vehicle FROM vehicles WHERE vehicle = ANY($2::int[]) ORDER BY vehicle FOR KEY SHARE
        ),
        -- Who claims a home locks it before the sessions, and these are locked here already. So this must not wait.
        home AS MATERIALIZED (
            SELECT h.vehicle, h.term FROM there JOIN homes h USING (vehicle) ORDER BY h.vehicle FOR SHARE OF h NOWAIT
        ),
        back AS (
            INSERT INTO sessions AS old (session, vehicle, name, handled_seq, term) OVERRIDING SYSTEM VALUE
            SELECT session, vehicle, name, handled, m.term
            FROM missing m JOIN there USING (vehicle) LEFT JOIN home USING (vehicle)
            WHERE m.term = coalesce(home.term, 0)
            -- A session of the same name was begun meanwhile.
            ON CONFLICT (vehicle, name) DO UPDATE SET handled_seq = greatest(old.handled_seq, EXCLUDED.handled_seq)
            RETURNING vehicle, name
        )
        SELECT m.session, back.vehicle IS NOT NULL AS is_back
        FROM missing m JOIN there USING (vehicle) LEFT JOIN back USING (vehicle, name)
        """,
        *map(list, zip(*missing, strict=True)),
    )
    back = {row["session"] for row in rows if row["is_back"]}
    return back, {row["session"] for row in rows}.difference(back)
