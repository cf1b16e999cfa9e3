"""An overfull hub sends some of its clients away, a few each second. They come back to any hub.

After a rolling restart the hub that began last has few clients. A proxy that gives new connections to all hubs alike changes
nothing for those that are open. So a hub that has more than `above` times the mean closes 1 to 2 % of its connections a second
with 1012, until it has half of that too much.

It begins only when nothing was new for some seconds: clients of a hub that has gone arrive unevenly. It gives up if they all
come back here, because no proxy spreads them, and tries again later and later.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Iterator
from enum import Enum, auto
from typing import NamedTuple

from tracking.auth import Role
from tracking.cluster.sliced_work import Slice
from tracking.errors import CloseCode
from tracking.live.links import Links
from tracking.metrics import SHED
from tracking.nodes.node import Peer

STEP_SECONDS = 0.25
SHARE_A_SECOND = 0.01
"""Of the connections, for each quarter that the hub has more than the mean: 1 % at 1.25 times the mean."""
MOST_A_SECOND = 0.02
"""Of two hubs, one may have all clients, and half of those who are shed come back to it."""
FLOOR = 100
"""Connections. A hub with fewer has no trouble, and small numbers differ by chance."""
SETTLE_SECONDS = 5.0
"""How long the hubs must have been the same before anybody is shed."""
TRIAL_SECONDS = 30.0
"""After so long, it shows whether those who were shed have gone elsewhere."""
LEAST_EFFECT = 0.1
"""The share of those who were shed that must be gone by then. If a fifth of the hubs are empty, it is more than that."""
REST_SECONDS = 600.0
LONGEST_REST_SECONDS = 3600.0


class _Stage(Enum):
    IDLE = auto()
    SHEDDING = auto()
    RESTING = auto()


class Balance(NamedTuple):
    """Connections of this hub, and the mean of this one and all that can take clients."""

    own: int
    mean: float


class Shedding:
    """`run` looks every quarter of a second until it is cancelled.

    `peers` returns the other hubs, and `draining` whether this one drains. `now` is a clock in seconds.
    """

    def __init__(
        self,
        links: Links,
        peers: Callable[[], Collection[Peer]],
        draining: Callable[[], bool],
        *,
        above: float,
        now: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._links = links
        self._peers = peers
        self._draining = draining
        self._above = above
        self._enough = 1 + (above - 1) / 2
        self._now = now
        self._rng = rng or random.Random()
        self._members: frozenset[str] | None = None
        self._stage = _Stage.IDLE
        self._since = now()
        """when the hubs changed, shedding began, or a rest began"""
        self._rest = REST_SECONDS
        self._begun_with = 0
        self._shed = 0
        self._owed = 0.0

    async def run(self) -> None:
        if not self._above:
            return
        while True:
            await asyncio.sleep(STEP_SECONDS)
            part = Slice()
            for _ in self.step(STEP_SECONDS):
                await part.rest()

    def step(self, seconds: float) -> Iterator[None]:
        """Closes what is due for so many seconds, one connection after the other. The caller may pause after each."""
        count = self.due(seconds)
        if not count:
            return
        links = self._links.all()
        # Drivers and readers alike: a hub that has just begun needs homes as well.
        for link in self._rng.sample(links, min(count, len(links))):
            # Dispatchers stay. They are few, and each costs another hub the loading of a fleet.
            if link.principal.role is not Role.DISPATCHER:
                link.close(CloseCode.GOING_DOWN)
                SHED.value += 1
                yield

    def due(self, seconds: float) -> int:
        """How many connections are to be closed for so many seconds."""
        now, balance = self._now(), self._balance()
        if self._has_changed(now) or balance is None:
            return 0
        over = balance.own > self._above * balance.mean and balance.own >= FLOOR
        match self._stage:
            case _Stage.IDLE if over and now - self._since >= SETTLE_SECONDS:
                self._enter(_Stage.SHEDDING, now)
                self._begun_with, self._shed, self._owed = balance.own, 0, 0.0
            case _Stage.SHEDDING if balance.own <= self._enough * balance.mean or balance.own < FLOOR:
                self._enter(_Stage.IDLE, now)
                self._rest = REST_SECONDS
            case _Stage.SHEDDING if now - self._since >= TRIAL_SECONDS:
                if self._begun_with - balance.own < self._shed * LEAST_EFFECT:
                    self._enter(_Stage.RESTING, now)
                else:
                    self._begun_with, self._shed, self._since = balance.own, 0, now
            case _Stage.RESTING if now - self._since >= self._rest:
                self._rest = min(2 * self._rest, LONGEST_REST_SECONDS)
                self._enter(_Stage.IDLE, now)
        if self._stage is not _Stage.SHEDDING:
            return 0
        quarters = (balance.own / balance.mean - 1) / 0.25
        self._owed += balance.own * min(SHARE_A_SECOND * max(1.0, quarters), MOST_A_SECOND) * seconds
        count = math.floor(self._owed)
        self._owed -= count
        self._shed += count
        return count

    def _enter(self, stage: _Stage, now: float) -> None:
        self._stage, self._since = stage, now

    def _balance(self) -> Balance | None:
        """None if there is nobody to compare with. A hub of an older version does not tell its number."""
        if self._draining():
            return None
        others = [peer.connections for peer in self._takers() if peer.connections >= 0]
        own = self._links.count
        return Balance(own, (own + sum(others)) / (1 + len(others))) if others else None

    def _takers(self) -> list[Peer]:
        """Hubs that can take clients. One that does not reach the database refuses readers, and cannot admit drivers."""
        return [peer for peer in self._peers() if peer.confirmed and not peer.draining]

    def _has_changed(self, now: float) -> bool:
        """Whether a hub came, went, began to drain or lost the database. Then it is waited, and tried anew."""
        members = frozenset(peer.node for peer in self._takers())
        if members == self._members:
            return False
        self._members = members
        self._rest = REST_SECONDS
        self._enter(_Stage.IDLE, now)
        return True
