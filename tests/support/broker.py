"""A real NATS server in its own process, which tests start, kill, stop and start again on the same port."""

import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.hub_process import free_port, wait_until
from tracking.workers.broker import find_program


def nats_server() -> str:
    """The program: it comes with a package."""
    found = find_program()
    assert found, "nats-server is missing: run `make dev`"
    return found


class Broker:
    """`nats-server` on a fixed port of the loopback. `options` are arguments of the program."""

    def __init__(self, log: Path, options: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.log = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Broker":
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [nats_server(), "-a", "127.0.0.1", "-p", str(self.port), *self._options],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        wait_until(self._answers, f"the NATS server did not start; see {self.log}")
        return self

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """Stops it by SIGSTOP: its connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the NATS server ended:\n{self.log.read_text()}"
        with socket.socket() as client:
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", self.port))
                return client.recv(4).startswith(b"INFO") or "--tls" in self._options
            except OSError:
                return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            process.wait(20)
