"""The changes of fleets, for those who follow them: from memory where they are recent, from the store otherwise.

`add` is called by the follower for each row that it applied. A row is encoded once, for all readers of its fleet. Readers come
and take: nothing is kept for a reader but its place, so a slow one costs no memory here. Who waits is woken some at a time.
"""

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

import msgspec

from tracking.auth import Auth, Principal, Role
from tracking.errors import CloseCode, ErrorCode, Refusal, StoreUnavailable, TokenRefused
from tracking.keys import Key
from tracking.lanes import Lanes
from tracking.metrics import CHANGE_READERS
from tracking.model import Event, EventKind
from tracking.store import changes, events
from tracking.store.changes import EVENT, ChangeKind, FleetRow, Row
from tracking.store.gathered import Gathered
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

MAX_ROWS = 20_000
"""Held in memory, of all fleets."""
ENTRY_BYTES = 400
"""What a row takes besides its text."""
PAGE_BYTES = 1024 * 1024
"""A page ends after so many bytes."""
STORED_AT_ONCE = 100
"""Rows of one question to the store."""
READINGS_AT_ONCE = 3
EVENTS_AT_ONCE = 100
WOKEN_AT_ONCE = 16
"""Readers, in one turn of the event loop: between two turns everybody else has theirs."""
CHECK_SECONDS = 0.5
"""How often it is asked whether each reader may go on."""
RETRY_AFTER = 5.0

Named = TypeVar("Named", int, str)

_OF_A_TRIP = frozenset({ChangeKind.TRIP_CREATED, ChangeKind.TRIP_CHANGED, ChangeKind.MESSAGE_POSTED})
_PUBLIC = _OF_A_TRIP | {
    ChangeKind.TRIP_DELETED,
    ChangeKind.VEHICLE_CHANGED,
    ChangeKind.VEHICLE_DELETED,
    ChangeKind.FLEET_CHANGED,
    ChangeKind.GEOFENCE_CHANGED,
    ChangeKind.GEOFENCE_DELETED,
}
_EVENTS = frozenset(f"{EVENT}{kind.value}" for kind in EventKind)


class Entry:
    """A change as it is sent. `frame` is None where it is not known yet, of an event, or is erased."""

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
        """The id of the event that is to be read, or was."""
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
        # The kind is one of ours: nothing in it needs to be escaped. JSON of PostgreSQL's or msgspec's is one line.
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
    """Changes in their order. `last` is the cursor to go on from."""

    entries: list[Entry]
    last: int


class _Fleet:
    """The recent rows of one fleet."""

    __slots__ = ("entries", "erased", "first", "floor", "numbers")

    def __init__(self, floor: int) -> None:
        self.entries: list[Entry] = []
        self.numbers: list[int] = []
        self.first = 0
        """Where in these the first one is that is still held."""
        self.floor = floor
        """All rows of the fleet after this number are held."""
        self.erased = 0
        """How often something was erased: what was being read meanwhile is read again."""

    def drop_first(self) -> None:
        self.floor = self.numbers[self.first]
        self.first += 1
        # At most as many that are let go of lie before those that are held.
        if self.first * 2 >= len(self.entries):
            del self.entries[: self.first]
            del self.numbers[: self.first]
            self.first = 0


class Reader:
    """Somebody who follows a fleet. `ended` says why it is to end: `access` with `refused`, `stop`, `slow`, or `gone`."""

    def __init__(self, feed: "ChangeFeed", principal: Principal, fleet_id: str) -> None:
        self.principal = principal
        self.fleet_id = fleet_id
        self.ended: str | None = None
        self.refused: TokenRefused | None = None
        self.on_end: Callable[[], None] = lambda: None
        self._feed = feed
        self._woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def end(self, why: str) -> None:
        if self.ended is None:
            self.ended = why
            self.wake()
            self.on_end()

    async def wait(self, after: int, seconds: float) -> None:
        """Until there may be something past `after`, it is to end, or the time is over."""
        if self._feed.is_beyond(self.fleet_id, after):
            return
        waiting = self._feed.waiting.setdefault(self.fleet_id, set())
        waiting.add(self)
        try:
            await self.rest(seconds)
        finally:
            waiting.discard(self)
            if not waiting and self._feed.waiting.get(self.fleet_id) is waiting:
                del self._feed.waiting[self.fleet_id]

    async def rest(self, seconds: float) -> None:
        """Until it is woken, is to end, or the time is over."""
        if self.ended is not None:
            return
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None


class ChangeFeed:
    """`applied` is the number of the last change that this hub applied, `begin` has the log be followed.

    `most_bytes` of recent changes are held. `readers` may be connected in all, and `per_token` of one token.
    """

    def __init__(
        self,
        database: Database,
        auth: Auth,
        *,
        applied: Callable[[], int],
        begin: Callable[[], Awaitable[None]],
        most_bytes: int,
        readers: int,
        per_token: int,
    ) -> None:
        self._database = database
        self._auth = auth
        self._applied = applied
        self._begin = begin
        self._most_bytes = most_bytes
        self._most_readers = readers
        self._per_token = per_token
        self._fleets: dict[str, _Fleet] = {}
        self._floor: int | None = None
        """The number that a fleet without rows in memory is known from."""
        self._order: deque[Entry] = deque()
        self._bytes = 0
        self._of_vehicle: dict[int, deque[Entry]] = {}
        self._of_trip: dict[str, deque[Entry]] = {}
        self._events_of_trip: dict[str, set[Entry]] = {}
        self.waiting: dict[str, set[Reader]] = {}
        """By fleet, those who wait for its next change."""
        self._to_wake: deque[Reader] = deque()
        self._waking = False
        self._readers: set[Reader] = set()
        self._held: Counter[str] = Counter()
        self._checking: asyncio.TimerHandle | None = None
        self._closed = False
        self.known: set[str] = set()
        """Fleets that are known to exist. None ever goes."""
        self._events = Gathered(self._read_events, most=EVENTS_AT_ONCE)
        self._readings = Lanes(READINGS_AT_ONCE)

    # --- what comes in ------------------------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """A row that was applied, in order."""
        try:
            self._add(row)
        except Exception:
            # It is in the store, where it is found.
            logger.exception("change %d (%s) can't be shown from memory", row.number, row.kind)
            self._forget_all(row.number)

    def _add(self, row: Row) -> None:
        if self._floor is None:
            self._floor = row.number - 1
        erases = False
        if row.kind == ChangeKind.VEHICLE_DELETED and row.vehicle is not None and not (row.internal or {}).get("moved"):
            self._forget_vehicle(row.vehicle)
            erases = True
        elif row.kind == ChangeKind.TRIP_DELETED and row.subject is not None:
            self._forget_trip(row.subject)
            erases = True
        if row.fleet_id is None:
            return
        entry = Entry(row.fleet_id, row)
        if entry.frame is None and entry.event is None:
            return
        fleet = self._fleets.get(entry.fleet_id)
        if fleet is None:
            fleet = self._fleets[entry.fleet_id] = _Fleet(self._floor)
        fleet.erased += erases
        fleet.entries.append(entry)
        fleet.numbers.append(entry.number)
        self._order.append(entry)
        self._bytes += ENTRY_BYTES + len(entry.frame or b"")
        if entry.vehicle is not None:
            self._of_vehicle.setdefault(entry.vehicle, deque()).append(entry)
        if entry.kind in _OF_A_TRIP and entry.subject is not None:
            self._of_trip.setdefault(entry.subject, deque()).append(entry)
        self._make_room()
        waiting = self.waiting.pop(entry.fleet_id, None)
        if waiting:
            self._to_wake.extend(waiting)
            if not self._waking:
                self._waking = True
                asyncio.get_running_loop().call_soon(self._wake_some)

    def _make_room(self) -> None:
        while self._order and (self._bytes > self._most_bytes or len(self._order) > MAX_ROWS):
            entry = self._order.popleft()
            self._bytes -= ENTRY_BYTES + len(entry.frame or b"")
            self._fleets[entry.fleet_id].drop_first()
            _drop_first(self._of_vehicle, entry.vehicle, entry)
            _drop_first(self._of_trip, entry.subject, entry)
            self._unname(entry)

    def _wake_some(self) -> None:
        for _ in range(min(WOKEN_AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().wake()
        self._waking = bool(self._to_wake)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)

    # --- erasure ------------------------------------------------------------------------------------------------------

    def _forget_vehicle(self, vehicle: int) -> None:
        for entry in self._of_vehicle.pop(vehicle, ()):
            if entry.kind != ChangeKind.VEHICLE_DELETED:
                self._blank(entry)
                entry.event = None

    def _forget_trip(self, trip_id: str) -> None:
        for entry in self._of_trip.pop(trip_id, ()):
            self._blank(entry)
        for entry in self._events_of_trip.pop(trip_id, ()):
            # It is read again, and names the trip no more.
            self._blank(entry)

    def _blank(self, entry: Entry) -> None:
        self._bytes -= len(entry.frame or b"")
        entry.frame = None
        self._unname(entry)
        self._fleets[entry.fleet_id].erased += 1

    def _unname(self, entry: Entry) -> None:
        """No trip leads to the event any more."""
        if entry.trip_id is not None:
            named = self._events_of_trip.get(entry.trip_id, set())
            named.discard(entry)
            if not named:
                self._events_of_trip.pop(entry.trip_id, None)
            entry.trip_id = None

    def _forget_all(self, number: int) -> None:
        """Memory begins after this number."""
        self._floor = number
        self._fleets.clear()
        self._order.clear()
        self._bytes = 0
        for index in (self._of_vehicle, self._of_trip, self._events_of_trip):
            index.clear()

    # --- what goes out ------------------------------------------------------------------------------------------------

    async def begin(self) -> int:
        """The number of the last change that this hub knows of. Raises `StoreUnavailable` where there is none yet."""
        await self._begin()
        if self._floor is None:
            self._floor = self._applied()
        return self._applied()

    async def check(self, after: int) -> None:
        """Raises `Refusal` (`gone`) where nobody was given this cursor: the log ends before it."""
        if after > self._applied():
            with contextlib.suppress(StoreUnavailable):  # what memory has is shown all the same
                async with self._database.connection() as connection:
                    head = await changes.head(connection)
                # Another hub may be ahead of this one.
                if after > max(self._applied(), head.number if head is not None else 0):
                    raise _gone(f"the log ends before change {after}: the database went back to an earlier state")

    async def page(self, fleet_id: str, after: int, limit: int, holder: str, most_bytes: int = PAGE_BYTES) -> Page:
        """The first `limit` changes past `after`; fewer where they have more than `most_bytes`. `holder` is who asks.

        Raises `Refusal` (`gone`), and `StoreUnavailable` where the first of them must be read.
        """
        while True:
            if not self.is_held(fleet_id, after):
                return await self._stored(fleet_id, after, limit, holder, most_bytes)
            fleet = self._fleets.get(fleet_id)
            if fleet is None:
                return Page([], max(after, self._applied()))
            entries, unread, last = _collect(fleet, after, limit, most_bytes, self._applied())
            if not unread:
                return Page(entries, last)
            try:
                await self._read(fleet_id, unread)
            except StoreUnavailable:
                # What comes before the first that is not known can be shown.
                known = [entry for entry in entries if entry.number < unread[0].number]
                if not known:
                    raise
                return Page(known, known[-1].number)

    async def _stored(self, fleet_id: str, after: int, limit: int, holder: str, most_bytes: int) -> Page:
        async with self._readings.enter(holder):
            entries: list[Entry] = []
            size = 0
            # What is applied is committed, and what comes after it is taken from memory.
            to = self._applied()
            last = after
            while True:
                erased = self._erased(fleet_id)
                wanted = min(STORED_AT_ONCE, limit - len(entries))
                async with self._database.snapshot() as connection:
                    kept = await changes.kept_after(connection)
                    rows = await changes.of_fleet(connection, fleet_id, last, to, wanted)
                if last < kept:
                    if entries:
                        return Page(entries, last)
                    raise _gone(f"what came after change {last} is not kept any more")
                found = [Entry(fleet_id, row) for row in rows]
                read = await self._read(fleet_id, [entry for entry in found if entry.is_unread])
                if not read or erased != self._erased(fleet_id):
                    continue
                for entry in found:
                    last = entry.number
                    if entry.frame is not None:
                        entries.append(entry)
                        size += len(entry.frame)
                    if size >= most_bytes:
                        return Page(entries, last)
                if len(rows) < wanted:
                    return Page(entries, max(after, to))
                if len(entries) >= limit:
                    return Page(entries, last)

    def _erased(self, fleet_id: str) -> int:
        fleet = self._fleets.get(fleet_id)
        return fleet.erased if fleet is not None else 0

    async def _read(self, fleet_id: str, entries: Sequence[Entry]) -> bool:
        """Reads the events of these; False where something was erased meanwhile, so that they are to be read again.

        An event that is gone is left out.
        """
        if not entries:
            return True
        erased = self._erased(fleet_id)
        asked = [entry.event for entry in entries if entry.event is not None]
        found = await asyncio.gather(*(self._events.get(event) for event in asked), return_exceptions=True)
        for error in found:
            if isinstance(error, StoreUnavailable):
                raise error
        if erased != self._erased(fleet_id):
            return False
        for entry, event in zip(entries, found, strict=True):
            if not entry.is_unread:
                continue  # somebody else has read it
            if isinstance(event, BaseException):
                # One that a newer version wrote, say.
                logger.error("event %s can't be read, and is left out", entry.event, exc_info=event)
            if not isinstance(event, Event):
                entry.event = None
                continue
            entry.show(msgspec.json.encode(event))
            if self._is_held(entry):
                self._bytes += len(entry.frame or b"")
                if event.trip_id is not None:
                    entry.trip_id = event.trip_id
                    self._events_of_trip.setdefault(event.trip_id, set()).add(entry)
        self._make_room()
        return True

    def _is_held(self, entry: Entry) -> bool:
        fleet = self._fleets.get(entry.fleet_id)
        if fleet is None:
            return False
        place = bisect_right(fleet.numbers, entry.number - 1, fleet.first)
        return place < len(fleet.entries) and fleet.entries[place] is entry

    async def _read_events(self, ids: list[int]) -> Mapping[int, Event]:
        async with self._database.connection() as connection:
            return await events.by_id(connection, ids)

    def is_beyond(self, fleet_id: str, after: int) -> bool:
        """Whether the fleet has a change past `after`, as far as memory knows."""
        if not self.is_held(fleet_id, after):
            return True
        fleet = self._fleets.get(fleet_id)
        return fleet is not None and len(fleet.numbers) > fleet.first and fleet.numbers[-1] > after

    def is_held(self, fleet_id: str, after: int) -> bool:
        """Whether memory has all of the fleet's changes past `after`, but for events that were not asked for yet."""
        fleet = self._fleets.get(fleet_id)
        floor = fleet.floor if fleet is not None else self._floor
        return floor is not None and after >= floor

    # --- readers ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self, principal: Principal, fleet_id: str) -> Iterator[Reader]:
        """A reader, for as long as it stays. Raises `Refusal` (`rate_limited`, `unavailable`) where there are too many."""
        holder = principal.jti
        # A backend stands for all its fleets. What it leaves is for everybody else.
        service = principal.role is Role.SERVICE
        most = max(self._per_token, self._most_readers // 2) if service else self._per_token
        if self._held[holder] >= most:
            raise Refusal(
                ErrorCode.RATE_LIMITED,
                f"{most} readers of changes are connected with this token: close one, or give each fleet's reader a token",
                retry_after=RETRY_AFTER,
            )
        if len(self._readers) >= self._most_readers or self._closed:
            detail = f"{self._most_readers} readers of changes are connected, no more have a place: try again in a while"
            raise Refusal(ErrorCode.UNAVAILABLE, detail, retry_after=RETRY_AFTER)
        reader = Reader(self, principal, fleet_id)
        self._held[holder] += 1
        self._readers.add(reader)
        CHANGE_READERS.inc()
        if self._checking is None:
            self._checking = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check_readers)
        try:
            yield reader
        finally:
            CHANGE_READERS.dec()
            self._readers.discard(reader)
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    def _check_readers(self) -> None:
        """One timer for all: whether they may go on reading."""
        self._checking = None
        if self._readers:
            self._checking = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check_readers)
        for reader in list(self._readers):
            try:
                self._auth.check_still(reader.principal)
            except TokenRefused as refused:
                self._refuse(reader, refused)

    def refuse(self, removed: Collection[Key]) -> None:
        """Ends the readers whose token was verified with a key that the provider took out."""
        keys = {id(key) for key in removed}
        for reader in list(self._readers):
            if reader.principal.key is not None and id(reader.principal.key) in keys:
                detail = "the key of this token was taken out of the JWKS"
                self._refuse(reader, TokenRefused(CloseCode.INVALID_TOKEN, detail))

    def _refuse(self, reader: Reader, refused: TokenRefused) -> None:
        reader.refused = reader.refused or refused
        reader.end("access")

    def close(self) -> None:
        """Ends all readers: this memory shows nothing any more."""
        self._closed = True
        for reader in list(self._readers):
            reader.end("stop")


def _collect(fleet: _Fleet, after: int, limit: int, most_bytes: int, applied: int) -> tuple[list[Entry], list[Entry], int]:
    """What is held past `after`: entries to be shown, those among them that must be read first, and the cursor after them."""
    found: list[Entry] = []
    unread: list[Entry] = []
    size = 0
    for place in range(bisect_right(fleet.numbers, after, fleet.first), len(fleet.entries)):
        entry = fleet.entries[place]
        if entry.frame is not None:
            size += len(entry.frame)
        elif entry.event is not None:
            unread.append(entry)
        else:
            continue
        found.append(entry)
        if len(found) >= limit or size >= most_bytes or len(unread) >= EVENTS_AT_ONCE:
            return found, unread, entry.number
    return found, unread, max(after, applied)


def _drop_first(index: dict[Named, deque[Entry]], key: Named | None, entry: Entry) -> None:
    """Takes the oldest entry out of an index, which has them in their order."""
    entries = index.get(key) if key is not None else None
    if key is not None and entries and entries[0] is entry:
        entries.popleft()
        if not entries:
            del index[key]


def _gone(what: str) -> Refusal:
    return Refusal(
        ErrorCode.GONE,
        f"{what}. Ask without `after` for where the log ends, read the fleet's vehicles and trips anew, and go on from there",
        field="after",
    )


def _iso(at: int) -> bytes:
    try:
        return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    except (ValueError, OverflowError, OSError):
        return b"9999-12-31T23:59:59.999Z"  # a clock of the database that was wrong
