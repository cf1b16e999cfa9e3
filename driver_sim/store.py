"""Outboxes on disk: one SQLite file for all drivers of the process."""

import contextlib
import fcntl
import logging
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from driver_sim.outbox import KeptFix, Request, check_sendable
from tracking.model import Fix
from tracking.protocol.codec import encode

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS drivers (
    driver INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    session TEXT NOT NULL,
    last_seq INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS fixes (
    driver INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (driver, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    driver INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    frame BLOB NOT NULL
);
"""

_Statement = tuple[str, tuple[Any, ...]]


class StoreError(Exception):
    """The file can't be used: another process holds it, or the disk refuses to write."""


class SqliteStore:
    """The file and its writer: a thread that commits all waiting changes in one transaction, with one fsync.

    A commit waits `group_delay` seconds for more changes. Acknowledged fixes are deleted with the next commit, or after
    `idle_delay` seconds. If a crash loses a deletion, the fix is only sent once more. Raises `StoreError` if another process
    holds the file: two writers would give the same numbers to different fixes.
    """

    def __init__(self, path: Path, *, group_delay: float = 0.05, idle_delay: float = 1.0, retry_delay: float = 1.0) -> None:
        self.path = path
        self._group_delay = group_delay
        self._idle_delay = idle_delay
        self._retry_delay = retry_delay
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = _lock(path)
        try:
            self._writer = _open(path)
            self._writer.executescript(_SCHEMA)
            self._reader = _open(path)
        except sqlite3.Error as error:
            self._lock_file.close()
            raise StoreError(
                f"{path} can't be used as an outbox file: {error}; move it away to begin with an empty one"
            ) from error
        self._outboxes: dict[str, SqliteOutbox] = {}
        self._changed = threading.Condition()
        self._statements: list[_Statement] = []
        self._kept: dict[SqliteOutbox, int] = {}
        self._urgent = False
        self._closing = threading.Event()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._write, name="outbox-writer", daemon=True)
        self._thread.start()

    def outbox(self, name: str) -> "SqliteOutbox":
        """The outbox of the driver with this name, with what an earlier run left in it. Always the same object."""
        if name not in self._outboxes:
            query = "SELECT driver, session, last_seq FROM drivers WHERE name = ?"
            rows = self.read(query, (name,))
            if not rows:
                self._reader.execute("INSERT INTO drivers (name, session) VALUES (?, ?)", (name, str(uuid.uuid4())))
                rows = self.read(query, (name,))
            self._outboxes[name] = SqliteOutbox(self, *rows[0])
        return self._outboxes[name]

    def close(self) -> None:
        """Write what is left and close the file. Raises `StoreError` if that fails."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join()
        self._reader.close()
        self._writer.close()
        self._lock_file.close()
        if self._failure is not None:
            raise StoreError(f"{self.path}: the last {len(self._statements)} changes could not be written: {self._failure}")

    def read(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        """Committed rows. A reader in WAL mode never waits for the writer."""
        return self._reader.execute(sql, parameters).fetchall()

    def write(self, statements: list[_Statement], *, kept: "tuple[SqliteOutbox, int] | None" = None, urgent: bool) -> None:
        """Queue statements for the next commit. The outbox in `kept` is notified when they are on disk."""
        with self._changed:
            self._statements += statements
            if kept is not None:
                self._kept[kept[0]] = kept[1]
            if urgent and not self._urgent:
                self._urgent = True
                self._changed.notify()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._urgent or self._closing.is_set(), timeout=self._idle_delay)
            if self._group_delay:
                self._closing.wait(self._group_delay)
            closing = self._closing.is_set()
            with self._changed:
                statements, self._statements = self._statements, []
                kept, self._kept = self._kept, {}
                self._urgent = False
            if statements and not self._commit(statements):
                with self._changed:
                    self._statements = statements + self._statements
                    self._kept = kept | self._kept
                    self._urgent = True
                if closing:
                    return
                self._closing.wait(self._retry_delay)
                continue
            for outbox, seq in kept.items():
                outbox.rise(seq)
            if closing and not self._statements:
                return

    def _commit(self, statements: list[_Statement]) -> bool:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for sql, parameters in statements:
                self._writer.execute(sql, parameters)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            if self._failure is None:
                logger.error("%s can't be written, so no new fix is sent: %s; trying again", self.path, error)
            self._failure = str(error)
            return False
        self._failure = None
        return True


class SqliteOutbox:
    """One driver's part of the file. `SqliteStore.outbox` makes it. See `outbox.Outbox`."""

    def __init__(self, store: SqliteStore, driver: int, session: str, last_seq: int) -> None:
        self.session = session
        self.last_seq = last_seq
        self._store = store
        self._driver = driver
        first = store.read("SELECT min(seq) FROM fixes WHERE driver = ?", (driver,))[0][0]
        self.acknowledged_seq: int = last_seq if first is None else first - 1
        self._kept_seq = last_seq
        self._notify: Callable[[], None] | None = None
        rows = store.read("SELECT client_id, frame FROM requests WHERE driver = ? ORDER BY number", (driver,))
        self._requests = {client_id: Request(client_id, frame) for client_id, frame in rows}

    @property
    def kept_seq(self) -> int:
        return self._kept_seq

    def put(self, fix: Fix) -> int:
        self.last_seq += 1
        fix.seq = self.last_seq
        self._store.write(
            [
                ("INSERT INTO fixes (driver, seq, body) VALUES (?, ?, ?)", (self._driver, fix.seq, encode(fix))),
                ("UPDATE drivers SET last_seq = ? WHERE driver = ?", (fix.seq, self._driver)),
            ],
            kept=(self, fix.seq),
            urgent=True,
        )
        return fix.seq

    def unacknowledged(self, after: int, limit: int) -> list[KeptFix]:
        # Not above kept_seq: the reader sees a commit a moment before the writer reports it.
        rows = self._store.read(
            "SELECT seq, body FROM fixes WHERE driver = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (self._driver, max(after, self.acknowledged_seq), self._kept_seq, limit),
        )
        return [KeptFix(seq, body) for seq, body in rows]

    def acknowledge(self, seq: int) -> None:
        check_sendable(seq, self._kept_seq)
        if seq > self.acknowledged_seq:
            self.acknowledged_seq = seq
            self._store.write([("DELETE FROM fixes WHERE driver = ? AND seq <= ?", (self._driver, seq))], urgent=False)

    def renew(self) -> None:
        self.session = str(uuid.uuid4())
        self._store.write([("UPDATE drivers SET session = ? WHERE driver = ?", (self.session, self._driver))], urgent=True)

    def put_request(self, request: Request) -> None:
        self._requests[request.client_id] = request
        row = (self._driver, request.client_id, request.frame)
        self._store.write([("INSERT INTO requests (driver, client_id, frame) VALUES (?, ?, ?)", row)], urgent=True)

    def requests(self) -> list[Request]:
        return list(self._requests.values())

    def finish(self, client_id: str) -> Request | None:
        request = self._requests.pop(client_id, None)
        if request is not None:
            row = (self._driver, client_id)
            self._store.write([("DELETE FROM requests WHERE driver = ? AND client_id = ?", row)], urgent=False)
        return request

    def notify(self, callback: Callable[[], None] | None) -> None:
        self._notify = callback

    def rise(self, seq: int) -> None:
        """The writer reports that every fix up to `seq` is on disk."""
        self._kept_seq = seq
        notify = self._notify
        if notify is not None:
            notify()

    def __len__(self) -> int:
        return self.last_seq - self.acknowledged_seq


def _open(path: Path) -> sqlite3.Connection:
    # Autocommit mode, because the writer sends BEGIN and COMMIT itself. One thread at a time uses each connection.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode a commit is on disk when it returns only with FULL. With NORMAL a power cut could undo numbers in use.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _lock(path: Path) -> IO[bytes]:
    file = path.with_name(path.name + ".lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StoreError(
            f"{path} is in use by another process: stop that one, or give this one another state directory with --state"
        ) from None
    return file
