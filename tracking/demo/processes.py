"""Child processes: whom they run as, when they end, and which of them are left."""

import contextlib
import ctypes
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GLANCE = 0.02
"""Seconds between two looks at a process or a file."""


@dataclass(frozen=True)
class Account:
    """Whom PostgreSQL runs as, where that is somebody else than we are."""

    uid: int
    gid: int

    def may_pass(self, directory: Path) -> bool:
        """Can this account reach what is in `directory`? Of what does not exist yet, the part that does is asked."""
        for path in (directory, *directory.parents):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            if found.st_uid == self.uid:
                allowed = found.st_mode & stat.S_IXUSR
            elif found.st_gid == self.gid:
                allowed = found.st_mode & stat.S_IXGRP
            else:
                allowed = found.st_mode & stat.S_IXOTH
            if not allowed:
                return False
        return True


def account_for(directory: Path) -> Account | None:
    """None: we ourselves. As root: whoever owns the directory already, else `postgres`."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = directory.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        return None  # PostgreSQL's package makes this user; `start` says so
    return Account(entry.pw_uid, entry.pw_gid)


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn` after which the kernel sends the child this signal when the thread that started it ends, even by SIGKILL.

    None where there is no such thing (only Linux has it). Start such a child from the main thread.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def before_exec() -> None:
        libc.prctl(1, int(number))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the kernel knew
            os.kill(os.getpid(), number)

    return before_exec


def wait_until(true: Callable[[], bool], timeout: float) -> bool:
    """Look again and again until it is so, or the time is over. Returns the last look."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() >= deadline:
            return False
        time.sleep(GLANCE)
    return True


def processes_in(directory: Path) -> list[int]:
    """PostgreSQL's processes of this data directory: the postmaster and its children all have it as working directory."""
    if not Path("/proc/self/cwd").exists():
        return _processes_by_ps(directory)
    found = []
    wanted = str(directory)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # gone, or a stranger's
                if str((entry / "cwd").readlink()) == wanted:
                    found.append(int(entry.name))
    return found


def _processes_by_ps(directory: Path) -> list[int]:
    """Where there is no /proc: the process named in the pid file, if it is a PostgreSQL, and its children."""
    try:
        postmaster = int((directory / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return []
    found = []
    for line in output_of("ps", "-A", "-o", "pid=,ppid=,stat=,command=").splitlines():
        pid, parent, state, command = line.split(None, 3)
        if postmaster in (int(pid), int(parent)) and "postgres" in command and not state.startswith("Z"):
            found.append(int(pid))
    return found


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
