"""Child processes: their account, and finding those that are left."""

import contextlib
import os
import pwd
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GLANCE = 0.02
"""Seconds between two checks of a process or a file."""


@dataclass(frozen=True)
class Account:
    """The account that PostgreSQL runs as, if it is not ours."""

    uid: int
    gid: int

    def may_pass(self, directory: Path) -> bool:
        """Whether this account can reach the files in `directory`. For a missing directory, its existing parent is checked."""
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
    """None if it is our own account. For root: the owner of the directory, or else `postgres`."""
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


def wait_until(true: Callable[[], bool], timeout: float) -> bool:
    """Check again and again until it is true or the time is over. Returns the last result."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() >= deadline:
            return False
        time.sleep(GLANCE)
    return True


def processes_in(directory: Path) -> list[int]:
    """PostgreSQL's processes of this data directory. It is the working directory of the postmaster and of all its children."""
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
    """The same without /proc: the process in the pid file, if it is a PostgreSQL, and its children."""
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
