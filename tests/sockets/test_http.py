"""The socket that the hub listens on."""

import socket

import uvicorn

from tracking.sockets.http import listening_socket


def test_connections_inherit_what_frees_the_hub_of_dead_ones() -> None:
    listener = listening_socket(uvicorn.Config("none", port=0, log_config=None))
    listener.listen()
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        found = {
            name: accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_NODELAY", "TCP_USER_TIMEOUT", "TCP_NOTSENT_LOWAT")
            if hasattr(socket, name)
        }
    assert found.pop("TCP_NODELAY") != 0
    assert found.get("TCP_USER_TIMEOUT", 30_000) == 30_000
    assert found.get("TCP_NOTSENT_LOWAT", 32 * 1024) == 32 * 1024
