"""Tells peers of the vehicles whose home is here, in the fleets that somebody looks at there.

A position costs one look whether the fleet is wanted. If it is, its vehicle is noted. Ten times a second the newest state of
each noted vehicle goes out. What is noted of a vehicle in between costs nothing more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from tracking.cluster.sliced_work import Slice
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.metrics import FLEET_MOVES, NODE_DROPPED
from tracking.model import Clock
from tracking.nodes.messages import FleetMoves, SeenVehicle, WantFleet
from tracking.nodes.nodes import Nodes

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.1
"""A dispatcher's screen is told every 250 ms besides. A longer time saves little: a vehicle seldom moves twice within it."""
AGAIN_SECONDS = 0.02
"""When a link had no room."""
VEHICLES_AT_ONCE = 200
"""In one notice: some 26 KB, and a millisecond for the receiver."""
LOOKED_AT_ONCE = 1_000
"""Vehicles that are looked at for one notice. Most may have their home elsewhere."""


class _Owed:
    """What a peer is still to be told of a fleet.

    `behind` are vehicles that changed while its link had no room. `answer` are the vehicles that its ask is about, with
    `since` and the number of the ask.
    """

    __slots__ = ("answer", "ask", "behind", "since")

    def __init__(self) -> None:
        self.behind: set[LiveVehicle] = set()
        self.answer: list[LiveVehicle] = []
        self.ask = 0
        self.since = 0

    @property
    def waits(self) -> bool:
        return bool(self.behind or self.ask)

    def keep(self, vehicles: Iterable[LiveVehicle]) -> None:
        """Their newest state is told when there is room."""
        before, more = len(self.behind), set(vehicles)
        self.behind |= more
        NODE_DROPPED.labels("position").value += before + len(more) - len(self.behind)


class FleetTelling:
    """`run` tells until it is cancelled. `is_home` says whether this hub is the home of a vehicle, by its number."""

    def __init__(self, nodes: Nodes, fleets: Fleets, is_home: Callable[[int], bool], clock: Clock) -> None:
        self._nodes = nodes
        self._fleets = fleets
        self._is_home = is_home
        self._clock = clock
        self._wanted: dict[str, dict[str, _Owed]] = {}
        """By fleet and peer."""
        self._asked = asyncio.Event()
        self._part = Slice()
        fleets.on_begun = self._begun

    # --- what peers want ----------------------------------------------------------------------------------------------

    def want(self, peer: str, want: WantFleet) -> None:
        owed = self._wanted.setdefault(want.fleet_id, {}).setdefault(peer, _Owed())
        feed = self._fleets.feeds.get(want.fleet_id)
        if feed is not None and feed.noted is None:
            feed.noted = set()
        if want.ask:
            owed.since = min(owed.since, want.since) if owed.ask else want.since
            owed.ask = want.ask
            owed.answer = list(feed.vehicles) if feed is not None else []
        self._asked.set()

    def unwant(self, peer: str, fleet_id: str) -> None:
        peers = self._wanted.get(fleet_id)
        if peers is None:
            return
        peers.pop(peer, None)
        if not peers:
            del self._wanted[fleet_id]
            feed = self._fleets.feeds.get(fleet_id)
            if feed is not None:
                feed.noted = None

    def _begun(self, feed: FleetFeed) -> None:
        if feed.fleet.fleet_id in self._wanted:
            feed.noted = set()

    # --- telling ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._asked.wait()
            self._asked.clear()
            try:
                await self.tell()
            except Exception:
                logger.exception("an error: vehicles of fleets were not told to other hubs")

    def _pause(self) -> float | None:
        """Seconds; None while nobody wants anything."""
        if not self._wanted:
            return None
        owes = any(owed.waits for peers in self._wanted.values() for owed in peers.values())
        return AGAIN_SECONDS if owes else EVERY_SECONDS

    async def tell(self) -> None:
        """Tells all that is noted and owed, as far as the links have room."""
        self._part = Slice()
        for fleet_id in list(self._wanted):
            feed = self._fleets.feeds.get(fleet_id)
            if feed is not None and feed.noted:
                noted, feed.noted = list(feed.noted), set()
                await self._tell_noted(feed, noted)
            for peer, owed in list(self._wanted.get(fleet_id, {}).items()):
                if owed.waits:
                    await self._tell_owed(fleet_id, feed, peer, owed)

    async def _tell_noted(self, feed: FleetFeed, noted: list[LiveVehicle]) -> None:
        """Tells all peers that want the fleet, by one notice for all."""
        fleet_id, peers = feed.fleet.fleet_id, list(self._wanted[feed.fleet.fleet_id])
        while noted:
            ready = []
            for peer in peers:
                owed = self._wanted.get(fleet_id, {}).get(peer)
                if owed is None:
                    continue
                if self._nodes.has_room(peer) and not owed.behind:
                    ready.append(peer)
                else:
                    owed.keep(noted)
            peers = ready
            if not peers:
                return
            self._send(peers, fleet_id, self._take(feed, noted, 0))
            await self._part.rest()

    async def _tell_owed(self, fleet_id: str, feed: FleetFeed | None, peer: str, owed: _Owed) -> None:
        while owed.waits and self._nodes.has_room(peer) and self._wanted.get(fleet_id, {}).get(peer) is owed:
            if owed.behind and feed is not None:
                some = [owed.behind.pop() for _ in range(min(len(owed.behind), VEHICLES_AT_ONCE))]
                self._send([peer], fleet_id, self._take(feed, some, 0))
            elif owed.answer and feed is not None:
                self._send([peer], fleet_id, self._take(feed, owed.answer, owed.since))
            else:
                self._nodes.tell(peer, FleetMoves(fleet_id, self._clock(), [], owed.ask))
                owed.behind.clear()
                owed.answer, owed.ask, owed.since = [], 0, 0
            await self._part.rest()

    def _take(self, feed: FleetFeed, vehicles: list[LiveVehicle], since: int) -> list[SeenVehicle]:
        """Takes some of the vehicles. Returns those of the fleet that are on the map, and whose home is here."""
        taken: list[SeenVehicle] = []
        is_home = self._is_home
        for _ in range(min(len(vehicles), LOOKED_AT_ONCE)):
            vehicle = vehicles.pop()
            position = vehicle.position
            if position is None or vehicle.cell is None or vehicle.feed is not feed or position.server_time < since:
                continue
            if is_home(vehicle.number):
                taken.append(SeenVehicle(position, vehicle.clock_skew, vehicle.standing, vehicle.lost))
                if len(taken) == VEHICLES_AT_ONCE:
                    break
        return taken

    def _send(self, peers: list[str], fleet_id: str, seen: list[SeenVehicle]) -> None:
        if seen:
            FLEET_MOVES.labels("out").value += len(seen) * len(peers)
            self._nodes.tell_some(peers, FleetMoves(fleet_id, self._clock(), seen))
