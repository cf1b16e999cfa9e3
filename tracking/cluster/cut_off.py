"""Closes readers while this hub cannot read the change log and another hub can. It does not know which trips are over.

It shows nothing to passengers and dispatchers until it has read the log to its end. They are closed with 1012, so that they
come back, to another hub if a proxy stands before several. Drivers stay: their fixes wait here, and nothing is acknowledged.
Alone, or while no hub can read the log, a hub continues as before.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from tracking.live.hub import Hub
from tracking.metrics import CUT_OFF
from tracking.nodes.node import Peer

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
AFTER_SECONDS = 10.0
"""How long the log may be unread."""


class CutOff:
    """`run` checks each second until it is cancelled.

    `behind` returns for how long (s) the log was not read to its end, and `peers` the other hubs.
    """

    def __init__(self, hub: Hub, behind: Callable[[], float], peers: Callable[[], Iterable[Peer]]) -> None:
        self._hub = hub
        self._behind = behind
        self._peers = peers
        CUT_OFF.set(0)

    @property
    def now(self) -> bool:
        """Whether nothing is shown now."""
        return self._hub.cut_off

    async def run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(CHECK_SECONDS)

    async def check(self) -> None:
        """Begins or ends the time in which nothing is shown."""
        cut_off = self._behind() > AFTER_SECONDS and any(peer.confirmed for peer in self._peers())
        if cut_off is self._hub.cut_off:
            return
        self._hub.cut_off = cut_off
        CUT_OFF.set(cut_off)
        if not cut_off:
            logger.warning("passengers and dispatchers are shown everything again")
            return
        logger.error(
            "the change log was not read for %.0f s, and another hub reads it: passengers and dispatchers are sent away",
            self._behind(),
        )
        await self._hub.send_readers_away()
