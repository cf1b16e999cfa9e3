"""An attack's surroundings: the hub, its memory, and what honest clients met with meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil

from tests.attacks.honest import Figures, honest_clients
from tests.support.clients import Api, Driver, fix, now_ms
from tests.support.hub_process import HubProcess
from tests.support.machine import alone

MEGABYTE = 2**20
SAMPLE_SECONDS = 0.05
WARM_VEHICLES = 6
WARM_FIXES = 4_000
MEMORY_BACK_SECONDS = 10.0
"""How long after an attack the hub's memory may take to be given back."""
GET_MS, ACK_MS, MEMORY_BACK = 100.0, 300.0, 10.0
"""What honest clients may meet with at the 95th percentile, and the megabytes that may stay."""


@dataclass
class Scene:
    """What an attack is given."""

    hub: HubProcess
    seconds: float
    """How long it is to go on."""

    @property
    def url(self) -> str:
        return self.hub.url

    @property
    def database_url(self) -> str:
        return self.hub.environment["TRACKING_DATABASE_URL"]

    def memory(self) -> float:
        """The resident memory of the hub, or of several hubs, in megabytes."""
        assert self.hub.processes
        return sum(psutil.Process(process.pid).memory_info().rss for process in self.hub.processes) / MEGABYTE


Attack = Callable[[Scene], Awaitable[None]]
"""Attacks for `scene.seconds`, or does what it does once; asserts what becomes of the attacker itself."""


@dataclass
class Outcome:
    """Figures of honest clients, and the hub's memory in megabytes: before, at the most, and at the end."""

    honest: Figures
    before: float
    most: float
    after: float
    seconds: float

    def check(self, slack: float = 1.0, *, memory: bool = True) -> None:
        """Fails where an honest client suffered, or memory is not back. `slack` widens the times: a test's machine is busy."""
        assert not self.honest.closed, str(self)
        assert self.honest.p95("get") <= GET_MS * slack, str(self)
        assert self.honest.p95("ack") <= ACK_MS * slack, str(self)
        assert not memory or self.after - self.before <= MEMORY_BACK, str(self)

    def __str__(self) -> str:
        memory = f"memory {self.before:.0f} MB, at most {self.most:.0f}, after {self.after:.0f}"
        return f"{self.honest}; {memory}; {self.seconds:.1f} s"


async def _warm(url: str) -> None:
    """Backlogs of some vehicles: a hub that has worked holds some megabytes that one has not that was just started."""

    async def report(driver: Driver) -> None:
        async with driver:
            for first in range(1, WARM_FIXES, 500):
                await driver.report(*(fix(seq, fix_time=now_ms() - 3_600_000 + seq) for seq in range(first, first + 500)))
            await driver.acknowledged(WARM_FIXES)

    async with Api(url) as api:
        fleet_id = await api.fleet()
        drivers = [Driver(url, await api.vehicle(fleet_id)) for _ in range(WARM_VEHICLES)]
    await asyncio.gather(*(report(driver) for driver in drivers))


async def stage(hub: HubProcess, attack: Attack, seconds: float, *, memory: bool = True) -> Outcome:
    """Runs the attack with honest clients beside it, and no other test.

    Without `memory` the hub's memory does not matter, before nor after.
    """
    async with alone():
        return await _measured(Scene(hub, seconds), attack, memory)


async def _measured(scene: Scene, attack: Attack, memory: bool) -> Outcome:
    hub = scene.hub
    if memory:
        await _warm(hub.url)
    async with honest_clients(hub.url) as figures:
        before = most = scene.memory()

        async def sample() -> None:
            nonlocal most
            while True:
                most = max(most, scene.memory())
                await asyncio.sleep(SAMPLE_SECONDS)

        sampler = asyncio.create_task(sample())
        began = time.monotonic()
        try:
            await attack(scene)
        finally:
            sampler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampler
        took = time.monotonic() - began
        honest = await figures()
    deadline = time.monotonic() + MEMORY_BACK_SECONDS
    while (after := scene.memory()) - before > MEMORY_BACK and memory and time.monotonic() < deadline:
        await asyncio.sleep(SAMPLE_SECONDS)
    return Outcome(honest, before, most, after, took)
