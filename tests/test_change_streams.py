"""Changes of a fleet as a stream of server-sent events."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.support.changes import Hub, a_hub, append, changes, streaming
from tests.support.clients import Api, now_ms, token
from tests.support.devices import until
from tracking.api import changes as http_changes


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    async with a_hub(database_url) as hub:
        yield hub


async def test_a_client_that_goes_leaves_its_place(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    readers = hub.service.change_feed.readers
    for stream in (False, True):
        with socket.create_connection(("127.0.0.1", hub.served.port)) as client:
            accept = "text/event-stream" if stream else "*/*"
            head = f"GET /v1/fleets/{fleet_id}/changes?wait=30 HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n"
            client.sendall(f"{head}Authorization: Bearer {token('service')}\r\n\r\n".encode())
            await until(lambda: len(readers._readers) == 1, "it reads")
        await until(lambda: not readers._readers and not readers.waiting and not readers._held, "it has gone")


async def test_a_stream_tells_each_change_once_and_goes_on_where_it_was_lost(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    async with streaming(hub, fleet_id) as stream:
        first = await hub.api.vehicle(fleet_id)
        assert (await stream.change())["data"]["vehicle_id"] == first
    second, third = await hub.api.vehicle(fleet_id), await hub.api.vehicle(fleet_id)
    # The address has what it had at the first connection; the header counts.
    async with streaming(hub, fleet_id, stream.last, after=0) as stream:
        assert [(await stream.change())["data"]["vehicle_id"] for _ in range(2)] == [second, third]
        fourth = await hub.api.vehicle(fleet_id)
        assert (await stream.change())["data"]["vehicle_id"] == fourth


async def test_a_silent_stream_says_where_it_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_changes, "COMMENT_SECONDS", 0.05)
    fleet_id, other = await hub.api.fleet(), await hub.api.fleet()
    async with streaming(hub, fleet_id) as stream:
        reading = asyncio.create_task(stream.event())
        await until(lambda: stream.comments >= 2, "comments come")
        await hub.api.vehicle(other)
        applied = hub.service.follower.applied
        await until(lambda: stream.last == str(applied), "the cursor moves on past what is another fleet's")
        assert not reading.done()
        await hub.api.vehicle(fleet_id)
        assert await reading is not None


async def test_head_is_answered_at_once(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    for accept, kind in (("*/*", "application/json"), ("text/event-stream", "text/event-stream")):
        response = await hub.api.http.head(f"/fleets/{fleet_id}/changes?wait=30", headers={"Accept": accept})
        assert response.status_code == 200 and response.headers["content-type"].startswith(kind) and not response.content


async def test_a_reader_that_takes_nothing_is_ended_and_the_others_are_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_changes, "SLOW_SECONDS", 2.0)
    async with a_hub(database_url) as hub:
        fleet_id = await hub.api.fleet()
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", hub.served.port))
        head = f"GET /v1/fleets/{fleet_id}/changes HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n"
        slow.sendall(f"{head}Authorization: Bearer {token('service')}\r\n\r\n".encode())
        readers = hub.service.change_feed.readers
        await until(lambda: len(readers._readers) == 1, "it reads")
        [reader] = readers._readers
        async with streaming(hub, fleet_id) as good:
            text = json.dumps({"name": "x" * 50_000})
            told = 0
            while reader.ended is None:
                await append(hub, fleet_id, text)
                assert (await good.change())["data"]["name"] == "x" * 50_000
                told += 1
            assert reader.ended == "slow"
            # What it is told at last stands behind all that it had not taken.
            slow.settimeout(10)
            said = await asyncio.to_thread(_read_all, slow)
            assert said.endswith(b"\r\n0\r\n\r\n") and b"event: end" in said[-400:] and b"too_slow" in said[-400:]
            ids = [int(line[4:]) for line in said.split(b"\n") if line.startswith(b"id: ")]
            assert len(ids) < told
        async with streaming(hub, fleet_id, str(ids[-1])) as again:
            assert (await again.change())["change"] == ids[-1] + 1


def _read_all(connection: socket.socket) -> bytes:
    said = b""
    while piece := connection.recv(65536):
        said += piece
    connection.close()
    return said


async def test_trust_32_a_revoked_token_ends_its_stream_and_its_held_answer(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    issued = await hub.api.call("POST", "/tokens", {"role": "dispatcher", "fleet_id": fleet_id})
    async with Api(hub.url, issued["token"]) as dispatcher, streaming(hub, fleet_id, bearer=issued["token"]) as stream:
        held = asyncio.create_task(dispatcher.http.get(f"/fleets/{fleet_id}/changes?wait=30"))
        await until(lambda: len(hub.service.change_feed.readers._readers) == 2, "both read")
        began = asyncio.get_running_loop().time()
        await hub.api.call("DELETE", f"/tokens/{issued['jti']}")
        end = await stream.event()
        assert end is not None and end[0] == "end" and end[1]["code"] == "unauthorized"
        assert await stream.event() is None
        assert (await held).status_code == 401
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_trust_31_a_stream_ends_when_its_token_expires(database_url: str) -> None:
    ahead = 0
    async with a_hub(database_url, clock=lambda: now_ms() + ahead) as hub:
        fleet_id = await hub.api.fleet()
        async with streaming(hub, fleet_id, bearer=token("dispatcher", fleet_id, 60)) as stream:
            ahead = 60_000
            end = await stream.event()
            assert end is not None and end[0] == "end" and "expired" in end[1]["detail"]


async def test_readers_are_counted_by_token_and_in_all(database_url: str) -> None:
    async with a_hub(database_url, change_readers=3, change_readers_per_token=2) as hub:
        fleet_id = await hub.api.fleet()
        one, other = token("dispatcher", fleet_id), token("dispatcher", fleet_id)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(streaming(hub, fleet_id, bearer=one))
            async with Api(hub.url, one) as api:
                refused = await api.http.get(f"/fleets/{fleet_id}/changes?wait=1")
                assert refused.status_code == 429 and "retry-after" in refused.headers
                assert refused.json()["error"]["code"] == "rate_limited"
                # What is not held takes no place.
                await api.call("GET", f"/fleets/{fleet_id}/changes")
            await stack.enter_async_context(streaming(hub, fleet_id, bearer=other))
            async with Api(hub.url, other) as api:
                refused = await api.http.get(f"/fleets/{fleet_id}/changes", headers={"Accept": "text/event-stream"})
                assert refused.status_code == 503 and "retry-after" in refused.headers
        await until(lambda: not hub.service.change_feed.readers._held, "all places are free")


async def test_a_last_event_id_that_is_none_of_ours_is_refused(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "abc"}
    refused = await hub.api.http.get(f"/fleets/{fleet_id}/changes", headers=headers)
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "Last-Event-ID"


async def test_trust_54_at_shutdown_held_answers_are_empty_and_streams_end(database_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(a_hub(database_url))
        fleet_id = await hub.api.fleet()
        stream = await stack.enter_async_context(streaming(hub, fleet_id))
        held = asyncio.create_task(changes(hub, fleet_id, wait=30))
        await until(lambda: len(hub.service.change_feed.readers._readers) == 2, "both read")
        last = hub.service.follower.applied
        for connection in list(hub.served.server.server_state.connections):
            connection.shutdown()
        assert await held == {"changes": [], "last": last}
        end = await stream.event()
        assert end is not None and end[0] == "end" and end[1]["code"] == "unavailable"
        assert await stream.event() is None
