"""The outbox holds every fix until the hub has acknowledged it, and every request until it is done.

Two classes implement it: `MemoryOutbox` here, and `store.SqliteOutbox`, which survives the process.

A fix may be sent only once it is *kept*. Otherwise a crash after sending could give its number to another fix after the
restart. The hub would take that fix for a repeat and drop it.
"""

import uuid
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from tracking.model import Fix
from tracking.protocol.codec import MAX_FRAME_BYTES, encode
from tracking.protocol.driver import MAX_BATCH

_decode_fix = msgspec.json.Decoder(Fix).decode

_BATCH_HEAD = b'{"type":"positions","positions":['
_BATCH_TAIL = b"]}"


class KeptFix(NamedTuple):
    """A fix that may be sent: its number, and its JSON object without `type`."""

    seq: int
    body: bytes

    @property
    def fix(self) -> Fix:
        return _decode_fix(self.body)


class Request(NamedTuple):
    """A `trip_status` or `message` that waits for its `done`; `frame` is the whole message."""

    client_id: str
    frame: bytes


class Outbox(Protocol):
    """One driver's unacknowledged fixes and unfinished requests.

    Numbers (`seq`) rise by one. The unacknowledged fixes are always `acknowledged_seq + 1 .. last_seq`, without gaps. No method
    waits for a disk longer than a look-up takes.
    """

    @property
    def session(self) -> str:
        """The uuid of this run of numbers. It survives a restart, and changes with `renew`."""

    @property
    def last_seq(self) -> int:
        """The highest number in use. 0 before the first."""

    @property
    def acknowledged_seq(self) -> int:
        """Every fix up to here is handled and has left the outbox."""

    @property
    def kept_seq(self) -> int:
        """Every fix up to here is kept and may be sent."""

    def put(self, fix: Fix) -> int:
        """Take a fix, give it the next number, and return that. Does not wait until the fix is kept: see `kept_seq`."""

    def unacknowledged(self, after: int, limit: int) -> list[KeptFix]:
        """Kept fixes with numbers above `after`, in order, at most `limit`."""

    def acknowledge(self, seq: int) -> None:
        """Drop every fix up to `seq`. Raises `ValueError` above `kept_seq`: such a number was never sent."""

    def renew(self) -> None:
        """Begin another session with the same fixes. Needed when the hub has numbers that were never sent from here."""

    def put_request(self, request: Request) -> None:
        """Take a request. It is sent after those that are already here."""

    def requests(self) -> list[Request]:
        """Unfinished requests, oldest first."""

    def finish(self, client_id: str) -> Request | None:
        """Drop this request and return it. None if there is none."""

    def notify(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` whenever `kept_seq` has risen, perhaps in another thread."""

    def __len__(self) -> int:
        """The number of unacknowledged fixes."""


class MemoryOutbox:
    """An outbox that is lost with the process, for benchmarks, replays and tests."""

    def __init__(self, session: str | None = None) -> None:
        self.session = session or str(uuid.uuid4())
        self.last_seq = 0
        self.acknowledged_seq = 0
        self._bodies: dict[int, bytes] = {}
        self._requests: dict[str, Request] = {}
        self._notify: Callable[[], None] | None = None

    @property
    def kept_seq(self) -> int:
        return self.last_seq

    def put(self, fix: Fix) -> int:
        self.last_seq += 1
        fix.seq = self.last_seq
        self._bodies[fix.seq] = encode(fix)
        if self._notify is not None:
            self._notify()
        return fix.seq

    def unacknowledged(self, after: int, limit: int) -> list[KeptFix]:
        first = max(after, self.acknowledged_seq) + 1
        return [KeptFix(seq, self._bodies[seq]) for seq in range(first, min(first + limit, self.last_seq + 1))]

    def acknowledge(self, seq: int) -> None:
        check_sendable(seq, self.kept_seq)
        for handled in range(self.acknowledged_seq + 1, seq + 1):
            del self._bodies[handled]
        self.acknowledged_seq = max(self.acknowledged_seq, seq)

    def renew(self) -> None:
        self.session = str(uuid.uuid4())

    def put_request(self, request: Request) -> None:
        self._requests[request.client_id] = request

    def requests(self) -> list[Request]:
        return list(self._requests.values())

    def finish(self, client_id: str) -> Request | None:
        return self._requests.pop(client_id, None)

    def notify(self, callback: Callable[[], None] | None) -> None:
        self._notify = callback

    def __len__(self) -> int:
        return self.last_seq - self.acknowledged_seq


def check_sendable(seq: int, kept_seq: int) -> None:
    """Raises `ValueError` for an acknowledgement of a number that was never sent."""
    if seq > kept_seq:
        raise ValueError(
            f"seq {seq} was acknowledged, but {kept_seq} is the highest that this session can have sent: another device uses "
            "the same session, or this outbox was restored from an older copy; call renew() and connect again"
        )


def frame_of(kept: list[KeptFix], max_batch: int = MAX_BATCH, max_bytes: int = MAX_FRAME_BYTES) -> tuple[bytes, int]:
    """One frame with the first of `kept`, as many as fit, and how many those are.

    A single fix is sent as `position`, several as `positions`. `kept` must not be empty.
    """
    size = len(_BATCH_HEAD) + len(_BATCH_TAIL) - 1
    count = 0
    for fix in kept[:max_batch]:
        size += len(fix.body) + 1
        if size > max_bytes:
            break
        count += 1
    if count <= 1:
        return b'{"type":"position",' + kept[0].body[1:], 1
    return b"".join((_BATCH_HEAD, b",".join([fix.body for fix in kept[:count]]), _BATCH_TAIL)), count
