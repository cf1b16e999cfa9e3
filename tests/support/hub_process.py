"""A real hub in its own process, which tests start, kill and start again."""

import errno
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support import fork_server
from tests.support.fork_server import ForkedProcess

ROOT = fork_server.ROOT
SECRET = "a secret for tests only, of more than 32 bytes"


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
PORTS = range(20_000 + 3_000 * _WORKER, 23_000 + 3_000 * _WORKER)
"""Ports below those that the system gives to outgoing connections. Each worker has its own range.

A hub takes a port some moments after it was found free. Another worker's hub could take it first.
"""


def free_port() -> int:
    """A free port of the loopback. It is rarely the same twice, because other tests run at the same time."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port


Process = ForkedProcess | subprocess.Popen[bytes]


def launch(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Run `tracking`, by a fork if possible. Its output goes to `log`."""
    if fork_server.AVAILABLE:
        return fork_server.fork_server().fork(arguments, environment, log)
    return run_module("tracking.cli", arguments, environment, log)


def run_module(module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


class HubProcess:
    """`tracking serve` on a fixed port, so that clients find it after a restart. `settings` are TRACKING_… variables."""

    def __init__(self, database_url: str, log: Path, port: int | None = None, /, **settings: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRACKING_")},
            "TRACKING_DATABASE_URL": database_url,
            "TRACKING_JWT_SECRET": SECRET,
            "TRACKING_PUBLIC_URL": self.url,
            # Tests wait for each ack before they send the next fix. Other tests cover the pace of acks.
            "TRACKING_ACK_INTERVAL": "0",
            # A hub among several ends as fast as a single one. Tests of the drain set it.
            "TRACKING_DRAIN_SECONDS": "0",
            **{f"TRACKING_{name.upper()}": value for name, value in settings.items()},
        }
        self.process: Process | None = None

    @property
    def alone(self) -> bool:
        """Whether it is a single hub, not several behind a load balancer."""
        return True

    @property
    def processes(self) -> list[Process]:
        """Those that were started and not ended."""
        return [self.process] if self.process is not None else []

    def begin(self) -> Process:
        """Starts it, and does not wait until it answers."""
        self.process = self._launch()
        return self.process

    def start(self) -> "HubProcess":
        self.begin()
        wait_until(self.answers, f"the hub did not start; see {self.log}")
        return self

    def _launch(self) -> Process:
        return launch(["serve", "--port", str(self.port)], self.environment, self.log)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the hub ended with {self.process.returncode}:\n{self.log.read_text()}"
        with socket.socket() as client:
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", self.port))
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return client.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None


def wait_until(condition: Callable[[], bool], failure: str, seconds: float = 30.0) -> None:
    """Check the condition until it holds."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, failure
        pause.wait(0.02)
