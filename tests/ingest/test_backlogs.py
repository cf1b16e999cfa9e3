"""Turns of backlogs: by vehicle, within what may wait for a commit."""

import asyncio

import pytest

from tests.support.positions import a_position
from tracking.ingest.acks import Acks
from tracking.ingest.backlogs import PART, Backlogs
from tracking.ingest.recorder import Entry, Recorder
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.model import Vehicle
from tracking.store.pool import Database

MOST = 500


class _Reporter:
    """A driver's connection with so many fixes to take."""

    def __init__(self, backlogs: Backlogs, recorder: Recorder, number: int, fixes: int, order: list[int]) -> None:
        self.vehicle = IngestVehicle(number, Vehicle(f"van-{number}", "fleet"))
        self.session = Session(number, "", 0)
        self.left = fixes
        self._backlogs = backlogs
        self._recorder = recorder
        self._order = order

    def take_part(self, most: int) -> int:
        before = self._recorder.offered
        count = min(most, self.left)
        for _ in range(count):
            self.session.seen += 1
            seq = self.session.seen
            self._recorder.offer(Entry(self.session, seq, a_position(self.vehicle.number, self.session.number, seq), None))
        self.left -= count
        self._backlogs.took(self.vehicle, before)
        self._order.append(self.vehicle.number)
        if self.left:
            self._backlogs.join(self)
        return count


def _store(recorder: Recorder, count: int) -> None:
    recorder._take(count)
    recorder._let_go()


async def _settled() -> None:
    for _ in range(1_000):
        await asyncio.sleep(0)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder(Database("postgresql://nowhere"), interval=0, rows=1, limit=2_000, acks=Acks(0))


async def test_vehicles_take_turns_and_leave_room_for_what_happens_now(recorder: Recorder) -> None:
    order: list[int] = []
    backlogs = Backlogs(recorder, most=MOST, limit=2_000)
    flooders = [_Reporter(backlogs, recorder, number, 10_000, order) for number in range(1, 5)]
    late = _Reporter(backlogs, recorder, 9, 50, order)
    for flooder in flooders:
        backlogs.join(flooder)
    await _settled()
    assert recorder.offered == MOST, "more of backlogs waits than may"
    assert order == [1, 2, 3, 4, 1]
    backlogs.join(late)
    _store(recorder, MOST)
    await _settled()
    assert late.left == 0
    assert order[5:] == [2, 3, 4, 1, 9, 2]
    assert recorder.offered == 2 * MOST
    _store(recorder, MOST)
    assert late.vehicle.waiting == 0
    assert sum(flooder.vehicle.waiting for flooder in flooders) == recorder.offered - recorder.done


async def test_a_step_of_the_loop_takes_one_part_of_all(recorder: Recorder) -> None:
    backlogs = Backlogs(recorder, most=MOST, limit=2_000)
    for number in range(1, 5):
        backlogs.join(_Reporter(backlogs, recorder, number, 90, []))
    await asyncio.sleep(0)
    assert recorder.offered == PART
    await _settled()
    assert recorder.offered == 360


async def test_while_nothing_is_stored_backlogs_leave_the_queue_to_others(recorder: Recorder) -> None:
    order: list[int] = []
    backlogs = Backlogs(recorder, most=MOST, limit=2_000)
    first, second, third = (_Reporter(backlogs, recorder, number, 500, order) for number in (1, 2, 3))
    backlogs.join(first)
    await _settled()
    assert not backlogs.full(first.vehicle), "nothing is in trouble"
    backlogs.join(second)
    await _settled()
    assert second.left == 500, "it is held back while what waits may be stored soon"
    recorder._note_trouble(None)
    await _settled()
    assert second.left == 0
    assert backlogs.full(third.vehicle), "half of the queue is full of backlogs"
    assert not recorder.full
    assert backlogs.full(first.vehicle)
    _store(recorder, 1_000)
    assert not backlogs.full(first.vehicle)
