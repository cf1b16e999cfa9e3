"""The last moves of a vehicle, judged again by its new home: nobody knows which of them the former one had judged.

A home that is killed has stored fixes whose events it had not found yet. And it alone knew whether the vehicle was speeding or
standing. So the new home judges the last moves in the store once more. Events that were told are not told again.
"""

from collections.abc import Iterable, Sequence

from tracking.model import EventKind, Position
from tracking.monitor.rules import Alert, AlertState, Stay
from tracking.store.geofence_stays import StayRow
from tracking.store.last_moves import ToldEvent

UNCERTAIN_MS = 60_000
"""A home has told all events of positions that it took so long before its last one. Earlier moves only bring the state back."""


class Replay:
    """Which alerts of a vehicle are told already. `until` is the fix time of the last move that is judged again."""

    __slots__ = ("_from", "_latest", "_of_fences", "until")

    def __init__(self, positions: Sequence[Position], events: Iterable[ToldEvent]) -> None:
        """`positions` have the oldest first. `events` are those told of them and of later fixes, in order."""
        self.until = positions[-1].fix_time if positions else 0
        uncertain = (p.fix_time for p in positions if p.server_time > positions[-1].server_time - UNCERTAIN_MS)
        self._from = min(uncertain, default=0)
        self._of_fences: dict[str, list[tuple[EventKind, int]]] = {}
        """What was told of each geofence, in order, with fix times: some of fixes that were not stored, and come again."""
        self._latest: dict[EventKind, int] = {}
        """The last fix time of each kind that is not about a geofence. The former home had judged all moves up to it."""
        for kind, geofence_id, fix_time in events:
            if geofence_id is not None:
                self._of_fences.setdefault(geofence_id, []).append((kind, fix_time))
            else:
                self._latest[kind] = max(fix_time, self._latest.get(kind, fix_time))

    def is_told(self, position: Position, alert: Alert) -> bool:
        """Whether the alert of this position was told, or comes of what is not known of earlier ones."""
        if alert.geofence_id is None:
            # The filters began anew, so it may be found at another fix than it was told of.
            return position.fix_time < self._from or position.fix_time <= self._latest.get(alert.kind, -1)
        told = self._of_fences.get(alert.geofence_id)
        if told:
            kind, fix_time = told[0]
            # The geofence may have changed, so it may be another move. A stay may be long enough between two moves.
            if kind is alert.kind and (position.fix_time <= max(self.until, fix_time) or kind is EventKind.DWELL):
                del told[0]
                return True
            told.clear()
        return position.fix_time < self._from


def begin(
    positions: Sequence[Position], events: Sequence[ToldEvent], stays: Iterable[StayRow], before: Position | None
) -> AlertState:
    """The state before these moves, which are to be judged next. `stays` are those after all `events`.

    `before` is the last position, if there are no moves.
    """
    state = AlertState()
    state.previous = None if positions else before
    state.replay = Replay(positions, events)
    first = positions[0].fix_time if positions else 0
    known = {stay.geofence_id: stay for stay in stays}
    began: dict[str, EventKind] = {}
    for event in events:
        if event.geofence_id is not None:
            began.setdefault(event.geofence_id, event.kind)
    for geofence_id in known.keys() | began.keys():
        kind, stay = began.get(geofence_id), known.get(geofence_id)
        if kind is EventKind.ENTER or (kind is None and stay is None):
            continue
        # It was inside before the first of these moves. A stay that is over has no row. Its dwell was told, or never will be.
        since = stay.since if stay is not None else first
        dwelt = kind is EventKind.EXIT or (kind is None and stay is not None and stay.dwelt)
        state.inside[geofence_id] = Stay(since, dwelt)
    return state
