"""Poolers between the hub and PostgreSQL. A pooler must give each client a server connection for its whole session.

PgBouncer in its transaction mode, and similar poolers, give the server connection to another client after each transaction. A
prepared statement is then missing, or belongs to another client. Such a pooler is refused, with the reason.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import asyncpg

from tracking.errors import ConfigError

TRIES = 5
REASON = (
    "a pooler stands before the database and gives a server connection to another client after each transaction (PgBouncer's"
    " pool_mode = transaction), where statements that were prepared are lost: let TRACKING_DATABASE_URL lead to PostgreSQL"
    " itself, or to a pool with pool_mode = session"
)

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_LOST = (
    asyncpg.InvalidSQLStatementNameError,  # a prepared statement that another server connection has
    asyncpg.DuplicatePreparedStatementError,  # one of another client
)


async def is_pooled(connection: Connection) -> bool:
    """Whether the connection leads to a pooler. A pooler tells another process number at the beginning."""
    return connection.get_server_pid() != await _pid(connection)


async def refuse_shared(connection: Connection, another: Callable[[], Awaitable[Connection]]) -> None:
    """Raises `ConfigError` if a pooler shares server connections by transactions.

    `another` makes a second client connection. While it holds a server connection in a transaction, the first client must have
    another one, the same as before. With a busy pooler this may not show at once, so it is tried several times.
    """
    other: Connection | None = None
    try:
        if not await is_pooled(connection):
            return
        own = await _pid(connection)
        other = await another()
        for _ in range(TRIES):
            try:
                await other.execute("BEGIN")
            except asyncpg.ConnectionDoesNotExistError as error:
                if "pooling mode" in str(error):  # PgBouncer's error for BEGIN, if its pool_mode is statement
                    raise ConfigError(f"{REASON} ({error})") from error
                raise
            held = await _pid(other)
            now = await _pid(connection) if held != own else own
            await other.execute("ROLLBACK")
            if held == own or now != own:
                raise ConfigError(REASON)
    except _LOST as error:
        # The lines after the first are asyncpg's advice to programmers, which would lead an operator astray.
        raise ConfigError(f"{REASON} ({str(error).splitlines()[0]})") from error
    finally:
        if other is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await other.close(timeout=1)


async def _pid(connection: Connection) -> int:
    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    return pid
