"""Gaps: what was missed of a peer is asked for again, at most once a second."""

import asyncio

from tracking.cluster.asks import Ask, Asks
from tracking.cluster.interest import Interest
from tracking.model import Clock
from tracking.nodes.nodes import Nodes

NOTICED_MS = 6_000
"""A gap is noticed within this time: after two beats, or when the peer is taken for dead."""
OVERLAP_MS = 5_000
"""How much more is asked for. Clocks of hubs differ."""
AGAIN_SECONDS = 1.0


class Gaps:
    """Asks a peer again about all trips, from the instant until which no message of it was missed."""

    def __init__(self, nodes: Nodes, interest: Interest, asks: Asks, clock: Clock) -> None:
        self._nodes = nodes
        self._interest = interest
        self._asks = asks
        self._clock = clock
        self._whole_until: dict[str, int] = {}
        """By peer: from this instant on something may be missing."""
        self._filling: dict[str, list[Ask]] = {}
        """By peer: what was asked last because of a gap."""
        self._asked_at: dict[str, float] = {}
        self._due: dict[str, asyncio.TimerHandle] = {}

    def heard(self, peer: str) -> None:
        """To be called after each message of the peer. Once all answers are there, nothing is missing."""
        filling = self._filling.get(peer)
        if filling is None:
            return
        while filling and filling[-1].settled.is_set():
            filling.pop()
        if not filling:
            del self._filling[peer]
            self._whole_until.pop(peer, None)

    def missed(self, peer: str) -> None:
        now = self._clock()
        self._whole_until[peer] = min(now - NOTICED_MS, self._whole_until.get(peer, now))
        loop = asyncio.get_running_loop()
        if peer in self._due:
            return
        wait = self._asked_at.get(peer, -AGAIN_SECONDS) + AGAIN_SECONDS - loop.time()
        if wait <= 0:
            self._ask(peer)
        else:
            self._due[peer] = loop.call_later(wait, self._ask, peer)

    def gone(self, peer: str) -> None:
        """Should it come back, what it told meanwhile was missed."""
        now = self._clock()
        self._whole_until[peer] = min(now - NOTICED_MS, self._whole_until.get(peer, now))
        self._filling.pop(peer, None)
        self._asked_at.pop(peer, None)
        due = self._due.pop(peer, None)
        if due is not None:
            due.cancel()
        self._asks.gone(peer)
        # Boot ids are never used again, so most of those that are gone never come back.
        while len(self._whole_until) > 1_000:
            del self._whole_until[next(iter(self._whole_until))]

    def cut_off(self) -> None:
        """The broker was lost. What peers tell from now on is missed."""
        now = self._clock()
        for peer in self._nodes.peers:
            self._whole_until[peer] = min(now - NOTICED_MS, self._whole_until.get(peer, now))

    def _ask(self, peer: str) -> None:
        self._due.pop(peer, None)
        if peer not in self._nodes.peers:
            return
        self._asked_at[peer] = asyncio.get_running_loop().time()
        since = max(1, self._whole_until.get(peer, self._clock() - NOTICED_MS) - OVERLAP_MS)
        asks = [self._asks.begin(trip_id, since, [peer], fills=True) for trip_id in self._interest.ours]
        self._filling[peer] = asks
        self._interest.tell_again(peer, {ask.trip_id: (ask.number, since) for ask in asks})
