"""Hubs that start in a fraction of a second: forks of a process that has imported everything and serves nothing.

with Nursery() as nursery:
    hub = nursery.hub(database_url, log)
    hub.kill()          # SIGKILL
    hub.start()         # another process, on the same port
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.hub_process import ROOT, HubProcess, wait_until

ENDS_IN = 20.0


class Nursery:
    """The process to be forked."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(ENDS_IN)

    def hub(self, database_url: str, log: Path, **settings: str) -> "SwiftHub":
        """Not started yet."""
        return SwiftHub(self, database_url, log, **settings)

    def fork(self, arguments: list[str], environment: dict[str, str], log: Path) -> int:
        """Has a fork run `tracking` with these arguments; its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"arguments": arguments, "environment": environment, "log": str(log)}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class SwiftHub(HubProcess):
    """A hub that is forked each time it is started."""

    def __init__(self, nursery: Nursery, database_url: str, log: Path, **settings: str) -> None:
        super().__init__(database_url, log, None, **settings)
        self._nursery = nursery
        self.pid: int | None = None

    def start(self) -> "SwiftHub":
        self.pid = self._nursery.fork(["serve", "--port", str(self.port)], self.environment, self.log)
        wait_until(self._answers, f"the hub did not start; see {self.log}")
        return self

    def _answers(self) -> bool:
        with socket.socket() as client:
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", self.port))
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return client.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

    def _end(self, number: signal.Signals) -> None:
        if self.pid is None:
            return
        file = os.pidfd_open(self.pid)
        try:
            os.kill(self.pid, number)
            ended, _, _ = select.select([file], [], [], ENDS_IN)
            assert ended, f"the hub does not end on {number.name}"
        finally:
            os.close(file)
        self.pid = None


def _serve(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """In the fork."""
    from tracking.cli import main  # imported long ago

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.clear()
    os.environ.update(environment)
    main(arguments)


def _raise_forks() -> None:
    import tracking.cli  # noqa: F401

    # Nobody asks what became of them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                os.close(0)
                _serve(order["arguments"], order["environment"], Path(order["log"]))
            finally:
                os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    _raise_forks()
