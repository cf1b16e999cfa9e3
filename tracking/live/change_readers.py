"""Readers of changes: how many may be connected, who waits for the next change, and when a reader is ended."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator

from tracking.auth import Auth, Principal, Role
from tracking.errors import CloseCode, ErrorCode, Refusal, TokenRefused
from tracking.keys import Key
from tracking.live.recent_changes import RecentChanges
from tracking.metrics import CHANGE_READERS

WOKEN_AT_ONCE = 16
"""Readers that are woken in one step of the event loop."""
CHECK_SECONDS = 0.5
"""How often the token of each reader is checked."""
RETRY_AFTER = 5.0
COME_BACK = 1.0


class Reader:
    """Follows one fleet. `ended` says why it must end: `access` with `refused`, `stop`, `slow`, or `gone`."""

    def __init__(self, readers: "ChangeReaders", principal: Principal, fleet_id: str) -> None:
        self.principal = principal
        self.fleet_id = fleet_id
        self.ended: str | None = None
        self.refused: TokenRefused | None = None
        self.on_end: Callable[[], None] = lambda: None
        self._readers = readers
        self._woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def end(self, why: str) -> None:
        if self.ended is None:
            self.ended = why
            self.wake()
            self.on_end()

    async def wait(self, after: int, seconds: float) -> None:
        """Returns when there may be something past `after`, when the reader must end, or when the time is over."""
        if self._readers.recent.is_beyond(self.fleet_id, after):
            return
        waiting = self._readers.waiting.setdefault(self.fleet_id, set())
        waiting.add(self)
        try:
            await self.rest(seconds)
        finally:
            waiting.discard(self)
            if not waiting and self._readers.waiting.get(self.fleet_id) is waiting:
                del self._readers.waiting[self.fleet_id]

    async def rest(self, seconds: float) -> None:
        """Returns when the reader is woken or must end, or when the time is over."""
        if self.ended is not None:
            return
        loop = asyncio.get_running_loop()
        self._woken = loop.create_future()
        timer = loop.call_later(seconds, self.wake)
        try:
            await self._woken
        finally:
            timer.cancel()
            self._woken = None


class ChangeReaders:
    """At most `most` readers in all, and `per_token` of one token. A reader keeps nothing here but its place."""

    def __init__(self, auth: Auth, recent: RecentChanges, *, most: int, per_token: int) -> None:
        self._auth = auth
        self.recent = recent
        self._most = most
        self._per_token = per_token
        self.waiting: dict[str, set[Reader]] = {}
        """Readers that wait for the next change, by fleet."""
        self._to_wake: deque[Reader] = deque()
        self._waking = False
        self._readers: set[Reader] = set()
        self._held: Counter[str] = Counter()
        self._checking: asyncio.TimerHandle | None = None
        self._closed = False

    def wake(self, fleet_id: str) -> None:
        """Wakes the readers that wait for the fleet's next change, some at a time."""
        waiting = self.waiting.pop(fleet_id, None)
        if waiting:
            self._to_wake.extend(waiting)
            if not self._waking:
                self._waking = True
                asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        for _ in range(min(WOKEN_AT_ONCE, len(self._to_wake))):
            self._to_wake.popleft().wake()
        self._waking = bool(self._to_wake)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)

    @contextlib.contextmanager
    def reading(self, principal: Principal, fleet_id: str) -> Iterator[Reader]:
        """A connected reader. Raises `Refusal` (`rate_limited`, `unavailable`) if there are too many."""
        holder = principal.jti
        # A backend reads for all its fleets. It may take half of all places.
        service = principal.role is Role.SERVICE
        most = max(self._per_token, self._most // 2) if service else self._per_token
        if self._held[holder] >= most:
            raise Refusal(
                ErrorCode.RATE_LIMITED,
                f"{most} readers of changes are connected with this token: close one, or give each fleet's reader a token",
                retry_after=RETRY_AFTER,
            )
        if self._closed:
            raise Refusal(ErrorCode.UNAVAILABLE, "this hub stops: come back, and another one answers", retry_after=COME_BACK)
        if len(self._readers) >= self._most:
            detail = f"{self._most} readers of changes are connected, no more have a place: try again in a while"
            raise Refusal(ErrorCode.UNAVAILABLE, detail, retry_after=RETRY_AFTER)
        reader = Reader(self, principal, fleet_id)
        self._held[holder] += 1
        self._readers.add(reader)
        CHANGE_READERS.inc()
        if self._checking is None:
            self._checking = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check_readers)
        try:
            yield reader
        finally:
            CHANGE_READERS.dec()
            self._readers.discard(reader)
            self._held[holder] -= 1
            if not self._held[holder]:
                del self._held[holder]

    def _check_readers(self) -> None:
        """Checks the tokens of all readers, by one timer."""
        self._checking = None
        if self._readers:
            self._checking = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check_readers)
        for reader in list(self._readers):
            try:
                self._auth.check_still(reader.principal)
            except TokenRefused as refused:
                self._refuse(reader, refused)

    def refuse(self, removed: Collection[Key]) -> None:
        """Ends the readers whose token was verified with a key that the provider removed."""
        keys = {id(key) for key in removed}
        for reader in list(self._readers):
            if reader.principal.key is not None and id(reader.principal.key) in keys:
                detail = "the key of this token was taken out of the JWKS"
                self._refuse(reader, TokenRefused(CloseCode.INVALID_TOKEN, detail))

    def _refuse(self, reader: Reader, refused: TokenRefused) -> None:
        reader.refused = reader.refused or refused
        reader.end("access")

    def all(self) -> list[Reader]:
        return list(self._readers)

    def admit_no_more(self) -> None:
        """Those who are connected stay."""
        self._closed = True

    def close(self) -> None:
        """Ends all readers, and admits no more."""
        self.admit_no_more()
        for reader in list(self._readers):
            reader.end("stop")
