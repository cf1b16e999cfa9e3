"""The follower: reads the change log in order and has the live state changed by it. Nothing else changes that, positions apart.

It is woken by this hub's own commits and by PostgreSQL's notifications, and asks every half second besides: a notification does
not pass every pooler.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import asyncpg

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.metrics import CHANGES, CHANGES_BEHIND, CHANGES_FAILED, DATABASE_CLOCK
from tracking.model import Clock, system_clock
from tracking.store import changes
from tracking.store.changes import Change, ChangeKind, Cursor, Row
from tracking.store.marks import Marks
from tracking.store.pool import AWAY, Connection, Database

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
REST_SECONDS = 0.003
"""Between two readings of a log that is never read to its end: what comes meanwhile is read together."""
ROWS_AT_ONCE = 500
SLICE_SECONDS = 0.004
"""Of the event loop, in one go, for what is applied."""
WAIT_SECONDS = 1.0
"""How long whoever changed something waits until this hub has applied it."""
LISTEN_AGAIN_SECONDS = 1.0
HEARTBEAT_SECONDS = 60.0
TRIED_ANEW = 5
"""So often a row is read by itself, where what it concerns came into memory meanwhile each time."""
MAX_LOGGED = 100
CLOCK_SECONDS = 10.0
"""Between two looks at the database's clock."""
CLOCK_TOLERANCE_MS = 1_000
"""By which the database's clock may differ from the hub's: as in `span_instant`."""

State = TypeVar("State")


class NotRead(Exception):
    """What the row concerns came into memory while the others of its reading were read: it is read by itself."""


class NotUnderstood(Exception):
    """Another version wrote the row. What it names was applied as it is now; what else it means is not known here."""


class Follows(Protocol[State]):
    """The live state, as the follower changes it."""

    async def read(self, connection: Connection, rows: Sequence[Row]) -> State:
        """Reads what these rows concern and this hub holds, as it is now: newer than the rows, it may be."""
        ...

    def apply(self, row: Row, state: State, as_of: int) -> Awaitable[None] | None:
        """Applies one row, in order. `state` knows of all changes up to the number `as_of`, and may know of later ones.

        It may give work that goes on after it; whoever waits for the row's transaction waits for that too. Raises
        `NotRead`, and `NotUnderstood` when the row is applied.
        """
        ...

    def give_up(self, row: Row) -> None:
        """The row can't be applied, or what it concerns can't be read: it is to be read anew when it is needed."""
        ...


class Transactions(Protocol):
    """What a service needs of the follower."""

    def transaction(self) -> contextlib.AbstractAsyncContextManager["Transaction"]:
        """A transaction on the store that may tell something: see `Follower.transaction`."""
        ...


class Follower(Generic[State]):
    """`run` follows the log until it is cancelled; `listen` and `beat` are tasks beside it.

    The log is read from `database`, and `writing` is for the transactions of those who change something. `on_applied` is given
    each row that was applied, in order.
    """

    def __init__(
        self,
        database: Database,
        writing: Database,
        marks: Marks,
        live: Follows[State],
        *,
        clock: Clock = system_clock,
        on_applied: Callable[[Row], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._writing = writing
        self._marks = marks
        self._live = live
        self._clock = clock
        self._on_applied = on_applied
        self._cursor: Cursor | None = None
        self._beginning = asyncio.Lock()
        self._woken = asyncio.Event()
        self._expected: dict[int, asyncio.Future[None]] = {}
        """Who waits, by the number of the transaction."""
        self._applying = 0
        """The transaction whose rows are being applied."""
        self._works: list[asyncio.Future[None]] = []
        """What goes on after them."""
        self._going_on: set[asyncio.Future[None]] = set()
        """All of that: the event loop itself holds on to no task."""
        self._logged: set[str] = set()
        """Kinds of rows of another version that were logged."""
        self._made_at = time.monotonic()
        self.confirmed_at: float | None = None
        """When the log was last read to its end, by `time.monotonic`; None: never."""
        self.listening = False
        self.clock_offset = 0
        """By how much the database's clock is ahead of the hub's, at the least (ms); below 0: behind."""
        self._clock_due = 0.0
        CHANGES_BEHIND.set_function(lambda: self.behind)

    @property
    def applied(self) -> int:
        """The number of the last change that the live state knows of."""
        return self._cursor.number if self._cursor is not None else 0

    @property
    def behind(self) -> float:
        """Since when (s) the log was not read to its end."""
        return time.monotonic() - (self.confirmed_at if self.confirmed_at is not None else self._made_at)

    async def begin(self) -> None:
        """Takes up the log where it ends now. What is read of the store after this is kept up to date.

        Does nothing where that has been done. Raises `StoreUnavailable`.
        """
        if self._cursor is not None:
            return
        async with self._beginning:
            while self._cursor is None:
                async with self._database.connection() as connection:
                    self._cursor = await changes.head(connection)
                if self._cursor is None:
                    # A row is needed whose mark can be compared.
                    async with self._database.transaction() as connection:
                        await changes.heartbeat(connection)
                else:
                    self.confirmed_at = time.monotonic()

    @property
    def clock_ahead(self) -> int:
        """By how many ms the clock that spans are given by is ahead of the hub's: see `span_instant` in `sql/`."""
        return self.clock_offset if abs(self.clock_offset) <= CLOCK_TOLERANCE_MS else 0

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    # --- waiting for one's own ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """A transaction on the store that may tell something. It returns when this hub has applied what it told.

        After `WAIT_SECONDS` it returns all the same: it is committed. Raises as `Database.transaction` does; a COMMIT whose
        answer was lost is applied when the log shows it.
        """
        number: int | None = None
        applied: asyncio.Future[None] | None = None
        try:
            async with self._writing.transaction() as connection:
                transaction = Transaction(connection)
                yield transaction
                if transaction.changes:
                    transaction.number = await changes.append(connection, transaction.changes)
                number = transaction.number
                if number is not None:
                    applied = self._expected[number] = asyncio.get_running_loop().create_future()
            if applied is not None:
                self.wake()
                await asyncio.wait({applied}, timeout=WAIT_SECONDS)
        finally:
            if number is not None:
                self._expected.pop(number, None)

    # --- following ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        trouble = False
        while True:
            more = False
            # Before the reading: what comes meanwhile wakes it again.
            self._woken.clear()
            try:
                await self.begin()
                more = await self._read_on()
                trouble = False
            except StoreWentBack:
                # Another memory takes over, which reads all of it.
                await asyncio.Event().wait()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                if not trouble:
                    logger.warning("the change log can't be read now, trying again: %s", error)
                trouble = True
            if more or self._woken.is_set():
                await asyncio.sleep(0 if more else REST_SECONDS)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)

    async def _read_on(self) -> bool:
        """Applies the next rows; whether there may be more."""
        cursor = self._cursor
        assert cursor is not None
        state: State | None = None
        # No snapshot, which would be two more round trips: what is read after the rows is as new as they are, at least.
        async with self._database.connection() as connection:
            if time.monotonic() >= self._clock_due:
                await self._compare_clocks(connection)
            rows = await changes.read(connection, cursor, ROWS_AT_ONCE)
            if rows is None:
                self._marks.went_back.set()
                raise StoreWentBack("the change log is not the one that was read: the database went back")
            more = len(rows) == ROWS_AT_ONCE
            if rows:
                try:
                    state = await self._live.read(connection, rows)
                except (StoreUnavailable, *AWAY):
                    raise
                except Exception:
                    logger.exception("changes %d to %d: what they concern can't be read", rows[0].number, rows[-1].number)
        if rows:
            if state is None:
                await self._apply_apart(rows)
            elif not await self._apply(rows, state):
                return True
        if not more:
            # A transaction's rows are seen all at once, so the last one's are all applied.
            self._tell()
            self.confirmed_at = time.monotonic()
        return more

    async def _compare_clocks(self, connection: Connection) -> None:
        """Between question and answer lies its round trip: what is within that is no difference."""
        before = self._clock()
        there = await changes.database_clock(connection)
        after = self._clock()
        self._clock_due = time.monotonic() + CLOCK_SECONDS
        differed = abs(self.clock_offset) > CLOCK_TOLERANCE_MS
        self.clock_offset = min(there - before, 0) or max(there - after, 0)
        DATABASE_CLOCK.set(self.clock_offset / 1000)
        if (abs(self.clock_offset) > CLOCK_TOLERANCE_MS) is not differed:
            if differed:
                logger.warning("the database's clock is right again by this host's")
            else:
                seconds = self.clock_offset / 1000
                logger.warning("the database's clock is %+.1f s from this host's: set the one that is wrong", seconds)

    async def _apply_apart(self, rows: Sequence[Row]) -> None:
        """Each by itself, so that one that can't be read takes no others with it."""
        for row in rows:
            await self._apply_alone(row)

    async def _apply_alone(self, row: Row) -> None:
        for tried in range(1, TRIED_ANEW + 1):
            try:
                async with self._database.connection() as connection:
                    state = await self._live.read(connection, [row])
            except (StoreUnavailable, *AWAY):
                raise
            except Exception as error:
                self._give_up(row, error)
                self._done(row)
                return
            try:
                self._apply_one(row, state, row.number)
            except NotRead as error:
                if tried == TRIED_ANEW:
                    self._give_up(row, error)
                    self._done(row)
            else:
                return

    def _apply_one(self, row: Row, state: State, as_of: int) -> None:
        """Raises `NotRead`."""
        work: Awaitable[None] | None = None
        try:
            work = self._live.apply(row, state, as_of)
        except NotRead:
            raise
        except NotUnderstood as error:
            CHANGES_FAILED.inc()
            # Once a kind: a newer hub beside this one may write thousands.
            if row.kind not in self._logged and len(self._logged) < MAX_LOGGED:
                self._logged.add(row.kind)
                logger.warning("change %d (%s) is not understood: %s", row.number, row.kind, error)
        except Exception as error:
            self._give_up(row, error)
        self._done(row, work)

    async def _apply(self, rows: Sequence[Row], state: State) -> bool:
        """Whether it applied all of them. After a row that was read by itself the others are to be read again: of what they
        concern somebody may have been told a newer state than was read for them.
        """
        began, as_of = time.perf_counter(), rows[-1].number
        for row in rows:
            try:
                self._apply_one(row, state, as_of)
            except NotRead:
                await self._apply_alone(row)
                return row is rows[-1]
            if time.perf_counter() - began > SLICE_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return True

    def _give_up(self, row: Row, error: Exception) -> None:
        CHANGES_FAILED.inc()
        logger.error("change %d (%s) can't be applied, what it concerns is read anew", row.number, row.kind, exc_info=error)
        try:
            self._live.give_up(row)
        except Exception:
            # No row may stop the follower.
            logger.exception("what change %d (%s) concerns can't be read anew", row.number, row.kind)

    def _done(self, row: Row, work: Awaitable[None] | None = None) -> None:
        if row.transaction != self._applying:
            self._tell()
            self._applying = row.transaction
        if work is not None:
            future = asyncio.ensure_future(work)
            self._works.append(future)
            self._going_on.add(future)
            future.add_done_callback(partial(self._worked, row))
        self._cursor = Cursor(row.number, row.mark)
        CHANGES.inc()
        self._on_applied(row)

    def _worked(self, row: Row, work: asyncio.Future[None]) -> None:
        self._going_on.discard(work)
        if not work.cancelled() and isinstance(error := work.exception(), Exception):
            self._give_up(row, error)

    def _tell(self) -> None:
        """All rows of a transaction are applied: tells who waits for it, when the work that they gave is done."""
        waiting = self._expected.get(self._applying)
        works, self._works = self._works, []
        if waiting is None or waiting.done():
            return
        if works:
            gathered = asyncio.gather(*works, return_exceptions=True)
            gathered.add_done_callback(lambda _: _end(waiting))
        else:
            waiting.set_result(None)

    # --- what wakes it ------------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Is woken by notifications for as long as there are any to be had."""
        while True:
            try:
                async with self._database.listening(changes.CHANNEL, self.wake) as lost:
                    self.listening = True
                    # What was committed while nobody listened was told to nobody.
                    self.wake()
                    await lost.wait()
            except StoreUnavailable as error:
                logger.debug("no notifications of changes, the log is asked every %g s: %s", POLL_SECONDS, error)
            finally:
                self.listening = False
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def beat(self) -> None:
        """Appends a row every minute, so that a reader's cursor is never on a row that is too old to be kept."""
        while True:
            with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
                async with self._database.transaction() as connection:
                    await changes.heartbeat(connection)
            await asyncio.sleep(HEARTBEAT_SECONDS)


class Transaction:
    """An open transaction, and what it is to tell when it is committed."""

    __slots__ = ("changes", "connection", "number")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.changes: list[Change] = []
        self.number: int | None = None
        """What the log knows it by, where something was appended to that."""

    def tell(
        self,
        kind: ChangeKind,
        subject: str,
        *,
        fleet_id: str | None = None,
        vehicle: int | None = None,
        public: Any = None,
        internal: Any = None,
    ) -> None:
        """Has COMMIT publish a change: see `Change`."""
        self.changes.append(Change(kind, subject, fleet_id, vehicle, public, internal))


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
