"""Turns of backlogs: by vehicle, and within the limit of fixes that may wait for a commit."""

import asyncio
import threading

import pytest

from tests.ingest.direct import a_recorder
from tests.support.positions import a_position
from tracking.ingest import backlogs as backlogs_module
from tracking.ingest.backlogs import PART, Backlogs
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.model import Vehicle
from tracking.store.pool import Database

MOST = 500


class _Reporter:
    """A driver's connection with a number of fixes to take."""

    def __init__(self, backlogs: Backlogs, number: int, fixes: int, order: list[int]) -> None:
        self.vehicle = IngestVehicle(number, Vehicle(f"van-{number}", "fleet"))
        self.session = Session(number, "", 0)
        self.left = fixes
        self._backlogs = backlogs
        self._order = order

    def take_part(self, most: int) -> int:
        before = self._backlogs.queue.offered
        count = min(most, self.left)
        for _ in range(count):
            self.session.seen += 1
            seq = self.session.seen
            self._backlogs.queue.offer(
                Entry(self.session, seq, a_position(self.vehicle.number, self.session.number, seq), None)
            )
        self.left -= count
        self._backlogs.took(self.vehicle, before)
        self._order.append(self.vehicle.number)
        if self.left:
            self._backlogs.join(self)
        return count


def _store(backlogs: Backlogs, count: int) -> None:
    """Does what the recorder does with a group."""
    backlogs.queue.take(count)
    backlogs.queue.let_go()
    backlogs.progress()


async def _settled() -> None:
    for _ in range(1_000):
        await asyncio.sleep(0)


@pytest.fixture
def backlogs() -> Backlogs:
    return Backlogs(CommitQueue(rows=1, limit=2_000), most=MOST, limit=2_000)


async def test_memory_is_given_back_once_after_all_backlogs_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlogs_module, "QUIET_SECONDS", 0.05)
    given_back = threading.Semaphore(0)
    backlogs = Backlogs(CommitQueue(rows=1, limit=2_000), most=MOST, limit=2_000, on_quiet=given_back.release)
    backlogs.join(_Reporter(backlogs, 1, 300, []))
    await _settled()
    _store(backlogs, 200)
    assert backlogs._quiet is None, "some wait for a commit"
    _store(backlogs, 100)
    assert await asyncio.to_thread(given_back.acquire, timeout=10)


async def test_vehicles_take_turns_and_leave_room_for_current_fixes(backlogs: Backlogs) -> None:
    order: list[int] = []
    flooders = [_Reporter(backlogs, number, 10_000, order) for number in range(1, 5)]
    late = _Reporter(backlogs, 9, 50, order)
    for flooder in flooders:
        backlogs.join(flooder)
    await _settled()
    assert backlogs.queue.offered == MOST, "more of backlogs waits than may"
    assert order == [1, 2, 3, 4, 1]
    backlogs.join(late)
    _store(backlogs, MOST)
    await _settled()
    assert late.left == 0
    assert order[5:] == [2, 3, 4, 1, 9, 2]
    assert backlogs.queue.offered == 2 * MOST
    _store(backlogs, MOST)
    assert late.vehicle.waiting == 0
    assert sum(flooder.vehicle.waiting for flooder in flooders) == backlogs.queue.offered - backlogs.queue.done


async def test_a_step_of_the_loop_takes_one_part_of_all(backlogs: Backlogs) -> None:
    for number in range(1, 5):
        backlogs.join(_Reporter(backlogs, number, 90, []))
    await asyncio.sleep(0)
    assert backlogs.queue.offered == PART
    await _settled()
    assert backlogs.queue.offered == 360


async def test_while_nothing_is_stored_backlogs_leave_the_queue_to_others(backlogs: Backlogs) -> None:
    order: list[int] = []
    first, second, third = (_Reporter(backlogs, number, 500, order) for number in (1, 2, 3))
    backlogs.join(first)
    await _settled()
    assert not backlogs.full(first.vehicle), "nothing is in trouble"
    backlogs.join(second)
    await _settled()
    assert second.left == 500, "it is held back while what waits may be stored soon"
    a_recorder(Database("postgresql://nowhere"), rows=1, backlogs=backlogs)._note_trouble(None)
    await _settled()
    assert second.left == 0
    assert backlogs.full(third.vehicle), "half of the queue is full of backlogs"
    assert not backlogs.queue.full
    assert backlogs.full(first.vehicle)
    _store(backlogs, 1_000)
    assert not backlogs.full(first.vehicle)
