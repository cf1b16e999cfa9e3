"""When a hub sheds connections, how many, and when it stops: by a clock of the test, and with real sockets."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clients import Api, Dispatcher, Passenger
from tests.support.devices import until
from tests.support.hubs_in_process import hubs
from tracking.auth import Principal, Role
from tracking.cluster import shedding
from tracking.cluster.shedding import FLOOR, REST_SECONDS, SETTLE_SECONDS, STEP_SECONDS, TRIAL_SECONDS, Shedding
from tracking.errors import CloseCode
from tracking.live.links import Links
from tracking.metrics import SHED
from tracking.nodes.node import Peer

Spread = Callable[["Hubs", int], int]
"""The hub to which a client that was shed by this one goes."""


class Client:
    def __init__(self, hubs: "Hubs", at: int, role: Role) -> None:
        self.principal = Principal(role, "", f"jti-{id(self)}", 2**60)
        self._hubs = hubs
        self.at = at
        hubs.links[at].opened(self.principal.jti, self)

    def close(self, code: CloseCode) -> None:
        assert code is CloseCode.GOING_DOWN
        self._hubs.links[self.at].closed(self.principal.jti, self)
        self.at = self._hubs.spread(self._hubs, self.at)
        self._hubs.links[self.at].opened(self.principal.jti, self)


def anywhere(hubs: "Hubs", _: int) -> int:
    return hubs.rng.randrange(len(hubs.links))


def the_same(_: "Hubs", at: int) -> int:
    return at


class Hubs:
    """So many hubs, which see each other's numbers as of the last second, and their clients."""

    def __init__(self, *counts: int, spread: Spread = anywhere, role: Role = Role.PASSENGER) -> None:
        self.now = 0.0
        self.rng = random.Random(14)
        self.spread = spread
        self.links = [Links() for _ in counts]
        self.draining = [False] * len(counts)
        self.cut_off: set[int] = set()
        """Those that do not reach the database."""
        self.told = list(counts)
        self.shedding = [
            Shedding(
                links,
                lambda me=number: self._peers(me),  # type: ignore[misc]
                lambda me=number: self.draining[me],  # type: ignore[misc]
                above=1.25,
                now=lambda: self.now,
                rng=self.rng,
            )
            for number, links in enumerate(self.links)
        ]
        for number, count in enumerate(counts):
            for _ in range(count):
                Client(self, number, role)

    def _peers(self, me: int) -> list[Peer]:
        return [
            Peer(f"hub-{number}", "", "", 0, number not in self.cut_off, self.now, self.draining[number], count)
            for number, count in enumerate(self.told)
            if number != me
        ]

    @property
    def counts(self) -> list[int]:
        return [links.count for links in self.links]

    def fullest(self) -> float:
        """Of all hubs, in multiples of the mean."""
        return max(self.counts) / (sum(self.counts) / len(self.counts))

    def run(self, seconds: float) -> int:
        """How many were shed."""
        before = SHED.value
        for step in range(round(seconds / STEP_SECONDS)):
            self.now += STEP_SECONDS
            for one in self.shedding:
                for _ in one.step(STEP_SECONDS):
                    pass
            if step % 4 == 0:
                self.told = [count if told >= 0 else told for count, told in zip(self.counts, self.told, strict=True)]
        return SHED.value - before


@pytest.mark.parametrize("counts", [(2000, 0), (1000, 1000, 0)])
def test_after_a_rolling_restart_the_hub_that_began_last_gets_its_share_within_a_minute(counts: tuple[int, ...]) -> None:
    hubs = Hubs(*counts)
    hubs.run(60)
    assert hubs.fullest() <= 1.3
    hubs.run(60)
    assert hubs.fullest() <= 1.2
    assert hubs.run(600) == 0, "they go to and fro"


@pytest.mark.parametrize(
    "counts, each_second", [((1260, 740), 13), ((1500, 500), 30), ((2000, 0), 40)], ids=["a little", "much", "all"]
)
def test_one_or_two_percent_are_shed_each_second(counts: tuple[int, int], each_second: int) -> None:
    hubs = Hubs(*counts)
    assert hubs.run(SETTLE_SECONDS) == 0
    assert hubs.run(1) == pytest.approx(each_second, abs=3)


def test_small_numbers_are_left_alone() -> None:
    assert Hubs(FLOOR - 1, 0).run(60) == 0


def test_a_hub_that_is_a_little_fuller_is_left_alone() -> None:
    assert Hubs(1200, 1000).run(60) == 0


def test_the_last_seconds_must_have_been_quiet() -> None:
    hubs = Hubs(1000, 0)
    hubs.run(SETTLE_SECONDS - 1)
    hubs.links.append(Links())
    hubs.draining.append(False)
    hubs.told.append(0)
    assert hubs.run(SETTLE_SECONDS) == 0
    assert hubs.run(2) > 0


def test_hubs_that_drain_neither_shed_nor_count() -> None:
    hubs = Hubs(1000, 0, 1000)
    hubs.draining[1] = True
    assert hubs.run(30) == 0
    hubs.draining[0] = True
    assert hubs.run(30) == 0


def test_nobody_is_sent_to_a_hub_that_does_not_reach_the_database() -> None:
    """It has sent its readers away, so it has few connections."""
    hubs = Hubs(1000, 0)
    hubs.cut_off.add(1)
    assert hubs.run(60) == 0
    hubs.cut_off.clear()
    assert hubs.run(SETTLE_SECONDS + 5) > 0


def test_a_hub_of_an_older_version_does_not_count() -> None:
    hubs = Hubs(1000, 0)
    hubs.told[1] = -1
    assert hubs.run(60) == 0


async def test_clients_are_closed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shedding, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(shedding, "STEP_SECONDS", 0.05)
    monkeypatch.setattr(shedding, "MOST_A_SECOND", 4.0)
    monkeypatch.setattr(shedding, "SHARE_A_SECOND", 4.0)
    hubs, steps, closed_at = Hubs(500, 0, spread=lambda *_: 1), 0, []

    class Slow(Client):
        def close(self, code: CloseCode) -> None:
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            closed_at.append(steps)
            super().close(code)

    for _ in range(500):
        Slow(hubs, 0, Role.PASSENGER)
    hubs.now += 1
    one = hubs.shedding[0]
    one.due(0)
    shedding_away = asyncio.create_task(one.run())
    while len(closed_at) < 50:
        await asyncio.sleep(0)
        steps += 1
    shedding_away.cancel()
    assert max(closed_at.count(step) for step in closed_at) < 10


def test_dispatchers_stay() -> None:
    assert Hubs(1000, 0, role=Role.DISPATCHER).run(20) == 0


def test_it_gives_up_if_all_come_back_here_and_tries_again_later_and_later() -> None:
    hubs = Hubs(1000, 0, spread=the_same)
    first = hubs.run(SETTLE_SECONDS + TRIAL_SECONDS + 1)
    assert 550 <= first <= 640
    assert hubs.run(REST_SECONDS - TRIAL_SECONDS) == 0
    assert hubs.run(SETTLE_SECONDS + TRIAL_SECONDS + 40) > 0
    assert hubs.run(2 * REST_SECONDS - 100) == 0
    # A new hub may change that.
    hubs.told.append(0)
    hubs.links.append(Links())
    hubs.draining.append(False)
    assert hubs.run(SETTLE_SECONDS + 2) > 0


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    steps=st.lists(st.sampled_from(["run", "drain", "back"]), max_size=4),
)
def test_nothing_is_shed_without_a_reason_and_it_comes_to_an_end(counts: list[int], seed: int, steps: list[str]) -> None:
    hubs = Hubs(*counts)
    hubs.rng.seed(seed)
    for step in steps:
        at = hubs.rng.randrange(len(counts))
        hubs.draining[at] = step == "drain" or (hubs.draining[at] and step != "back")
        before = hubs.counts
        shed = hubs.run(10)
        alive = [count for count, draining in zip(before, hubs.draining, strict=True) if not draining]
        if max(alive, default=0) <= min(alive, default=0) * 1.1 or max(before) < FLOOR / 2:
            assert shed == 0
        assert shed <= sum(hubs.counts) * 0.02 * 10 + len(counts)
    hubs.draining = [False] * len(counts)
    hubs.run(150)
    assert hubs.run(10) == 0 or hubs.fullest() > 1.1


async def test_real_hubs_even_out(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shedding, "FLOOR", 4)
    monkeypatch.setattr(shedding, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(shedding, "MOST_A_SECOND", 0.5)
    monkeypatch.setattr(shedding, "SHARE_A_SECOND", 0.5)
    async with hubs(database_url) as [one, other]:
        async with Api(one.url) as api:
            vehicle_id, trip_id = await api.under_way()
            fleet_id = (await api.call("GET", f"/vehicles/{vehicle_id}"))["fleet_id"]
        passengers = [Passenger(one.url, trip_id) for _ in range(8)]
        async with Dispatcher(one.url, fleet_id) as dispatcher:
            for passenger in passengers:
                await passenger.__aenter__()
            links = one.service.hub.links
            await until(lambda: links.count <= 6, "some are shed")
            codes = [passenger.connection.close_code for passenger in passengers]
            assert 1012 in codes
            assert dispatcher.connection.close_code is None
            assert other.service.nodes.peers[one.service.nodes.node.node].connections > 0
            for passenger in passengers:
                await passenger.__aexit__(None, None, None)
