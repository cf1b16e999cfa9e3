"""Interest in trips: what our readers want of peers, and what peers' readers want of us.

It travels as additions and removals. All of it is told again to a peer that is new, or whose messages were missed.
"""

from collections.abc import Callable, Mapping

from tracking.nodes.messages import Interests, Unwant, Want
from tracking.nodes.nodes import Nodes


class Interest:
    """`ours` are the trips that this hub wants. `theirs` has the boot ids of the peers that want a trip.

    `on_asked` is called with a peer and a want that asks for an answer, `on_asked_again` with each of a thousand of them, and
    `on_watched` with a vehicle whose trip is watched on a peer from now on, or no longer.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.ours: dict[str, Want] = {}
        self.theirs: dict[str, set[str]] = {}
        self.on_asked: Callable[[str, Want], None] = lambda _peer, _want: None
        self.on_asked_again: Callable[[str, Want], None] = lambda _peer, _want: None
        self.on_watched: Callable[[str], None] = lambda _vehicle_id: None
        self._of_peer: dict[str, dict[str, Want]] = {}
        self._watching: dict[str, set[str]] = {}
        self._coming: dict[str, dict[str, Want]] = {}
        """By peer: the parts of its `Interests` that have come so far."""
        nodes.listen(Want, self._want)
        nodes.listen(Unwant, lambda peer, unwant: self._drop(peer, unwant.trip_id))
        nodes.listen(Interests, self._interests)

    # --- ours ---------------------------------------------------------------------------------------------------------

    def want(self, want: Want) -> None:
        """Tells all peers what is wanted. An ask is told once, and not kept."""
        self.ours[want.trip_id] = Want(want.trip_id, want.watched, vehicle_id=want.vehicle_id)
        self._nodes.tell_all(want)

    def set_watched(self, trip_id: str, watched: bool, vehicle_id: str) -> None:
        """Somebody reads the trip, or nobody does. Tells peers if that has changed."""
        known = self.ours.get(trip_id)
        if known is not None and (known.watched, known.vehicle_id) != (watched, vehicle_id):
            self.want(Want(trip_id, watched, vehicle_id=vehicle_id))

    def unwant(self, trip_id: str) -> None:
        if self.ours.pop(trip_id, None) is not None:
            self._nodes.tell_all(Unwant(trip_id))

    def tell_again(self, peer: str, asks: Mapping[str, tuple[int, int]], *, first: bool, last: bool) -> None:
        """Tells a peer a part of what is wanted. `asks` has the number and the `since` of the ask for each trip of it."""
        wants = []
        for trip_id, (ask, since) in asks.items():
            known = self.ours[trip_id]
            wants.append(Want(trip_id, known.watched, ask, since, known.vehicle_id))
        self._nodes.tell(peer, Interests(wants, first, last))

    # --- theirs -------------------------------------------------------------------------------------------------------

    def watches(self, trip_id: str) -> bool:
        """Whether somebody reads the trip on a peer."""
        return trip_id in self._watching

    def gone(self, peer: str) -> None:
        """The peer wants nothing any more."""
        self._coming.pop(peer, None)
        for trip_id in list(self._of_peer.get(peer, ())):
            self._drop(peer, trip_id)
        self._of_peer.pop(peer, None)

    def _want(self, peer: str, want: Want) -> None:
        self._note(peer, want)
        coming = self._coming.get(peer)
        if coming is not None:
            # It was wanted after the first part was told, so it may be in none of them.
            coming[want.trip_id] = want
        if want.ask:
            self.on_asked(peer, want)

    def _note(self, peer: str, want: Want) -> None:
        wants = self._of_peer.setdefault(peer, {})
        before = wants.get(want.trip_id)
        wants[want.trip_id] = want
        self.theirs.setdefault(want.trip_id, set()).add(peer)
        if before is not None and (before.vehicle_id != want.vehicle_id or not want.watched):
            self._end_watching(peer, want.trip_id, before.vehicle_id)
        if want.watched:
            self._begin_watching(peer, want)

    def _drop(self, peer: str, trip_id: str) -> None:
        want = self._of_peer.get(peer, {}).pop(trip_id, None)
        if want is None:
            return
        _leave(self.theirs, trip_id, peer)
        self._end_watching(peer, trip_id, want.vehicle_id)

    def _interests(self, peer: str, interests: Interests) -> None:
        if interests.first:
            self._coming[peer] = {}
        coming = self._coming.get(peer)
        if coming is None:
            return  # the first part was missed, so they will be told again
        for want in interests.wants:
            coming[want.trip_id] = want
            self._note(peer, want)
            if want.ask:
                self.on_asked_again(peer, want)
        if interests.last:
            del self._coming[peer]
            for trip_id in self._of_peer.get(peer, {}).keys() - coming.keys():
                self._drop(peer, trip_id)

    def _begin_watching(self, peer: str, want: Want) -> None:
        peers = self._watching.setdefault(want.trip_id, set())
        if peer not in peers:
            peers.add(peer)
            self.on_watched(want.vehicle_id)

    def _end_watching(self, peer: str, trip_id: str, vehicle_id: str) -> None:
        if peer in self._watching.get(trip_id, ()):
            _leave(self._watching, trip_id, peer)
            self.on_watched(vehicle_id)


def _leave(peers_of: dict[str, set[str]], trip_id: str, peer: str) -> None:
    peers = peers_of.get(trip_id)
    if peers is not None:
        peers.discard(peer)
        if not peers:
            del peers_of[trip_id]
