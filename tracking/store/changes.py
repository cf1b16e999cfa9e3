"""The change log: committed changes that others must learn of, in the order of the commits.

A transaction appends with `append`. PostgreSQL numbers and publishes the rows inside COMMIT (`sql/0026_change_log.sql`). A
reader continues from its cursor, and compares the mark of the row that it read last. Another mark means that the database went
back.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from tracking.store.pool import Connection

CHANNEL = "changes"
"""The channel of notifications."""


class ChangeKind(StrEnum):
    """What happened to a subject. Events have a kind each, `event.<kind>`; see `EVENT`."""

    TRIP_CREATED = "trip.created"
    TRIP_CHANGED = "trip.changed"
    TRIP_DELETED = "trip.deleted"
    VEHICLE_CHANGED = "vehicle.changed"
    VEHICLE_DELETED = "vehicle.deleted"
    VEHICLE_TRIPS = "vehicle.trips"
    """The trips of a vehicle changed, or the trips that it was under way on. For hubs only. The subject is the trip."""
    FLEET_CHANGED = "fleet.changed"
    GEOFENCE_CHANGED = "geofence.changed"
    GEOFENCE_DELETED = "geofence.deleted"
    MESSAGE_POSTED = "message.posted"
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    """For hubs only."""
    HEARTBEAT = "heartbeat"
    ERASED = "erased"
    """The row's content was erased."""


EVENT = "event."
"""The prefix of the kind of an event's row."""


class Change(NamedTuple):
    """One change, to be appended by the transaction that makes it.

    `subject` is the id of what changed, and `vehicle` the store's number of the vehicle that the change names. Integrators are
    shown `public`. Hubs need `internal` besides. Both are JSON.
    """

    kind: str
    subject: str
    fleet_id: str | None = None
    vehicle: int | None = None
    public: Any = None
    internal: Any = None


class Row(NamedTuple):
    """A change in the log. `at` is the database's instant. `public` is JSON text; None: it has none, or it was erased."""

    number: int
    mark: int
    at: int
    transaction: int
    fleet_id: str | None
    vehicle: int | None
    kind: str
    subject: str | None
    public: str | None
    internal: dict[str, Any] | None


class Cursor(NamedTuple):
    """The last row that a reader has read."""

    number: int
    mark: int


_COLUMNS = "number, mark, at, transaction, fleet_id, vehicle, kind, subject, public::text, internal::text"


async def append(connection: Connection, changes: Sequence[Change]) -> int:
    """COMMIT will publish these changes, in this order. Returns the number of the transaction. Needs an open transaction."""
    transaction: int | None = await connection.fetchval(
        """
        WITH appended AS (
            INSERT INTO pending_changes (kind, subject, fleet_id, vehicle, public, internal)
            SELECT kind, subject, fleet_id, vehicle, public::jsonb, internal::jsonb
            FROM unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::text[], $6::text[])
                AS c (kind, subject, fleet_id, vehicle, public, internal)
            RETURNING transaction
        )
        SELECT coalesce((SELECT transaction FROM appended LIMIT 1), 0)
        """,
        [change.kind for change in changes],
        [change.subject for change in changes],
        [change.fleet_id for change in changes],
        [change.vehicle for change in changes],
        [_json(change.public) for change in changes],
        [_json(change.internal) for change in changes],
    )
    return transaction or 0


async def head(connection: Connection) -> Cursor | None:
    """The newest row; None if the log is empty."""
    row = await connection.fetchrow("SELECT number, mark FROM changes ORDER BY number DESC LIMIT 1")
    return Cursor(*row) if row is not None else None


async def read(connection: Connection, cursor: Cursor, limit: int) -> list[Row] | None:
    """The first `limit` rows past the cursor. None if the row of the cursor is gone or differs: the database went back.

    Rows of events have only the event's id, in `internal`.
    """
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM changes WHERE number >= $1 ORDER BY number LIMIT $2", cursor.number, limit + 1
    )
    if not rows or (rows[0]["number"], rows[0]["mark"]) != cursor:
        return None
    return [Row(*row)._replace(internal=_taken_apart(row["internal"])) for row in rows[1:]]


def _taken_apart(internal: str | None) -> dict[str, Any] | None:
    """The structure in `internal`; None if it cannot be read. Such a row must not prevent the reading of all others."""
    if internal is None:
        return None
    try:
        return msgspec.json.decode(internal, type=dict[str, Any])
    except (ValueError, RecursionError):  # PostgreSQL allows larger numbers, and more levels
        return None


async def database_clock(connection: Connection) -> int:
    """The instant by the database's clock."""
    instant: int = await connection.fetchval("SELECT clock_timestamp()")
    return instant


async def heartbeat(connection: Connection) -> None:
    """Appends a row without a meaning. So the newest row is never older than a minute, whatever the retention is."""
    await append(connection, [Change(ChangeKind.HEARTBEAT, "")])


def _json(body: Any) -> str | None:
    return None if body is None else msgspec.json.encode(body).decode()


def as_json(view: Any) -> Any:
    """A structure for `Change.public`."""
    return msgspec.to_builtins(view)


# --- of a fleet ---------------------------------------------------------------------------------------------------------


class FleetRow(NamedTuple):
    """A change of a fleet, for its readers. `public` is JSON text."""

    number: int
    at: int
    vehicle: int | None
    kind: str
    subject: str | None
    public: str | None
    internal: dict[str, Any] | None


async def kept_after(connection: Connection) -> int:
    """The number after which everything is kept."""
    found: int | None = await connection.fetchval("SELECT after FROM changes_kept")
    return found or 0


async def of_fleet(connection: Connection, fleet_id: str, after: int, to: int, limit: int) -> list[FleetRow]:
    """The first `limit` rows of the fleet from past `after` up to `to`.

    Changes of vehicles and trips that are being erased are left out, except their removal.
    """
    rows = await connection.fetch(
        """
        SELECT number, at, vehicle, kind, subject, public::text, internal FROM changes c
        WHERE fleet_id = $1 AND number > $2 AND number <= $3 AND kind <> 'erased'
            AND (
                vehicle IS NULL OR kind = 'vehicle.deleted'
                OR EXISTS (SELECT FROM vehicles v WHERE v.vehicle = c.vehicle)
            )
            AND NOT (
                kind IN ('trip.created', 'trip.changed', 'message.posted')
                AND EXISTS (SELECT FROM trip_erasures e WHERE e.trip_id = c.subject)
            )
        ORDER BY number LIMIT $4
        """,
        fleet_id,
        after,
        to,
        limit,
    )
    return [FleetRow(*row) for row in rows]


# --- erasure ------------------------------------------------------------------------------------------------------------


class Blanked(NamedTuple):
    """What one batch did: so many rows lost their content. `last` is the last number of the batch; None: no row was left."""

    rows: int
    last: int | None


_BLANK = "kind = 'erased', subject = NULL, fleet_id = NULL, public = NULL, internal = NULL"
"""The number and the mark stay, because a reader's cursor may be there. The vehicle stays, so that readers read it anew."""


async def blank_vehicle(connection: Connection, vehicle: int, after: int, limit: int) -> Blanked:
    """Removes the content of the next `limit` rows past `after` that name the vehicle, except notices of its removal."""
    row = await connection.fetchrow(
        f"""
        WITH batch AS MATERIALIZED (
            SELECT number, at, kind FROM changes WHERE vehicle = $1 AND number > $2 ORDER BY number LIMIT $3
        ),
        blanked AS (
            UPDATE changes c SET {_BLANK} FROM batch b
            WHERE c.number = b.number AND c.at = b.at AND b.kind NOT IN ('vehicle.deleted', 'erased') RETURNING 1
        )
        SELECT (SELECT count(*) FROM blanked) AS rows, (SELECT max(number) FROM batch) AS last
        """,
        vehicle,
        after,
        limit,
    )
    assert row is not None
    return Blanked(*row)


async def blank_trip(connection: Connection, trip_id: str, limit: int) -> int:
    """Removes the content of at most `limit` rows of the trip, except the notice of its removal. Returns how many there were.

    Rows that tell its vehicles of the removal stay too, because a hub that lags still has to tell the drivers.
    """
    status = await connection.execute(
        f"""
        WITH batch AS MATERIALIZED (
            SELECT number, at FROM changes c
            WHERE subject = $1 AND kind IN ('trip.created', 'trip.changed', 'vehicle.trips', 'message.posted')
                AND NOT (
                    kind = 'vehicle.trips' AND transaction IN (
                        SELECT transaction FROM changes WHERE subject = $1 AND kind = 'trip.deleted'
                    )
                )
            ORDER BY number LIMIT $2
        )
        UPDATE changes c SET {_BLANK} FROM batch b WHERE c.number = b.number AND c.at = b.at
        """,
        trip_id,
        limit,
    )
    return int(status.rpartition(" ")[2])
