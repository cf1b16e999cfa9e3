"""Tests that measure times run while no other worker's test does."""

import asyncio
import fcntl
from pathlib import Path

from tests.support.devices import until
from tests.support.machine import Machine


def _is_free(lock: Path) -> bool:
    """Whether nobody holds it for itself."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def test_nobody_else_runs_a_test_meanwhile(tmp_path: Path) -> None:
    measuring, other = Machine(tmp_path), Machine(tmp_path)
    began, may_end = asyncio.Event(), asyncio.Event()

    async def measure() -> None:
        with measuring.shared():
            async with measuring.alone():
                began.set()
                await may_end.wait()

    def run_a_test() -> None:
        with other.shared():
            assert may_end.is_set()

    with other.shared():
        task = asyncio.create_task(measure())
        await until(lambda: not _is_free(tmp_path / "machine.next"), "it waits to be alone")
        assert not began.is_set()
    await began.wait()
    late = asyncio.create_task(asyncio.to_thread(run_a_test))
    assert not _is_free(tmp_path / "machine.use")
    may_end.set()
    await asyncio.gather(task, late)


async def test_two_that_want_to_be_alone_are_so_by_turns(tmp_path: Path) -> None:
    alone = 0

    async def measure(machine: Machine) -> None:
        nonlocal alone
        with machine.shared():
            both.release()
            await begin.wait()
            async with machine.alone():
                alone += 1
                assert alone == 1
                await asyncio.sleep(0)
                alone -= 1

    both, begin = asyncio.Semaphore(0), asyncio.Event()
    tasks = [asyncio.create_task(measure(Machine(tmp_path))) for _ in range(2)]
    for _ in tasks:
        await both.acquire()
    begin.set()
    await asyncio.gather(*tasks)
