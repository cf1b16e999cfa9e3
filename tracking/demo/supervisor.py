"""The demo: a private database, the hub (or several) and simulated drivers, each a child process, and links to the pages.

    cluster.start -> migrate -> hub, until /readyz -> token -> drivers -> links, until Ctrl-C

Only this process gets the terminal's signals. Its children run in their own sessions, and it stops them in the reverse
order, within `STOP_SECONDS`. On Linux the kernel ends them even when this process is killed.
"""

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO

import httpx

from tracking.child_processes import die_with_parent, how_it_ended
from tracking.demo.links import FLEET, LOOK_SECONDS, READY_SECONDS, Links, say
from tracking.demo.postgres import ROOT, Cluster
from tracking.errors import ConfigError

HOST = "127.0.0.1"
FIRST_PORT = 8000
PORTS_TRIED = 100
DATA = ROOT / ".data"

STANDBY = 4
"""Vehicles that wait for trips made on the dispatcher's page."""

STOP_DRIVERS, STOP_HUB, STOP_DATABASE = 1.2, 1.6, 0.9
"""Seconds each part has to stop by itself before it is killed: 4.6 in all."""
STOP_SECONDS = STOP_DRIVERS + STOP_HUB + 2 * STOP_DATABASE


@dataclass(frozen=True)
class Commands:
    """The commands of the parts. `{port}`, `{url}`, `{drivers}` and `{state}` are filled in. Tests replace the commands."""

    migrate: Sequence[str] = (sys.executable, "-m", "tracking.cli", "migrate")
    serve: Sequence[str] = (sys.executable, "-m", "tracking.cli", "serve", "--host", HOST, "--port", "{port}")
    token: Sequence[str] = (sys.executable, "-m", "tracking.cli", "token", "--role", "service")
    drive: Sequence[str] = (
        *(sys.executable, "-m", "driver_sim", "drive"),
        *("--drivers", "{drivers}", "--standby", str(STANDBY), "--fleet", FLEET, "--hub", "{url}", "--state", "{state}"),
    )


def run(
    port: int | None = None,
    drivers: int = 40,
    workers: int | None = None,
    *,
    data: Path = DATA,
    commands: Commands | None = None,
) -> None:
    """Run the demo until SIGINT, SIGTERM or SIGHUP. Raises `ConfigError` if it can't run. Every process it started is ended.

    With `workers` there are so many hubs, under a supervisor of their own.
    """
    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not os.access(data, os.W_OK):
        raise ConfigError(f"{data} belongs to another user: run the demo as that user, or remove it")
    with _only_one(data) as tell, _Signals() as signals:
        commands = commands or Commands()
        if workers is not None:
            commands = replace(commands, serve=[*commands.serve, "--workers", str(workers)])
        demo = _Demo(data, commands, signals, drivers)
        try:
            demo.start(port, tell)
            demo.watch()
        except _Asked:
            say("Stopping …")
        finally:
            demo.stop()


# -------------------------------------------------------------------------------------------------------------------- parts


class _Asked(BaseException):
    """The user asked us to stop. It is not an Exception, so that no `except Exception` catches it."""


class _Signals:
    """Raises `_Asked` once for SIGINT, SIGTERM or SIGHUP, inside `interruptible` only. TripExchange the signal waits.

    So no signal comes between the start of a child and its registration, and none disturbs the stopping.
    """

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._asked = False
        self._may_raise = False

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._arrived) for number in self.numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._may_raise:
            self._may_raise = False
            raise _Asked

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        self._may_raise = True
        try:
            if self._asked:
                raise _Asked
            yield
        finally:
            self._may_raise = False

    def pause(self, seconds: float) -> None:
        with self.interruptible():
            time.sleep(seconds)


class _Child:
    """A child process in a session of its own. Its output goes to a log."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with _private(log, "wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )

    def died(self) -> str | None:
        """The message if it has ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        return f"the {self.name} {how_it_ended(code)}; the last lines of {_shown(self.log)}:\n{self.last_lines()}"

    def last_lines(self, count: int = 12) -> str:
        with self.log.open(errors="replace") as lines:
            return "".join(f"    {line}" for line in deque(lines, count)).rstrip() or "    (empty)"

    def stop(self, seconds: float) -> None:
        """Ask it to stop. After `seconds`, kill it and everything that it started."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class _Demo:
    def __init__(self, data: Path, commands: Commands, signals: _Signals, drivers: int) -> None:
        self._data = data
        self._commands = commands
        self._signals = signals
        self._drivers = drivers
        self._began = time.time() * 1000
        self._children: list[tuple[_Child, float]] = []  # with the seconds each has to stop
        self._cluster: Cluster | None = None
        self._http: httpx.Client | None = None

    # ------------------------------------------------------------------------------------------------------------- start

    def start(self, wanted_port: int | None, tell: Callable[[str], None]) -> None:
        port = _free_port(wanted_port)
        url = f"http://{HOST}:{port}"
        tell(url)
        environment = self._environment(url)
        filled = {"port": str(port), "url": url, "drivers": str(self._drivers), "state": str(self._data / "drivers")}

        def command(parts: Sequence[str]) -> list[str]:
            return [part.format_map(filled) for part in parts]

        self._finish("migration", command(self._commands.migrate), environment)
        hub = self._add("hub", command(self._commands.serve), environment, STOP_HUB)
        self._http = httpx.Client(base_url=url, timeout=2.0, trust_env=False)  # no proxy stands before ourselves
        self._wait_for_hub(hub, url)
        made = self._finish("token", command(self._commands.token), environment, keep=False)
        token = made.splitlines()[-1].strip() if made.strip() else ""
        self._http.headers["Authorization"] = f"Bearer {token}"
        environment["TRACKING_SERVICE_TOKEN"] = token
        self._add("drivers", command(self._commands.drive), environment, STOP_DRIVERS)
        say(f"The hub is on {url}; {self._drivers} simulated drivers are starting. To stop everything: Ctrl-C.")
        say(f"Logs: {_shown(self._data / 'hub.log')}, {_shown(self._data / 'drivers.log')}")

    def _environment(self, url: str) -> dict[str, str]:
        environment = dict(os.environ)
        environment.pop("TRACKING_JWKS", None)  # the demo signs its own tokens
        environment["TRACKING_PUBLIC_URL"] = url
        environment["PYTHONUNBUFFERED"] = "1"
        for name in ("NO_PROXY", "no_proxy"):
            environment[name] = ",".join(filter(None, (environment.get(name), HOST)))
        if not environment.get("TRACKING_JWT_SECRET"):
            environment["TRACKING_JWT_SECRET"] = _secret(self._data / "secret")
        if not environment.get("TRACKING_DATABASE_URL"):
            self._cluster = Cluster(self._data / "pg", die_with_parent=True)
            if self._cluster.note is not None:
                say(f"Note: {self._cluster.note}.")
            say("Starting the database …")
            with self._signals.interruptible():
                self._cluster.start()
                self._cluster.create_database("tracking")
            environment["TRACKING_DATABASE_URL"] = self._cluster.url("tracking")
        return environment

    def _add(self, name: str, command: Sequence[str], environment: Mapping[str, str], seconds: float) -> _Child:
        child = _Child(name, command, environment, self._data / f"{name}.log")
        self._children.append((child, seconds))
        return child

    def _finish(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, keep: bool = True) -> str:
        """Run a child to its end and return what it wrote; that stays in its log, unless it is a secret."""
        child = self._add(name, command, environment, 0.2)
        while child.process.poll() is None:
            self._signals.pause(0.02)
        self._children.pop()
        if child.process.returncode != 0:
            raise ConfigError(str(child.died()))
        written = child.log.read_text(errors="replace")
        if not keep:
            child.log.unlink()
        return written

    def _wait_for_hub(self, hub: _Child, url: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        answer = "nothing"
        while time.monotonic() < deadline:
            self._check_parts()
            with contextlib.suppress(httpx.TransportError), self._signals.interruptible():
                response = self._client.get("/readyz")
                if response.is_success:
                    return
                answer = f"{response.status_code} {response.text.strip()[:500]}"
            self._signals.pause(0.05)
        raise ConfigError(
            f"the hub is not ready after {READY_SECONDS:.0f} s: {url}/readyz answers {answer}\n{hub.last_lines()}"
        )

    # ------------------------------------------------------------------------------------------------------------- watch

    def watch(self) -> None:
        links = Links(self._client, since=self._began, around=self._signals.interruptible)
        while True:
            self._check_parts()
            links.look()
            self._signals.pause(LOOK_SECONDS)

    def _check_parts(self) -> None:
        for child, _ in self._children:
            died = child.died()
            if died is not None:
                raise ConfigError(died)
        if self._cluster is not None and not self._cluster.running():
            raise ConfigError(f"the database ended; see {_shown(self._cluster.log_file)}")

    @property
    def _client(self) -> httpx.Client:
        assert self._http is not None
        return self._http

    # -------------------------------------------------------------------------------------------------------------- stop

    def stop(self) -> None:
        """Stop drivers, hub and database, in that order. A failure of one does not stop the next. A slow one is killed."""
        with contextlib.ExitStack() as steps:  # the last put on is the first to be done
            if self._cluster is not None:
                steps.callback(self._cluster.stop, STOP_DATABASE)
            for child, seconds in self._children:
                steps.callback(child.stop, seconds)
            if self._http is not None:
                steps.callback(self._http.close)


# ------------------------------------------------------------------------------------------------------------------ helpers


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[Callable[[str], None]]:
    """Only one demo may run in a directory, because two would share the database. The yielded function stores the address for
    the message that a second one prints.
    """
    with _private(data / "demo.lock", "a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read().decode().strip() or "still starting"
            raise ConfigError(f"a demo of this folder already runs ({who}): use that one, or stop it first") from None

        def tell(url: str) -> None:
            lock.truncate(0)
            lock.write(f"process {os.getpid()}, {url}".encode())
            lock.flush()

        yield tell
        lock.truncate(0)


def _free_port(wanted: int | None) -> int:
    if wanted is not None:
        if not _is_free(wanted):
            raise ConfigError(f"port {wanted} is taken: choose another one (make demo PORT=…), or none for the next free one")
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        if _is_free(port):
            if port != FIRST_PORT:
                say(f"Port {FIRST_PORT} is taken: using {port}.")
            return port
    raise ConfigError(f"ports {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} are all taken: choose one with make demo PORT=…")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the hub does: what is closing does not matter
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True


def _secret(path: Path) -> str:
    """A secret that is made once and kept, so that links of an earlier run stay valid."""
    with contextlib.suppress(FileNotFoundError):
        kept = path.read_text().strip()
        if len(kept.encode()) >= 32:
            path.chmod(0o600)
            return kept
        path.unlink()
    made = secrets.token_urlsafe(48)
    with _private(path, "xb") as file:
        file.write(made.encode())
    return made


def _private(path: Path, mode: str) -> IO[bytes]:
    """Open a file that only we can read."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor

    return open(path, mode, opener=opener)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
