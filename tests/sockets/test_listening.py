"""How a server stops to listen: nobody who was connected is reset, and a shared socket stays open for the other process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from tests.support.plain_http import Plain
from tests.support.serving import Served, serving
from tracking.sockets.door import Door
from tracking.sockets.http import HttpProtocol
from tracking.sockets.limits import ConnectionLimits

WAITING = 20


class _Site(NamedTuple):
    served: Served
    listener: socket.socket
    """Another handle of the socket that the server listens on, as another process would have it."""
    slow: asyncio.Event
    """Set when the answer of `/slow` may end."""

    def door(self, *, shared: bool) -> Door:
        return Door(self.served.server, [self.listener], shared=shared)


@pytest.fixture
async def site() -> AsyncIterator[_Site]:
    slow = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        if scope["path"] == "/slow":
            await slow.wait()
        await send({"type": "http.response.body", "body": b"k"})

    # A class of its own, because a door marks the class.
    async with serving(app, http=HttpProtocol.guarded(ConnectionLimits(1_000))) as served:
        [listening] = served.server.servers[0].sockets
        with listening.dup() as listener:
            yield _Site(served, listener, slow)


def _begun(port: int) -> list[socket.socket]:
    """Connections that wait in the queue of the listening socket: the event loop has not run meanwhile."""
    return [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(WAITING)]


async def _ask(client: socket.socket) -> bytes:
    """The answer to a request."""
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
    answer = b""
    async with asyncio.timeout(10):
        while data := await loop.sock_recv(client, 4096):
            answer += data
    return answer


async def test_those_who_wait_when_a_server_stops_to_listen_are_answered_and_the_next_ones_refused(site: _Site) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(client) for client in _begun(site.served.port)]
        closing = asyncio.create_task(site.door(shared=False).close(0.3))
        await asyncio.sleep(0)  # the socket lets nobody in from here on
        late = asyncio.create_task(asyncio.open_connection("127.0.0.1", site.served.port))
        await closing
        # As when the process ends. Until then this handle keeps the socket open.
        site.listener.close()
        for client in waiting:
            assert (await _ask(client)).startswith(b"HTTP/1.1 200")
        with pytest.raises(ConnectionRefusedError):
            await late


async def test_a_shared_socket_keeps_its_queue_for_the_other_process(site: _Site) -> None:
    door = site.door(shared=True)
    await door.close(0.3)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(client) for client in _begun(site.served.port)]
        async with asyncio.timeout(10):
            for client in waiting:
                taken, address = await asyncio.get_running_loop().sock_accept(site.listener)
                with taken:
                    assert address == client.getsockname()


async def test_connections_end_with_their_answer_and_the_answer_says_so(site: _Site) -> None:
    async with Plain(site.served.port) as idle, Plain(site.served.port) as slow:
        idle.ask("GET /")
        assert "connection" not in (await idle.answer()).headers
        slow.ask("GET /slow")
        await slow.begun(b"o\r\n")
        await site.door(shared=False).last_answers()
        idle.ask("GET /")
        answer = await idle.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await idle.ended()
        site.slow.set()
        assert await slow.begun(b"0\r\n\r\n")
        assert await slow.ended()


async def test_who_gets_in_while_the_socket_is_closing_can_be_heard(site: _Site) -> None:
    """A connection whose handshake ends late inherits from its listener that packets from afar are dropped."""
    door = site.door(shared=False)
    await door.last_answers()
    closing = asyncio.create_task(door.close(1.0))
    await asyncio.sleep(0)
    with socket.socket() as client:
        # Its first packets look as if they came from beside the hub.
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        client.connect(("127.0.0.1", site.served.port))
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 64)
        assert (await _ask(client)).startswith(b"HTTP/1.1 200")
    await closing
