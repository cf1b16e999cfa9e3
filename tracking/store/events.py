"""Events of vehicles, and the states that they are the edges of: stays in geofences, silences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tracking.geo import pack_point, unpack_point
from tracking.model import Event, EventKind
from tracking.store import changes
from tracking.store.changes import EVENT, Change
from tracking.store.pool import Connection


class StayRow(NamedTuple):
    vehicle: int
    fleet_id: str
    geofence_id: str
    since: int
    dwelt: bool


class Quiet(NamedTuple):
    """A vehicle that has been silent for too long, its latest position, the trip of that, and the trip that is under way."""

    vehicle: int
    vehicle_id: str
    fleet_id: str
    signal_lost_after: float
    fix_time: int
    server_time: int
    point: bytes
    trip_id: str | None
    position_trip_id: str | None


class _Row(NamedTuple):
    vehicle: int
    fleet_id: str
    event: Event


async def reserve(connection: Connection, count: int, *, after: int = 0) -> list[int]:
    """Event ids that nobody else gets, rising, and higher than `after`: ids up to there were told, and are known outside."""
    query = "SELECT nextval(pg_get_serial_sequence('events', 'event')) AS event FROM generate_series(1, $1::int)"
    rows = await connection.fetch(query, count)
    if rows and rows[0]["event"] <= after:
        await connection.execute("SELECT setval(pg_get_serial_sequence('events', 'event'), $1)", after)
        rows = await connection.fetch(query, count)
    return [row["event"] for row in rows]


async def insert(
    connection: Connection,
    fleet_ids: Sequence[str],
    numbers: Sequence[int | None],
    events: Sequence[Event],
    *,
    newly_silent: bool = False,
) -> set[int]:
    """Stores events, each with the id reserved for it, and what they change; the ids of those whose vehicle still exists.

    `numbers` are those of their vehicles, where they are known: a vehicle that was made anew by the id of an erased one gets
    none of its events. Safe to repeat with the same events, where it is not known whether they were stored. With
    `newly_silent` all are `signal_lost`, and those of vehicles are left out that are known to be silent. Needs an open
    transaction.
    """
    # Locked, so that a trip or a vehicle that is being removed takes them along; in the order in which changes of trips lock.
    trip_ids = {event.trip_id for event in events if event.trip_id is not None}
    kept: set[str] = set()
    if trip_ids:
        found = await connection.fetch(
            "SELECT trip_id FROM trips WHERE trip_id = ANY($1::text[]) ORDER BY trip FOR KEY SHARE", list(trip_ids)
        )
        kept = {row["trip_id"] for row in found}
    rows = await connection.fetch(
        "SELECT vehicle_id, vehicle FROM vehicles WHERE vehicle_id = ANY($1::text[]) ORDER BY vehicle FOR KEY SHARE",
        list({event.vehicle_id for event in events}),
    )
    known: dict[str, int] = {row["vehicle_id"]: row["vehicle"] for row in rows}
    fresh = [
        _Row(vehicle, fleet_id, event)
        for fleet_id, number, event in zip(fleet_ids, numbers, events, strict=True)
        if (vehicle := known.get(event.vehicle_id)) is not None and number in (None, vehicle)
    ]
    if newly_silent:
        begun = set(await _begin_silences(connection, {row.vehicle: row.event.server_time for row in fresh}))
        fresh = [row for row in fresh if row.vehicle in begun]
    if not fresh:
        return set()
    inserted = await connection.fetch(
        """
        INSERT INTO events
            (event, fleet_id, vehicle, kind, geofence_id, trip_id, server_time, fix_time, point, speed, speed_limit, late)
        SELECT * FROM unnest(
            $1::bigint[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[],
            $9::geometry[], $10::float8[], $11::float8[], $12::boolean[]
        )
        ON CONFLICT (event) DO NOTHING RETURNING event
        """,
        [row.event.event_id for row in fresh],
        [row.fleet_id for row in fresh],
        [row.vehicle for row in fresh],
        [row.event.kind.value for row in fresh],
        [row.event.geofence_id for row in fresh],
        [row.event.trip_id if row.event.trip_id in kept else None for row in fresh],
        [row.event.server_time for row in fresh],
        [row.event.fix_time for row in fresh],
        [_point(row.event) for row in fresh],
        [row.event.speed for row in fresh],
        [row.event.limit for row in fresh],
        [row.event.late for row in fresh],
    )
    await _change_states(connection, fresh)
    # Those that were not stored before, and their ids alone: with all that they say, a busy fleet's would be most of the log.
    told = {row["event"] for row in inserted}
    await changes.append(
        connection,
        [
            Change(
                f"{EVENT}{row.event.kind.value}",
                str(row.event.event_id),
                row.fleet_id,
                row.vehicle,
                internal={"event": row.event.event_id},
            )
            for row in fresh
            if row.event.event_id in told
        ],
    )
    return {row.event.event_id for row in fresh}


async def _change_states(connection: Connection, rows: Sequence[_Row]) -> None:
    """What stands after all of them: of the events of one vehicle and fence the last one counts."""
    stays: dict[tuple[int, str, str], tuple[int, bool] | None] = {}
    dwelt: set[tuple[int, str, str]] = set()
    silences: dict[int, int | None] = {}
    for vehicle, fleet_id, event in rows:
        key = vehicle, fleet_id, event.geofence_id or ""
        match event.kind:
            case EventKind.ENTER:
                stays[key] = event.fix_time or event.server_time, False
            case EventKind.DWELL:
                entered = stays.get(key)
                if entered is None:
                    dwelt.add(key)
                else:
                    stays[key] = entered[0], True
            case EventKind.EXIT:
                stays[key] = None
            case EventKind.SIGNAL_LOST:
                silences[vehicle] = event.server_time
            case EventKind.SIGNAL_BACK:
                silences[vehicle] = None
    begun = [(*key, *stay) for key, stay in stays.items() if stay is not None]
    ended = [key for key, stay in stays.items() if stay is None]
    keys = "unnest($1::integer[], $2::text[], $3::text[]) AS k (vehicle, fleet_id, geofence_id)"
    theirs = "s.vehicle = k.vehicle AND s.fleet_id = k.fleet_id AND s.geofence_id = k.geofence_id"
    if ended:
        await connection.execute(
            f"DELETE FROM geofence_stays s USING {keys} WHERE {theirs}", *map(list, zip(*ended, strict=True))
        )
    if dwelt:
        await connection.execute(
            f"UPDATE geofence_stays s SET dwelt = true FROM {keys} WHERE {theirs}", *map(list, zip(*dwelt, strict=True))
        )
    if begun:
        # Of fences that are there still, and locked, so that one which is being removed takes the stay along.
        await connection.execute(
            """
            INSERT INTO geofence_stays (vehicle, fleet_id, geofence_id, since, dwelt)
            SELECT k.vehicle, k.fleet_id, k.geofence_id, k.since, k.dwelt
            FROM unnest($1::integer[], $2::text[], $3::text[], $4::timestamptz[], $5::boolean[])
                AS k (vehicle, fleet_id, geofence_id, since, dwelt)
            JOIN (
                SELECT fleet_id, geofence_id FROM geofences WHERE geofence_id = ANY($3::text[]) FOR KEY SHARE
            ) AS g ON g.fleet_id = k.fleet_id AND g.geofence_id = k.geofence_id
            ON CONFLICT (vehicle, fleet_id, geofence_id) DO UPDATE SET since = EXCLUDED.since, dwelt = EXCLUDED.dwelt
            """,
            *map(list, zip(*begun, strict=True)),
        )
    lost = {vehicle: since for vehicle, since in silences.items() if since is not None}
    if lost:
        await _begin_silences(connection, lost)
    back = [vehicle for vehicle, since in silences.items() if since is None]
    if back:
        await connection.execute("DELETE FROM silences WHERE vehicle = ANY($1::integer[])", back)


async def _begin_silences(connection: Connection, since: Mapping[int, int]) -> list[int]:
    """The vehicles of these that were not silent before."""
    rows = await connection.fetch(
        """
        INSERT INTO silences (vehicle, since) SELECT * FROM unnest($1::integer[], $2::timestamptz[])
        ON CONFLICT (vehicle) DO NOTHING RETURNING vehicle
        """,
        list(since),
        list(since.values()),
    )
    return [row["vehicle"] for row in rows]


def _point(event: Event) -> bytes | None:
    if event.longitude is None or event.latitude is None:
        return None
    return pack_point(event.longitude, event.latitude)


async def of_fleet(
    connection: Connection,
    fleet_id: str,
    *,
    since: int | None,
    until: int | None,
    after: int | None,
    kind: EventKind | None,
    vehicle_id: str | None,
    geofence_id: str | None,
    limit: int,
    with_late: bool = True,
) -> list[Event]:
    """Oldest first: the first `limit` from `since` or `after` on, or the last `limit` where neither is given.

    Without those that came out of a backlog where `with_late` is false.
    """
    newest = since is None and after is None
    values: list[Any] = [fleet_id]

    def value(value: Any) -> str:
        values.append(value)
        return f"${len(values)}"

    # Only what is asked for: a plan for all cases at once could use no index but that of the order.
    filters = []
    lowest, highest = "0", str(2**63 - 1)
    if since is not None:
        instant = f"{value(since)}::timestamptz"
        filters.append(f"{_TIME} >= {instant}")
        lowest = f"({_bound('min', '>=', instant, '')})"
    if until is not None:
        instant = f"{value(until)}::timestamptz"
        filters.append(f"{_TIME} < {instant}")
        highest = f"({_bound('max', '<', instant, 'DESC')})"
    if after is not None:
        number = f"{value(after)}::bigint"
        filters.append(f"event > {number}")
        lowest = f"greatest({lowest}, {number})"
    if not with_late:
        filters.append("NOT late")
    kind_is = f"e.kind = {value(kind.value)}" if kind is not None else ""
    if vehicle_id is not None:
        key, wanted = "e.vehicle", f"(SELECT vehicle FROM vehicles WHERE vehicle_id = {value(vehicle_id)})"
        filters += ["e.fleet_id = $1", kind_is]
        if geofence_id is not None:
            filters.append(f"geofence_id = {value(geofence_id)}")
    elif geofence_id is not None:
        key, wanted = "geofence_id", value(geofence_id)
        filters += ["e.fleet_id = $1", "geofence_id IS NOT NULL", kind_is]
    elif kind is not None:
        key, wanted = "e.kind", f"${len(values)}"
        filters.append("e.fleet_id = $1")
    else:
        key, wanted = "e.fleet_id", "$1"
    order = "DESC" if newest else ""
    if key == "e.fleet_id" and until is not None and not newest:
        filters += [f"{key} = {wanted}", f"event >= {lowest}", f"event <= {highest}"]
    else:
        # Where `key = …` would do: the planner does not see that the key is the same in all of this range, so it takes the
        # index that begins with it. For the order alone it would take the primary key, and walk by it through all events of all
        # fleets where those asked for are rarer than it thinks. (Such a scan ends with the key, and not with the highest id:
        # hence the above.)
        filters += [f"({key}, event) >= ({wanted}, {lowest})", f"({key}, event) <= ({wanted}, {highest})"]
    rows = await connection.fetch(
        f"""
        {_SELECT}
        WHERE {" AND ".join(filter(None, filters))}
        ORDER BY {key} {order}, event {order} LIMIT {value(limit)}
        """,
        *values,
    )
    events = [_event(row) for row in rows]
    return events[::-1] if newest else events


async def by_id(connection: Connection, ids: Sequence[int]) -> dict[int, Event]:
    """Those of the events that there are."""
    rows = await connection.fetch(f"{_SELECT} WHERE event = ANY($1::bigint[])", ids)
    return {row["event"]: _event(row) for row in rows}


_SELECT = """
    SELECT event, e.kind, v.vehicle_id, server_time, geofence_id, fix_time, point,
        -- Of a trip that was removed some have the id for a while.
        CASE WHEN trip_id IN (SELECT trip_id FROM trip_erasures WHERE trip_id IS NOT NULL) THEN NULL ELSE trip_id END
            AS trip_id,
        speed, speed_limit, late
    FROM events e JOIN vehicles v USING (vehicle)
"""
_TIME = "(server_time + interval '0')"
"""The time as a filter: it has led to the ids already, and is not to lead into its index, which has them in no order."""


def _bound(least: str, side: str, instant: str, order: str) -> str:
    """The id from which, or up to which, a fleet's events are on one side of an instant.

    Ids rise with the time, unless the clock was set: so the first hundred of that side are asked.
    """
    return f"""
        SELECT {least}(event) FROM (
            SELECT event FROM events WHERE fleet_id = $1 AND server_time {side} {instant} ORDER BY server_time {order} LIMIT 100
        ) nearest
    """


def _event(row: Any) -> Event:
    longitude, latitude = (None, None) if row["point"] is None else unpack_point(row["point"])
    return Event(
        row["event"],
        EventKind(row["kind"]),
        row["vehicle_id"],
        row["server_time"],
        row["geofence_id"],
        row["fix_time"],
        latitude,
        longitude,
        row["trip_id"],
        row["speed"],
        row["speed_limit"],
        row["late"],
    )


async def stays(connection: Connection, vehicles: Sequence[int]) -> list[StayRow]:
    """Who of these vehicles is inside which fence of its fleet."""
    rows = await connection.fetch(
        """
        SELECT vehicle, fleet_id, geofence_id, since, dwelt FROM geofence_stays JOIN vehicles USING (vehicle, fleet_id)
        WHERE vehicle = ANY($1::int[])
        """,
        vehicles,
    )
    return [StayRow(*row) for row in rows]


async def silent(connection: Connection, vehicles: Sequence[int]) -> set[int]:
    """Those of the vehicles whose signal is lost."""
    rows = await connection.fetch("SELECT vehicle FROM silences WHERE vehicle = ANY($1::int[])", vehicles)
    return {row["vehicle"] for row in rows}


async def quiet(
    connection: Connection,
    now: int,
    *,
    longest: float,
    since: int,
    besides: Sequence[str],
    limit: int,
    asked: tuple[int, float] | None = None,
) -> list[Quiet]:
    """Vehicles that were heard of at `since` or later, have been silent for their fleet's `signal_lost_after` at `now`, and are
    not known to be silent; of fleets where that is no more than `longest` (s), and that are not `besides`.

    `asked` are `now` and `longest` of the last question of this kind, where only those are wanted that it could not find.
    """
    before, longest_before = asked if asked is not None else (0, 0.0)
    # All latest positions are gone through: an index by the time would cost each of their updates. What is asked of each comes
    # first, so that few are looked up among the silent.
    rows = await connection.fetch(
        """
        WITH thresholds AS MATERIALIZED (
            SELECT fleet, signal_lost_after, $1::timestamptz - make_interval(secs => signal_lost_after) AS until,
                CASE
                    WHEN signal_lost_after > $7 THEN '-infinity'
                    ELSE $6::timestamptz - make_interval(secs => signal_lost_after)
                END AS past
            FROM fleets WHERE signal_lost_after <= $2 AND fleet_id <> ALL($4::text[])
        ), aged AS MATERIALIZED (
            SELECT l.vehicle, f.signal_lost_after, l.fix_time, l.server_time, l.point, l.trip
            FROM latest_positions l JOIN thresholds f USING (fleet)
            WHERE l.server_time >= $3::timestamptz AND l.server_time <= f.until AND l.server_time > f.past
        ), found AS MATERIALIZED (
            SELECT * FROM aged a WHERE NOT EXISTS (SELECT FROM silences s WHERE s.vehicle = a.vehicle) LIMIT $5
        )
        SELECT v.vehicle, v.vehicle_id, v.fleet_id, l.signal_lost_after, l.fix_time, l.server_time, l.point,
            u.trip_id, t.trip_id AS position_trip_id
        FROM found l JOIN vehicles v USING (vehicle) LEFT JOIN trips t ON t.trip = l.trip
        LEFT JOIN trip_spans s ON s.vehicle = l.vehicle AND s.ended_at IS NULL LEFT JOIN trips u ON u.trip = s.trip
        WHERE NOT v.fleet_id = ANY($4::text[])
        """,
        now,
        longest,
        since,
        besides,
        limit,
        before,
        longest_before,
    )
    return [Quiet(*row) for row in rows]
