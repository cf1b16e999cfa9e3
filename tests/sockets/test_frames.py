"""Rows 1 to 8: the frames that one connection sends, whole, in fragments, in pieces, wrong or without end."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.support.clients import Api, Driver, token
from tests.support.hub_process import HubProcess
from tests.support.memory import MIB, growing_less_than
from tests.support.raw import CLOSE, CONTINUED, PING, PONG, TEXT, RawSocket, framed
from tests.support.serving import Echoes, Served, echo_by_asgi, serving
from tests.support.waiting import until
from tracking.sockets import closing, frames
from tracking.sockets.frames import MAX_FRAGMENTS, PINGS_AT_ONCE

QUIET = b'{"type":"none"}'
TOO_LONG = 70_000


@pytest.fixture
async def raw(hub: HubProcess, api: Api) -> AsyncIterator[RawSocket]:
    """A driver's connection to the real hub."""
    vehicle_id = await api.vehicle(await api.fleet())
    async with RawSocket(hub.port, "/v1/driver", token("driver", vehicle_id), room=4096) as raw:
        assert json.loads(await raw.text())["type"] == "welcome"
        yield raw


@pytest.fixture(params=["wire", "asgi"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """An echo by our protocol in both of its uses."""
    async with serving(Echoes() if request.param == "wire" else echo_by_asgi) as served:
        yield served


# --- rows 1 to 6: frames --------------------------------------------------------------------------------------------


async def test_row_1_a_message_of_70_kb_is_refused(hub: HubProcess, api: Api) -> None:
    async with Driver(hub.url, await api.vehicle(await api.fleet())) as driver:
        await driver.send_text("x" * TOO_LONG)
        assert await driver.closed() == 1009


async def test_row_1_fragments_that_are_too_long_together_are_refused(raw: RawSocket) -> None:
    await raw.send(framed(TEXT, b"x" * 40_000, fin=False), framed(CONTINUED, b"x" * 30_000))
    assert await raw.closed() == 1009


async def test_row_1_who_is_refused_may_finish_its_message_and_then_reads_why(raw: RawSocket) -> None:
    """Every part of the message looks like an answer to the close frame. Still the connection is not reset early."""
    await raw.send(b"\x81\xff" + (4 * MIB).to_bytes(8, "big"), b"\x88" * 4 * MIB)
    assert await raw.closed() == 1009
    assert await raw.frame() is None


async def test_row_1_what_just_fits_is_taken(served: Served) -> None:
    text = "x" * 65_536
    async with RawSocket(served.port) as raw:
        for message in (framed(TEXT, text), framed(TEXT, text[:1], fin=False) + framed(CONTINUED, text[1:])):
            await raw.send(message)
            assert await raw.text() == text


async def test_row_2_a_length_of_2_to_the_62_is_refused_at_once(hub: HubProcess, raw: RawSocket) -> None:
    with growing_less_than(hub, MIB):
        await raw.send(b"\x81\xff" + (2**62).to_bytes(8, "big"))
        assert await raw.closed() == 1009


BAD = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf"]


@pytest.mark.parametrize("bad", BAD)
async def test_row_3_bad_utf8_is_refused(raw: RawSocket, bad: bytes) -> None:
    await raw.send(framed(TEXT, b'{"type":"' + bad + b'"}'))
    assert await raw.closed() == 1007


@pytest.mark.parametrize("bad", BAD)
async def test_row_3_bad_utf8_is_refused_in_fragments_and_among_other_frames(raw: RawSocket, bad: bytes) -> None:
    await raw.send(framed(TEXT, QUIET), framed(TEXT, b"abc" + bad[:1], fin=False), framed(CONTINUED, bad[1:]))
    assert await raw.closed() == 1007


async def test_row_3_a_letter_may_be_split_between_fragments(served: Served) -> None:
    async with RawSocket(served.port) as raw:
        await raw.send(framed(TEXT, "ü".encode()[:1], fin=False), framed(CONTINUED, "ü".encode()[1:]))
        assert await raw.text() == "ü"
        await raw.send(framed(TEXT, "Städtle"))
        assert await raw.text() == "Städtle"


WRONG = {
    "unmasked": b"\x81\x0f" + QUIET,
    "unmasked and long": b"\x81\x7e\x01\x00" + b" " * 256,
    "unmasked close": b"\x88\x02\x03\xe8",
    "row 5: compressed": b"\xc1" + framed(TEXT, QUIET)[1:],
    "second reserved bit": b"\xa1" + framed(TEXT, QUIET)[1:],
    "third reserved bit": b"\x91" + framed(TEXT, QUIET)[1:],
    "reserved bit of a pong": b"\xca" + framed(PONG)[1:],
    "no kind": b"\x83" + framed(TEXT, QUIET)[1:],
    "no control frame": b"\x8b" + framed(PING)[1:],
    "a ping in fragments": b"\x09" + framed(PING)[1:],
    "a ping of 126 bytes": framed(TEXT, b" " * 126).replace(b"\x81", b"\x89", 1),
    "a pong of 126 bytes": framed(TEXT, b" " * 126).replace(b"\x81", b"\x8a", 1),
    "nothing to continue": framed(CONTINUED, QUIET),
    "a message within a message": framed(TEXT, QUIET, fin=False) + framed(TEXT, QUIET),
    "a close code that is none": framed(CLOSE, b"\x03\xee"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
async def test_rows_4_and_5_what_breaks_the_protocol_is_refused(served: Served, wrong: bytes) -> None:
    async with RawSocket(served.port) as raw:
        await raw.send(framed(TEXT, "before"), wrong)
        assert await raw.text() == "before"
        assert await raw.closed() == 1002


async def test_rows_4_and_5_on_the_hub(raw: RawSocket) -> None:
    await raw.send(WRONG["row 5: compressed"])
    assert await raw.closed() == 1002


async def test_row_6_endless_empty_fragments_are_refused(hub: HubProcess, raw: RawSocket) -> None:
    with growing_less_than(hub, MIB):
        await raw.send(framed(TEXT, fin=False))
        for _ in range(100):
            await raw.send(framed(CONTINUED, fin=False) * 1_000)
        assert await raw.closed() == 1009


async def test_row_6_as_many_fragments_as_there_may_be(served: Served) -> None:
    async with RawSocket(served.port) as raw:
        await raw.send(framed(TEXT, "x", fin=False), framed(CONTINUED, "y", fin=False) * (MAX_FRAGMENTS - 2))
        await raw.send(framed(CONTINUED, "z"))
        assert await raw.text() == "x" + "y" * (MAX_FRAGMENTS - 2) + "z"


# --- row 7: pings ---------------------------------------------------------------------------------------------------


async def test_row_7_a_flood_of_pings_fills_no_memory(hub: HubProcess, raw: RawSocket) -> None:
    with growing_less_than(hub, 5 * MIB):
        for _ in range(200):
            await raw.send(framed(PING, b"x" * 125) * 1_000)
    assert await raw.closed() == 4013


async def test_row_7_who_floods_and_never_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "FAREWELL_SECONDS", 0.2)
    async with serving(Echoes()) as served, RawSocket(served.port, room=4096) as raw:
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while True:
                    await raw.send(framed(PING, b"x" * 125) * 100)
        await until(lambda: served.connections == 0)


async def test_a_ping_is_answered_also_between_the_fragments_of_a_message(served: Served) -> None:
    async with RawSocket(served.port) as raw:
        await raw.send(framed(TEXT, "one ", fin=False), framed(PING, "are you there"))
        assert await raw.frame() == (PONG, b"are you there")
        await raw.send(framed(PONG, "not asked for"), framed(CONTINUED, "message"))
        assert await raw.text() == "one message"


async def test_as_many_pings_as_there_may_be_are_answered(served: Served) -> None:
    async with RawSocket(served.port) as raw:
        await raw.send(framed(PING, "x") * PINGS_AT_ONCE)
        for _ in range(PINGS_AT_ONCE):
            assert await raw.frame() == (PONG, b"x")


# --- row 8: half a message ------------------------------------------------------------------------------------------

HALVES = {
    "a fragment": framed(TEXT, QUIET, fin=False),
    "a fragment and a ping": framed(TEXT, QUIET, fin=False) + framed(PING),
    "a head": framed(TEXT, QUIET)[:1],
    "a long head": framed(TEXT, b" " * 300)[:3],
    "a frame": framed(TEXT, QUIET)[:-1],
    "a frame after another": framed(TEXT, QUIET) + framed(TEXT, QUIET)[:-1],
    "a ping": framed(PING, b"x")[:-1],
}


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES.keys())
async def test_row_8_half_a_message_for_too_long(served: Served, half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "HALF_SECONDS", 0.1)
    async with RawSocket(served.port) as raw:
        await raw.send(half)
        assert await raw.closed() == 4408


async def test_row_8_a_message_that_drips_is_half_a_message(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "HALF_SECONDS", 0.2)
    async with RawSocket(served.port) as raw:

        async def drip() -> None:
            await raw.send(framed(TEXT, fin=False))
            while True:
                await raw.send(framed(CONTINUED, "x", fin=False))
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            assert await raw.closed() == 4408
        finally:
            dripping.cancel()


async def test_row_8_who_always_has_begun_the_next_message_goes_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "HALF_SECONDS", 0.2)
    message = framed(TEXT, "whole")
    async with RawSocket(served.port) as raw:
        await raw.send(message[:5])
        for _ in range(10):
            await asyncio.sleep(0.05)
            await raw.send(message[5:], message[:5])
            assert await raw.text() == "whole"


# --- order ----------------------------------------------------------------------------------------------------------


async def test_frames_of_every_kind_keep_their_order(served: Served) -> None:
    texts = ["first", "second ä", "", "x" * 125, "y" * 126, "z" * 65_535, "last but one", "last"]
    frames = [framed(TEXT, text) for text in texts]
    frames[6] = framed(TEXT, texts[6][:4], fin=False) + framed(PING) + framed(CONTINUED, texts[6][4:])
    async with RawSocket(served.port) as raw:
        sending = asyncio.create_task(raw.send(*frames))
        assert [await raw.text() for _ in texts] == texts
        for frame in frames:
            await raw.send(frame)
        assert [await raw.text() for _ in texts] == texts
        await sending


async def test_frames_may_be_split_at_every_byte(served: Served) -> None:
    frames = framed(TEXT, "plain") + framed(TEXT, "Städtle", fin=False) + framed(CONTINUED, " 1") + framed(TEXT, "x" * 130)
    async with RawSocket(served.port) as raw:
        for at in range(1, len(frames)):
            await raw.send(frames[:at])
            await asyncio.sleep(0)
            await raw.send(frames[at:])
            assert [await raw.text() for _ in range(3)] == ["plain", "Städtle 1", "x" * 130]
        for byte in frames:
            await raw.send(bytes([byte]))
            await asyncio.sleep(0)
        assert [await raw.text() for _ in range(3)] == ["plain", "Städtle 1", "x" * 130]


async def test_what_looks_like_a_frame_within_a_frame_is_none(served: Served) -> None:
    """The end of one frame arrives by itself, and has exactly the bytes of a whole text frame."""
    inner = b"\x81\x85" + b"\x80" * 4 + bytes(letter | 0x80 for letter in b"inner")
    async with RawSocket(served.port) as raw:
        await raw.send(framed(PING), b"\x81" + bytes([0x80 | len(inner)]) + b"\x80" * 4)
        assert await raw.frame() == (PONG, b"")
        await raw.send(inner)
        assert await raw.text() == "\x01\x05\0\0\0\0inner"


async def test_a_message_within_a_message_is_refused_also_when_it_comes_by_itself(served: Served) -> None:
    async with RawSocket(served.port) as raw:
        await raw.send(framed(TEXT, QUIET, fin=False), framed(PING))
        assert await raw.frame() == (PONG, b"")
        await raw.send(framed(TEXT, QUIET))
        assert await raw.closed() == 1002
