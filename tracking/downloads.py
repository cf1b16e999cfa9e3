"""Downloads: long answers that are made ahead of their readers. So a slow reader holds only memory, and little of it.

Their number is limited, for one token and in all. Each has a time limit and a least rate. While it lasts, it is checked again
and again whether its reader may have it. A download that ends early is cut off: its client must not take a part for the whole.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import asyncpg
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tracking.auth import Auth, Principal, Role
from tracking.config import Settings
from tracking.errors import ErrorCode, Refusal, StoreUnavailable
from tracking.metrics import DOWNLOADS, DOWNLOADS_CUT

logger = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
"""How long a download waits for others to end."""
WAITING = 4
"""Downloads of one token that may wait, as a multiple of those that may be under way."""
CHECK_SECONDS = 1.0
"""How often it is checked whether a download may continue."""
PATIENCE_SECONDS = 20.0
"""How much longer a reader may take than at the least rate."""
AHEAD = 4
"""Pieces made ahead of the reader: some 50 KB each."""
TRANSPORT = "tracking.transport"
"""The ASGI extension that gives an answer its connection's transport."""
AT_SHUTDOWN = "tracking.at_shutdown"
"""The ASGI extension that takes a function. It is called if the server stops while the answer lasts."""


Chunks = AsyncGenerator[bytes, None]


class TooSlow(Exception):
    """The reader takes less than the least rate."""


class Downloads:
    """The downloads under way, and those that wait for one to end."""

    def __init__(self, auth: Auth, *, at_once: int, per_token: int, seconds: float, least_rate: float) -> None:
        """`seconds` is how long a download may take. `least_rate` is in bytes a second."""
        self.auth = auth
        self.seconds = seconds
        self.least_rate = least_rate
        self._at_once = at_once
        self._per_token = per_token
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], tuple[str, int]] = {}
        self._turns = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def place(self, principal: Principal) -> AsyncIterator[bool]:
        """A place, held while a download lasts. Yields whether it had to wait for it.

        Raises `Refusal` (`rate_limited`, `unavailable`) if none becomes free for a while.
        """
        holder = principal.jti
        # A backend acts for all its users, so it gets half of all places.
        most = max(self._per_token, self._at_once // 2) if principal.role is Role.SERVICE else self._per_token
        waits = not self._take(holder, most)
        if waits:
            await self._wait(holder, most)
        DOWNLOADS.inc()
        try:
            yield waits
        finally:
            DOWNLOADS.dec()
            self._leave(holder)

    async def turn(self) -> None:
        """Returns when the caller may make a piece. Downloads make pieces one at a time, and other tasks run in between."""
        async with self._turns:
            await asyncio.sleep(0)

    def _take(self, holder: str, most: int) -> bool:
        free = self._held[holder] < most and self._held.total() < self._at_once
        if free:
            self._held[holder] += 1
        return free

    def _leave(self, holder: str) -> None:
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]
        for future, (waits, most) in list(self._waiting.items()):
            if not future.done() and self._take(waits, most):
                future.set_result(None)

    async def _wait(self, holder: str, most: int) -> None:
        future = asyncio.get_running_loop().create_future()
        own = self._held[holder] >= most
        try:
            if sum(waits == holder for waits, _ in self._waiting.values()) < WAITING * most:
                self._waiting[future] = holder, most
                await asyncio.wait({future}, timeout=WAIT_SECONDS)
                if future.done():
                    return
        except BaseException:
            if future.done():
                self._leave(holder)
            raise
        finally:
            self._waiting.pop(future, None)
        if own:
            detail = f"{most} downloads of this token are under way: wait for one of them to end"
            raise Refusal(ErrorCode.RATE_LIMITED, detail, retry_after=WAIT_SECONDS)
        detail = f"{self._at_once} downloads are under way: try again in a while"
        raise Refusal(ErrorCode.UNAVAILABLE, detail, retry_after=WAIT_SECONDS)


class Download(StreamingResponse):
    """One long answer. `chunks` must hold nothing between two of them.

    `check` is called every `CHECK_SECONDS`, and before the end. What it raises cuts the answer off. If the download had to wait
    for a place, `check` is also called before the first piece.
    """

    body_iterator: Chunks

    def __init__(
        self,
        downloads: Downloads,
        principal: Principal,
        chunks: Chunks,
        media_type: str,
        check: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(chunks, media_type=media_type)
        self._downloads = downloads
        self._principal = principal
        self._check = check
        self._ready: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(AHEAD)
        self._patience = PATIENCE_SECONDS
        self._blocked_since: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises the refusal if nothing was sent yet."""
        chunks = self.body_iterator
        async with contextlib.aclosing(chunks):
            if scope["method"] == "HEAD":
                await self._begin(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            async with self._downloads.place(self._principal) as waited:
                if waited:
                    # Access was checked before the wait.
                    await self._check()
                # The first piece is made before the answer begins. So a missing database gives a 503 and no broken body.
                self._ready.put_nowait(await anext(chunks))
                await self._go_on(chunks, scope, receive, send)

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _go_on(self, chunks: Chunks, scope: Scope, receive: Receive, send: Send) -> None:
        given, gone, kept = (
            asyncio.create_task(work) for work in (self._give(send), client_gone(receive), self._keep_checking())
        )
        tasks = given, gone, kept, asyncio.create_task(self._make(chunks))
        try:
            await asyncio.wait((given, gone, kept), timeout=self._downloads.seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if gone.done() and not gone.cancelled():
            return
        for task in (given, kept):
            if not task.cancelled():
                error = task.exception()
                if error is None:
                    return
                break
        else:
            error = TimeoutError(f"it takes longer than {self._downloads.seconds:g} s")
        DOWNLOADS_CUT.labels(_why(error)).inc()
        logger.info("cut off a download: %s", error)
        if not cut_off(scope) or not isinstance(error, _KNOWN):
            raise error
        await client_gone(receive)

    async def _make(self, chunks: Chunks) -> None:
        try:
            async for chunk in chunks:
                await self._ready.put(chunk)
                await asyncio.sleep(0)
            await self._ready.put(None)
        except Exception as error:
            await self._ready.put(error)  # `_give` raises it

    async def _give(self, send: Send) -> None:
        await self._begin(send)
        while (chunk := await self._ready.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            self._downloads.auth.check_still(self._principal)
            await self._hand_over(chunk, send, more=True)
        await self._check()
        await self._hand_over(b"", send, more=False)

    async def _hand_over(self, chunk: bytes, send: Send, *, more: bool) -> None:
        self._blocked_since = time.monotonic()
        await send({"type": "http.response.body", "body": chunk, "more_body": more})
        took = time.monotonic() - self._blocked_since
        self._blocked_since = None
        self._patience = min(PATIENCE_SECONDS, self._patience - took + len(chunk) / self._downloads.least_rate)

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            since = self._blocked_since
            if since is not None and time.monotonic() - since > self._patience:
                raise TooSlow(f"its reader takes less than {self._downloads.least_rate:g} bytes a second")
            await self._check()


async def client_gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def cut_off(scope: Scope) -> bool:
    """Resets the connection, and discards what waits in it. False if the server does not offer the connection."""
    transport: asyncio.Transport | None = scope.get("extensions", {}).get(TRANSPORT)
    if transport is None:
        return False
    if not transport.is_closing():
        # In HTTP/1.0 a body ends with its connection, and the system would still send what it has taken.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return True


_KNOWN = (TooSlow, TimeoutError, Refusal, StoreUnavailable, asyncpg.PostgresError)


def _why(error: BaseException) -> str:
    match error:
        case TooSlow():
            return "slow"
        case TimeoutError():
            return "time"
        case Refusal():
            return "access"
        case _:
            return "fault"


def assemble_downloads(settings: Settings, auth: Auth) -> Downloads:
    return Downloads(
        auth,
        at_once=settings.downloads_at_once,
        per_token=settings.downloads_per_token,
        seconds=settings.download_seconds,
        least_rate=settings.download_least_rate,
    )
