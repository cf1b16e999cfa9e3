"""Events of vehicles: how they are numbered and stored, and how they change stays and silences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tracking.geo import pack_point, unpack_point
from tracking.model import Event, EventKind
from tracking.store import changes, geofence_stays, homes, silences
from tracking.store.changes import EVENT, Change
from tracking.store.geofence_stays import StayRow
from tracking.store.pool import Connection

SELECT_EVENTS = """
    SELECT event, e.kind, v.vehicle_id, server_time, geofence_id, fix_time, point,
        -- Some events keep the id of a removed trip for a while.
        CASE WHEN trip_id IN (SELECT trip_id FROM trip_erasures WHERE trip_id IS NOT NULL) THEN NULL ELSE trip_id END
            AS trip_id,
        speed, speed_limit, late
    FROM events e JOIN vehicles v USING (vehicle)
"""
"""The columns that `event_of` reads."""


_OF_THE_SIGNAL = (EventKind.SIGNAL_LOST, EventKind.SIGNAL_BACK)


SKIPPED_AT_ONCE = 100_000
"""Ids that one statement skips: some 50 ms."""


class _Row(NamedTuple):
    vehicle: int
    fleet_id: str
    event: Event


async def reserve(connection: Connection, count: int, *, after: int = 0) -> list[int]:
    """Rising event ids that nobody else gets, higher than `after`. Ids up to `after` were told, and clients know them."""
    query = "SELECT nextval(pg_get_serial_sequence('events', 'event')) AS event FROM generate_series(1, $1::int)"
    rows = await connection.fetch(query, count)
    while rows and rows[0]["event"] <= after:
        # Numbers are used up, a part at a time. `setval` could set the sequence back behind numbers that another hub got.
        await connection.execute(query, min(after - rows[0]["event"] + 1, SKIPPED_AT_ONCE))
        rows = await connection.fetch(query, count)
    return [row["event"] for row in rows]


async def insert(
    connection: Connection,
    fleet_ids: Sequence[str],
    numbers: Sequence[int | None],
    events: Sequence[Event],
    *,
    terms: Sequence[int | None] = (),
) -> set[int]:
    """Stores events with their reserved ids, and what they change. Returns the ids of events whose vehicle still exists.

    `numbers` are the numbers of the vehicles, if known. A vehicle that got the id of an erased one gets none of its events.
    `terms` are those of the vehicles' homes, if the events are by their homes. Events of a lost home are left out.
    Left out are a `signal_lost` of a vehicle that is silent already, and a `signal_back` of one that is not: another hub has
    told of it.

    Needs an open transaction. It may be repeated with the same events if nobody knows whether they were stored.
    """
    # The trips and vehicles are locked, so that a removal takes their events with it. Changes of trips lock in this order too.
    kept_trips = await _lock_trips(connection, events)
    known = await _lock_vehicles(connection, events)
    rows = [
        _Row(vehicle, fleet_id, event)
        for fleet_id, number, event in zip(fleet_ids, numbers, events, strict=True)
        if (vehicle := known.get(event.vehicle_id)) is not None and number in (None, vehicle)
    ]
    if any(term is not None for term in terms):
        by_event = {event.event_id: term for event, term in zip(events, terms, strict=True)}
        in_force = await homes.terms_locked(connection, list({row.vehicle for row in rows}))
        rows = [row for row in rows if by_event[row.event.event_id] in (None, in_force.get(row.vehicle, 0))]
    rows = await _change_silences(connection, rows)
    if not rows:
        return set()
    inserted = await _insert_rows(connection, rows, kept_trips)
    await _change_states(connection, rows)
    await _append_changes(connection, [row for row in rows if row.event.event_id in inserted])
    return {row.event.event_id for row in rows}


async def _lock_trips(connection: Connection, events: Sequence[Event]) -> set[str]:
    """The ids of the events' trips that exist."""
    trip_ids = {event.trip_id for event in events if event.trip_id is not None}
    if not trip_ids:
        return set()
    rows = await connection.fetch(
        "SELECT trip_id FROM trips WHERE trip_id = ANY($1::text[]) ORDER BY trip FOR KEY SHARE", list(trip_ids)
    )
    return {row["trip_id"] for row in rows}


async def _lock_vehicles(connection: Connection, events: Sequence[Event]) -> dict[str, int]:
    """The numbers of the events' vehicles that exist, by their ids."""
    rows = await connection.fetch(
        "SELECT vehicle_id, vehicle FROM vehicles WHERE vehicle_id = ANY($1::text[]) ORDER BY vehicle FOR KEY SHARE",
        list({event.vehicle_id for event in events}),
    )
    return {row["vehicle_id"]: row["vehicle"] for row in rows}


async def _insert_rows(connection: Connection, rows: Sequence[_Row], kept_trips: set[str]) -> set[int]:
    """The ids of events that were not stored before."""
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
        [row.event.event_id for row in rows],
        [row.fleet_id for row in rows],
        [row.vehicle for row in rows],
        [row.event.kind.value for row in rows],
        [row.event.geofence_id for row in rows],
        [row.event.trip_id if row.event.trip_id in kept_trips else None for row in rows],
        [row.event.server_time for row in rows],
        [row.event.fix_time for row in rows],
        [_point(row.event) for row in rows],
        [row.event.speed for row in rows],
        [row.event.limit for row in rows],
        [row.event.late for row in rows],
    )
    return {row["event"] for row in inserted}


async def _append_changes(connection: Connection, rows: Sequence[_Row]) -> None:
    """Appends the ids of events to the change log. Whole events of a busy fleet would be most of the log."""
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
            for row in rows
        ],
    )


async def _change_silences(connection: Connection, rows: Sequence[_Row]) -> list[_Row]:
    """Begins and ends silences. Returns the events without those of the signal that changed nothing.

    `signal_lost` belongs to whoever inserts the row of the silence, and `signal_back` to whoever deletes it.
    """
    of_vehicles: dict[int, list[_Row]] = {}
    for row in rows:
        if row.event.kind in _OF_THE_SIGNAL:
            of_vehicles.setdefault(row.vehicle, []).append(row)
    left_out: set[int] = set()
    while of_vehicles:
        # The next event of each vehicle. Two events of one vehicle are rare, so this is mostly one turn.
        turn = [of_vehicle.pop(0) for of_vehicle in of_vehicles.values()]
        of_vehicles = {vehicle: of_vehicle for vehicle, of_vehicle in of_vehicles.items() if of_vehicle}
        lost = {row.vehicle: row.event.server_time for row in turn if row.event.kind is EventKind.SIGNAL_LOST}
        changed = await silences.end(connection, [row.vehicle for row in turn if row.vehicle not in lost])
        changed |= await silences.begin(connection, lost)
        left_out.update(row.event.event_id for row in turn if row.vehicle not in changed)
    return [row for row in rows if row.event.event_id not in left_out] if left_out else list(rows)


async def _change_states(connection: Connection, rows: Sequence[_Row]) -> None:
    """Stores the stays after all of the events. The last event of a vehicle and geofence counts."""
    stays: dict[geofence_stays.Key, tuple[int, bool] | None] = {}
    dwelt: set[geofence_stays.Key] = set()
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
    await geofence_stays.end(connection, [key for key, stay in stays.items() if stay is None])
    await geofence_stays.note_dwelt(connection, list(dwelt))
    await geofence_stays.begin(connection, [StayRow(*key, *stay) for key, stay in stays.items() if stay is not None])


def _point(event: Event) -> bytes | None:
    if event.longitude is None or event.latitude is None:
        return None
    return pack_point(event.longitude, event.latitude)


async def by_id(connection: Connection, ids: Sequence[int]) -> dict[int, Event]:
    """Those of the events that exist."""
    rows = await connection.fetch(f"{SELECT_EVENTS} WHERE event = ANY($1::bigint[])", ids)
    return {row["event"]: event_of(row) for row in rows}


def event_of(row: Any) -> Event:
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
