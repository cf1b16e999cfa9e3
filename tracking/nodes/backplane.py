"""The network between hubs, as one interface: `local.LocalBackplane` inside a process, `nats_backplane` through a broker."""

import itertools
from collections.abc import Callable
from typing import Protocol

lives = itertools.count(1)
"""Numbers for lives. They rise in the process, because its boot id stays when the database went back and all is built anew."""

Receive = Callable[[bytes], None]


class Backplane(Protocol):
    """Carries bytes, at most once, in order for each sender, and without a promise that they arrive."""

    @property
    def connected(self) -> bool: ...

    @property
    def life(self) -> int:
        """Rises with each connection to the broker. What was sent in an earlier life may be lost."""
        ...

    @property
    def waiting(self) -> int:
        """Bytes that were sent and have not left this process."""
        ...

    async def run(self, node: str, *, beat: Receive, packet: Receive, changed: Callable[[], None]) -> None:
        """Connects, and stays connected, until it is cancelled. `node` is our boot id.

        `beat` and `packet` are called with each message for all hubs and for us. `changed` is called when `connected` or
        `life` has changed.
        """
        ...

    async def send(self, node: str, data: bytes) -> None:
        """To one hub. Drops it without an error if there is no connection."""
        ...

    async def send_all(self, data: bytes) -> None:
        """A beat, to all hubs."""
        ...

    async def flush(self) -> None:
        """Returns when all that was sent has left this process, or cannot leave it."""
        ...
