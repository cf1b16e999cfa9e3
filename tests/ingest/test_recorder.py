"""The recorder on real PostgreSQL: groups grow with the queue, and do not delay other tasks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from tests.ingest.direct import a_recorder
from tests.support.positions import BEGIN, a_position, a_vehicle
from tracking.ingest.backlogs import Backlogs
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.recorder import ENTRIES_AT_ONCE, MAX_ROWS, Recorder, _parts
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.model import Vehicle
from tracking.protocol.driver import Rejected
from tracking.store import positions
from tracking.store.pool import Database
from tracking.store.positions import PACKED_AT_ONCE

ROWS = 2_000


class _Driver:
    """A driver's connection, as the recorder sees it."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.rejected: list[Rejected] = []

    def acknowledge(self, session: Session, rejected: Sequence[Rejected]) -> None:
        self.acknowledged.append(session.handled)
        self.rejected += rejected


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, tidy=False)
    await database.open()
    yield database
    await database.close()


async def _sessions(store: Database, count: int) -> list[tuple[int, Session]]:
    """`(vehicle, session)` of new vehicles."""
    made = []
    for number in range(count):
        vehicle, session = await a_vehicle(store, f"van-{number}")
        made.append((vehicle, Session(session, "session", 0)))
        made[-1][1].receiver = _Driver()
    return made


@contextlib.asynccontextmanager
async def _running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _count(store: Database) -> int:
    async with store.connection() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM positions")
    return count


async def test_a_group_takes_what_waits(store: Database) -> None:
    commits = 0

    class Counting(Recorder):
        async def _commit(self, group: Sequence[Entry]) -> None:
            nonlocal commits
            commits += 1
            await super()._commit(group)

    recorder = a_recorder(store, rows=ROWS, kind=Counting)
    sessions = await _sessions(store, 20)
    count = MAX_ROWS + 5 * ROWS
    for number in range(count):
        vehicle, session = sessions[number % len(sessions)]
        seq = number // len(sessions) + 1
        recorder.queue.offer(Entry(session, seq, a_position(vehicle, session.number, seq), None))
    async with _running(recorder):
        await recorder.flush()
    assert commits == 2
    assert await _count(store) == count
    assert all(session.handled == count // len(sessions) for _, session in sessions)


async def test_other_tasks_run_between_the_parts_of_a_group() -> None:
    turns = 0

    async def look_on() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    looking = asyncio.create_task(look_on())
    at: list[int] = []
    rows = [a_position(1, 1, seq) for seq in range(1, 3 * PACKED_AT_ONCE + 2)]
    async for _ in positions._copied(rows):
        at.append(turns)
    assert len(at) == 4
    assert len(set(at)) == 4
    at.clear()
    async for _ in _parts(range(3 * ENTRIES_AT_ONCE + 1), ENTRIES_AT_ONCE):
        at.append(turns)
    looking.cancel()
    assert len(at) == 4
    assert len(set(at)) == 4


async def test_a_group_that_takes_too_long_is_stored_in_parts(store: Database, database_url: str) -> None:
    sizes: list[int] = []

    class Counting(Recorder):
        async def _commit(self, group: Sequence[Entry]) -> None:
            sizes.append(len(group))
            await super()._commit(group)

    [(vehicle, session)] = await _sessions(store, 1)
    async with store.transaction() as connection:
        await connection.execute(
            """
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0001); RETURN NEW; END $$;
            CREATE TRIGGER slow BEFORE INSERT ON positions FOR EACH ROW EXECUTE FUNCTION slow()
            """
        )
    hasty = Database(database_url, tidy=False, timeout=0.5)
    await hasty.open()
    recorder = a_recorder(hasty, rows=250, kind=Counting)
    for seq in range(1, 5_001):
        recorder.queue.offer(Entry(session, seq, a_position(vehicle, session.number, seq), None))
    async with _running(recorder):
        await asyncio.wait_for(recorder.flush(), 60)
    await hasty.close()
    assert await _count(store) == 5_000
    assert sizes[0] == 5_000
    assert max(sizes[1:]) == 250


async def test_a_fix_that_the_database_refuses_costs_a_few_commits_and_no_other_fix(store: Database) -> None:
    [(vehicle, session)] = await _sessions(store, 1)
    other = a_position(vehicle, session.number, 777)
    tries = 0

    class Counting(Recorder):
        async def _commit(self, group: Sequence[Entry]) -> None:
            nonlocal tries
            tries += 1
            await super()._commit(group)

    recorder = a_recorder(store, rows=ROWS, kind=Counting)
    await recorder.make_partitions({BEGIN // 86_400_000})
    async with store.transaction() as connection:
        # An operator inserted a row that no session knows of.
        await connection.execute(
            """
            INSERT INTO positions (vehicle, session, seq, fix_time, server_time, point)
            VALUES ($1, $2, $3, $4, $4, ST_SetSRID(ST_MakePoint(9.5, 47.1), 4326))
            """,
            vehicle,
            session.number,
            other.seq,
            other.fix_time,
        )
    for seq in range(1, 3_001):
        recorder.queue.offer(Entry(session, seq, a_position(vehicle, session.number, seq), None))
    async with _running(recorder):
        await recorder.flush()
    driver = session.receiver
    assert isinstance(driver, _Driver)
    assert [rejected.seq for rejected in driver.rejected] == [777]
    assert driver.acknowledged == sorted(driver.acknowledged)
    assert driver.acknowledged[-1] == session.handled == 3_000
    assert await _count(store) == 3_000
    assert tries < 40


async def test_trust_40_positions_of_an_erased_vehicle_are_not_pending_any_more(store: Database) -> None:
    recorder = a_recorder(store, rows=ROWS)
    [(gone, session), (stays, other)] = await _sessions(store, 2)
    for vehicle, of in ((gone, session), (stays, other)):
        recorder.queue.offer(Entry(of, 1, a_position(vehicle, of.number, 1, trip_id="trip"), None))
    # One position is read before the erasure, and one is offered after it.
    assert len(recorder.queue.pending("trip")) == 2
    recorder.queue.forget({gone})
    recorder.queue.offer(Entry(session, 2, a_position(gone, session.number, 2, trip_id="trip"), None))
    assert [position.vehicle for position in recorder.queue.pending("trip")] == [stays]
    async with _running(recorder):
        await recorder.flush()


async def test_settled_waits_for_no_fix_that_is_offered_later(store: Database) -> None:
    recorder = a_recorder(store, rows=1)
    recorder._most = 1
    [(vehicle, session)] = await _sessions(store, 1)
    await recorder.settled()
    for seq in range(1, 4):
        recorder.queue.offer(Entry(session, seq, a_position(vehicle, session.number, seq), None))
    waiting = asyncio.create_task(recorder.settled())
    await asyncio.sleep(0)
    assert not waiting.done()

    async def more() -> None:
        seq = 4
        while not waiting.done():
            recorder.queue.offer(Entry(session, seq, a_position(vehicle, session.number, seq), None))
            seq += 1
            await asyncio.sleep(0)

    async with _running(recorder):
        await asyncio.gather(more(), waiting)
        assert session.handled >= 3
        await recorder.flush()


async def test_a_backlog_goes_on_when_a_group_is_stored(store: Database) -> None:
    backlogs = Backlogs(CommitQueue(rows=1, limit=100), most=1, limit=100)
    recorder = a_recorder(store, rows=1, backlogs=backlogs)
    [(number, session)] = await _sessions(store, 1)
    vehicle = IngestVehicle(number, Vehicle("van-0", "fleet"))
    before = backlogs.queue.offered
    backlogs.queue.offer(Entry(session, 1, a_position(number, session.number, 1), None))
    backlogs.took(vehicle, before)
    assert vehicle.waiting == 1
    async with _running(recorder):
        await recorder.flush()
    assert vehicle.waiting == 0
