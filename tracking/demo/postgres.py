"""A private PostgreSQL cluster in a directory: the database of the demo and of the tests.

    with Cluster(directory) as cluster:
        cluster.create_database("tracking")
        url = cluster.url("tracking")

It listens only on a Unix socket in a directory of mode 0700, so it needs no password. PostgreSQL refuses to run as root.
As root it is started as the user `postgres`. If that user can't reach the directory (a clone under /root), the data is stored
under /var/lib/tracking, and `note` says so. The directory contains:

    data/      PostgreSQL's data directory
    socket/    the socket; it is elsewhere if this path is too long
    log        PostgreSQL's log
    lock       held during a start, so that two processes do not start the cluster at once

This module needs no third-party package. The set-up runs `binaries` before anything is installed.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tracking.child_processes import die_with_parent
from tracking.demo.binaries import Binaries, find_binaries
from tracking.demo.processes import account_for, processes_in, wait_until
from tracking.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_DIRECTORY = ROOT / ".data" / "pg"

SYSTEM_DIRECTORY = Path("/var/lib/tracking")
"""The data is stored here when root's `postgres` user can't reach the directory asked for."""
ROLE = "tracking"
"""The database's role is a superuser of this cluster. It may create extensions and databases."""
PORT = 5432

LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
"""A socket's address has 108 bytes on Linux and 104 on macOS, including the closing zero."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "max_connections": "120",  # a hub opens up to 20
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",  # compiling costs more than our short queries
    "timezone": "UTC",
    "log_timezone": "UTC",
}
"""Settings for a small machine that does other things too. Commits are as durable as in production."""

log = logging.getLogger(__name__)


class Cluster:
    """A PostgreSQL cluster of our own. The constructor touches nothing; `start` creates and starts the cluster."""

    def __init__(
        self,
        directory: Path | str = DEFAULT_DIRECTORY,
        *,
        settings: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
    ) -> None:
        """`settings` override `SETTINGS`. With `die_with_parent`, on Linux, the cluster stops when the calling thread ends."""
        asked = Path(directory).resolve()
        self.settings = {**SETTINGS, **(settings or {})}
        self.note: str | None = None
        """A message for the user when the data is not in the directory asked for; else None."""
        self.directory = asked
        self._account = account_for(asked)
        if self._account is not None and not self._account.may_pass(asked.parent):
            self.directory = SYSTEM_DIRECTORY / _short_name(asked)
            self._account = account_for(self.directory) or self._account
            self.note = f"the user `postgres` can't reach {asked}, so the database's files are in {self.directory}"
        self.data = self.directory / "data"
        self.log_file = self.directory / "log"
        self.socket_directory = self._socket_directory()
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def started(self) -> bool:
        """Whether this object started the server. If another process did, `stop` leaves the server alone."""
        return self._process is not None

    def running(self) -> bool:
        """Whether the server runs; another process may have started it."""
        return self._pid() is not None

    def url(self, database: str = "tracking") -> str:
        """A URL for asyncpg and psql. It names the port, because PGPORT in the environment would change the default."""
        return f"postgresql://{ROLE}@/{database}?host={self.socket_directory}&port={PORT}"

    # ------------------------------------------------------------------------------------------------------ start and stop

    def start(self, timeout: float = 60.0) -> None:
        """Run the server, created if there is none, and return when it accepts connections. Another process may run it."""
        if os.geteuid() == 0 and self._account is None:
            raise ConfigError(
                "PostgreSQL does not run as root and there is no user `postgres` here: run `make install`, or not as root"
            )
        if self.note is not None:
            log.info("%s", self.note)
        deadline = time.monotonic() + timeout
        self._make_directories()
        with self._locked(deadline):
            if self._wait_for_other(deadline):
                return
            self._clear_remains()
            if not (self.data / "PG_VERSION").is_file():
                self._init()
            while not self._launch(deadline):
                time.sleep(0.2)

    def stop(self, timeout: float = 10.0) -> None:
        """Stop the server if this object started it. Commits are kept. After `timeout` it is stopped by force."""
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT):  # PostgreSQL's fast and immediate modes
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
                break
            log.warning("PostgreSQL did not stop within %.1f s of %s", timeout, signal.Signals(number).name)
            timeout = min(timeout, 2.0)
        else:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL every process of it, as if the machine lost power. `start` recovers the database."""
        postmaster = self._pid()
        if postmaster is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGSTOP)  # else it starts new children while we look

        def gone() -> bool:
            left = processes_in(self.data)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.poll()  # a child that is dead and not waited for still holds its number
            return not left

        if not wait_until(gone, 10.0):
            raise ConfigError(f"PostgreSQL's processes in {self.data} do not die: {processes_in(self.data)}")
        if self._process is not None:
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop the cluster and delete its files."""
        self.stop()
        pid = self._pid()
        if pid is not None:
            raise ConfigError(f"the database in {self.data} is in use (process {pid}): stop the demo or the tests first")
        for directory in (self.socket_directory, self.directory):
            if directory.exists():
                shutil.rmtree(directory)

    # ----------------------------------------------------------------------------------------------------------- databases

    def create_database(self, name: str = "tracking", template: str | None = None) -> bool:
        """Create a database, or a copy of a template that nobody uses; return False if the database exists."""
        made = self._client("createdb", *(("--template", template) if template else ()), name)
        if made.returncode == 0:
            return True
        if "already exists" in made.stderr:
            return False
        raise ConfigError(f"can't create database {name}: {made.stderr.strip()}")

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and disconnect its clients."""
        dropped = self._client("dropdb", "--if-exists", "--force", name)
        if dropped.returncode != 0:
            raise ConfigError(f"can't drop database {name}: {dropped.stderr.strip()}")

    def _client(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = ["--host", str(self.socket_directory), "--port", str(PORT), "--username", ROLE, "--no-password"]
        return subprocess.run(
            [self._binaries()[name], *where, *arguments],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    # ------------------------------------------------------------------------------------------------------------ on disk

    def _socket_directory(self) -> Path:
        directory = self.directory / "socket"
        if _fits_a_socket(directory):
            return directory
        temporary = Path(tempfile.gettempdir())
        if not _fits_a_socket(temporary / _short_name(directory)) or (self._account and not self._account.may_pass(temporary)):
            temporary = Path("/tmp")  # noqa: S108  (what is made there is checked to be ours, and of mode 0700)
        return temporary / _short_name(directory)

    def _make_directories(self) -> None:
        for parent in reversed(self.directory.parents):
            if not parent.exists():
                parent.mkdir()
                parent.chmod(0o711 if self._account else 0o700)
        for directory in (self.directory, self.socket_directory):
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
                if self._account is not None:
                    os.chown(directory, self._account.uid, self._account.gid)
            found = directory.lstat()
            owner = self._account.uid if self._account else os.geteuid()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner, os.geteuid()):
                raise ConfigError(
                    f"{directory} belongs to another user (uid {found.st_uid}): run as that user, or remove it and start again"
                )
            if self._account is not None and found.st_uid != owner:
                os.chown(directory, self._account.uid, self._account.gid)
            if stat.S_IMODE(found.st_mode) != 0o700:
                directory.chmod(0o700)

    @contextlib.contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        with (self.directory / "lock").open("a") as lock:

            def taken() -> bool:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

            if not wait_until(taken, deadline - time.monotonic()):
                raise ConfigError(f"another process has been starting the database in {self.directory} for too long: stop it")
            yield

    def _init(self) -> None:
        fresh = self.directory / "data.new"  # an initdb cut short leaves nothing that looks like a cluster
        arguments = ["-D", str(fresh), "--username", ROLE, "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"]
        if self.settings["fsync"] == "off":
            arguments.append("--no-sync")
        for locale in ("C.UTF-8", "C"):  # the first is not everywhere
            if fresh.exists():
                shutil.rmtree(fresh)
            made = self._run_as_owner([find_binaries()["initdb"], *arguments, f"--locale={locale}"])
            if made.returncode == 0:
                fresh.rename(self.data)
                return
        raise ConfigError(f"initdb failed in {self.directory}: {_last_lines(made.stdout)}")

    def _binaries(self) -> Binaries:
        """The programs of the data's version. A newer PostgreSQL can't read an older one's files."""
        return find_binaries(int((self.data / "PG_VERSION").read_text()))

    # ----------------------------------------------------------------------------------------------------------- processes

    def _run_as_owner(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.directory,
            env=_environment(),
            umask=0o077,
            start_new_session=True,
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )

    def _launch(self, deadline: float) -> bool:
        """Start the server and wait for it. False means: the remains of a crashed one are in the way, try again."""
        settings = {**self.settings, "unix_socket_directories": str(self.socket_directory)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self._open_log() as output:
            begin = output.tell()
            process = subprocess.Popen(
                [self._binaries()["postgres"], "-D", str(self.data), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=_environment(),
                umask=0o077,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
                preexec_fn=die_with_parent(signal.SIGINT) if self._die_with_parent else None,
            )
        try:
            wait_until(
                lambda: process.poll() is not None or self._status() == (process.pid, "ready"), deadline - time.monotonic()
            )
            if process.poll() is None and self._status() == (process.pid, "ready"):
                self._process = process
                return True
        finally:
            if self._process is not process and process.poll() is None:  # too slow, or we are interrupted
                process.send_signal(signal.SIGQUIT)
                process.wait()
        said = self.log_file.read_bytes()[begin:].decode(errors="replace")
        if "pre-existing shared memory block" in said and time.monotonic() < deadline:
            return False
        raise ConfigError(f"PostgreSQL does not start in {self.directory}: {_last_lines(said)}")

    def _open_log(self) -> IO[bytes]:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > 10_000_000:
                self.log_file.unlink()
        output = self.log_file.open("ab")
        self.log_file.chmod(0o600)
        return output

    def _status(self) -> tuple[int, str] | None:
        """Process and state (`starting`, `ready`, `stopping`) from the postmaster's pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return int(lines[0]), lines[7].strip() if len(lines) > 7 else "starting"
        except (OSError, ValueError):
            return None

    def _pid(self) -> int | None:
        """The postmaster's pid, if it runs. After a crash, the number in the file may be another process's."""
        status = self._status()
        return status[0] if status is not None and status[0] in processes_in(self.data) else None

    def _wait_for_other(self, deadline: float) -> bool:
        """Wait for a server that someone else started. True means that it is ready, False that it has stopped."""

        def settled() -> bool:
            status = self._status()
            return self._pid() is None or (status is not None and status[1] == "ready")

        if not wait_until(settled, deadline - time.monotonic()):
            raise ConfigError(
                f"PostgreSQL in {self.directory} neither starts nor stops (process {self._pid()}): see {self.log_file}"
            )
        if self._process is not None and self._process.poll() is not None:
            self._process = None  # it died behind our back
        return self._pid() is not None

    def _clear_remains(self) -> None:
        """Clean up after a crash. Children of a dead postmaster usually exit by themselves. Otherwise they are killed."""
        if not wait_until(lambda: not processes_in(self.data), 5.0):
            self.kill()
        # The numbers in these files may be other processes' now. PostgreSQL would then not start.
        for path in (self.data / "postmaster.pid", self.socket_directory / f".s.PGSQL.{PORT}.lock"):
            path.unlink(missing_ok=True)


def _fits_a_socket(directory: Path) -> bool:
    """Whether the path is short enough for a socket, and has no character that a URL or PostgreSQL's list would read
    differently.
    """
    path = str(directory / f".s.PGSQL.{PORT}")
    return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH and re.fullmatch(r"[A-Za-z0-9._/+~-]+", path) is not None


def _short_name(path: Path) -> str:
    return "tracking-" + hashlib.sha256(f"{os.geteuid()}:{path}".encode()).hexdigest()[:12]


def _environment() -> dict[str, str]:
    """Our environment without PGDATA, PGHOST, PGOPTIONS and the like, and with messages in English."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))} | {"LC_ALL": "C"}


def _last_lines(text: str, count: int = 5) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-count:]) or "(it said nothing)"
