"""The socket that the hub listens on."""

import socket

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


def bound_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet. Port 0 takes a free one. Raises `ConfigError` if it cannot be bound.

    Its connections inherit options that drop dead peers and keep little unsent, if the system has them. `shared`: other sockets
    of this user that are shared too may be bound to the same port, and the system spreads connections over those that listen.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    for option, value in _TCP_OPTIONS.items():
        number = getattr(socket, option, None)
        if number is not None:
            bound.setsockopt(socket.IPPROTO_TCP, number, value)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {address(host, port)}: {error.strerror or error}") from None
    return bound


def address(host: str, port: int) -> str:
    """As it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
