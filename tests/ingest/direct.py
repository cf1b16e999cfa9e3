"""A running service without sockets, a recorder alone, and helpers to use them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from tests.support.clients import fix, now_ms
from tests.support.devices import until
from tests.support.hub_process import SECRET
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.config import load
from tracking.ingest.acks import Acks
from tracking.ingest.backlogs import Backlogs
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.intake import Taken
from tracking.ingest.latest import Latest
from tracking.ingest.recorder import Recorder
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.life import Life
from tracking.model import Fix, Fleet, Position, Vehicle, system_clock
from tracking.protocol.driver import Unreadable
from tracking.service import Service
from tracking.store import fleets, vehicles
from tracking.store.pool import Database

VAN = "van"
MakeService = Callable[..., Awaitable[Service]]


@contextlib.asynccontextmanager
async def services(database_url: str) -> AsyncIterator[MakeService]:
    """Makes running services, each with its own settings. The database has the vehicle `VAN`."""
    lives: list[Life] = []

    async def make(**settings: Any) -> Service:
        known = load(database_url=database_url, jwt_secret=SECRET, commit_interval=0, **settings)
        life = Life(assemble(known, database_url, Auth(known, system_clock), system_clock))
        lives.append(life)
        await life.begin()
        async with life.service.database.transaction() as connection:
            await fleets.put(connection, Fleet("fleet", "Fleet"))
            await vehicles.put(connection, Vehicle(VAN, "fleet"))
        return life.service

    yield make
    await asyncio.gather(*(life.end() for life in lives))


@contextlib.asynccontextmanager
async def nothing_is_stored(database_url: str) -> AsyncIterator[None]:
    """Makes every commit of fixes wait inside this context."""
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE positions IN EXCLUSIVE MODE")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


class _NoHistory:
    """Ignores late and stored fixes."""

    def late(self, late: list[Position]) -> None: ...

    def stored(self, group: Sequence[Entry]) -> None: ...


def a_recorder(
    database: Database, *, rows: int, limit: int = 100_000, backlogs: Backlogs | None = None, kind: type[Recorder] = Recorder
) -> Recorder:
    """A recorder with a queue of its own, or that of `backlogs`, and without a history."""
    if backlogs is None:
        backlogs = Backlogs(CommitQueue(rows=rows, limit=limit), most=rows, limit=limit)
    return kind(
        backlogs.queue,
        database,
        interval=lambda: 0.0,
        acks=Acks(0),
        latest=Latest(database, interval=0),
        backlogs=backlogs,
        late=_NoHistory(),
        stored=_NoHistory(),
    )


async def opened(service: Service, name: str = "session") -> tuple[IngestVehicle, Session]:
    vehicle = await service.ingest_vehicles.load(VAN)
    assert vehicle is not None
    session = await service.intake.open_session(vehicle, name)
    assert session is not None
    return vehicle, session


def a_fix(seq: int, **fields: Any) -> Fix:
    return Fix(**fix(seq, **fields))


def take(service: Service, vehicle: IngestVehicle, session: Session, *fixes: Fix | Unreadable, **options: Any) -> Taken:
    return service.intake.take(vehicle, session, fixes, now_ms(), **options)


async def stored(database_url: str) -> list[int]:
    """The seqs in the table, as another connection sees them."""
    connection = await asyncpg.connect(database_url)
    try:
        return [row["seq"] for row in await connection.fetch("SELECT seq FROM positions ORDER BY session, seq")]
    finally:
        await connection.close()


async def asked(service: Service) -> None:
    """Waits until the recorder commits a group."""
    await until(lambda: bool(service.recorder.queue.group), "a group is being stored")
