"""Lanes: a limited number at once, and one at a time for each holder."""

import asyncio

import pytest

from tracking import lanes as module
from tracking.lanes import Lanes, give_back


async def test_a_holder_with_thirty_requests_does_not_delay_others() -> None:
    lanes = Lanes(2)
    order: list[str] = []
    inside = most = 0

    async def work(holder: str) -> None:
        nonlocal inside, most
        async with lanes.enter(holder):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            order.append(holder)
            inside -= 1

    await asyncio.gather(*(work("greedy") for _ in range(30)), work("one"), work("two"), work("three"))
    assert most == 2
    assert max(order.index(holder) for holder in ("one", "two", "three")) < 8
    assert order.count("greedy") == 30
    assert not lanes._own and not lanes._users


async def test_a_cancelled_request_leaves_nothing() -> None:
    lanes = Lanes(1)
    async with lanes.enter("one"):
        waiting = asyncio.create_task(lanes.enter("two").__aenter__())
        again = asyncio.create_task(lanes.enter("one").__aenter__())
        await asyncio.sleep(0)
        for task in (waiting, again):
            task.cancel()
        await asyncio.gather(waiting, again, return_exceptions=True)
    assert not lanes._own
    async with lanes.enter("three"):
        pass


async def test_a_lane_that_rests_waits_as_long_as_the_last_work_took() -> None:
    lanes, loop = Lanes(1, rests=True), asyncio.get_running_loop()
    began = loop.time()
    async with lanes.enter("one"):
        await asyncio.to_thread(sum, range(500_000))
    took = loop.time() - began
    async with lanes.enter("two"):
        assert loop.time() - began >= 2 * took - 0.005


async def test_memory_is_given_back_when_requests_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    called, loop = asyncio.Event(), asyncio.get_running_loop()

    def quiet() -> None:
        give_back()
        loop.call_soon_threadsafe(called.set)

    lanes = Lanes(1, on_quiet=quiet)
    async with lanes.enter("one"):
        assert not called.is_set()
    async with asyncio.timeout(5):
        await called.wait()
