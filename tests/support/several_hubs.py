"""Several real hubs on one database, joined by a real broker. Tests kill, stop and restart each of them.

async with SeveralHubs(database_url, directory, 3).running() as hubs:
    ...clients connect to hubs.urls[0]...
    await hubs.kill(1)
    await hubs.start(1)
    await hubs.joined()
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import httpx

from tests.support.broker import Broker
from tests.support.clients import Api
from tests.support.devices import until
from tests.support.hub_process import HubProcess
from tests.support.metrics import metrics
from tests.support.proxy import ChaosProxy

PEERS = "tracking_peers"
"""The metric: how many other hubs a hub sees alive."""

NONE: Mapping[str, str] = {}
NO_OWN: Mapping[int, Mapping[str, str]] = {}


class SeveralHubs:
    """`count` hubs. `settings` are TRACKING_… variables of all; `own` those of single hubs, by number.

    Several hubs have a broker, and one has none.
    """

    def __init__(
        self,
        database_url: str,
        directory: Path,
        count: int,
        settings: Mapping[str, str] = NONE,
        own: Mapping[int, Mapping[str, str]] = NO_OWN,
    ) -> None:
        self.broker = Broker(directory / "broker.log") if count > 1 else None
        nats = {"nats_url": self.broker.url} if self.broker is not None else {}
        self.hubs = [
            HubProcess(database_url, directory / f"hub-{number}.log", None, **{**nats, **settings, **own.get(number, NONE)})
            for number in range(count)
        ]
        self.dead: set[int] = set()
        """Those that were killed, or have ended, and were not started again."""

    @property
    def urls(self) -> list[str]:
        return [hub.url for hub in self.hubs]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["SeveralHubs"]:
        try:
            if self.broker is not None:
                await asyncio.to_thread(self.broker.start)
            await asyncio.gather(*(asyncio.to_thread(hub.start) for hub in self.hubs))
            await self.joined()
            yield self
        finally:
            await self.close()

    async def close(self) -> None:
        """Kills all."""
        await asyncio.gather(*(asyncio.to_thread(hub.kill) for hub in self.hubs))
        if self.broker is not None:
            await asyncio.to_thread(self.broker.kill)

    def proxy(self, rng: random.Random) -> ChaosProxy:
        """In front of all hubs: new connections go to one after the other."""
        return ChaosProxy(*(("127.0.0.1", hub.port) for hub in self.hubs), rng=rng)

    async def kill(self, number: int) -> None:
        """SIGKILL."""
        self.dead.add(number)
        await asyncio.to_thread(self.hubs[number].kill)

    async def stop(self, number: int) -> None:
        """SIGTERM. Returns when the hub has ended."""
        self.dead.add(number)
        await asyncio.to_thread(self.hubs[number].stop)

    def begin_to_stop(self, number: int) -> None:
        """SIGTERM. Returns at once."""
        self._signal(number, signal.SIGTERM)

    async def ended(self, number: int, seconds: float = 30.0) -> None:
        """Waits until the hub has ended by itself."""
        self.dead.add(number)
        process = self.hubs[number].process
        assert process is not None
        await asyncio.to_thread(process.wait, seconds)

    async def start(self, number: int) -> None:
        """Starts it again on its port."""
        await asyncio.to_thread(self.hubs[number].start)
        self.dead.discard(number)

    def pause(self, number: int) -> None:
        """SIGSTOP."""
        self._signal(number, signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """SIGCONT."""
        self._signal(number, signal.SIGCONT)

    def _signal(self, number: int, sent: signal.Signals) -> None:
        process = self.hubs[number].process
        assert process is not None
        process.send_signal(sent)

    async def kill_broker(self) -> None:
        assert self.broker is not None
        await asyncio.to_thread(self.broker.kill)

    async def start_broker(self) -> None:
        assert self.broker is not None
        await asyncio.to_thread(self.broker.start)

    async def joined(self, seconds: float = 30.0) -> None:
        """Waits until each living hub is ready, and sees all the others."""
        alive = [hub for number, hub in enumerate(self.hubs) if number not in self.dead]
        for hub in alive:
            await until(lambda h=hub: _sees(h, len(alive) - 1), f"{hub.url} sees {len(alive) - 1} others; {hub.log}", seconds)  # type: ignore[misc]

    async def metric(self, name: str) -> list[float]:
        """The value of a metric of each living hub; 0 where it does not have it."""
        alive = [hub for number, hub in enumerate(self.hubs) if number not in self.dead]
        found = []
        for hub in alive:
            async with Api(hub.url) as api:
                found.append((await metrics(api)).get(name, 0.0))
        return found

    def tracebacks(self) -> list[str]:
        """The first traceback in the log of each hub that has one."""
        logs: Sequence[str] = [hub.log.read_text(errors="replace") for hub in self.hubs]
        return [
            f"hub {number} has a traceback in its log:\n{log[log.index('Traceback') :][:3000]}"
            for number, log in enumerate(logs)
            if "Traceback" in log
        ]


async def _sees(hub: HubProcess, others: int) -> bool:
    async with Api(hub.url) as api:
        try:
            ready = (await api.http.get(f"{hub.url}/readyz")).status_code == 200
            return ready and (not others or (await metrics(api)).get(PEERS) == others)
        except httpx.TransportError:
            return False
