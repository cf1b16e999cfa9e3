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
TRIPS_AT_ONCE = 200
"""Trips that are asked for in one step of the event loop: some 2 ms, and 20 KB."""


class _Filling:
    """What was asked of a peer because of a gap. `told`: all of it."""

    __slots__ = ("asks", "told")

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.told = False


class Gaps:
    """Asks a peer again about all trips, from the instant until which no message of it was missed."""

    def __init__(self, nodes: Nodes, interest: Interest, asks: Asks, clock: Clock) -> None:
        self._nodes = nodes
        self._interest = interest
        self._asks = asks
        self._clock = clock
        self._whole_until: dict[str, int] = {}
        """By peer: from this instant on something may be missing."""
        self._filling: dict[str, _Filling] = {}
        """By peer: the last one."""
        self._asked_at: dict[str, float] = {}
        self._due: dict[str, asyncio.TimerHandle] = {}

    def heard(self, peer: str) -> None:
        """To be called after each message of the peer. Once all answers are there, nothing is missing."""
        filling = self._filling.get(peer)
        if filling is None or not filling.told:
            return
        while filling.asks and filling.asks[-1].is_settled:
            filling.asks.pop()
        if not filling.asks:
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
        filling = self._filling[peer] = _Filling()
        self._ask_some(peer, filling, since, list(self._interest.ours), 0)

    def _ask_some(self, peer: str, filling: _Filling, since: int, trips: list[str], begin: int) -> None:
        """Asks for trips from the index `begin` on, some in each step of the event loop."""
        if self._filling.get(peer) is not filling:
            return  # The peer is gone, or is asked for all of them anew.
        end = begin + TRIPS_AT_ONCE
        # What is wanted since the first step is told and asked by itself.
        wanted = [trip_id for trip_id in trips[begin:end] if trip_id in self._interest.ours]
        asks = [self._asks.begin(trip_id, since, [peer], fills=True) for trip_id in wanted]
        filling.asks += asks
        filling.told = end >= len(trips)
        told = {ask.trip_id: (ask.number, since) for ask in asks}
        self._interest.tell_again(peer, told, first=begin == 0, last=filling.told)
        if not filling.told:
            asyncio.get_running_loop().call_soon(self._ask_some, peer, filling, since, trips, end)
