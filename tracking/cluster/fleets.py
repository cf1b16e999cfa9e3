"""Fleets across hubs: who looks at a fleet here sees all of its vehicles, wherever their drivers are connected.

    home: publish, restate -> noted -> every 100 ms `FleetMoves` to the hubs that want the fleet
    here: look -> wanted -> what peers have, and each of their moves -> the fleet's feed, as if the vehicle drove here

This hub decides by its own memory what it shows: the vehicle is in the fleet, its home is not here, and its position is newer
than what is shown. The log says who joined, moved and was removed. No events are made of what peers tell.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

from tracking.cluster.fleet_asks import FleetAsks
from tracking.cluster.fleet_interest import FleetInterest
from tracking.cluster.fleet_telling import FleetTelling
from tracking.live.fleet import FleetFeed
from tracking.live.fleets import Fleets
from tracking.metrics import FLEET_MOVES
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.nodes.messages import FleetMoves
from tracking.nodes.nodes import Nodes

LOOK_SECONDS = 5.0
"""How often it is checked who still looks."""
WANTED_SECONDS = 60.0
"""A fleet is wanted for so long after somebody looked at it."""
AGAIN_SECONDS = 1.0
"""What is told of a vehicle that is not known here may be ahead of the log. It is looked at once more after this time."""
MOST_AGAIN = 10_000
"""Vehicles that wait for that."""
AFTER_SECONDS = 5.0
"""When a hub has gone, what it had not told is in the store by then at the latest, or comes again from the devices."""


class FleetsAcrossHubs:
    """`run` works until it is cancelled. It observes peers, and hears what they tell of fleets."""

    def __init__(self, nodes: Nodes, fleets: Fleets, monitor: Monitor, is_home: Callable[[int], bool], clock: Clock) -> None:
        """`is_home` says whether this hub is the home of a vehicle, by its number."""
        self._nodes = nodes
        self._fleets = fleets
        self._monitor = monitor
        self._clock = clock
        self.interest = FleetInterest(nodes)
        self.asks = FleetAsks(nodes)
        self.telling = FleetTelling(nodes, fleets, is_home, clock)
        self._looked_at: dict[str, float] = {}
        """When somebody last looked at a fleet that is wanted (s, of `time.monotonic`)."""
        self._waiting_again = 0
        self.on_begun: Callable[[FleetFeed], None] = lambda _: None
        """Called when a fleet is wanted from now on. What is known of it may be long out of date."""
        self.on_behind: Callable[[], None] = lambda: None
        """Called when vehicles of other hubs may have moved without being told. The store has them, some seconds later."""
        self.interest.on_wanted = self.telling.want
        self.interest.on_unwanted = self.telling.unwant
        nodes.listen(FleetMoves, self._show)
        nodes.observe(self)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.telling.run())
            tasks.create_task(self._look_steadily())

    # --- who looks here -----------------------------------------------------------------------------------------------

    async def look(self, feed: FleetFeed) -> bool:
        """Somebody looks at a fleet, which is loaded: it is wanted for a minute at least, and while it has dispatchers.

        Waits until peers have told what they have, a fifth of a second at most. Returns whether all is known: if not, and the
        fleet was not wanted before, what is in memory may be long out of date.
        """
        fleet_id = feed.fleet.fleet_id
        self._looked_at[fleet_id] = time.monotonic()
        begins = fleet_id not in self.interest.ours
        if begins:
            self.interest.want(fleet_id, self.asks.begin(fleet_id, self._nodes.peers))
            self.on_begun(feed)
        await self.asks.wait(fleet_id)
        return not begins or (self._nodes.connected and self.asks.is_settled(fleet_id))

    def wanted(self) -> Iterator[FleetFeed]:
        """The fleets that somebody looks at."""
        for fleet_id in self.interest.ours:
            feed = self._fleets.feeds.get(fleet_id)
            if feed is not None and feed.loaded:
                yield feed

    def is_behind(self) -> bool:
        """Whether peers do not tell what they should: for example, one is of a version that does not know of fleets."""
        return not self._nodes.connected or self.asks.is_late()

    async def _look_steadily(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.let_go()

    def let_go(self) -> None:
        """Wants no more what nobody has looked at for a minute."""
        now = time.monotonic()
        for fleet_id in list(self.interest.ours):
            feed = self._fleets.feeds.get(fleet_id)
            if feed is not None and feed.queues:
                self._looked_at[fleet_id] = now
            elif now - self._looked_at[fleet_id] > WANTED_SECONDS:
                del self._looked_at[fleet_id]
                self.interest.unwant(fleet_id)
                self.asks.forget(fleet_id)

    # --- what peers tell ----------------------------------------------------------------------------------------------

    def _show(self, peer: str, moves: FleetMoves, *, again: bool = False) -> None:
        """Takes a millisecond at the most: a home tells so many vehicles at once."""
        if moves.fleet_id not in self.interest.ours:
            return
        feed = self._fleets.feeds.get(moves.fleet_id)
        unknown = moves.vehicles
        if feed is not None and feed.loaded:
            unknown = self._monitor.elsewhere.told(feed, moves.vehicles, moves.sent_at)
        FLEET_MOVES.labels("in").value += len(moves.vehicles) - len(unknown)
        if moves.ask:
            self.asks.answered(peer, moves.fleet_id, moves.ask, self._clock())
        if unknown and not again and self._waiting_again + len(unknown) <= MOST_AGAIN:
            self._waiting_again += len(unknown)
            later = FleetMoves(moves.fleet_id, moves.sent_at, unknown)
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._show_again, peer, later)

    def _show_again(self, peer: str, moves: FleetMoves) -> None:
        self._waiting_again -= len(moves.vehicles)
        self._show(peer, moves, again=True)

    # --- peers that come and go ---------------------------------------------------------------------------------------

    def missed(self, peer: str) -> None:
        self.interest.missed(peer)
        if peer in self._nodes.peers:
            self.interest.tell_again(peer, self.asks.again(peer, self.interest.ours, self._clock()))

    def gone(self, peer: str) -> None:
        self.interest.gone(peer)
        self.asks.gone(peer)
        # It may have stored what it did not tell.
        self.on_behind()
        asyncio.get_running_loop().call_later(AFTER_SECONDS, self.on_behind)

    def connection_changed(self, connected: bool) -> None:
        self.on_behind()
