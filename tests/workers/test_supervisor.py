"""What the supervisor decides, in virtual time. Its hubs are stand-ins, which check what is done to them."""

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import virtual_time
from tests.workers.stand_ins import GOOD, StandIn, StandIns, Way
from tracking.errors import ConfigError
from tracking.workers.slot import READY_SECONDS, WITHDRAW_SECONDS
from tracking.workers.supervisor import Supervisor

STOP_SECONDS = 30.0
CRASHES = Way(ready=0.2, dies=0.5)


class Running:
    def __init__(self, source: StandIns, supervisor: Supervisor) -> None:
        self.source = source
        self.supervisor = supervisor
        self.task = asyncio.create_task(supervisor.run())

    def serving(self) -> list[int]:
        """The numbers of the hubs that serve."""
        return [one.pid for one in self.source.started if one.serves]

    async def stop(self) -> bool:
        self.source.stopping = True
        self.supervisor.stop()
        return await self.task


@contextlib.asynccontextmanager
async def running(count: int, ways: Iterable[Way] = ()) -> AsyncIterator[Running]:
    source = StandIns(iter(ways), STOP_SECONDS)
    made = Running(source, Supervisor(source, count, STOP_SECONDS))
    yield made
    if not made.task.done():
        await made.stop()
    assert [one.pid for one in source.started if not one.ended.done()] == []
    assert source.wrongs == []


def test_all_hubs_are_replaced_by_turns_each_by_one_that_serves_first() -> None:
    async def story() -> None:
        async with running(3) as it:
            await asyncio.sleep(2)
            assert it.serving() == [1, 2, 3]
            it.supervisor.roll()
            await asyncio.sleep(3.5)  # A second until it is ready, and two for the old one.
            assert it.serving() == [2, 3, 4]
            await asyncio.sleep(6)
            assert it.serving() == [4, 5, 6]
            assert [one.slot for one in it.source.started] == [1, 2, 3] * 2
            await asyncio.sleep(600)
            assert len(it.source.started) == 6
            assert await it.stop()

    virtual_time.run(story())


def test_any_number_of_requests_while_hubs_are_replaced_is_one_more_round() -> None:
    async def story() -> None:
        async with running(2) as it:
            await asyncio.sleep(2)
            for _ in range(5):
                it.supervisor.roll()
                await asyncio.sleep(0.5)
            await asyncio.sleep(600)
            assert len(it.source.started) == 2 + 2 + 2

    virtual_time.run(story())


@pytest.mark.parametrize(
    "way", [Way(ready=None), Way(ready=None, dies=5.0), Way(cannot_start=True), Way(dies=5.0, refused=True, ready=None)]
)
def test_a_successor_that_does_not_come_to_serve_changes_nothing(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(2, [GOOD, GOOD, GOOD, way]) as it:
            await asyncio.sleep(2)
            it.supervisor.roll()
            await asyncio.sleep(READY_SECONDS + 100)
            assert it.serving() == [2, 3]
            assert "hub 2 is not replaced: its successor" in caplog.text
            it.supervisor.roll()
            await asyncio.sleep(100)
            assert not {2, 3} & set(it.serving())

    virtual_time.run(story())


def test_successors_that_die_when_they_have_taken_over_stop_the_replacing(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(3, [GOOD, GOOD, GOOD, Way(dies=2.0)]) as it:
            await asyncio.sleep(2)
            it.supervisor.roll()
            await asyncio.sleep(100)
            assert it.serving() == [2, 3, 5]
            assert "hub 1 was replaced, and its successor did not live: ended with exit code 1" in caplog.text

    virtual_time.run(story())


def test_a_hub_that_dies_while_its_successor_begins_is_not_started_again_beside_it() -> None:
    async def story() -> None:
        async with running(1, [Way(dies=10.0), Way(ready=5.0)]) as it:
            await asyncio.sleep(8)
            it.supervisor.roll()
            await asyncio.sleep(100)
            assert it.serving() == [2]
            assert len(it.source.started) == 2

    virtual_time.run(story())


def test_a_hub_that_a_signal_without_a_name_ended_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(1) as it:
            await asyncio.sleep(2)
            it.source.started[0].end(-(signal.SIGRTMIN + 1))
            await asyncio.sleep(2)
            assert it.serving() == [2]
            assert f"was ended by signal {signal.SIGRTMIN + 1}" in caplog.text

    virtual_time.run(story())


def test_a_hub_that_dies_again_and_again_is_started_less_and_less_and_gets_no_connections_meanwhile() -> None:
    async def story() -> None:
        async with running(1, [CRASHES] * 8) as it:
            loop = asyncio.get_running_loop()
            began: list[float] = []
            it.source.on_start = lambda _: began.append(round(loop.time(), 3))
            while len(began) < 9:
                await asyncio.sleep(0.1)
                waits = began and loop.time() - began[-1] > 0.6 and not it.serving()
                if waits:
                    assert (1 in it.source.open) == (len(began) in (1, 2)), began
            pauses = [round(b - a - 0.5, 3) for a, b in itertools.pairwise(began)]
            assert pauses == [0, 1, 2, 4, 8, 16, 30, 30]
            assert pauses[2] >= WITHDRAW_SECONDS > pauses[1]
            await asyncio.sleep(61)
            it.source.started[-1].end(1)  # After a minute of life, it starts at once.
            await asyncio.sleep(0.01)
            assert len(began) == 10

    virtual_time.run(story())


def test_a_request_to_replace_ends_the_wait_of_a_hub_that_died_too_often() -> None:
    async def story() -> None:
        async with running(1, [CRASHES] * 7) as it:
            await asyncio.sleep(40)
            assert it.serving() == []
            it.supervisor.roll()
            await asyncio.sleep(1.5)
            assert it.serving() == [8] and it.source.open == {1}

    virtual_time.run(story())


def test_a_hub_that_does_not_stop_is_killed_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(2, [Way(stops=None)]) as it:
            await asyncio.sleep(2)
            began = asyncio.get_running_loop().time()
            assert not await it.stop()
            assert asyncio.get_running_loop().time() - began == STOP_SECONDS
            assert "process 1 did not stop within 30 s" in caplog.text

    virtual_time.run(story())


def test_a_second_request_to_stop_kills() -> None:
    async def story() -> None:
        async with running(2, [Way(stops=None)] * 2) as it:
            await asyncio.sleep(2)
            stopping = asyncio.create_task(it.stop())
            await asyncio.sleep(1)
            it.source.may_kill = True
            it.supervisor.stop()
            await asyncio.sleep(0.01)
            assert stopping.done() and stopping.result() is False

    virtual_time.run(story())


def test_settings_that_no_hub_can_run_with_end_it_with_the_reason() -> None:
    async def story() -> None:
        source = StandIns(iter([Way(ready=None, dies=1.0, refused=True)] * 4), STOP_SECONDS, stopping=False)
        supervisor = Supervisor(source, 4, STOP_SECONDS)
        task = asyncio.create_task(supervisor.run())
        await asyncio.sleep(0.5)
        source.stopping = True
        with pytest.raises(ConfigError, match="it is refused"):
            await task
        assert len(source.started) == 4

    virtual_time.run(story())


def test_what_was_good_once_is_tried_again_though_a_hub_refuses_it_later(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async with running(1, [Way(dies=5.0), Way(ready=None, dies=1.0, refused=True)]) as it:
            await asyncio.sleep(10)
            assert it.serving() == [3]
            assert "hub 1 lived 1 s, and ended with exit code 1: it is refused. It starts again in 1 s" in caplog.text

    virtual_time.run(story())


WAYS = st.builds(
    Way,
    ready=st.none() | st.floats(0.01, 100),
    dies=st.none() | st.floats(0.01, 100),
    stops=st.none() | st.floats(0.01, 60),
    cannot_start=st.booleans(),
)
STEPS = st.lists(st.tuples(st.floats(0.0, 40.0), st.sampled_from(["roll", "kill one", "kill two"])), max_size=12)


@given(st.lists(WAYS, max_size=12), STEPS, st.integers(1, 3))
def test_all_can_be_stopped_at_any_time(ways: list[Way], steps: list[tuple[float, str]], count: int) -> None:
    async def story() -> None:
        async with running(count, ways) as it:
            for pause, what in steps:
                await asyncio.sleep(pause)
                if what == "roll":
                    it.supervisor.roll()
                for one in list(it.source.alive(1))[: what == "kill one"]:
                    one.end(-9)
            began = asyncio.get_running_loop().time()
            await it.stop()
            assert asyncio.get_running_loop().time() - began <= STOP_SECONDS + 0.001
            started = len(it.source.started)
            await asyncio.sleep(1_000)
            assert len(it.source.started) == started

    virtual_time.run(story())


@given(st.lists(WAYS, max_size=12), STEPS, st.integers(1, 3))
def test_whatever_happens_in_the_end_each_slot_has_one_hub_of_the_last_round(
    ways: list[Way], steps: list[tuple[float, str]], count: int
) -> None:
    async def story() -> None:
        async with running(count, ways) as it:

            def bounded(_: StandIn) -> None:
                alive = [one for one in it.source.started if not one.ended.done()]
                it.source.check(len(alive) <= count + 1, "more than one hub was replaced at once")

            it.source.on_start = bounded
            for pause, what in steps:
                await asyncio.sleep(pause)
                if what == "roll":
                    it.supervisor.roll()
                else:
                    for one in list(it.source.alive(1))[: 1 if what == "kill one" else 2]:
                        one.end(-9)
            # All that was bad has happened: hubs are good from now on.
            it.source.ways = iter(())
            await asyncio.sleep(1_000)
            alive = [one.slot for one in it.source.started if not one.ended.done()]
            assert sorted(alive) == list(range(1, count + 1))
            last = len(it.source.started)
            it.supervisor.roll()
            await asyncio.sleep(1_000)
            left = [one for one in it.source.started if not one.ended.done()]
            assert [one.slot for one in left] == list(range(1, count + 1))
            assert all(one.serves and one.pid > last for one in left)
            assert it.source.open == set(range(1, count + 1))

    virtual_time.run(story())
