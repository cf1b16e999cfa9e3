"""Lists of a fleet's events, as clients ask for them. Each query reads one index, in the order of the answer."""

from typing import Any

from tracking.model import Event, EventKind
from tracking.store.events import SELECT_EVENTS, event_of
from tracking.store.pool import Connection

MAX_ID = 2**63 - 1
_TIME = "(server_time + interval '0')"
"""The time, written so that no index matches it. The limits are ids already, and the index by time has no order of ids."""


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
    """Events, oldest first: the first `limit` from `since` or `after` on, or the last `limit` if neither is given.

    Without `with_late`, events of positions from backlogs are left out.
    """
    query = _Query(fleet_id)
    newest = since is None and after is None
    lowest, highest = query.bound_ids(since, until, after)
    if not with_late:
        query.filters.append("NOT late")
    key, wanted = query.choose_key(kind, vehicle_id, geofence_id)
    order = "DESC" if newest else ""
    if key == "e.fleet_id" and until is not None and not newest:
        query.filters += [f"{key} = {wanted}", f"event >= {lowest}", f"event <= {highest}"]
    else:
        # This means `key = wanted`, but the planner does not see that the key is the same in the whole range. So it takes the
        # index that begins with the key. With `=` it would take the primary key for the order. It would then scan the events of
        # all fleets, if those asked for are rarer than it thinks. A scan by a range ends with the key, and not with the highest
        # id. That is why a fleet's list with an end has the branch above.
        query.filters += [f"({key}, event) >= ({wanted}, {lowest})", f"({key}, event) <= ({wanted}, {highest})"]
    rows = await connection.fetch(
        f"""
        {SELECT_EVENTS}
        WHERE {" AND ".join(filter(None, query.filters))}
        ORDER BY {key} {order}, event {order} LIMIT {query.value(limit)}
        """,
        *query.values,
    )
    events = [event_of(row) for row in rows]
    return events[::-1] if newest else events


class _Query:
    """The filters and the values of one query. It has only what is asked for: a plan for all cases could use no good index."""

    def __init__(self, fleet_id: str) -> None:
        self.values: list[Any] = [fleet_id]
        self.filters: list[str] = []

    def value(self, value: Any) -> str:
        """The parameter for a value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def bound_ids(self, since: int | None, until: int | None, after: int | None) -> tuple[str, str]:
        """Filters by time and id. Returns SQL for the lowest and the highest id."""
        lowest, highest = "0", str(MAX_ID)
        if since is not None:
            instant = f"{self.value(since)}::timestamptz"
            self.filters.append(f"{_TIME} >= {instant}")
            lowest = f"({_bound('min', '>=', instant, '')})"
        if until is not None:
            instant = f"{self.value(until)}::timestamptz"
            self.filters.append(f"{_TIME} < {instant}")
            highest = f"({_bound('max', '<', instant, 'DESC')})"
        if after is not None:
            number = f"{self.value(after)}::bigint"
            self.filters.append(f"event > {number}")
            lowest = f"greatest({lowest}, {number})"
        return lowest, highest

    def choose_key(self, kind: EventKind | None, vehicle_id: str | None, geofence_id: str | None) -> tuple[str, str]:
        """Filters by fleet, kind, vehicle and geofence. Returns the first column of the index, and SQL for its value."""
        if kind is None and vehicle_id is None and geofence_id is None:
            return "e.fleet_id", "$1"
        self.filters.append("e.fleet_id = $1")
        kind_wanted = self.value(kind.value) if kind is not None else None
        if kind_wanted is not None and vehicle_id is None and geofence_id is None:
            return "e.kind", kind_wanted
        if kind_wanted is not None:
            self.filters.append(f"e.kind = {kind_wanted}")
        if vehicle_id is None:
            self.filters.append("geofence_id IS NOT NULL")
            return "geofence_id", self.value(geofence_id)
        wanted = f"(SELECT vehicle FROM vehicles WHERE vehicle_id = {self.value(vehicle_id)})"
        if geofence_id is not None:
            self.filters.append(f"geofence_id = {self.value(geofence_id)}")
        return "e.vehicle", wanted


def _bound(least: str, side: str, instant: str, order: str) -> str:
    """SQL for the id from which, or up to which, a fleet's events are on one side of an instant.

    Ids rise with the time, unless the clock was set. So the first hundred events on that side are read.
    """
    return f"""
        SELECT {least}(event) FROM (
            SELECT event FROM events WHERE fleet_id = $1 AND server_time {side} {instant} ORDER BY server_time {order} LIMIT 100
        ) nearest
    """
