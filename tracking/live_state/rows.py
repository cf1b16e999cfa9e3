"""What a row of the change log says: which kinds concern a vehicle, a trip, a geofence or an event."""

from tracking.model import EventKind
from tracking.store.changes import EVENT, ChangeKind, Row

OF_A_TRIP = frozenset({ChangeKind.TRIP_CREATED, ChangeKind.TRIP_CHANGED, ChangeKind.TRIP_DELETED, ChangeKind.VEHICLE_TRIPS})
OF_A_GEOFENCE = frozenset({ChangeKind.GEOFENCE_CHANGED, ChangeKind.GEOFENCE_DELETED})
EVENTS = frozenset(f"{EVENT}{kind.value}" for kind in EventKind)
KINDS = frozenset(ChangeKind)
_OF_NO_VEHICLE = frozenset(
    # A trip that changes the state of its vehicle comes with a row `VEHICLE_TRIPS`.
    {*OF_A_TRIP, ChangeKind.MESSAGE_POSTED, ChangeKind.VEHICLE_DELETED} - {ChangeKind.VEHICLE_TRIPS}
)


def changes_vehicle(kind: str) -> bool:
    """Whether a row of this kind may change the vehicle that it names, or the vehicle's trips. Removal does not count."""
    return kind not in _OF_NO_VEHICLE and not kind.startswith(EVENT)


def is_moved(row: Row) -> bool:
    """Whether a row `VEHICLE_DELETED` tells a fleet that the vehicle left it. The vehicle itself was not removed."""
    return bool((row.internal or {}).get("moved"))


def number_in(row: Row, name: str) -> int | None:
    """A number in the row's body; None if it is missing or not a valid number."""
    number = row.internal.get(name) if row.internal is not None else None
    return number if isinstance(number, int) and 0 < number < 2**63 else None
