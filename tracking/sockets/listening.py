"""The socket that the hub listens on, and how it stops to listen without a reset of somebody's connection."""

import asyncio
import contextlib
import select
import socket
from collections.abc import Sequence

from tracking.errors import ConfigError

BACKLOG = 4096
"""Connections that may wait to be accepted."""

_TCP_OPTIONS = {
    # uvloop sets it by itself. asyncio does not, for a socket that it did not make.
    "TCP_NODELAY": 1,
    # A peer that takes nothing for so many milliseconds is gone, even if it still answers for its full window.
    "TCP_USER_TIMEOUT": 30_000,
    # Bytes that the system takes beyond what is on its way. What waits there is old when it arrives, and cannot be left out.
    "TCP_NOTSENT_LOWAT": 32 * 1024,
}

_IP_MINTTL = 21
_IPV6_MINHOPCOUNT = 73
_NEAREST = 255
"""Packets begin with 64 or 128 hops to live, so none that opens a connection has so many."""

QUIET_SECONDS = 0.5
"""How long handshakes that have begun may take. A client whose first packet was dropped sends it again after a second."""
LOOK_SECONDS = 0.02


def bound_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet. Port 0 takes a free one. Raises `ConfigError` if it cannot be bound.

    Its connections inherit options that drop dead peers and keep little unsent, if the system has them. `shared`: other sockets
    of this user that are shared too may be bound to the same port, and the system spreads connections over those that listen.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    set_options(bound)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {address(host, port)}: {error.strerror or error}") from None
    return bound


def address(host: str, port: int) -> str:
    """As it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def set_options(listener: socket.socket) -> None:
    """Sets the options that connections inherit, as far as the system has them."""
    for option, value in _TCP_OPTIONS.items():
        number = getattr(socket, option, None)
        if number is not None:
            listener.setsockopt(socket.IPPROTO_TCP, number, value)


async def stop_listening(
    servers: Sequence[asyncio.AbstractServer],
    listeners: Sequence[socket.socket],
    *,
    shared: bool,
    seconds: float = QUIET_SECONDS,
) -> None:
    """Accepts nothing more. What was accepted goes on.

    `shared`: another process holds the same socket and goes on to listen. Then this one only lets go of it, and what waits in
    its queue waits for the other one. Otherwise what waits is accepted first. To close a socket resets the connections in its
    queue. So for `seconds` packets that open a connection are dropped, until all handshakes that have begun are done. Who
    sends his first packet again after that is refused, and was never connected.
    """
    if not shared:
        for listener in listeners:
            _let_begin(listener, False)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until or any(_has_queue(listener) for listener in listeners):
            if loop.time() > until + seconds:
                break  # a system without the option
            await asyncio.sleep(LOOK_SECONDS)
    for server in servers:
        server.close()


def take_in(connection: socket.socket) -> None:
    """For a connection whose handshake ended while its listener was stopping: it has inherited that packets are dropped."""
    _let_begin(connection, True)


def _let_begin(own: socket.socket, may_begin: bool) -> None:
    hops = 0 if may_begin else _NEAREST
    options = [(socket.IPPROTO_IP, _IP_MINTTL)]
    if own.family == socket.AF_INET6:
        options.append((socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT))
    for level, option in options:
        # Another system, or another kind of socket: the time between the last accept and the close remains.
        with contextlib.suppress(OSError):
            own.setsockopt(level, option, hops)


def _has_queue(listener: socket.socket) -> bool:
    if listener.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    return bool(poll.poll(0))
