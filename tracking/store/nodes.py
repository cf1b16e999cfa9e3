"""The hubs that share this database: each has a row that it renews, and a view tells who is alive."""

from datetime import datetime
from typing import NamedTuple

from tracking.store.pool import Connection

LEASE_SECONDS = 10.0
"""How long a row counts without being renewed. The view `live_nodes` has the same number."""
_TURN = 0x6E6F_6465_73  # "nodes"


class NodeRow(NamedTuple):
    node: str
    name: str
    release: str
    has_broker: bool


class Other(NamedTuple):
    """Another hub that is alive. Its row counts for `lapses_in` (s) if it is not renewed."""

    node: str
    name: str
    release: str
    has_broker: bool
    began_at: datetime
    lapses_in: float


async def cluster(connection: Connection) -> str:
    """Names the hubs of this database, and of no other: not of a copy either."""
    name: str = await connection.fetchval("SELECT cluster_id()")
    return name


async def take_turn(connection: Connection) -> None:
    """Lets one hub at a time decide whether it may run, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _TURN)


async def others(connection: Connection, node: str) -> list[Other]:
    """The other hubs that are alive, by their age."""
    rows = await connection.fetch(
        """
        SELECT node, name, release, has_broker, began_at,
               extract(epoch FROM seen_at - statement_timestamp())::float8 + $2 AS lapses_in
        FROM live_nodes WHERE node <> $1 ORDER BY began_at, node
        """,
        node,
        LEASE_SECONDS,
    )
    return [Other(*row) for row in rows]


async def renew(connection: Connection, row: NodeRow, began_at: datetime | None) -> datetime:
    """Writes the hub's row, with this connection as its proof of life. Returns since when it runs: now, if None is given.

    It also removes the rows of hubs that were killed a day ago.
    """
    began: datetime = await connection.fetchval(
        """
        WITH forgotten AS (DELETE FROM nodes WHERE seen_at < now() - interval '1 day' AND node <> $1)
        INSERT INTO nodes AS old (node, name, release, has_broker, began_at, seen_at, backend_pid, backend_start)
        SELECT $1, $2, $3, $4, coalesce($5, now()), now(), pid, backend_start
        FROM pg_stat_activity WHERE pid = pg_backend_pid()
        ON CONFLICT (node) DO UPDATE SET
            seen_at = EXCLUDED.seen_at, backend_pid = EXCLUDED.backend_pid, backend_start = EXCLUDED.backend_start
        RETURNING began_at
        """,
        *row,
        began_at,
    )
    return began


async def remove(connection: Connection, node: str) -> None:
    await connection.execute("DELETE FROM nodes WHERE node = $1", node)
