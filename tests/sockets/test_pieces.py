"""HTTP requests arrive whole and in order, however they are cut into segments and however many come at once."""

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from tests.support.plain_http import H2C, WEBSOCKET, chunked
from tests.support.transport import Line
from tracking.sockets.http import HttpProtocol
from tracking.sockets.request_reader import MAX_HEAD, MAX_HEADERS, PIECE_BYTES, TURN_BYTES

Said = tuple[str, str, bytes]
"""Method, path and body."""


class Requests:
    """An ASGI application that answers each request with 204, and records what it got."""

    def __init__(self, *, reads: bool = True) -> None:
        self.said: list[Said] = []
        self._reads = reads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", self._reads
        while more:
            await asyncio.sleep(0)
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.said.append((scope["method"], scope["path"], body))
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Wire(Line):
    """A transport that can be closed."""

    closed = False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


async def hear(app: Requests, segments: Sequence[bytes], requests: int) -> tuple[Wire, HttpProtocol]:
    """Gives these segments to the protocol, each as soon as it reads, until `requests` are answered or one is refused."""
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    wire = Wire()
    protocol = HttpProtocol(config, ServerState(), {})
    protocol.connection_made(wire)  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        for segment in segments:
            while not wire.reading:
                await asyncio.sleep(0)
            protocol.data_received(segment)
            assert len(protocol._rest) <= len(segment), "what waits is one segment"
        while wire.written.count(b"HTTP/1.1 ") < requests and b"Connection: close" not in wire.written:
            await asyncio.sleep(0)
        while not wire.reading:
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    return wire, protocol


def request(method: str, path: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body


def of_length(path: str, body: bytes, headers: str = "") -> bytes:
    return request("PUT", path, f"{headers}Content-Length: {len(body)}\r\n", body)


BLANK = b"\r\n\r\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
"""A body that looks like requests."""
KINDS: dict[str, tuple[bytes, Said]] = {
    "get": (request("GET", "/get"), ("GET", "/get", b"")),
    "no body": (of_length("/none", b""), ("PUT", "/none", b"")),
    "body": (of_length("/body", b'{"name": "x"}'), ("PUT", "/body", b'{"name": "x"}')),
    "body of requests": (of_length("/blank", BLANK), ("PUT", "/blank", BLANK)),
    "long": (of_length("/long", b"\r\n" * 20_000), ("PUT", "/long", b"\r\n" * 20_000)),
    "chunks": (
        request("PUT", "/chunks", "Transfer-Encoding: chunked\r\n", chunked(BLANK, after="X: y\r\n")),
        ("PUT", "/chunks", BLANK),
    ),
    "small chunks": (
        request("PUT", "/small", "Transfer-Encoding: chunked\r\n", b"1;a=b\r\nx\r\n" * 2_000 + b"0\r\n\r\n"),
        ("PUT", "/small", b"x" * 2_000),
    ),
    "offered": (of_length("/h2c", BLANK, H2C), ("PUT", "/h2c", BLANK)),
    "offered in chunks": (
        request("PUT", "/h2c", f"{WEBSOCKET}Transfer-Encoding: chunked\r\n", chunked(BLANK)),
        ("PUT", "/h2c", BLANK),
    ),
    "empty lines before": (b"\r\n\r\n\n" + request("GET", "/late"), ("GET", "/late", b"")),
}


@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=12),
    cuts=st.lists(st.floats(0, 1), max_size=12),
    reads=st.booleans(),
)
@example(kinds=sorted(KINDS) * 2, cuts=[], reads=True)
async def test_requests_are_the_same_however_they_are_cut(kinds: list[str], cuts: list[float], reads: bool) -> None:
    all_of_it = b"".join(KINDS[kind][0] for kind in kinds)
    places = sorted({0, len(all_of_it), *(int(cut * len(all_of_it)) for cut in cuts)})
    app = Requests(reads=reads)
    await hear(app, [all_of_it[begin:end] for begin, end in pairwise(places)], len(kinds))
    wanted = [KINDS[kind][1] for kind in kinds]
    assert app.said == (wanted if reads else [(*said[:2], b"") for said in wanted])


async def test_requests_are_the_same_byte_by_byte() -> None:
    kinds = [kind for kind in KINDS if "long" not in kind]
    app = Requests()
    all_of_it = b"".join(KINDS[kind][0] for kind in kinds)
    await hear(app, [all_of_it[at : at + 1] for at in range(len(all_of_it))], len(kinds))
    assert app.said == [KINDS[kind][1] for kind in kinds]


@pytest.mark.parametrize("size", [TURN_BYTES - PIECE_BYTES, TURN_BYTES, 2 * TURN_BYTES, TURN_BYTES + 1])
async def test_a_segment_that_ends_with_a_turn_stops_nothing(size: int) -> None:
    head = request("PUT", "/turn", "Transfer-Encoding: chunked\r\n")
    chunk = size - 8
    app = Requests()
    await hear(app, [head, b"%06x\r\n" % chunk + b"x" * chunk, b"\r\n0\r\n\r\n"], 1)
    assert app.said == [("PUT", "/turn", b"x" * chunk)]


async def test_one_request_at_a_time_is_made_of_what_comes() -> None:
    """10,000 requests in one segment: none is parsed before the one before it is answered."""
    app = Requests()
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    wire = Wire()
    protocol = HttpProtocol(config, ServerState(), {})
    protocol.connection_made(wire)  # type: ignore[arg-type]
    protocol.data_received(request("GET", "/") * 10_000)
    assert not wire.reading
    assert len(protocol.tasks) == 1
    assert not protocol.pipeline
    answered = 0
    async with asyncio.timeout(10):
        while len(app.said) < 50:
            assert len(protocol.tasks) <= 2, "one, and one that has answered"
            answered = wire.written.count(b"HTTP/1.1 204")
            assert len(app.said) - answered <= 1
            assert not wire.reading
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    assert not protocol._rest


async def test_a_request_behind_others_is_told_when_its_client_has_gone() -> None:
    gone: list[str] = []

    async def app(scope: Any, receive: Any, _: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.append(scope["path"])

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    protocol = HttpProtocol(config, ServerState(), {})
    protocol.connection_made(Wire())  # type: ignore[arg-type]
    protocol.data_received(request("GET", "/first") + request("GET", "/second"))
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    async with asyncio.timeout(10):
        while not gone:
            await asyncio.sleep(0)
    assert gone == ["/first"]


SEGMENTS = [1, 2, 7, 1_000, PIECE_BYTES, 65_536, 10**6]


@pytest.mark.parametrize("size", SEGMENTS)
@pytest.mark.parametrize(
    ("begin", "end", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\nX: ", "\r\n\r\n", 431),
        ("GET /", " HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        ("GET /v1/driver HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + "X: ", "\r\n\r\n", 431),
        ("PUT / HTTP/1.1\r\nHost: x\r\n" + H2C + "Content-Length: 0\r\nX: ", "\r\n\r\n", 431),
    ],
    ids=["header", "URL", "handshake", "offer"],
)
async def test_a_head_has_64_kib_and_no_more(begin: str, end: str, status: int, size: int) -> None:
    filler = "x" * (MAX_HEAD - len(begin) - len(end))
    for more, good in (("", True), ("x", False)):
        if good and WEBSOCKET in begin:
            continue  # there is no socket here
        said = (begin + filler + more + end).encode()
        wire, _ = await hear(Requests(), [said[at : at + size] for at in range(0, len(said), size)], 1)
        assert wire.written.split()[1] == (b"204" if good else str(status).encode()), (more, wire.written)


@pytest.mark.parametrize("size", SEGMENTS)
async def test_a_request_has_100_headers_and_as_many_trailers(size: int) -> None:
    for count, status in ((MAX_HEADERS, b"204"), (MAX_HEADERS + 1, b"431")):
        head = "GET / HTTP/1.1\r\nHost: x\r\n" + "a:\r\n" * (count - 1) + "\r\n"
        body = "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + "a:\r\n" * count + "\r\n"
        for said in (head.encode(), body.encode()):
            wire, _ = await hear(Requests(), [said[at : at + size] for at in range(0, len(said), size)], 1)
            assert wire.written.split()[1] == status, (count, wire.written)


async def test_a_body_in_the_smallest_chunks_is_a_body() -> None:
    """The bytes around a chunk do not count, so a client may use small chunks."""
    body = b"00000001\r\nx\r\n" * 50_000
    app = Requests()
    await hear(app, [request("PUT", "/", "Transfer-Encoding: chunked\r\n") + body + b"0\r\n\r\n"], 1)
    assert app.said == [("PUT", "/", b"x" * 50_000)]


@pytest.mark.parametrize(
    ("head", "good"),
    [
        ("GET / HTTP/1.1\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nHOST: b\r\n\r\n", False),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", False),
        ("GET http://a/ HTTP/1.1\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", False),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", False),
        (f"GET /v1/driver HTTP/1.1\r\n{WEBSOCKET}\r\n", False),
        (f"GET /v1/driver HTTP/1.1\r\nHost: a\r\nHost: a\r\n{WEBSOCKET}\r\n", False),
        (f"GET / HTTP/1.1\r\n{H2C}\r\n", False),
        ("GET / HTTP/1.0\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost: a.example:8000\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost:  a_b.example \r\n\r\n", True),
    ],
)
async def test_a_request_names_one_host(head: str, good: bool) -> None:
    """RFC 9112, 3.2. HTTP/1.0 requires no host."""
    wire, _ = await hear(Requests(), [head.encode()], 1)
    assert wire.written.split()[1] == (b"204" if good else b"400")
    if not good:
        assert "Host" in json.loads(wire.written.partition(b"\r\n\r\n")[2])["error"]["detail"]
