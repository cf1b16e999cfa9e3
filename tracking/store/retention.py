"""Rows that are removed when they are old enough. Each kind has a row of `KINDS`, with the statement of one batch.

A new kind is another row. Its statement gets `$1`, the last key of the batch before (0 at first), `$2`, the instant before
which rows are old enough, and `$3`, how many keys to read. It returns one row. `removed` counts the removed rows. `reached` is
the last key, or NULL if no further rows are old enough. `names` are removed rows that memory must forget too, if there are any.
The statement reads a range of one index, so that a batch is as short in a table of a hundred million rows as in a small one.
"""

from typing import NamedTuple

from tracking.store.pool import Connection

REVOKED_SECONDS = 86_400.0
"""How long a revoked token is kept after its expiry. The clock may be set back."""
ERASED_SECONDS = 366 * 86_400.0 + REVOKED_SECONDS
"""How long the id of an erased vehicle is kept: as long as a token that the hub issued for it may live."""
_OVER = "('complete', 'canceled')"
_AT_KEY = "to_timestamp($1::bigint / 1000.0)"
_MILLISECONDS = "floor(extract(epoch FROM max({})) * 1000)::bigint"
_HORIZON = "least($2::timestamptz, (SELECT positions_horizon()))"
"""The instant before which rows that were made of positions are removed. Their positions must be gone as well."""


class Kind(NamedTuple):
    """`setting` is the name of the setting that says for how many days rows are kept; 0: for ever."""

    name: str
    what: str
    """A plural, for the log."""
    statement: str
    setting: str | None
    seconds: float = 0.0
    """How long rows are kept if there is no setting."""
    goes_on: bool = False
    """Whether a row that was read once is never due later. The next sweep then begins where this one ended."""


KINDS: tuple[Kind, ...] = (
    Kind(
        "events",
        "events",
        # Ids rise with the time, unless the clock was set. Then a few rows wait for their turn, and delay no others.
        """
        WITH seen AS MATERIALIZED (
            SELECT event, server_time < $2::timestamptz AS due FROM events WHERE event > $1::bigint ORDER BY event LIMIT $3::int
        ),
        gone AS (DELETE FROM events WHERE event = ANY(ARRAY(SELECT event FROM seen WHERE due)) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS removed, CASE WHEN bool_or(due) THEN max(event) END AS reached FROM seen
        """,
        "event_retention_days",
    ),
    Kind(
        "messages",
        "messages of trips that are over",
        # Trip by trip, because the planner may make a join that reads all trips.
        f"""
        WITH seen AS MATERIALIZED (
            SELECT message, server_time < $2::timestamptz AS old,
                (SELECT t.status IN {_OVER} AND t.ended_at < $2::timestamptz FROM trips t WHERE t.trip = m.trip) AS due
            FROM messages m WHERE message > $1::bigint ORDER BY message LIMIT $3::int
        ),
        gone AS (DELETE FROM messages WHERE message = ANY(ARRAY(SELECT message FROM seen WHERE due)) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS removed, CASE WHEN bool_or(old) THEN max(message) END AS reached FROM seen
        """,
        "message_retention_days",
    ),
    Kind(
        "latest",
        "last positions of vehicles",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT vehicle, fix_time < {_HORIZON} AS due FROM latest_positions
            WHERE vehicle > $1::bigint ORDER BY vehicle LIMIT $3::int
        ),
        gone AS (
            DELETE FROM latest_positions l
            WHERE vehicle = ANY(ARRAY(SELECT vehicle FROM seen WHERE due)) AND fix_time < $2::timestamptz RETURNING vehicle
        )
        SELECT (SELECT count(*) FROM gone) AS removed, max(vehicle)::bigint AS reached,
            ARRAY(
                SELECT vehicle_id FROM vehicles WHERE vehicle = ANY(ARRAY(SELECT vehicle FROM gone))
            ) AS names
        FROM seen
        """,
        "retention_days",
    ),
    Kind(
        "days",
        "summaries of days",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT vehicle FROM vehicles WHERE vehicle > $1::bigint ORDER BY vehicle LIMIT greatest($3::int / 100, 1)
        ),
        gone AS (
            DELETE FROM vehicle_days
            WHERE vehicle = ANY(ARRAY(SELECT vehicle FROM seen)) AND day < ({_HORIZON} AT TIME ZONE 'UTC')::date RETURNING 1
        )
        SELECT (SELECT count(*) FROM gone) AS removed, max(vehicle)::bigint AS reached FROM seen
        """,
        "summary_retention_days",
    ),
    Kind(
        "lines",
        "summaries and lines of trips",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT trip, (SELECT t.created_at < $2::timestamptz FROM trips t WHERE t.trip = s.trip) AS old,
                (SELECT t.status IN {_OVER} AND t.ended_at < {_HORIZON} FROM trips t WHERE t.trip = s.trip) AS due
            FROM trip_summaries s WHERE trip > $1::bigint ORDER BY trip LIMIT greatest($3::int / 10, 1)
        ),
        gone AS (DELETE FROM trip_summaries WHERE trip = ANY(ARRAY(SELECT trip FROM seen WHERE due)) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS removed, CASE WHEN bool_or(old) THEN max(trip)::bigint END AS reached FROM seen
        """,
        "summary_retention_days",
    ),
    Kind(
        "trips",
        "trips that are over",
        # Messages, shares and lines reference trips, and go with them. Spans are needed for seven days, for late fixes.
        f"""
        WITH seen AS MATERIALIZED (
            SELECT trip, ended_at FROM trips
            WHERE status IN {_OVER} AND ended_at >= {_AT_KEY} AND ended_at < {_HORIZON}
            ORDER BY ended_at LIMIT greatest($3::int / 10, 1)
        ),
        spans AS (DELETE FROM trip_spans WHERE trip = ANY(ARRAY(SELECT trip FROM seen))),
        gone AS (DELETE FROM trips WHERE trip = ANY(ARRAY(SELECT trip FROM seen)) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS removed, {_MILLISECONDS.format("ended_at")} AS reached FROM seen
        """,
        "trip_retention_days",
    ),
    Kind(
        "shares",
        "links that have expired",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT share_id, expires_at FROM shares
            WHERE expires_at >= {_AT_KEY} AND expires_at < $2::timestamptz ORDER BY expires_at LIMIT $3::int
        ),
        gone AS (DELETE FROM shares WHERE share_id = ANY(ARRAY(SELECT share_id FROM seen)) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS removed, {_MILLISECONDS.format("expires_at")} AS reached FROM seen
        """,
        "share_retention_days",
    ),
    Kind(
        "revoked_tokens",
        "revoked tokens that have expired",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT jti, expires_at FROM revoked_tokens
            WHERE expires_at >= {_AT_KEY} AND expires_at < $2::timestamptz ORDER BY expires_at LIMIT $3::int
        ),
        gone AS (DELETE FROM revoked_tokens WHERE jti = ANY(ARRAY(SELECT jti FROM seen)) RETURNING jti)
        SELECT (SELECT count(*) FROM gone) AS removed, {_MILLISECONDS.format("expires_at")} AS reached,
            ARRAY(SELECT jti FROM gone) AS names
        FROM seen
        """,
        None,
        REVOKED_SECONDS,
    ),
    Kind(
        "revoked_unknown",
        "revoked tokens of which nobody knows when they expire",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT jti, revoked_at FROM revoked_tokens
            WHERE expires_at IS NULL AND revoked_at >= {_AT_KEY} AND revoked_at < $2::timestamptz
            ORDER BY revoked_at LIMIT $3::int
        ),
        gone AS (DELETE FROM revoked_tokens WHERE jti = ANY(ARRAY(SELECT jti FROM seen)) RETURNING jti)
        SELECT (SELECT count(*) FROM gone) AS removed, {_MILLISECONDS.format("revoked_at")} AS reached,
            ARRAY(SELECT jti FROM gone) AS names
        FROM seen
        """,
        "revoked_retention_days",
    ),
    Kind(
        "erased_ids",
        "ids that were erased vehicles'",
        f"""
        WITH seen AS MATERIALIZED (
            SELECT digest, erased_at FROM erased_vehicles
            WHERE erased_at >= {_AT_KEY} AND erased_at < $2::timestamptz ORDER BY erased_at LIMIT $3::int
        ),
        gone AS (DELETE FROM erased_vehicles WHERE digest = ANY(ARRAY(SELECT digest FROM seen)) RETURNING 1)
        SELECT (SELECT count(*) FROM gone) AS removed, {_MILLISECONDS.format("erased_at")} AS reached FROM seen
        """,
        None,
        ERASED_SECONDS,
    ),
    Kind(
        "sessions",
        "sessions that nobody goes on with",
        """
        WITH seen AS MATERIALIZED (
            SELECT session, created_at < $2::timestamptz AS old, moved_at < $2::timestamptz AS due FROM sessions
            WHERE session > $1::bigint ORDER BY session LIMIT $3::int
        ),
        gone AS (
            DELETE FROM sessions
            WHERE session = ANY(ARRAY(SELECT session FROM seen WHERE due)) AND moved_at < $2::timestamptz RETURNING 1
        )
        SELECT (SELECT count(*) FROM gone) AS removed, CASE WHEN bool_or(old) THEN max(session) END AS reached FROM seen
        """,
        "session_retention_days",
    ),
    Kind(
        "audit",
        "entries of the audit",
        "SELECT removed, reached FROM purge_audit($1::bigint, $2::timestamptz, $3::int)",
        "audit_days",
    ),
    Kind(
        "unused_sessions",
        "sessions that brought nothing",
        """
        WITH seen AS MATERIALIZED (
            SELECT session, created_at < $2::timestamptz AS old, handled_seq = 0 AS unused FROM sessions
            WHERE session > $1::bigint ORDER BY session LIMIT $3::int
        ),
        gone AS (
            DELETE FROM sessions
            WHERE session = ANY(ARRAY(SELECT session FROM seen WHERE old AND unused)) AND handled_seq = 0 RETURNING 1
        )
        SELECT (SELECT count(*) FROM gone) AS removed, max(session) FILTER (WHERE old) AS reached FROM seen
        """,
        None,
        3_600.0,
        goes_on=True,
    ),
)


class Removed(NamedTuple):
    """What one batch did. `more` is False if no rows are left that are old enough."""

    rows: int
    names: list[str]
    more: bool


async def remove_next(connection: Connection, kind: Kind, before: int, rows: int, now: int) -> Removed | None:
    """Removes what is due among the next so many keys, and stores the progress. Needs an open transaction.

    Returns None if another hub has the kind's row locked.
    """
    await connection.execute("INSERT INTO retention (kind) VALUES ($1) ON CONFLICT DO NOTHING", kind.name)
    after = await connection.fetchval("SELECT reached FROM retention WHERE kind = $1 FOR UPDATE SKIP LOCKED", kind.name)
    if after is None:
        return None
    row = await connection.fetchrow(kind.statement, after, before, rows)
    assert row is not None
    more = row["reached"] is not None
    await connection.execute(
        """
        UPDATE retention SET reached = $2, removed = removed + $3, swept_at = coalesce($4::timestamptz, swept_at)
        WHERE kind = $1
        """,
        kind.name,
        row["reached"] if more else after if kind.goes_on else 0,
        row["removed"],
        None if more else now,
    )
    return Removed(row["removed"], row.get("names") or [], more)


async def swept(connection: Connection) -> dict[str, int]:
    """When the last sweep of each kind ended. Kinds without one are left out."""
    rows = await connection.fetch("SELECT kind, swept_at FROM retention WHERE swept_at IS NOT NULL")
    return {row["kind"]: row["swept_at"] for row in rows}
