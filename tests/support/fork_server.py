"""Starts hubs and other programs quickly, by forking a process that has already imported what they need.

Each fork is a real process, which tests can kill and measure. `fork_server()` is the server of this process.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENDS_IN = 20.0
AVAILABLE = hasattr(os, "pidfd_open")
"""Only Linux reports the end of a process that is not a child of the caller."""
LOADED_LATE = (
    "asyncpg.pgproto.pgproto",
    "tracking.serving",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvloop",
)
"""Modules that a hub imports only when it serves."""


class ForkedProcess:
    """A fork, with the methods of `subprocess.Popen`."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        # The server reaps the process only when asked for the exit code. Until then the pid is not reused.
        self._file = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, seconds: float) -> int | None:
        if self.returncode is None and select.select([self._file], [], [], seconds)[0]:
            self.returncode = self._server.exit_code(self.pid)
            os.close(self._file)
        return self.returncode


class ForkServer:
    """The process that is forked. It ends with the process that made it, and then kills its forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
        """Run `tracking` with these arguments. Its output goes to `log`."""
        return self._fork("tracking.cli", arguments, environment, log=str(log))

    def talk(self, module: str, arguments: Sequence[str]) -> tuple[ForkedProcess, socket.socket]:
        """Run `main` of a module with these arguments. The socket is its standard input and output."""
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            address = str(Path(folder) / "talk")
            listener.bind(address)
            listener.listen()
            process = self._fork(module, arguments, os.environ, talk=address)
            listener.settimeout(ENDS_IN)
            connection, _ = listener.accept()
        return process, connection

    def _fork(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], **streams: str) -> ForkedProcess:
        order = {"module": module, "arguments": list(arguments), "environment": dict(environment), **streams}
        return ForkedProcess(self, self._ask(order))

    def exit_code(self, pid: int) -> int:
        """The exit code of a fork that has ended. If a signal ended it, the negative number of the signal."""
        return self._ask({"ended": pid})

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(ENDS_IN)

    def _ask(self, order: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def talk(module: str, arguments: Sequence[str]) -> tuple[ForkedProcess | subprocess.Popen[bytes], socket.socket]:
    """Run `main` of a module with these arguments, by a fork if possible. The socket is its standard input and output."""
    if AVAILABLE:
        return fork_server().talk(module, arguments)
    ours, theirs = socket.socketpair()
    with theirs:
        file = theirs.fileno()
        return subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdin=file, stdout=file), ours


@cache
def fork_server() -> ForkServer:
    """The server of this process. The first call makes it."""
    made = ForkServer()
    atexit.register(made.close)
    return made


def _run(order: dict[str, Any]) -> None:
    """Runs in the fork."""
    os.setsid()
    if "log" in order:
        file = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        streams = (nothing, file, file)
    else:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(order["talk"])
        file = connection.detach()
        streams = (file, file, 2)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in {*streams} - {2}:
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  the server has read from the one before
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv[1:] = order["arguments"]
    importlib.import_module(order["module"]).main(order["arguments"])


def _serve() -> None:
    for name in ("tracking.cli", *LOADED_LATE):
        with contextlib.suppress(ImportError):  # uvloop is not available everywhere
            importlib.import_module(name)
    # The collector then ignores these objects in the forks, so their memory stays shared.
    gc.collect()
    gc.freeze()
    alive: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "ended" in order:
            _, status = os.waitpid(order["ended"], 0)
            alive.discard(order["ended"])
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        importlib.import_module(order["module"])  # imported here, so that the next fork has it too
        pid = os.fork()
        if pid == 0:
            try:
                _run(order)
                _exit(0)
            except SystemExit as end:
                _exit(end.code)
            except BaseException:
                traceback.print_exc()
            finally:
                _exit(1)
        alive.add(pid)
        print(pid, flush=True)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


def _exit(code: object) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve()
