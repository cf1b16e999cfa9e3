"""Changes of fleets as they are sent to readers."""

from datetime import UTC, datetime
from typing import NamedTuple

from tracking.model import EventKind
from tracking.store.changes import EVENT, ChangeKind, FleetRow, Row

ABOUT_A_TRIP = frozenset({ChangeKind.TRIP_CREATED, ChangeKind.TRIP_CHANGED, ChangeKind.MESSAGE_POSTED})
_PUBLIC = ABOUT_A_TRIP | {
    ChangeKind.TRIP_DELETED,
    ChangeKind.VEHICLE_CHANGED,
    ChangeKind.VEHICLE_DELETED,
    ChangeKind.FLEET_CHANGED,
    ChangeKind.GEOFENCE_CHANGED,
    ChangeKind.GEOFENCE_DELETED,
}
_EVENTS = frozenset(f"{EVENT}{kind.value}" for kind in EventKind)


class Entry:
    """A change as it is sent. `frame` is None for an event that was not read yet, and for what was erased."""

    __slots__ = ("at", "begin", "event", "fleet_id", "frame", "kind", "number", "subject", "trip_id", "vehicle")

    def __init__(self, fleet_id: str, row: Row | FleetRow) -> None:
        self.fleet_id = fleet_id
        self.number = row.number
        self.at = row.at
        self.kind = row.kind
        self.vehicle = row.vehicle
        self.subject = row.subject
        self.frame: bytes | None = None
        self.begin = 0
        self.event: int | None = None
        """The id of the event that the frame shows, or is to show."""
        self.trip_id: str | None = None
        """The trip that the event names."""
        if row.kind in _EVENTS:
            event = row.internal.get("event") if isinstance(row.internal, dict) else None
            self.event = event if isinstance(event, int) else None
        elif row.kind in _PUBLIC and row.public is not None:
            self.show(row.public.encode())

    @property
    def is_unread(self) -> bool:
        return self.frame is None and self.event is not None

    @property
    def change(self) -> bytes:
        """The change alone, as JSON."""
        assert self.frame is not None
        return self.frame[self.begin : -2]

    def show(self, data: bytes) -> None:
        # The kind needs no escape. JSON by PostgreSQL or msgspec is one line.
        head = b"id: %d\ndata: " % self.number
        self.begin = len(head)
        self.frame = b'%b{"change":%d,"type":"%b","timestamp":"%b","data":%b}\n\n' % (
            head,
            self.number,
            self.kind.encode(),
            _iso(self.at),
            data,
        )


class Page(NamedTuple):
    """Changes in order. `last` is the cursor for the next page."""

    entries: list[Entry]
    last: int


def _iso(at: int) -> bytes:
    try:
        return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    except (ValueError, OverflowError, OSError):
        return b"9999-12-31T23:59:59.999Z"  # the database's clock was wrong
