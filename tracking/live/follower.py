"""The follower reads the change log in order and applies it to the live state. Only positions change that in another way.

This hub's own commits and PostgreSQL's notifications wake it. It also asks every half second, because a notification does not
pass every pooler.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

import asyncpg

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.live.database_clock import DatabaseClock
from tracking.live.transaction import Transaction
from tracking.metrics import CHANGES, CHANGES_BEHIND, CHANGES_FAILED
from tracking.model import Clock, system_clock
from tracking.store import changes
from tracking.store.changes import Change, Cursor, Row
from tracking.store.jobs import Ours, always
from tracking.store.marks import Marks
from tracking.store.pool import AWAY, Connection, Database

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
REST_SECONDS = 0.003
"""Between two readings if rows come without end, so that several are read together."""
ROWS_AT_ONCE = 500
SLICE_SECONDS = 0.004
"""How long rows are applied in one step of the event loop."""
WAIT_SECONDS = 1.0
"""How long a request waits until this hub has applied its change."""
LISTEN_AGAIN_SECONDS = 1.0
HEARTBEAT_SECONDS = 60.0
TRIED_ANEW = 5
"""How often one row is read alone, if what it concerns comes into memory during each reading."""
MAX_LOGGED = 100
State = TypeVar("State")


class NotRead(Exception):
    """What the row concerns came into memory during the reading, so the row must be read again alone."""


class NotUnderstood(Exception):
    """Another version wrote the row. The present state of what it names was applied. Its other meaning is unknown here."""


class Follows(Protocol[State]):
    """The live state, as the follower changes it."""

    async def read(self, connection: Connection, rows: Sequence[Row]) -> State:
        """Reads the present state of what these rows concern and this hub holds. It may be newer than the rows."""
        ...

    def apply(self, row: Row, state: State, as_of: int) -> Awaitable[None] | None:
        """Applies one row, in order. `state` includes all changes up to the number `as_of`, and perhaps later ones.

        It may return work that continues afterwards. Who waits for the row's transaction waits for that work too. Raises
        `NotRead`, and `NotUnderstood` after the row is applied.
        """
        ...

    def give_up(self, row: Row) -> None:
        """The row can't be applied, or what it concerns can't be read. Drops it, so that it is read again when needed."""
        ...


class Transactions(Protocol):
    """What a service needs of the follower."""

    def transaction(self) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """A transaction on the store that may publish changes: see `Follower.transaction`."""
        ...


class Follower(Generic[State]):
    """`run` follows the log until it is cancelled; `listen` and `beat` are tasks beside it.

    The log is read from `database`. Transactions that change something use `writing`. `on_applied` is given each row that was
    applied, in order, and `on_committed` the changes of each transaction of this hub. What it returns is waited for. `on_read`
    is told after each reading to the end of the log when that reading began, by `time.monotonic`.
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
        on_committed: Callable[[Sequence[Change]], asyncio.Future[None] | None] = lambda _: None,
        on_read: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._writing = writing
        self._marks = marks
        self._live = live
        self.clock = DatabaseClock(clock)
        self._on_applied = on_applied
        self._on_committed = on_committed
        self._on_read = on_read
        self._cursor: Cursor | None = None
        self._beginning = asyncio.Lock()
        self._woken = asyncio.Event()
        self._expected: dict[int, asyncio.Future[None]] = {}
        """Requests that wait, by the number of their transaction."""
        self._applying = 0
        """The transaction whose rows are being applied."""
        self._works: list[asyncio.Future[None]] = []
        """Work that continues after them."""
        self._going_on: set[asyncio.Future[None]] = set()
        """All such work. The event loop keeps no reference to a task."""
        self._logged: set[str] = set()
        """Kinds of rows from another version that were logged."""
        self._made_at = time.monotonic()
        self.confirmed_at: float | None = None
        """When the log was last read to its end, by `time.monotonic`; None: never."""
        self.listening = False
        CHANGES_BEHIND.set_function(lambda: self.behind)

    @property
    def applied(self) -> int:
        """The number of the last change that the live state knows of."""
        return self._cursor.number if self._cursor is not None else 0

    @property
    def behind(self) -> float:
        """For how long (s) the log was not read to its end."""
        return time.monotonic() - (self.confirmed_at if self.confirmed_at is not None else self._made_at)

    async def begin(self) -> None:
        """Starts at the present end of the log. What is read from the store after this is kept up to date.

        Does nothing the second time. Raises `StoreUnavailable`.
        """
        if self._cursor is not None:
            return
        async with self._beginning:
            while self._cursor is None:
                async with self._database.connection() as connection:
                    self._cursor = await changes.head(connection)
                if self._cursor is None:
                    # The log is empty. The cursor needs a row with a mark.
                    async with self._database.transaction() as connection:
                        await changes.heartbeat(connection)
                else:
                    self.confirmed_at = time.monotonic()

    def wake(self) -> None:
        """There may be new rows."""
        self._woken.set()

    # --- waiting for one's own ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction on the store that may publish changes. It returns when this hub and others have applied them.

        After `WAIT_SECONDS` it returns all the same, because it is committed. Raises as `Database.transaction` does. If the
        answer to COMMIT was lost, the changes are applied when the log shows them.
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
                elsewhere = self._on_committed(transaction.changes)
                await asyncio.wait({applied, elsewhere or applied}, timeout=WAIT_SECONDS)
        finally:
            if number is not None:
                self._expected.pop(number, None)

    # --- following ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        trouble = False
        while True:
            more = False
            # This comes before the reading, so that a row that comes meanwhile wakes it again.
            self._woken.clear()
            try:
                await self.begin()
                more = await self._read_on()
                trouble = False
            except StoreWentBack:
                # Another service takes over, and reads everything again.
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
        """Applies the next rows. Returns whether there may be more."""
        cursor = self._cursor
        assert cursor is not None
        state: State | None = None
        began = time.monotonic()
        # A snapshot would be two more round trips. What is read after the rows is at least as new as they are.
        async with self._database.connection() as connection:
            await self.clock.compare(connection)
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
            # All rows of a transaction become visible together, so the last transaction is applied as a whole.
            self._tell()
            self.confirmed_at = time.monotonic()
            self._on_read(began)
        return more

    async def _apply_apart(self, rows: Sequence[Row]) -> None:
        """Applies each row alone, so that a row that can't be read does not affect the others."""
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
            # Logged once for each kind: a newer hub may write thousands of them.
            if row.kind not in self._logged and len(self._logged) < MAX_LOGGED:
                self._logged.add(row.kind)
                logger.warning("change %d (%s) is not understood: %s", row.number, row.kind, error)
        except Exception as error:
            self._give_up(row, error)
        self._done(row, work)

    async def _apply(self, rows: Sequence[Row], state: State) -> bool:
        """Returns whether it applied all of them.

        After a row that was read alone, the others must be read again: readers may already know a newer state of what they
        concern.
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
            # The follower must go on, whatever a row contains.
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
        """All rows of a transaction are applied. Answers its request, as soon as the work of its rows is done."""
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
        """Wakes the follower by notifications, while the database can be reached."""
        while True:
            try:
                async with self._database.listening(changes.CHANNEL, self.wake) as lost:
                    self.listening = True
                    # Commits before this sent no notification here.
                    self.wake()
                    await lost.wait()
            except StoreUnavailable as error:
                logger.debug("no notifications of changes, the log is asked every %g s: %s", POLL_SECONDS, error)
            finally:
                self.listening = False
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def beat(self, ours: Ours = always) -> None:
        """Appends a row every minute, so that a reader's cursor is never on a row too old to be kept.

        `ours`: whether this hub does it, if there are several.
        """
        while True:
            with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
                if await ours():
                    async with self._database.transaction() as connection:
                        await changes.heartbeat(connection)
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
