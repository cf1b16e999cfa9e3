"""A vehicle as ingest knows it: its motion, its sessions, and when it was under way on which trip."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

from tracking.bucket import Bucket
from tracking.ingest.clocks import DeviceClock, is_right
from tracking.ingest.motion import Motion
from tracking.live.loading import Loading
from tracking.model import Clock, Position, Suspicion, Trip, Vehicle
from tracking.protocol.driver import Rejected
from tracking.store import changes, latest_positions, trips, vehicles
from tracking.store.gathered import Gathered
from tracking.store.latest_positions import Latest
from tracking.store.pool import Connection, Database
from tracking.store.trips import Span

GRACE_MS = 30_000
"""How much older a fix may be than the start of its trip. Devices' clocks lag, and drivers tap late."""
FOREVER = 253_402_300_799_999
"""9999-12-31, after any fix time."""
REMEMBERED_MS = 7 * 86_400_000
"""Older fixes are rejected, so older spans are not needed."""
UNSETTLED_MS = 30_000
"""A change that is older than a vehicle's last fix by more than this was applied before that fix."""
MAX_SPANS = 8
"""The newest spans of a vehicle that are kept in memory. The trip of an older fix is read from the store."""
TRIP_UNKNOWN = -1
"""Stands for the number of a trip if the fix is older than the spans in memory."""


class Receiver(Protocol):
    """A driver's connection, which sends acks."""

    def acknowledge(self, session: "Session", rejected: Sequence[Rejected]) -> None: ...


class Verdict(NamedTuple):
    """Why a fix was doubted, whether it moved the marker, and whether its reported speed was believed."""

    suspect: tuple[Suspicion, ...]
    live: bool
    speed_believed: bool


class Home:
    """The right to store what a vehicle reports, by its number in the store. `term` is compared with the store's.

    It is `lost` for ever once another hub has it. What was taken under it and is not committed is not stored then.
    """

    __slots__ = ("lost", "term", "vehicle")

    def __init__(self, vehicle: int, term: int) -> None:
        self.vehicle = vehicle
        self.term = term
        self.lost = False


class Session:
    """A run of seqs. `seen` is the last seq taken, `handled` the last one stored or rejected for good.

    `acknowledged` is the last one that was acknowledged, at `acknowledged_at` (the event loop's time in s).
    """

    __slots__ = (
        "acknowledged",
        "acknowledged_at",
        "handled",
        "home",
        "name",
        "number",
        "owed",
        "previewed",
        "prompt",
        "receiver",
        "refused",
        "seen",
        "shown",
    )

    def __init__(self, number: int, name: str, handled: int, home: Home | None = None) -> None:
        self.number = number
        self.name = name
        self.handled = handled
        self.home = Home(0, 0) if home is None else home
        self.seen = handled
        self.receiver: Receiver | None = None
        self.acknowledged = handled
        self.acknowledged_at = -inf
        self.owed = False
        """Whether an ack is held back. See `ingest.acks`."""
        self.prompt = 0
        """Acks up to this seq are sent at once, because they are of a backlog."""
        self.shown = handled
        """The last seq that was judged and shown while the queue was full.

        These fixes are sent again, and must not be judged against themselves.
        """
        self.previewed: dict[int, Verdict | None] = {}
        """The verdicts on those fixes, except usual ones. None: not judged."""
        self.refused: dict[int, Rejected] | None = None
        """The newest fixes that the database itself refused. Only a commit shows this."""


class Window(NamedTuple):
    """The instants whose fixes belong to a span: from the grace before it to its end (None: it has not ended)."""

    start: int
    end: int | None
    span: Span


def windows_of(spans: Sequence[Span]) -> list[Window]:
    """The windows of a vehicle's spans, newest first. The spans are given oldest first, and do not overlap."""
    windows: list[Window] = []
    previous_end: int | None = None
    for span in spans:
        start = span.started_at - GRACE_MS
        if previous_end is not None:
            # Never before the previous trip's end, because the next passenger must not see its last seconds.
            start = max(start, previous_end + 1)
        windows.append(Window(start, span.ended_at, span))
        previous_end = span.ended_at
    windows.reverse()
    return windows


def span_at(windows: Sequence[Window], instant: int) -> Span | None:
    """The trip that was under way at `instant`, or was within the grace after it."""
    for start, end, span in windows:
        if instant >= start:
            return span if span.trip_id is not None and (end is None or instant <= end) else None
    return None


def earliest_difference(old: Sequence[Window], new: Sequence[Window]) -> int | None:
    """The earliest instant whose fixes have another trip in the `new` windows than in the `old`; None if there is none.

    Instants before the windows do not count, because memory drops old windows.
    """
    # No window begins or ends between two edges.
    edges = {window.start for window in (*old, *new)}
    edges.update(window.end + 1 for window in (*old, *new) if window.end is not None)
    oldest = new[-1].start if new else inf
    for instant in sorted(edges):
        before, after = (span_at(windows, instant) for windows in (old, new))
        if instant >= oldest and _number(before) != _number(after) and not (_is_older(before) or _is_older(after)):
            return instant
    return None


def _number(span: Span | None) -> int | None:
    return span.trip if span is not None else None


class Filed(NamedTuple):
    """The trip that a position belongs to: its number in the store and its id. Both are None if there is no trip."""

    trip: int | None
    trip_id: str | None


def filed_anew(windows: Sequence[Window], fix_time: int, server_time: int, trip: int | None, ahead: int = 0) -> Filed | None:
    """The trip of a position that was filed to `trip` before the windows changed; None if it keeps its trip.

    A position that was accepted before a change keeps its trip. One that was accepted after it is filed anew. The time of the
    change is the start or end of the span, by the database's clock, which is `ahead` ms ahead of the hub's.
    """
    if trip == TRIP_UNKNOWN:
        return None
    window = next((window for window in windows if fix_time >= window.start), None)
    if window is None or _is_older(window.span):
        return None
    accepted_at = server_time + ahead
    _, end, span = window
    if span.trip_id is None:
        # The trip was removed. Its fixes have no trip, whenever they arrived.
        return Filed(None, None) if trip is not None else None
    if end is not None and fix_time > end:
        return Filed(None, None) if trip is not None and accepted_at >= end else None
    if span.trip == trip:
        return None
    if accepted_at >= span.started_at:
        return Filed(span.trip, span.trip_id)
    # The position arrived before this trip began. If its former trip had ended by then, it has no trip.
    former = next((window.end for window in windows if window.span.trip == trip and trip is not None), None)
    return Filed(None, None) if former is not None and fix_time > former and accepted_at >= former else None


def _is_older(span: Span | None) -> bool:
    return span is not None and span.trip == TRIP_UNKNOWN


_OLDER = Window(0, None, Span(TRIP_UNKNOWN, "", 0, None))
"""The last window, for all instants before the other windows."""


async def read_states(
    connection: Connection, vehicles: Sequence[int], now: int, *, trip_ids: Sequence[str] = ()
) -> tuple[dict[str, Trip], dict[int, Trip], dict[int, list[Span]]]:
    """Trips by id. Current trips, and spans for `IngestVehicle.set_spans`, both by the vehicles' numbers."""
    return await trips.states_of_vehicles(connection, vehicles, now - REMEMBERED_MS, MAX_SPANS + 1, trip_ids=trip_ids)


class IngestVehicle:
    """One vehicle: its number in the store, its record, its current trip, its motion and its sessions."""

    __slots__ = (
        "as_of",
        "claiming",
        "clock",
        "fixes",
        "floor",
        "frames",
        "home",
        "joined_at",
        "motion",
        "newest",
        "number",
        "posted",
        "read",
        "sessions",
        "tokens_from",
        "trip",
        "unsettled",
        "unused",
        "vehicle",
        "waiting",
        "windows",
    )

    def __init__(
        self,
        number: int,
        vehicle: Vehicle,
        spans: Sequence[Span] = (),
        trip: Trip | None = None,
        tokens_from: int | None = None,
    ) -> None:
        self.number = number
        self.as_of = 0
        """The last change of the log that is contained here."""
        self.tokens_from = tokens_from
        """Older tokens are for another vehicle, which had this id before."""
        self.vehicle = vehicle
        self.joined_at = 0
        """since when it is in its fleet"""
        self.trip = trip
        self.motion = Motion()
        self.newest: Position | None = None
        """The last position that moved its marker since it was loaded."""
        self.clock: DeviceClock | None = None
        """Its device's clock, while fixes are too old or too young for a right clock."""
        self.sessions: dict[str, Session] = {}
        self.home: Home | None = None
        """None until its driver says hello here. Only then may its fixes be taken."""
        self.claiming: asyncio.Lock | None = None
        """Held while its home is claimed, or a session of it is opened."""
        self.floor = 0
        """Its `server_time` is never before this: another hub, whose clock may be ahead, has told it until then."""
        self.frames: Bucket | None = None
        """How many frames its driver may send over all its connections. `fixes` is the same for current fixes."""
        self.fixes: Bucket | None = None
        self.waiting = 0
        """Fixes of its backlog that wait for a commit."""
        self.posted = 0
        """Rises with each message that was written to its driver, and with each change of its trip."""
        self.read = -1
        """The value of `posted` when the store last had no unread message for its driver."""
        self.unsettled: int | None = None
        """The fix time from which on its rows may have a wrong trip.

        Its trips changed just before its last fix, and the hub that took the fix may have died before it applied the change.
        """
        self.unused = False
        """Whether no driver was connected at the last check."""
        self.windows: list[Window] = []
        """Newest first. Fixes before all windows have the trip `TRIP_UNKNOWN`."""
        self.set_spans(spans)

    @property
    def vehicle_id(self) -> str:
        return self.vehicle.vehicle_id

    def set_spans(self, spans: Sequence[Span]) -> None:
        """Takes the newest spans, oldest first: all that are recent enough, or more than `MAX_SPANS`. They do not overlap."""
        windows = windows_of(spans)
        if len(windows) > MAX_SPANS:
            windows[MAX_SPANS:] = (_OLDER,)
        self.windows = windows

    def go_on_from(self, last: Latest) -> None:
        """Continues from its newest plausible position in the store. An older one than is known changes nothing."""
        if last.fix_time > self.motion.time:
            self.motion = Motion()
            self.motion.seed(last.latitude, last.longitude, last.fix_time, last.speed)
            if not is_right(last.server_time - last.fix_time):
                # Fixes that continue from this one do not show that the clock was right.
                self.clock = DeviceClock(queued=False)

    @property
    def waits(self) -> bool:
        """Whether a fix of it is not stored yet, or a connection gets its acks."""
        return any(session.receiver is not None or session.seen != session.handled for session in self.sessions.values())


def _unsettled(spans: Sequence[Span], last_came_at: int) -> int | None:
    changed = [at for span in spans for at in (span.started_at, span.ended_at) if at is not None]
    return min((at - GRACE_MS for at in changed if at >= last_came_at - UNSETTLED_MS), default=None)


class IngestVehicles:
    """The vehicles in memory. They are loaded when a driver connects, and kept for an hour at least.

    So the live map continues while the database is away.
    """

    def __init__(self, database: Database, clock: Clock, follow: Callable[[], Awaitable[None]]) -> None:
        """`follow` returns once the change log is followed. What is read after that is kept up to date."""
        self._database = database
        self._clock = clock
        self._follow = follow
        self._by_id: dict[str, IngestVehicle] = {}
        self.by_number: dict[int, IngestVehicle] = {}
        self.loading: Loading[int | str] = Loading()
        self.on_unsettled: Callable[[IngestVehicle, int], None] = lambda _vehicle, _since: None
        """Called with a vehicle that was loaded, and its `unsettled`."""
        self._stored = Gathered(self._read_all)

    def get(self, vehicle_id: str) -> IngestVehicle | None:
        return self._by_id.get(vehicle_id)

    async def load(self, vehicle_id: str) -> IngestVehicle | None:
        """The vehicle, from memory or the store; None if it does not exist. Raises `StoreUnavailable`."""
        while (vehicle := self._by_id.get(vehicle_id)) is None:
            await self._follow()
            with self.loading.reading():
                vehicle = await self._stored.get(vehicle_id)
                if vehicle is None:
                    return None
                if all(self.loading.is_current(key, vehicle.as_of) for key in (vehicle.number, vehicle_id)):
                    self._keep(vehicle)
        vehicle.unused = False
        return vehicle

    def _keep(self, vehicle: IngestVehicle) -> None:
        # If two callers loaded it at once, the first result is kept, because a connection may use it already.
        kept = self._by_id.setdefault(vehicle.vehicle_id, vehicle)
        self.by_number[kept.number] = kept
        if kept is vehicle and vehicle.unsettled is not None:
            self.on_unsettled(vehicle, vehicle.unsettled)

    def taken_over(self, vehicle: IngestVehicle) -> None:
        """Another hub took its fixes until now. It may not have known of the last change of the vehicle's trips."""
        since = _unsettled([window.span for window in vehicle.windows if not _is_older(window.span)], self._clock())
        if since is not None:
            self.on_unsettled(vehicle, since)

    def let_go(self, connected: Container[str]) -> None:
        """Drops vehicles that have nothing waiting and were not `connected` in the last call either. Call this every hour."""
        for vehicle_id, vehicle in list(self._by_id.items()):
            if vehicle_id in connected or vehicle.waits:
                vehicle.unused = False
            elif vehicle.unused:
                self.forget(vehicle_id)
            else:
                vehicle.unused = True

    async def _read_all(self, vehicle_ids: list[str]) -> Mapping[str, IngestVehicle]:
        async with self._database.connection() as connection:
            # This is read first. What is read afterwards contains that change at least.
            newest = await changes.head(connection)
            stored = await vehicles.get_all(connection, [name for name in vehicle_ids if "\0" not in name])
            if not stored:
                return {}
            numbers = [vehicle.number for vehicle in stored.values()]
            _, current, spans = await read_states(connection, numbers, self._clock())
            seen = await latest_positions.newest(connection, numbers)
        loaded = {}
        for vehicle_id, (number, record, tokens_from, joined_at) in stored.items():
            vehicle = IngestVehicle(number, record, spans.get(number, ()), current.get(number), tokens_from)
            vehicle.joined_at = joined_at
            vehicle.as_of = newest.number if newest is not None else 0
            loaded[vehicle_id] = vehicle
            last = seen.get(number)
            if last is not None:
                vehicle.go_on_from(last)
                vehicle.unsettled = _unsettled(spans.get(number, ()), last.server_time)
        return loaded

    def forget(self, vehicle_id: str) -> None:
        """Drops a vehicle that was removed, or must be read again."""
        vehicle = self._by_id.pop(vehicle_id, None)
        if vehicle is not None:
            self.by_number.pop(vehicle.number, None)
