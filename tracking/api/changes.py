"""`/v1/fleets/{fleet_id}/changes`: the committed changes of a fleet, in order.

A request gets what there is, or waits for the next change, or reads a stream. A stream fetches the next changes when its reader
has read the last ones. So memory holds one piece at most for a slow reader. A reader that takes nothing for `SLOW_SECONDS` is
disconnected, and may continue with `Last-Event-ID`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tracking.api.fleets import MAX_LISTED
from tracking.api.http import (
    SMALL,
    Large,
    name_in_path,
    not_found,
    principal_of,
    resource,
    service_of,
    whole_number,
)
from tracking.auth import Principal, may_manage_fleet
from tracking.downloads import AT_SHUTDOWN, TRANSPORT, client_gone, cut_off
from tracking.errors import ErrorCode, Refusal, StoreUnavailable
from tracking.live.change_entries import Page
from tracking.live.change_feed import ChangeFeed
from tracking.live.change_readers import Reader
from tracking.metrics import CHANGE_READERS_ENDED
from tracking.service import Service
from tracking.store import fleets

logger = logging.getLogger(__name__)

LIMIT = 100
MAX_SECONDS = 30
"""The longest `wait`, in seconds."""
COMMENT_SECONDS = 15.0
"""A silent stream sends a comment after this time."""
SLOW_SECONDS = 20.0
"""A reader of a stream that takes nothing for this long is disconnected."""
PIECE_ROWS = 100
PIECE_BYTES = 16 * 1024
"""The most that is written to a stream at once."""
LAST_SECONDS = 1.0
"""The time to send the reason before a stream is closed."""
RETRY_SECONDS = 1.0
"""The pause between two attempts to read the store while it is away."""
COME_BACK_MS = 2_000
"""The time that a browser is told to wait before it reconnects."""
STREAM = "text/event-stream"


async def follow(request: Request) -> Response:
    """The changes after `after`, at most `limit`. `wait` (s) holds the answer until there is one. `Accept` may ask for a
    stream.
    """
    principal = await principal_of(request)
    fleet_id = name_in_path(request, "fleet_id")
    if not may_manage_fleet(principal, fleet_id):
        raise not_found()
    service = service_of(request)
    feed = service.change_feed
    await _check_fleet(service, fleet_id)
    after, wait = whole_number(request, "after"), whole_number(request, "wait", 0, most=MAX_SECONDS)
    limit = whole_number(request, "limit", LIMIT, least=1, most=MAX_LISTED)
    assert wait is not None and limit is not None
    streams = _wants_stream(request)
    if streams:
        after = _last_event_id(request, after)
    now = await feed.begin()
    if after is None:
        after = now
    else:
        await feed.check(after)
    if streams:
        return Stream(feed, principal, fleet_id, after)
    page = await _page(feed, principal, fleet_id, after, limit)
    if page.entries or not wait or request.method == "HEAD":
        return _answer(page)
    return LongPoll(service, principal, fleet_id, page.last, limit, wait)


async def _check_fleet(service: Service, fleet_id: str) -> None:
    """Raises `Refusal` (`not_found`) if the fleet does not exist. A fleet in memory needs no query, because none is ever
    deleted.
    """
    known = service.change_feed.known
    if fleet_id not in known:
        async with service.database.connection() as connection:
            if await fleets.get(connection, fleet_id) is None:
                raise not_found()
        known.add(fleet_id)


async def _page(feed: ChangeFeed, principal: Principal, fleet_id: str, after: int, limit: int) -> Page:
    """The page of changes; an empty one if the store is away and memory lacks the first of them."""
    try:
        return await feed.page(fleet_id, after, limit, principal.jti)
    except StoreUnavailable:
        if feed.is_held(fleet_id, after):
            return Page([], after)
        raise


def _wants_stream(request: Request) -> bool:
    accepted = ",".join(request.headers.getlist("accept")).split(",")
    return any(kind.partition(";")[0].strip().lower() == STREAM for kind in accepted)


def _last_event_id(request: Request, after: int | None) -> int | None:
    """The last change that a browser received before it lost the stream. It is newer than `after` in the URL."""
    text = request.headers.get("last-event-id", "").strip()
    if not text:
        return after
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= 2**53):
        raise Refusal(ErrorCode.BAD_FIELD, "`Last-Event-ID` must be the `id` of a change", field="Last-Event-ID")
    return int(text)


def _answer(page: Page) -> Response:
    content = b'{"changes":[%b],"last":%d}' % (b",".join(entry.change for entry in page.entries), page.last)
    return Response(content, media_type="application/json")


@contextlib.asynccontextmanager
async def _watched(reader: Reader, scope: Scope, receive: Receive) -> AsyncIterator[asyncio.Task[None]]:
    """End the reader when its client disconnects or the hub stops."""
    watch = asyncio.create_task(client_gone(receive))
    watch.add_done_callback(lambda done: None if done.cancelled() else reader.end("gone"))
    at_shutdown: Callable[[Callable[[], None]], None] | None = scope.get("extensions", {}).get(AT_SHUTDOWN)
    if at_shutdown is not None:
        at_shutdown(lambda: reader.end("stop"))
    try:
        yield watch
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


class LongPoll(Response):
    """An answer that waits until there is a change past `after`, or until `seconds` are over."""

    def __init__(self, service: Service, principal: Principal, fleet_id: str, after: int, limit: int, seconds: float) -> None:
        super().__init__()
        self._service = service
        self._principal = principal
        self._fleet_id = fleet_id
        self._after = after
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        feed = self._service.change_feed
        with feed.reading(self._principal, self._fleet_id) as reader:
            async with _watched(reader, scope, receive):
                page = await self._wait(feed, reader)
            if reader.refused is not None:
                raise reader.refused
            self._service.auth.check_still(self._principal)
        if reader.ended == "gone":
            return
        response = _answer(page)
        if len(response.body) > SMALL:
            response = Large(response, self._service.budgets.answers, self._principal)
        await response(scope, receive, send)

    async def _wait(self, feed: ChangeFeed, reader: Reader) -> Page:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        page = Page([], self._after)
        while True:
            pause = 0.0
            try:
                page = await feed.page(self._fleet_id, page.last, self._limit, self._principal.jti)
            except StoreUnavailable:
                pause = RETRY_SECONDS
            left = until - loop.time()
            if page.entries or reader.ended is not None or left <= 0:
                return page
            if pause:
                await reader.rest(min(pause, left))
            else:
                await reader.wait(page.last, left)


class Stream(Response):
    """Server-sent events. Each change is an event without a name, and its `id` is the number of the change.

    While there is no change, the cursor is sent every `COMMENT_SECONDS`. If the hub ends the stream, the event `end` says why.
    """

    media_type = STREAM

    def __init__(self, feed: ChangeFeed, principal: Principal, fleet_id: str, after: int) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._principal = principal
        self._fleet_id = fleet_id
        self._after = self._begins_at = after
        self._sending: asyncio.Timeout | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        with self._feed.reading(self._principal, self._fleet_id) as reader:
            # Nothing has been sent yet, so a cursor that is too old can still be answered with 410.
            first = await self._take()
            reader.on_end = self._hurry
            async with _watched(reader, scope, receive) as watch:
                blocked = False
                try:
                    await send(start)
                    why, detail = await self._go_on(reader, first, send)
                except TimeoutError:
                    blocked = True
                    reader.end("slow")
                    why, detail = _why(reader)
                if why != "gone":
                    CHANGE_READERS_ENDED.labels(why).inc()
                    await _say_why(why, detail, scope, send, watch, blocked=blocked)

    async def _take(self) -> Page:
        page = await self._feed.page(self._fleet_id, self._after, PIECE_ROWS, self._principal.jti, PIECE_BYTES)
        self._after = page.last
        return page

    async def _go_on(self, reader: Reader, page: Page, send: Send) -> tuple[str, str]:
        """Send changes until the stream must end; return why, and the text for the client.

        Raises `TimeoutError` if the reader takes nothing.
        """
        loop = asyncio.get_running_loop()
        # A client that disconnects before the first change needs a cursor too.
        await self._give(b"retry: %d\n%b" % (COME_BACK_MS, _cursor(self._begins_at)), send)
        heard_at = loop.time()
        while reader.ended is None:
            if page.entries:
                await self._give(b"".join([entry.frame for entry in page.entries if entry.frame is not None]), send)
                heard_at = loop.time()
                # A fast reader must not hold up the others.
                await asyncio.sleep(0)
            elif loop.time() - heard_at >= COMMENT_SECONDS:
                await self._give(b":\n%b" % _cursor(self._after), send)
                heard_at = loop.time()
            else:
                await reader.wait(self._after, heard_at + COMMENT_SECONDS - loop.time())
            try:
                page = await self._take()
            except StoreUnavailable:
                page = Page([], self._after)
                await reader.rest(RETRY_SECONDS)
            except Refusal as refusal:
                return "fault", _saying(refusal.code, refusal.detail)
        return _why(reader)

    async def _give(self, content: bytes, send: Send) -> None:
        async with asyncio.timeout(SLOW_SECONDS) as self._sending:
            await send({"type": "http.response.body", "body": content, "more_body": True})
        self._sending = None

    def _hurry(self) -> None:
        """End the stream without waiting for a reader that does not read."""
        if self._sending is not None and not self._sending.expired():
            self._sending.reschedule(asyncio.get_running_loop().time())


def _cursor(after: int) -> bytes:
    """An event without data. A browser stores its id and raises no event."""
    return b"id: %d\n\n" % after


def _saying(code: str, detail: str) -> str:
    return msgspec.json.encode({"code": str(code), "detail": detail}).decode()


_SLOW = _saying("too_slow", f"you took nothing for {SLOW_SECONDS:g} s: connect again, and go on with `Last-Event-ID`")
_STOP = _saying(ErrorCode.UNAVAILABLE, "the hub goes down: connect again, and go on with `Last-Event-ID`")


def _why(reader: Reader) -> tuple[str, str]:
    if reader.refused is not None:
        return "access", _saying(reader.refused.code, reader.refused.detail)
    return ("slow", _SLOW) if reader.ended == "slow" else (reader.ended or "stop", _STOP)


async def _say_why(why: str, said: str, scope: Scope, send: Send, watch: "asyncio.Task[None]", *, blocked: bool) -> None:
    """End the stream with an event that says why. If the reader is slow, the event waits behind the data not yet taken."""
    content = b"event: end\ndata: %b\n\n" % said.encode()
    if not blocked:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await send({"type": "http.response.body", "body": content, "more_body": False})
                return
    transport: asyncio.Transport | None = scope.get("extensions", {}).get(TRANSPORT)
    if transport is None:
        raise TimeoutError("the reader of a stream takes nothing")
    if why == "access":
        # The rest of the data that waits for the reader is dropped.
        cut_off(scope)
    elif not transport.is_closing():
        # The last chunk follows the whole chunks that wait already.
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if scope["http_version"] == "1.1" else content
        transport.write(chunk)
        transport.close()
    await watch


routes = [
    resource("/fleets/{fleet_id}/changes", GET=follow),
]
