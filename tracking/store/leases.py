"""Leases: which hub does a job that one hub is enough for."""

from tracking.store.pool import Connection


async def take(connection: Connection, job: str, node: str, seconds: float) -> str:
    """Takes the job for so many seconds, if no other hub has it. Returns the boot id of the hub that has it now.

    `node` is the boot id of the hub that asks. A lease that has expired is void, and so is that of a hub that is not alive.
    """
    # The row is locked before it is judged, so that of two hubs that ask at once the second finds the first one's lease.
    taken = await connection.fetchval(
        """
        INSERT INTO leases AS l (job, holder, expires)
        VALUES ($1, $2, statement_timestamp() + make_interval(secs => $3))
        ON CONFLICT (job) DO UPDATE SET holder = EXCLUDED.holder, expires = EXCLUDED.expires
        WHERE l.holder = EXCLUDED.holder OR l.expires <= statement_timestamp() OR NOT node_alive(l.holder)
        RETURNING holder
        """,
        job,
        node,
        seconds,
    )
    if taken is not None:
        return node
    holder: str | None = await connection.fetchval("SELECT holder FROM leases WHERE job = $1", job)
    return holder or ""


async def release(connection: Connection, node: str) -> None:
    """Gives up all jobs of a hub that leaves."""
    await connection.execute("DELETE FROM leases WHERE holder = $1", node)
