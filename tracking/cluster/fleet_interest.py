"""Interest in fleets: which ones somebody looks at here, and which ones at which peers.

It travels as additions and removals. All of it is told again to a peer that is new, or whose messages were missed.
"""

from collections.abc import Callable, Iterable

from tracking.nodes.messages import FleetInterests, UnwantFleet, WantFleet
from tracking.nodes.nodes import Nodes

WANTS_AT_ONCE = 1_000
"""Fleets in one notice: some 40 KB."""


class FleetInterest:
    """`ours` are the fleets that this hub wants. `theirs` has the boot ids of the peers that want a fleet.

    `on_wanted` is called with a peer and each want of it, also if the fleet was wanted before. `on_unwanted` is called with a
    peer and the id of a fleet.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.ours: set[str] = set()
        self.theirs: dict[str, set[str]] = {}
        self.on_wanted: Callable[[str, WantFleet], None] = lambda _peer, _want: None
        self.on_unwanted: Callable[[str, str], None] = lambda _peer, _fleet_id: None
        self._of_peer: dict[str, set[str]] = {}
        self._coming: dict[str, set[str]] = {}
        """By peer: the fleets in the parts of its `FleetInterests` that have come so far."""
        nodes.listen(WantFleet, self._want)
        nodes.listen(UnwantFleet, lambda peer, unwant: self._drop(peer, unwant.fleet_id))
        nodes.listen(FleetInterests, self._interests)

    # --- ours ---------------------------------------------------------------------------------------------------------

    def want(self, fleet_id: str, ask: int) -> None:
        self.ours.add(fleet_id)
        self._nodes.tell_all(WantFleet(fleet_id, ask))

    def unwant(self, fleet_id: str) -> None:
        if fleet_id in self.ours:
            self.ours.remove(fleet_id)
            self._nodes.tell_all(UnwantFleet(fleet_id))

    def tell_again(self, peer: str, wants: Iterable[WantFleet]) -> None:
        """Tells a peer all that is wanted: `wants` has each of `ours`."""
        told = list(wants)
        parts = [told[at : at + WANTS_AT_ONCE] for at in range(0, len(told), WANTS_AT_ONCE)] or [[]]
        for number, part in enumerate(parts, 1):
            self._nodes.tell(peer, FleetInterests(part, number == 1, number == len(parts)))

    # --- theirs -------------------------------------------------------------------------------------------------------

    def missed(self, peer: str) -> None:
        """A part of what it told may be missing. It tells all again."""
        self._coming.pop(peer, None)

    def gone(self, peer: str) -> None:
        """The peer wants nothing any more."""
        self._coming.pop(peer, None)
        for fleet_id in list(self._of_peer.get(peer, ())):
            self._drop(peer, fleet_id)

    def _want(self, peer: str, want: WantFleet) -> None:
        self._of_peer.setdefault(peer, set()).add(want.fleet_id)
        self.theirs.setdefault(want.fleet_id, set()).add(peer)
        coming = self._coming.get(peer)
        if coming is not None:
            # It was wanted after the first part was told, so it may be in none of them.
            coming.add(want.fleet_id)
        self.on_wanted(peer, want)

    def _drop(self, peer: str, fleet_id: str) -> None:
        fleets = self._of_peer.get(peer)
        if fleets is None or fleet_id not in fleets:
            return
        fleets.remove(fleet_id)
        if not fleets:
            del self._of_peer[peer]
        peers = self.theirs[fleet_id]
        peers.remove(peer)
        if not peers:
            del self.theirs[fleet_id]
        self.on_unwanted(peer, fleet_id)

    def _interests(self, peer: str, interests: FleetInterests) -> None:
        if interests.first:
            self._coming[peer] = set()
        coming = self._coming.get(peer)
        if coming is None:
            return  # the first part was missed, so they will be told again
        for want in interests.wants:
            self._want(peer, want)
        if interests.last:
            del self._coming[peer]
            for fleet_id in self._of_peer.get(peer, set()) - coming:
                self._drop(peer, fleet_id)
