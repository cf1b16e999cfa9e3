"""`tracking serve --workers N`: several hubs on one port, which a supervisor replaces by turns."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import psutil

from driver_sim.bench.hub import READY_SECONDS, STOP_SECONDS, EnvironmentFailed, Launch, Process, connections, cpu, free_port


class Workers:
    """Its hubs, on `port`."""

    def __init__(self, count: int, environment: Mapping[str, str], log: Path, launch: Launch) -> None:
        self.port = free_port()
        self._count = count
        self._environment = environment
        self._log = log
        self._launch = launch
        self._supervisor: Process | None = None

    async def start(self, timeout: float = READY_SECONDS) -> None:
        """Starts them and waits until all accept clients. Raises `EnvironmentFailed`."""
        arguments = ["serve", "--port", str(self.port), "--workers", str(self._count)]
        self._supervisor = self._launch(arguments, self._environment, self._log)
        await self._until(lambda: len(self._hubs()) == self._count, timeout, "start")
        async with httpx.AsyncClient(trust_env=False, timeout=1.0) as http:
            deadline = time.monotonic() + timeout
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"http://127.0.0.1:{self.port}/readyz")).is_success:
                        return
                if time.monotonic() > deadline:
                    raise EnvironmentFailed(f"the hubs did not become ready; their log is {self._log}")
                await asyncio.sleep(0.05)

    async def roll(self, timeout: float) -> None:
        """SIGHUP, and waits until other hubs run in place of all. Raises `EnvironmentFailed`."""
        assert self._supervisor is not None
        before = {hub.pid for hub in self._hubs()}
        self._supervisor.send_signal(signal.SIGHUP)
        await self._until(
            lambda: len(self._hubs()) == self._count and not before & {h.pid for h in self._hubs()}, timeout, "roll"
        )

    async def stop(self) -> None:
        """Ends all."""
        if self._supervisor is None:
            return
        self._supervisor.send_signal(signal.SIGTERM)
        with contextlib.suppress(EnvironmentFailed):
            await self._until(lambda: False, STOP_SECONDS, "end")
        self._supervisor.send_signal(signal.SIGKILL)
        self._supervisor.wait(STOP_SECONDS)

    def connections(self) -> list[int]:
        """How many clients are connected to each hub."""
        return [connections(hub, self.port) for hub in self._hubs()]

    def cpu(self) -> float:
        """Seconds of CPU of those hubs that run now."""
        return sum(cpu(hub) for hub in self._hubs())

    def _hubs(self) -> list[psutil.Process]:
        """The supervisor also has a NATS server."""
        assert self._supervisor is not None
        found = []
        for child in psutil.Process(self._supervisor.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE and child.name() != "nats-server":
                    found.append(child)
        return found

    async def _until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        assert self._supervisor is not None
        deadline = time.monotonic() + timeout
        while not condition():
            if self._supervisor.poll() is not None or time.monotonic() > deadline:
                raise EnvironmentFailed(f"the hubs did not {what} within {timeout:g} s; their log is {self._log}")
            await asyncio.sleep(0.05)
