"""The port that several hubs listen on."""

import socket
import sys

from tracking.errors import ConfigError
from tracking.sockets.listening import BACKLOG, address, bound_socket

SPREADS = sys.platform == "linux"
"""Whether the system spreads new connections over all sockets that listen on one port."""


class Port:
    """Where hubs listen, until `close`. Raises `ConfigError` if another program listens there."""

    def __init__(self, host: str, number: int) -> None:
        if number:
            # Sockets that share a port would share it with those of another supervisor too, by mistake.
            _check_free(host, number)
        self._host = host
        self._held = bound_socket(host, number, shared=SPREADS)
        """Bound while no hub listens too, so that the system gives the port to nobody. It listens only if hubs share it."""
        self.number: int = self._held.getsockname()[1]
        if not SPREADS:
            self._held.listen(BACKLOG)

    @property
    def url(self) -> str:
        return f"http://{address(self._host, self.number)}"

    def listen(self) -> socket.socket:
        """A socket that listens. Connections wait there from now on, and closing the last copy of it resets those."""
        if not SPREADS:
            return self._held.dup()
        listener = bound_socket(self._host, self.number, shared=True)
        listener.listen(BACKLOG)
        return listener

    def close(self) -> None:
        self._held.close()


def _check_free(host: str, number: int) -> None:
    with bound_socket(host, number) as probe:
        try:
            probe.listen()
        except OSError as error:
            raise ConfigError(f"cannot listen on {address(host, number)}: {error.strerror or error}") from None
