"""The side branch of durability: fixes wait here in order, are committed in groups, and only then acknowledged."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

import asyncpg

from tracking.errors import ErrorCode, StoreUnavailable, StoreWentBack
from tracking.ingest.acks import Acks
from tracking.ingest.vehicles import GRACE_MS, TRIP_UNKNOWN, Filed, Session, span_at, windows_of
from tracking.metrics import COMMIT_FAILURES, COMMIT_SECONDS, QUEUE, STORED
from tracking.model import Position
from tracking.protocol.driver import Rejected
from tracking.store import batch, positions, sessions, trips
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection, Database

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_FAULTS_OF_FIXES = (asyncpg.DataError, asyncpg.UniqueViolationError)
"""What may be wrong with a fix itself. Every other error is the database's, and is waited out."""


MAX_ROWS = 20_000
"""Fixes in one group at the most, however many wait: some 3 MB, and some tenths of a second of the database's time."""
ENTRIES_AT_ONCE = 8_000
SESSIONS_AT_ONCE = 500
"""What of a group is gone through before others have their turn: 2 to 4 ms of work. Not less: with each turn all drivers are
heard who have something to say, and the recorder must get on by more fixes than come meanwhile."""
MAX_REFUSED = 100
"""Fixes of a session that the database refused, and that are remembered as such: whoever waits for them is told."""


class Entry(NamedTuple):
    """One handled fix: a position to be stored, or a rejection to be remembered."""

    session: Session
    seq: int
    position: Position | None
    rejected: Rejected | None


class Recorder:
    """Batched writer. `offer` takes what was accepted, in order; `run` commits and acknowledges until it is cancelled.

    `interval` (s) is how long a group may fill, `rows` how many fixes make it full, `limit` how many may wait in all; `acks`
    is told of each session's share of a group. A group takes all that waits, up to `MAX_ROWS`: where commits are slow more
    wait, and so the larger groups make up for it.
    After COMMIT `on_live` is told of each position that moved the marker, `on_late` of plausible ones that came too late to,
    and `on_stored` of the whole group.
    """

    def __init__(
        self,
        database: Database,
        *,
        interval: float,
        rows: int,
        limit: int,
        acks: Acks,
        on_live: Callable[[Position], None] = lambda _: None,
        on_late: Callable[[list[Position]], None] = lambda _: None,
        on_stored: Callable[[Sequence[Entry]], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._interval = interval
        self._rows = rows
        self._most = max(rows, MAX_ROWS)
        """Fixes in the next group at the most: after trouble few, and more with each group that is stored, because a group that
        takes longer than a statement may would be tried in vain for ever."""
        self._limit = limit
        self._acks = acks
        self._on_live = on_live
        self._on_late = on_late
        self._on_stored = on_stored
        self._waiting: deque[Entry] = deque()
        self._group: list[Entry] = []
        self._by_trip: dict[str, list[Position]] = {}
        """Those of the group and of what waits that `pending` has looked at, `_looked_at` entries from the first on: while the
        database is away a hundred thousand wait, and thousands of passengers come back."""
        self._by_vehicle: dict[int, list[Position]] = {}
        """The same by vehicle."""
        self._looked_at = 0
        self._erased: set[int] = set()
        """Numbers of vehicles that were removed while something of them waited, which is not to be shown any more."""
        self._taken = 0
        """Fixes that were taken into groups until now."""
        self._stored = asyncio.Event()
        """Set, and another one put in its place, with each group that is done."""
        self._arrived = asyncio.Event()
        self._full_group = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_progress: Callable[[], None] = lambda: None
        """Told when `done` rises, and when there is trouble."""
        self._awaited: dict[Session, list[tuple[int, asyncio.Future[None]]]] = {}
        """Who waits until a session's seq is handled: nobody for most."""
        self._given_up: StoreUnavailable | None = None
        self._days: set[int] = set()
        self.trouble: str | None = None
        """Why nothing is being committed, while that is so."""

    @property
    def full(self) -> bool:
        return len(self._waiting) + len(self._group) >= self._limit

    @property
    def offered(self) -> int:
        """Fixes that were offered until now; they are stored in this order."""
        return self._taken + len(self._waiting)

    @property
    def done(self) -> int:
        """How many of them are stored, or rejected, for good."""
        return self._taken - len(self._group)

    def offer(self, entry: Entry) -> None:
        """Takes a fix for storage. The caller asks `full` first."""
        self._waiting.append(entry)
        self._idle.clear()
        self._arrived.set()
        if len(self._waiting) >= self._rows:
            self._full_group.set()

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed: `pending` does not give what waits of them, and it is not stored."""
        if not self._idle.is_set():
            self._erased.update(vehicles)
            self._forget_looks()

    async def settled(self) -> None:
        """Waits until all that was offered until now is stored, whatever comes meanwhile."""
        last = self._taken + len(self._waiting)
        while self._taken - len(self._group) < last:
            await self._stored.wait()

    async def handled(self, session: Session, seq: int) -> None:
        """Waits until all up to this seq, which was offered, is committed or rejected. Raises what `give_up` was given."""
        if session.handled >= seq:
            return
        if self._given_up is not None:
            raise _another(self._given_up)
        one = seq, asyncio.get_running_loop().create_future()
        self._awaited.setdefault(session, []).append(one)
        try:
            await one[1]
        finally:
            # Whoever asked may have gone.
            waiting = self._awaited.get(session)
            if waiting is not None and one in waiting:
                waiting.remove(one)
                if not waiting:
                    del self._awaited[session]

    def give_up(self, error: StoreUnavailable) -> None:
        """Nothing more is committed: whoever waits, or will, is told why."""
        self._given_up = error
        awaited, self._awaited = self._awaited, {}
        for waiting in awaited.values():
            for _, future in waiting:
                if not future.done():
                    future.set_exception(_another(error))

    def _tell_awaited(self, session: Session) -> None:
        waiting = self._awaited.pop(session, None)
        if waiting is None:
            return
        for seq, future in waiting:
            if seq > session.handled:
                self._awaited.setdefault(session, []).append((seq, future))
            elif not future.done():
                future.set_result(None)

    def pending(self, trip_id: str) -> Sequence[Position]:
        """The trip's positions that are not known to be committed, in order of arrival; read them at once, more may join."""
        self._look()
        return self._by_trip.get(trip_id, ())

    def pending_of(self, vehicle: int) -> Sequence[Position]:
        """The same of a vehicle, by its number."""
        self._look()
        return self._by_vehicle.get(vehicle, ())

    def _look(self) -> None:
        by_trip, by_vehicle, erased = self._by_trip, self._by_vehicle, self._erased
        for entry in self._not_looked_at():
            position = entry.position
            if position is None or position.vehicle in erased:
                continue
            by_vehicle.setdefault(position.vehicle, []).append(position)
            if position.trip_id is not None:
                by_trip.setdefault(position.trip_id, []).append(position)
        self._looked_at = len(self._group) + len(self._waiting)

    def file_anew(self, positions: Sequence[Position], filed: Sequence[Filed]) -> None:
        """These positions, which `pending_of` gave, belong to these trips. What of them is being committed just now may be
        stored with either."""
        changed = {id(position) for position in positions}
        for left in {position.trip_id for position in positions if position.trip_id is not None}:
            if left in self._by_trip:
                self._by_trip[left] = [one for one in self._by_trip[left] if id(one) not in changed]
        for position, (trip, trip_id) in zip(positions, filed, strict=True):
            position.trip, position.trip_id = trip, trip_id
            if trip_id is not None:
                self._by_trip.setdefault(trip_id, []).append(position)
        for joined in {trip_id for _, trip_id in filed if trip_id is not None}:
            # In order of arrival, as before.
            self._by_trip[joined].sort(key=_arrival)

    async def group_settled(self) -> None:
        """Waits until the group is stored that is being committed now."""
        last = self._taken
        while self.done < last:
            await self._stored.wait()

    def _not_looked_at(self) -> Iterator[Entry]:
        new = len(self._group) + len(self._waiting) - self._looked_at
        if new > len(self._waiting):
            yield from self._group[len(self._waiting) - new :]
        # From the end, which is near: a deque has to be walked through.
        yield from reversed(list(islice(reversed(self._waiting), new)))

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._fill()
            self._take(self._most)
            if not self._waiting:
                self._arrived.clear()
            if len(self._waiting) < self._rows:
                self._full_group.clear()
            QUEUE.set(len(self._waiting) + len(self._group))
            await self._commit_until_done(self._group)
            self._most = max(self._rows, min(2 * self._most, MAX_ROWS))
            self._let_go()
            self._stored.set()
            self._stored = asyncio.Event()
            if not self._waiting:
                QUEUE.set(0)
                self._erased.clear()
                self._idle.set()

    def _take(self, most: int) -> None:
        self._group = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._taken += len(self._group)

    def _let_go(self) -> None:
        self._group = []
        self._forget_looks()
        self.on_progress()

    def _forget_looks(self) -> None:
        self._by_trip.clear()
        self._by_vehicle.clear()
        self._looked_at = 0

    async def flush(self) -> None:
        """Waits until nothing waits for the database."""
        await self._idle.wait()

    async def _fill(self) -> None:
        if self._interval > 0 and not self._full_group.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full_group.wait(), self._interval)

    async def _commit_until_done(self, group: Sequence[Entry]) -> None:
        if self.trouble is None:
            try:
                return await self._commit_whatever_is_in(group)
            except Exception as error:
                self._note_trouble(error)
        # Whatever the trouble is, giving up would leave every driver without an ack for ever.
        attempts = batch.until_stored(
            lambda error: isinstance(error, Exception),
            lambda state: self._note_trouble(state.outcome.exception() if state.outcome is not None else None),
        )
        async for attempt in attempts:
            with attempt:
                # What of it is committed already, by a try that went on to fail, is not stored again.
                left = [entry for entry in group if entry.seq > entry.session.handled]
                for start in range(0, len(left), self._rows):
                    await self._commit_whatever_is_in(left[start : start + self._rows])
        if self.trouble is not None:
            logger.warning("storing again; %d fixes waited", len(group) + len(self._waiting))
            self.trouble = None

    async def _commit_whatever_is_in(self, group: Sequence[Entry]) -> None:
        await batch.store("fixes", group, self._commit, _FAULTS_OF_FIXES, self._reject)

    def _note_trouble(self, error: BaseException | None) -> None:
        COMMIT_FAILURES.inc()
        if isinstance(error, StoreWentBack):
            self.give_up(error)
        # A partition may have been dropped behind our back.
        self._days.clear()
        self._most = self._rows
        if self.trouble is None:
            known = isinstance(error, StoreUnavailable | asyncpg.PostgresError)
            logger.warning("not storing, acknowledging nothing, trying again: %s", error, exc_info=None if known else error)
        self.trouble = str(error) or type(error).__name__
        self.on_progress()

    async def _reject(self, entry: Entry, error: Exception) -> None:
        logger.error("rejected seq %d of session %d, which the database refuses: %s", entry.seq, entry.session.number, error)
        rejected = Rejected(entry.seq, ErrorCode.BAD_FIELD, "the database refused this fix")
        _note_refused(entry.session, rejected)
        await self._commit([Entry(entry.session, entry.seq, None, rejected)])

    async def _commit(self, group: Sequence[Entry]) -> None:
        handled: dict[Session, int] = {}
        rejected: dict[Session, list[Rejected]] = {}
        days = self._days
        missing: set[int] = set()
        unplaced: list[Position] = []
        async for part in _parts(group, ENTRIES_AT_ONCE):
            for session, seq, position, refused in part:
                handled[session] = seq
                if refused is not None:
                    rejected.setdefault(session, []).append(refused)
                elif position is not None:
                    if (day := position.fix_time // DAY_MS) not in days:
                        missing.add(day)
                    if position.trip == TRIP_UNKNOWN:
                        unplaced.append(position)
        if missing:
            await self.make_partitions(missing)
        if unplaced:
            await self._place(unplaced)
        with COMMIT_SECONDS.time():
            stored = await self._store(group, handled)
        STORED.value += stored
        async for sessions_of_part in _parts(list(handled.items()), SESSIONS_AT_ONCE):
            for session, seq in sessions_of_part:
                session.handled = max(session.handled, seq)
                if self._awaited:
                    self._tell_awaited(session)
                self._acks.handled(session, rejected.get(session, ()))
        # Of the whole group, not of what this try stored: a try whose answer was lost told nobody.
        async for part in _parts(group, ENTRIES_AT_ONCE):
            late: list[Position] = []
            for _, _, position, _ in part:
                if position is None:
                    continue
                if position.live:
                    self._on_live(position)
                elif position.trip_id is not None and not position.suspect:
                    late.append(position)
            if late:
                self._on_late(late)
            self._on_stored(part)

    async def _store(self, group: Sequence[Entry], handled: dict[Session, int]) -> int:
        """How many positions this try stored."""
        async with self._database.transaction() as connection:
            others = await sessions.move(
                connection, [s.number for s in handled], list(handled.values()), [s.handled for s in handled]
            )
            if others:
                # A seq at or below what the row had was committed by a try whose answer was lost. A session without a row that
                # can't be put back belonged to a vehicle that was erased, as this transaction found the store to be the one we
                # know: its fixes must not come back.
                if None in others.values():
                    others |= await _put_back(connection, group, handled, others)
                fresh = [e.position for e in group if e.position is not None and _is_fresh(e, others)]
            else:
                fresh = [e.position for e in group if e.position is not None]
            if fresh:
                await positions.insert(connection, fresh)
        return len(fresh)

    async def _place(self, unplaced: Sequence[Position]) -> None:
        """Gives positions that are older than the spans in memory the trip that the store has for their time."""
        by_vehicle: dict[int, list[Position]] = {}
        for position in unplaced:
            by_vehicle.setdefault(position.vehicle, []).append(position)
        for vehicle, found in by_vehicle.items():
            first, last = min(p.fix_time for p in found), max(p.fix_time for p in found)
            async with self._database.connection() as connection:
                spans = await trips.spans_of_vehicle(connection, vehicle, first, until=last + GRACE_MS)
            windows = windows_of(spans)
            for position in found:
                span = span_at(windows, position.fix_time)
                position.trip, position.trip_id = (span.trip, span.trip_id) if span is not None else (None, None)

    def forget_partitions(self) -> None:
        """Partitions known to be there are made sure of again when they are needed: days go by, and each is one."""
        self._days.clear()

    async def make_partitions(self, days: set[int]) -> None:
        """Makes the partitions of these UTC days, counted from 1970-01-01."""
        async with self._database.transaction() as connection:
            for day in sorted(days):
                await positions.ensure_partition(connection, day)
                self._days.add(day)


def _arrival(position: Position) -> int:
    return position.server_time


def _another(error: StoreUnavailable) -> StoreUnavailable:
    """The same error for one more who waits: each adds to its traceback."""
    return type(error)(*error.args)


def _note_refused(session: Session, rejected: Rejected) -> None:
    if session.refused is None:
        session.refused = {}
    session.refused[rejected.seq] = rejected
    if len(session.refused) > MAX_REFUSED:
        del session.refused[next(iter(session.refused))]


async def _parts(items: Sequence[Item], size: int) -> AsyncIterator[Sequence[Item]]:
    """The items, so many at a time; between them others have their turn."""
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + size]


async def _put_back(
    connection: Connection, group: Sequence[Entry], handled: dict[Session, int], others: dict[int, int | None]
) -> dict[int, int]:
    """Puts those of the `others` without a row back whose vehicle exists; by session what was handled before this group.

    One that brings only rejections is left out: until it brings a position, nothing of it has to be known.
    """
    lost = {e.session: e.position.vehicle for e in group if e.position is not None and others.get(e.session.number, 0) is None}
    if not lost:
        return {}
    rows = [(session.number, vehicle, session.name, handled[session]) for session, vehicle in lost.items()]
    back = await sessions.put_back(connection, rows)
    return {session.number: session.handled for session in lost if session.number in back}


def _is_fresh(entry: Entry, others: dict[int, int | None]) -> bool:
    number = entry.session.number
    if number not in others:
        return True
    before = others[number]
    return before is not None and entry.seq > before
