"""The home of each vehicle: which hub holds its driver's connection, and in which term.

A term rises when another hub takes over. It is also on every session row of the vehicle, because the recorder locks these rows
with every commit. A vehicle without a row has term 0. All locks are taken in one order: vehicles, homes, sessions.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tracking.store.pool import Connection


class Home(NamedTuple):
    """A row. `session` is the name that the driver said when this hub (`node`: its boot id) took over."""

    term: int
    node: str
    session: str


class Claimed(NamedTuple):
    """A session of a vehicle whose home the claimant is now. `former` is the row before, None if there was none."""

    session: int
    handled: int
    term: int
    former: Home | None


async def of(connection: Connection, vehicles: Sequence[int]) -> dict[int, Home]:
    """The homes of vehicles, by their numbers. Those without a row are left out."""
    rows = await connection.fetch("SELECT vehicle, term, node, session FROM homes WHERE vehicle = ANY($1::int[])", vehicles)
    return {vehicle: Home(*row) for vehicle, *row in rows}


async def terms_locked(connection: Connection, vehicles: Sequence[int]) -> dict[int, int]:
    """The terms of vehicles that have a home. None of them rises until the transaction ends.

    Lock the rows of the vehicles first.
    """
    rows = await connection.fetch(
        "SELECT vehicle, term FROM homes WHERE vehicle = ANY($1::int[]) ORDER BY vehicle FOR SHARE", vehicles
    )
    return {row["vehicle"]: row["term"] for row in rows}


async def claim(connection: Connection, wanted: Sequence[tuple[int, str]], node: str) -> dict[tuple[int, str], Claimed]:
    """Makes this node the home of the vehicles of several distinct `(vehicle, session name)`, and opens these sessions.

    The term of a vehicle stays if the node is its home already. Vehicles that were removed are left out. Needs an open
    transaction, which waits for commits of the former homes.
    """
    names = dict(wanted)
    rows = await connection.fetch(
        """
        WITH wanted AS (SELECT * FROM unnest($1::int[], $2::text[]) AS wanted (vehicle, name)),
        there AS MATERIALIZED (SELECT vehicle FROM vehicles WHERE vehicle = ANY($1::int[]) ORDER BY vehicle FOR KEY SHARE),
        -- The sort reads all of `there` first, so the vehicles are locked before the homes.
        former AS MATERIALIZED (
            SELECT h.vehicle, h.term, h.node, h.session FROM there JOIN homes h USING (vehicle) ORDER BY h.vehicle
            FOR UPDATE OF h
        ),
        taken AS (
            INSERT INTO homes (vehicle, term, node, session)
            SELECT w.vehicle, 1, $3, w.name
            FROM wanted w JOIN there USING (vehicle) LEFT JOIN former f USING (vehicle) ORDER BY w.vehicle
            ON CONFLICT (vehicle) DO UPDATE SET
                term = homes.term + CASE WHEN homes.node = EXCLUDED.node THEN 0 ELSE 1 END,
                node = EXCLUDED.node, session = EXCLUDED.session, taken_at = now()
            RETURNING vehicle, term
        )
        SELECT t.vehicle, t.term, f.term AS former_term, f.node, f.session FROM taken t LEFT JOIN former f USING (vehicle)
        """,
        list(names),
        list(names.values()),
        node,
    )
    terms = {row["vehicle"]: row["term"] for row in rows}
    former = {
        row["vehicle"]: Home(row["former_term"], row["node"], row["session"]) for row in rows if row["former_term"] is not None
    }
    opened = await _open(connection, [(vehicle, name) for vehicle, name in wanted if vehicle in terms], terms)
    return {key: Claimed(*session, terms[key[0]], former.get(key[0])) for key, session in opened.items()}


async def end_stalled(connection: Connection, seconds: float) -> int:
    """Ends transactions of hubs that make others wait for a lock, and have sent nothing for so long. Returns how many.

    Such a hub stands still. If it only was slow, it tries again.
    """
    ended: int = await connection.fetchval(
        """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE application_name = 'tracking' AND datname = current_database() AND usename = current_user
            AND wait_event = 'ClientRead' AND state <> 'idle' AND state_change < now() - make_interval(secs => $1)
            AND pid IN (
                SELECT unnest(pg_blocking_pids(pid)) FROM pg_stat_activity
                WHERE application_name = 'tracking' AND datname = current_database() AND wait_event_type = 'Lock'
            )
        """,
        seconds,
    )
    return ended


async def open_sessions(
    connection: Connection, wanted: Sequence[tuple[int, str, int]]
) -> tuple[dict[tuple[int, str], tuple[int, int]], set[int]]:
    """Opens sessions of several distinct `(vehicle, name, term)`, whose home the hub is, as far as it knows.

    Returns `(session, handled_seq)` of each `(vehicle, name)`, and the vehicles whose term is another one. Vehicles that were
    removed are in neither. Needs an open transaction.
    """
    vehicles = list({vehicle for vehicle, _, _ in wanted})
    rows = await connection.fetch(
        "SELECT vehicle FROM vehicles WHERE vehicle = ANY($1::int[]) ORDER BY vehicle FOR KEY SHARE", vehicles
    )
    there = {row["vehicle"] for row in rows}
    in_force = await terms_locked(connection, vehicles)
    terms = {vehicle: term for vehicle, _, term in wanted if vehicle in there and in_force.get(vehicle, 0) == term}
    opened = await _open(connection, [(vehicle, name) for vehicle, name, _ in wanted if vehicle in terms], terms)
    return opened, there.difference(terms)


async def _open(
    connection: Connection, wanted: Sequence[tuple[int, str]], terms: dict[int, int]
) -> dict[tuple[int, str], tuple[int, int]]:
    """`(session, handled_seq)` of each `(vehicle, name)`, made if it is new. Gives all sessions of the vehicles their term."""
    if not wanted:
        return {}
    rows = await connection.fetch(
        """
        WITH wanted AS (SELECT * FROM unnest($1::int[], $2::text[]) AS wanted (vehicle, name)),
        home AS (SELECT * FROM unnest($3::int[], $4::bigint[]) AS home (vehicle, term)),
        -- This order is the recorder's, which may lock them just now. Nobody else makes rows, because the homes are locked.
        known AS MATERIALIZED (
            SELECT session, vehicle, name, handled_seq FROM sessions WHERE vehicle = ANY($3::int[]) ORDER BY session FOR UPDATE
        ),
        raised AS (
            UPDATE sessions s SET term = home.term FROM known JOIN home USING (vehicle)
            WHERE s.session = known.session AND s.term <> home.term
        ),
        made AS (
            INSERT INTO sessions (vehicle, name, term)
            SELECT vehicle, name, home.term FROM wanted JOIN home USING (vehicle)
            WHERE NOT EXISTS (SELECT FROM known k WHERE k.vehicle = wanted.vehicle AND k.name = wanted.name)
            ON CONFLICT (vehicle, name) DO UPDATE SET term = EXCLUDED.term
            RETURNING session, vehicle, name, handled_seq
        )
        SELECT session, vehicle, name, handled_seq FROM wanted JOIN known USING (vehicle, name) UNION ALL SELECT * FROM made
        """,
        [vehicle for vehicle, _ in wanted],
        [name for _, name in wanted],
        list(terms),
        list(terms.values()),
    )
    return {(row["vehicle"], row["name"]): (row["session"], row["handled_seq"]) for row in rows}
