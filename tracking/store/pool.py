"""The pool of connections. Only here errors of a failing database become `StoreUnavailable`."""

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

import asyncpg
import msgspec

from tracking.errors import ConfigError, StoreUnavailable, StoreWentBack
from tracking.store.marks import WENT_BACK, Marks
from tracking.store.pooler import refuse_shared

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_POSTGRES_EPOCH_MS = 946_684_800_000
"""2000-01-01 UTC. PostgreSQL counts microseconds from there."""

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # shutting down, crashed, starting up, statement timeout
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # a standby, or one that was made read-only
    asyncpg.PostgresSystemError,  # its disk fails
    # A prepared statement is missing, or another client's. A pooler was put in between after the check at the start.
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)

P = ParamSpec("P")
R = TypeVar("R")

DEADLOCKS = 5
"""How often a transaction is tried that the database aborted because of a deadlock."""


def unlocked(change: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Retries a change after a deadlock. Two changes may lock the same rows in different orders, and the database aborts one.

    This does not use tenacity. A call through it leaves some twenty objects in a cycle, and thousands wait for the collector.
    """

    @functools.wraps(change)
    async def until_unlocked(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(DEADLOCKS - 1):
            with contextlib.suppress(asyncpg.DeadlockDetectedError):
                return await change(*args, **kwargs)
            await asyncio.sleep(random.uniform(0, 0.05))
        return await change(*args, **kwargs)

    return until_unlocked


CLOSE_SECONDS = 1.0
RAISE_SECONDS = 3_600.0
"""How often a mark is raised if no transaction does. Marks that never move are removed as those of a dead hub."""
_GONE = "the store went back behind what this hub saw committed: all is read anew"


HELD_SECONDS = 60.0
HELD_BY_A_HUB_SECONDS = 5.0
"""`held` of pools whose transactions lock what other hubs need. A hub that stands still must not make them wait."""


class Database:
    """A lazy pool. It can be made without a server, and survives restarts of the server.

    `timeout` (s) limits connecting and every statement. Writes need a `transaction`, which is refused if the database went
    back. `connection` is for a query, and `reading` for one with a cursor. All raise `StoreUnavailable` if PostgreSQL is away.
    They raise errors of the statement itself unchanged.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        size: int = 10,
        tidy: bool = True,
        marks: Marks | None = None,
        held: float = HELD_SECONDS,
    ) -> None:
        """Without `tidy`, a connection is returned as it is. This is for frequent users that leave nothing behind in it.

        After `held` (s) PostgreSQL ends a transaction whose client does nothing, with the locks that it holds.

        `marks` are shared by all pools of a hub.
        """
        self._marks = marks or Marks()
        self._marked_at = 0.0
        self._is_ours = False
        """Whether a check found that connections lead to PostgreSQL, or to a pooler that keeps them for the session."""
        self._url = url
        self._reset = None if tidy else _leave
        self._timeout = timeout
        self._size = size
        self._held = held
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._size,
            timeout=self._timeout,
            command_timeout=self._timeout,
            init=self._set_up,
            reset=self._reset,
            server_settings={
                "application_name": "tracking",
                # A client that stops reading a download must not hold a snapshot open for ever.
                "idle_in_transaction_session_timeout": f"{self._held:g}s",
            },
        )

    async def _set_up(self, connection: Any) -> None:
        if not self._is_ours:
            try:
                await refuse_shared(connection, lambda: asyncpg.connect(self._url, timeout=self._timeout))
            except ConfigError as error:
                raise StoreUnavailable(str(error)) from error
            self._is_ours = True
        await _set_codecs(connection)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for a query that changes nothing."""
        if not self._marks.begun:
            # What is read now is trusted only while a mark that this hub made before is there.
            async with self.transaction():
                pass
        async with self._acquired() as connection:
            yield connection

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        if self._marks.went_back.is_set():
            raise StoreWentBack(_GONE)
        pool = self._pool
        if pool is None:
            raise StoreUnavailable("the database pool is not open")
        try:
            connection = await pool.acquire(timeout=self._timeout)
        except (*AWAY, asyncpg.PostgresError) as error:
            # Any error while connecting means that nothing can be asked now.
            raise StoreUnavailable(f"PostgreSQL is away: {_said(error)}") from error
        try:
            yield connection
        except AWAY as error:
            raise StoreUnavailable(f"PostgreSQL is away: {_said(error)}") from error
        except asyncio.CancelledError:
            # The caller was cancelled. Returning a connection in the middle of a statement would wait for the server.
            _terminate(connection)
            raise
        finally:
            with contextlib.suppress(*AWAY):
                await pool.release(connection, timeout=self._timeout)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction for changes. One round trip begins it, makes it durable, and checks the marks.

        Raises `StoreWentBack` if commits that this hub saw are missing. It is not a transaction of asyncpg, so it has no
        cursors: see `reading`.
        """
        async with self._acquired() as connection:
            mark = self._marks.claim()
            try:
                try:
                    with self._marks.asked(mark.standing):
                        await connection.execute(self._marks.begin(mark))
                except asyncpg.PostgresError as error:
                    self._judge(error)
                    raise
                yield connection
                if await connection.execute("COMMIT") != "COMMIT":
                    raise asyncpg.InFailedSQLTransactionError("a statement had failed: rolled back")
            except (*AWAY, asyncio.CancelledError):
                # A rollback would wait for the same dead or stalled server again.
                _terminate(connection)
                raise
            except BaseException:
                if not connection.is_closed() and connection.is_in_transaction():
                    await connection.execute("ROLLBACK")
                self._marks.rolled_back(mark)
                raise
            self._marks.committed(mark)
            self._marked_at = time.monotonic()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A transaction that changes nothing, for queries with a cursor."""
        async with self._read_only(None) as connection:
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """The same, for several queries that are answered as of one instant."""
        async with self._read_only("repeatable_read") as connection:
            yield connection

    @asynccontextmanager
    async def listening(self, channel: str, heard: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
        """Calls `heard` at each notification. The event is set when the connection is lost. Raises `StoreUnavailable`.

        The connection does not belong to the pool, because it is kept.
        """
        lost = asyncio.Event()
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=self._timeout,
                command_timeout=self._timeout,
                server_settings={"application_name": "tracking"},
            )
        except (*AWAY, asyncpg.PostgresError) as error:
            raise StoreUnavailable(f"PostgreSQL is away: {_said(error)}") from error
        try:
            connection.add_termination_listener(lambda _: lost.set())
            try:
                await connection.add_listener(channel, lambda *_: heard())
            except (*AWAY, asyncpg.PostgresError) as error:
                raise StoreUnavailable(f"PostgreSQL does not notify: {_said(error)}") from error
            yield lost
        finally:
            # Nothing has to be reset, and the server may be stalled.
            connection.terminate()

    @asynccontextmanager
    async def _read_only(self, isolation: Literal["repeatable_read"] | None) -> AsyncIterator[Connection]:
        async with self.connection() as connection:
            transaction = connection.transaction(readonly=True, isolation=isolation)
            try:
                await transaction.start()
                yield connection
                # ROLLBACK, because nothing was changed. So every COMMIT on the wire belongs to a change.
                await transaction.rollback()
            except (*AWAY, asyncio.CancelledError):
                _terminate(connection)
                raise
            except BaseException:
                if not connection.is_closed() and connection.is_in_transaction():
                    await transaction.rollback()
                raise

    def _judge(self, error: asyncpg.PostgresError) -> None:
        """Raises for an error at the beginning of a transaction, which is never the caller's fault."""
        if error.sqlstate == WENT_BACK:
            self._marks.went_back.set()
            raise StoreWentBack(_GONE) from error
        if isinstance(error, asyncpg.UndefinedFunctionError | asyncpg.UndefinedTableError):
            raise StoreUnavailable("the database lacks migrations: run `tracking migrate`") from error

    async def check_marks(self) -> None:
        """Raises `StoreWentBack` if the database went back. To be called every second or so. It rarely writes."""
        if not self._marks.begun or time.monotonic() - self._marked_at > RAISE_SECONDS:
            async with self.transaction():
                return
        async with self._acquired() as connection:
            known = dict(self._marks.known)
            try:
                with self._marks.asked(known):
                    stand = await connection.fetchval(self._marks.ask(known))
            except asyncpg.PostgresError as error:
                self._judge(error)
                raise
        if not stand:
            self._marks.went_back.set()
            raise StoreWentBack(_GONE)

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless PostgreSQL answers within the timeout."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1")


def timed_out(error: StoreUnavailable) -> bool:
    """Whether one statement took too long. The database may still answer: `ping` tells."""
    return isinstance(error.__cause__, TimeoutError | asyncpg.QueryCanceledError)


async def _leave(_connection: object) -> None:
    """Replaces asyncpg's own reset, which would be another round trip."""


def to_microseconds(instant: int) -> int:
    """An instant as PostgreSQL stores it: microseconds since 2000-01-01 UTC."""
    return (instant - _POSTGRES_EPOCH_MS) * 1000


def _terminate(connection: Connection) -> None:
    with contextlib.suppress(asyncpg.InterfaceError):  # it was returned to the pool already
        connection.terminate()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _set_codecs(connection: Any) -> None:
    # The format is a tuple of microseconds, so that no datetime is made for each of 20,000 fixes a second.
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda instant: (to_microseconds(instant),),
        decoder=lambda value: value[0] // 1000 + _POSTGRES_EPOCH_MS,
    )
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: msgspec.json.encode(value).decode(),
        decoder=msgspec.json.decode,
    )
    if await connection.fetchval("SELECT to_regtype('geometry') IS NOT NULL"):
        schema = await connection.fetchval(
            "SELECT nspname FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace WHERE pg_type.oid = 'geometry'::regtype"
        )
        await connection.set_type_codec("geometry", schema=schema, format="binary", encoder=bytes, decoder=bytes)
