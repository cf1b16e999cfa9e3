"""The socket that the hub listens on."""

import socket

from uvicorn.config import Config

_TCP_OPTIONS = {
    # uvloop sets it by itself. asyncio does not, for a socket that it did not make.
    "TCP_NODELAY": 1,
    # A peer that takes nothing for so many milliseconds is gone, even if it still answers for its full window.
    "TCP_USER_TIMEOUT": 30_000,
    # Bytes that the system takes beyond what is on its way. What waits there is old when it arrives, and cannot be left out.
    "TCP_NOTSENT_LOWAT": 32 * 1024,
}


def listening_socket(config: Config) -> socket.socket:
    """A bound socket. Its connections inherit options that drop dead peers and keep little unsent, if the system has them."""
    listener = config.bind_socket()
    for option, value in _TCP_OPTIONS.items():
        number = getattr(socket, option, None)
        if number is not None:
            listener.setsockopt(socket.IPPROTO_TCP, number, value)
    return listener
