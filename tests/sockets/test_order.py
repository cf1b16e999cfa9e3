"""Texts arrive whole and in order, however they are cut into segments, and whenever the listener holds them back."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from tests.support.raw import CONTINUED, PING, PONG, TEXT, framed, opening
from tests.support.serving import Echo, Echoes
from tests.support.transport import Line
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.sockets.frames import PINGS_AT_ONCE
from tracking.sockets.http import HttpProtocol
from tracking.sockets.server import SocketProtocol
from tracking.sockets.wire import Wire


class Holding(Echo):
    """Holds the wire after some of the messages, as a driver's connection does after each `hello`."""

    def __init__(self, wire: Wire, holds: set[int]) -> None:
        super().__init__(wire)
        self.holds = holds

    def text_received(self, data: bytes) -> None:
        super().text_received(data)
        if len(self.texts) in self.holds:
            self.wire.hold()


class Holds(Echoes):
    def __init__(self, holds: set[int]) -> None:
        super().__init__()
        self.holds = holds

    def listener(self, wire: Wire) -> Echo:
        return Holding(wire, self.holds)


letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["x" * 125, "y" * 126, "ä" * 200])
text = st.tuples(st.just("text"), st.lists(letters, min_size=1, max_size=1))
fragments = st.tuples(st.just("fragments"), st.lists(letters, min_size=2, max_size=4))
control = st.tuples(st.sampled_from(["ping", "pong"]), st.lists(st.text("abc", max_size=9), min_size=1, max_size=1))


def bytes_of(kind: str, parts: Sequence[str], among: bytes) -> bytes:
    """One message as frames. `among` is a frame between its fragments."""
    if kind in ("ping", "pong"):
        return framed(PING if kind == "ping" else PONG, parts[0])
    if kind == "text":
        return framed(TEXT, parts[0])
    whole = "".join(parts).encode()
    # Cut between bytes, so that characters are cut too.
    size = max(1, len(whole) // len(parts))
    pieces = [whole[size * n : size * (n + 1)] for n in range(len(parts) - 1)]
    rest = whole[size * len(pieces) :]
    first, *others = pieces
    middle = [framed(TEXT, first, fin=False), *(framed(CONTINUED, piece, fin=False) for piece in others)]
    return among.join([*middle, framed(CONTINUED, rest)])


async def opened(holds: set[int]) -> tuple[SocketProtocol, Line, Echo]:
    """A protocol behind a real handshake, and its listener."""
    application = Holds(holds)
    config = uvicorn.Config(
        application, ws=SocketProtocol, ws_max_size=MAX_FRAME_BYTES, ws_ping_interval=None, lifespan="off", log_config=None
    )
    config.load()
    line = Line()
    http = HttpProtocol(config, ServerState(), {})
    http.connection_made(line)  # type: ignore[arg-type]
    http.data_received(opening("/"))
    while not application.made:
        await asyncio.sleep(0)
    protocol = line.protocol
    assert isinstance(protocol, SocketProtocol)
    assert line.written.startswith(b"HTTP/1.1 101 ")
    return protocol, line, application.made[0]


@given(
    messages=st.lists(text | fragments | control, max_size=PINGS_AT_ONCE // 4),
    cuts=st.lists(st.integers(0, 4_000), max_size=30),
    holds=st.sets(st.integers(1, 30), max_size=6),
    among=st.sampled_from([b"", framed(PING, "among"), framed(PONG)]),
)
async def test_the_same_texts_in_the_same_order(
    messages: list[tuple[str, list[str]]], cuts: list[int], holds: set[int], among: bytes
) -> None:
    said = b"".join(bytes_of(kind, parts, among) for kind, parts in messages)
    places = sorted({0, *(cut for cut in cuts if cut < len(said)), len(said)})
    protocol, line, echo = await opened(holds)
    for first, last in pairwise(places):
        while not line.reading:
            protocol.release()
        protocol.data_received(said[first:last])
    while not line.reading:
        protocol.release()
    assert echo.texts == ["".join(parts) for kind, parts in messages if kind in ("text", "fragments")]
    assert not protocol.close_sent
    assert protocol._half is None
    assert protocol._rest is None
