"""Another writer, in a process of its own: changes a trip, and commits when it is told to.

async with Writer(database_url, trip_id) as writer:     # it has changed the trip, and not committed
    writer.process.send_signal(signal.SIGSTOP)
    await writer.commit()
"""

import asyncio
import sys
from types import TracebackType
from typing import Self

import asyncpg

from tests.support.hub_process import ROOT

CHANGE = """
    WITH changed AS (UPDATE trips SET version = version + 1 WHERE trip_id = $1 RETURNING trip_id, fleet_id)
    INSERT INTO pending_changes (kind, subject, fleet_id) SELECT 'trip.changed', trip_id, fleet_id FROM changed
"""


class Writer:
    def __init__(self, database_url: str, trip_id: str) -> None:
        self._arguments = database_url, trip_id
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.writer", *self._arguments, cwd=ROOT, stdin=-1, stdout=-1
        )
        await self._says(b"changed")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def commit(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self._says(b"committed")

    async def _says(self, word: bytes) -> None:
        assert self.process.stdout is not None
        assert (await self.process.stdout.readline()).strip() == word


async def change(database_url: str, trip_id: str) -> None:
    """The same at once, on a connection of this process."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(CHANGE, trip_id)
    finally:
        await connection.close()


async def _write(database_url: str, trip_id: str) -> None:
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute(CHANGE, trip_id)
        print("changed", flush=True)
        sys.stdin.readline()
    print("committed", flush=True)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(_write(*sys.argv[1:]))
