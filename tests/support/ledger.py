"""Compares what devices sent and were told in a run with what PostGIS has stored."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import asyncpg

from tests.support.watcher import Point


@dataclass
class Account:
    """One session as its device knows it.

    `refused`: seqs that the hub rejected, and seqs that are known to be bad.
    """

    vehicle_id: str
    session: str
    sent: set[int] = field(default_factory=set)
    acknowledged: int = 0
    refused: set[int] = field(default_factory=set)


async def wrongs(database_url: str, accounts: Iterable[Account], *, settled: bool = True) -> list[str]:
    """A sentence for every broken invariant. There should be none.

    `settled`: every device has been told of everything that was handled. Its count must then equal that of the store.
    """
    found: list[str] = []
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        for account in accounts:
            found += [f"{account.vehicle_id}: {wrong}" for wrong in await _wrongs_of(connection, account, settled)]
    finally:
        await connection.close()
    return found


async def _wrongs_of(connection: "asyncpg.Connection[asyncpg.Record]", account: Account, settled: bool) -> list[str]:
    rows = await connection.fetch(
        """
        SELECT s.session, s.handled_seq FROM sessions s JOIN vehicles v USING (vehicle)
        WHERE v.vehicle_id = $1 AND s.name = $2
        """,
        account.vehicle_id,
        account.session,
    )
    if not rows:
        return ["acknowledged, but the session is not stored"] if account.acknowledged else []
    session, handled = rows[0]
    counts = {
        row["seq"]: row["count"]
        for row in await connection.fetch("SELECT seq, count(*) FROM positions WHERE session = $1 GROUP BY seq", session)
    }
    found = []
    if twice := sorted(seq for seq, count in counts.items() if count > 1):
        found.append(f"stored more than once: {twice}")
    if strangers := sorted(counts.keys() - account.sent):
        found.append(f"stored but never sent: {strangers}")
    if missing := sorted(seq for seq in account.sent - account.refused - counts.keys() if seq <= account.acknowledged):
        found.append(f"acknowledged up to {account.acknowledged}, neither stored nor rejected: {missing}")
    if missing := sorted(
        seq for seq in account.sent - account.refused - counts.keys() if account.acknowledged < seq <= handled
    ):
        found.append(f"handled up to {handled} by the store's word, neither stored nor rejected: {missing}")
    if early := sorted(seq for seq in counts if seq > handled):
        found.append(f"stored above the handled seq {handled}: {early}")
    if handled < account.acknowledged or (settled and handled != account.acknowledged):
        found.append(f"the device was told {account.acknowledged}, the store says {handled}")
    return found


async def stored_line(database_url: str, trip_id: str) -> list[Point]:
    """The trip's track without suspect fixes, as a passenger's map must show it at the end."""
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        rows = await connection.fetch(
            """
            SELECT round(extract(epoch FROM p.fix_time) * 1000)::bigint AS fix_time, ST_X(p.point) AS x, ST_Y(p.point) AS y
            FROM positions p JOIN trips t USING (trip) WHERE t.trip_id = $1 AND p.suspect IS NULL
            """,
            trip_id,
        )
    finally:
        await connection.close()
    return sorted((row["fix_time"], row["x"], row["y"]) for row in rows)
