"""The recorder commits fixes in groups, and acknowledges them afterwards. The live map does not wait for it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import asyncpg

from tracking.errors import ErrorCode, HomeLost, StoreUnavailable, StoreWentBack
from tracking.ingest import moving
from tracking.ingest.acks import Acks
from tracking.ingest.backlogs import Backlogs
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.latest import Latest
from tracking.ingest.vehicles import GRACE_MS, TRIP_UNKNOWN, Home, Session, span_at, windows_of
from tracking.metrics import COMMIT_FAILURES, COMMIT_SECONDS, QUEUE, STORED
from tracking.model import Position
from tracking.protocol.driver import Rejected
from tracking.store import batch, homes, positions, trips
from tracking.store.days import DAY_MS
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_FAULTS_OF_FIXES = (asyncpg.DataError, asyncpg.UniqueViolationError)
"""Errors that a fix itself may cause. Any other error is the database's, and the recorder waits for its end."""

MAX_ROWS = 20_000
"""Fixes in one group, however many wait: some 3 MB, and some tenths of a second of the database's time."""
ENTRIES_AT_ONCE = 8_000
SESSIONS_AT_ONCE = 500
"""How much of a group is processed before other tasks run: 2 to 4 ms of work.

Smaller parts would not do. In each turn all drivers with new fixes are read, and the recorder must be faster than they are.
"""
MAX_REFUSED = 100
"""Refused fixes of a session that are remembered. Callers of `handled` read them for the result."""


class LateFixes(Protocol):
    """Shows positions that came too late to move the marker. `history.revisions` does."""

    def late(self, late: list[Position]) -> None: ...


class StoredFixes(Protocol):
    """Keeps what is derived from stored fixes up to date. `history.summaries` does."""

    def stored(self, group: Sequence[Entry]) -> None: ...


class Recorder:
    """Commits and acknowledges what is in the queue. `run` does so until it is cancelled.

    A group may fill for as many seconds as `interval` returns. It takes all that waits, up to `MAX_ROWS`. If commits are slow,
    more fixes wait, and the larger groups make up for it.
    After COMMIT `acks` learns each session's share of the group, and `latest` each position that moved the marker. `late`
    learns the plausible positions that came too late for that, and `stored` the whole group.
    """

    def __init__(
        self,
        queue: CommitQueue,
        database: Database,
        *,
        interval: Callable[[], float],
        acks: Acks,
        latest: Latest,
        backlogs: Backlogs,
        late: LateFixes,
        stored: StoredFixes,
    ) -> None:
        self.queue = queue
        self.latest = latest
        self._database = database
        self._interval = interval
        self._acks = acks
        self._backlogs = backlogs
        self._late_fixes = late
        self._stored_fixes = stored
        self._most = max(queue.rows, MAX_ROWS)
        """Fixes in the next group at the most.

        It is small after a failure and grows with each group that is stored. Otherwise a group that takes longer than the
        limit of a statement would fail for ever.
        """
        self._stored = asyncio.Event()
        """Set with each group that is done, and then replaced by a new one."""
        self._awaited: dict[Session, list[tuple[int, asyncio.Future[None]]]] = {}
        """Callers that wait until a session's seq is handled. Most sessions have none."""
        self._given_up: StoreUnavailable | None = None
        self._days: set[int] = set()
        """Days, counted from 1970-01-01, that are known to have a partition."""
        self.on_lost: Callable[[Mapping[Home, homes.Home | None]], None] = lambda _: None
        """Told of homes that the database refused, with who has them now. Set by `cluster.homes`."""
        self.trouble: str | None = None
        """Why nothing is being committed, while that is so."""

    @property
    def full(self) -> bool:
        """The queue can take no more."""
        return self.queue.full

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed."""
        self.queue.forget(vehicles)

    # --- waiting for commits ----------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Waits until nothing waits for the database."""
        await self.queue.idle.wait()

    async def settled(self) -> None:
        """Waits until all that was offered until now is stored. It does not wait for what comes meanwhile."""
        await self._until_done(self.queue.offered)

    async def group_settled(self) -> None:
        """Waits until the group is stored that is being committed now."""
        await self._until_done(self.queue.taken)

    async def _until_done(self, count: int) -> None:
        while self.queue.done < count:
            await self._stored.wait()

    async def handled(self, session: Session, seq: int) -> None:
        """Waits until all up to this seq, which was offered, is committed or rejected. Raises the error of `give_up`."""
        if session.handled >= seq:
            return
        if session.home.lost:
            raise HomeLost("another hub is this vehicle's home now: come back and send it again")
        if self._given_up is not None:
            raise _another(self._given_up)
        one = seq, asyncio.get_running_loop().create_future()
        self._awaited.setdefault(session, []).append(one)
        try:
            await one[1]
        finally:
            # The caller may have been cancelled.
            waiting = self._awaited.get(session)
            if waiting is not None and one in waiting:
                waiting.remove(one)
                if not waiting:
                    del self._awaited[session]

    def give_up(self, error: StoreUnavailable) -> None:
        """Nothing more is committed. Callers that wait now or later get this error."""
        self._given_up = error
        awaited, self._awaited = self._awaited, {}
        for waiting in awaited.values():
            for _, future in waiting:
                if not future.done():
                    future.set_exception(_another(error))

    def drop(self, dropped: Iterable[Session]) -> None:
        """The home of these sessions was lost. Callers that wait for them get `HomeLost`."""
        self.queue.drop_lost()
        for session in dropped:
            for _, future in self._awaited.pop(session, ()):
                if not future.done():
                    future.set_exception(HomeLost("another hub is this vehicle's home now: come back and send it again"))

    def _tell_awaited(self, session: Session) -> None:
        waiting = self._awaited.pop(session, None)
        if waiting is None:
            return
        for seq, future in waiting:
            if seq > session.handled:
                self._awaited.setdefault(session, []).append((seq, future))
            elif not future.done():
                future.set_result(None)

    # --- committing -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        queue = self.queue
        while True:
            await queue.arrived.wait()
            await self._fill()
            group = queue.take(self._most)
            QUEUE.set(len(queue.waiting) + len(group))
            await self._commit_until_done(group)
            self._most = max(queue.rows, min(2 * self._most, MAX_ROWS))
            queue.let_go()
            self._backlogs.progress()
            self._stored.set()
            self._stored = asyncio.Event()
            if not queue.waiting:
                QUEUE.set(0)

    async def _fill(self) -> None:
        interval = self._interval()
        if interval > 0 and not self.queue.full_group.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.queue.full_group.wait(), interval)

    async def _commit_until_done(self, group: Sequence[Entry]) -> None:
        if self.trouble is None:
            try:
                return await self._commit_or_reject(group)
            except Exception as error:
                self._note_trouble(error)
        # The recorder never gives up. Otherwise no driver would be acknowledged any more.
        attempts = batch.until_stored(
            lambda error: isinstance(error, Exception),
            lambda state: self._note_trouble(state.outcome.exception() if state.outcome is not None else None),
        )
        async for attempt in attempts:
            with attempt:
                # An attempt that failed later may have committed some of it. This is not stored again.
                left = [entry for entry in group if entry.seq > entry.session.handled]
                for start in range(0, len(left), self.queue.rows):
                    await self._commit_or_reject(left[start : start + self.queue.rows])
        if self.trouble is not None:
            logger.warning("storing again; %d fixes waited", len(group) + len(self.queue.waiting))
            self.trouble = None
            self.queue.stalled = False

    async def _commit_or_reject(self, group: Sequence[Entry]) -> None:
        await batch.store("fixes", group, self._commit, _FAULTS_OF_FIXES, self._reject)

    def _note_trouble(self, error: BaseException | None) -> None:
        COMMIT_FAILURES.inc()
        if isinstance(error, StoreWentBack):
            self.give_up(error)
        # Somebody may have dropped a partition.
        self._days.clear()
        self._most = self.queue.rows
        if self.trouble is None:
            known = isinstance(error, StoreUnavailable | asyncpg.PostgresError)
            logger.warning("not storing, acknowledging nothing, trying again: %s", error, exc_info=None if known else error)
        self.trouble = str(error) or type(error).__name__
        self.queue.stalled = True
        self._backlogs.progress()

    async def _reject(self, entry: Entry, error: Exception) -> None:
        logger.error("rejected seq %d of session %d: the database refuses it: %s", entry.seq, entry.session.number, error)
        rejected = Rejected(entry.seq, ErrorCode.BAD_FIELD, "the database refused this fix")
        _note_refused(entry.session, rejected)
        await self._commit([Entry(entry.session, entry.seq, None, rejected)])

    async def _commit(self, group: Sequence[Entry]) -> None:
        if self.queue.has_lost:
            group = [entry for entry in group if not entry.session.home.lost]
        if not group:
            return
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
            stored, lost = await self._store(group, handled)
        STORED.value += stored
        if lost:
            self.on_lost(lost)
            group = [entry for entry in group if entry.session.home not in lost]
            for session in [session for session in handled if session.home in lost]:
                del handled[session]
        async for sessions_of_part in _parts(list(handled.items()), SESSIONS_AT_ONCE):
            for session, seq in sessions_of_part:
                session.handled = max(session.handled, seq)
                if self._awaited:
                    self._tell_awaited(session)
                self._acks.handled(session, rejected.get(session, ()))
        # This covers the whole group. An earlier attempt whose answer was lost has not notified anybody.
        async for part in _parts(group, ENTRIES_AT_ONCE):
            late: list[Position] = []
            for _, _, position, _ in part:
                if position is None:
                    continue
                if position.live:
                    self.latest.note(position)
                elif position.trip_id is not None and not position.suspect:
                    late.append(position)
            if late:
                self._late_fixes.late(late)
            self._stored_fixes.stored(part)

    async def _store(self, group: Sequence[Entry], handled: dict[Session, int]) -> tuple[int, dict[Home, homes.Home | None]]:
        """Stores the group in one transaction. Returns how many positions this attempt stored, and the homes that are lost.

        Nothing of a lost home is stored.
        """
        async with self._database.transaction() as connection:
            fresh, lost = await moving.move(connection, group, handled)
            if fresh:
                await positions.insert(connection, fresh)
        return len(fresh), lost

    async def _place(self, unplaced: Sequence[Position]) -> None:
        """Sets the trip of positions that are older than the spans in memory, from the spans in the store."""
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
        """Forgets which partitions exist, so that the set does not grow with every day. `_commit` checks them again."""
        self._days.clear()

    async def make_partitions(self, days: set[int]) -> None:
        """Creates the partitions of these UTC days, counted from 1970-01-01."""
        async with self._database.transaction() as connection:
            for day in sorted(days):
                await positions.ensure_partition(connection, day)
                self._days.add(day)


def _another(error: StoreUnavailable) -> StoreUnavailable:
    """A copy of the error for one more caller. Each caller that raises it adds to its traceback."""
    return type(error)(*error.args)


def _note_refused(session: Session, rejected: Rejected) -> None:
    if session.refused is None:
        session.refused = {}
    session.refused[rejected.seq] = rejected
    if len(session.refused) > MAX_REFUSED:
        del session.refused[next(iter(session.refused))]


async def _parts(items: Sequence[Item], size: int) -> AsyncIterator[Sequence[Item]]:
    """The items, `size` at a time. Other tasks run between the parts."""
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + size]
