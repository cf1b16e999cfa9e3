"""Which other hubs are alive: those whose beat came in the last three seconds."""

from tracking.metrics import PEERS
from tracking.nodes.messages import Beat
from tracking.nodes.node import Peer

DEAD_SECONDS = 3.0
LATE_SECONDS = 1.0
"""If a check comes later than this, this process stood still. Beats may wait to be read, so nobody is dead yet."""
MOST_PEERS = 256
"""More than any cluster has. Who may publish on the broker could invent them."""
LONGEST_TEXT = 200


class Peers:
    """The peers that are alive. Times are seconds of one clock, which the caller reads."""

    def __init__(self) -> None:
        self.alive: dict[str, Peer] = {}
        self._checked_at: float | None = None

    def heard(self, beat: Beat, now: float) -> bool:
        """Notes a beat. Returns whether the peer is new."""
        new = beat.node not in self.alive
        known = beat.node, beat.name, beat.release, beat.started_at, beat.confirmed
        self.alive[beat.node] = Peer(*known, now, beat.draining, beat.connections)
        PEERS.set(len(self.alive))
        return new

    def accepts(self, beat: Beat) -> bool:
        """Whether the beat can be one of our hubs'."""
        if not 0 < len(beat.node) <= LONGEST_TEXT or len(beat.name) > LONGEST_TEXT or len(beat.release) > LONGEST_TEXT:
            return False
        return beat.life >= 0 and (beat.node in self.alive or len(self.alive) < MOST_PEERS)

    def left(self, node: str) -> bool:
        """Removes a peer. Returns whether it was alive."""
        was_alive = self.alive.pop(node, None) is not None
        PEERS.set(len(self.alive))
        return was_alive

    def dead(self, now: float) -> list[str]:
        """Those that are dead. To be called at least twice a second. Remove each with `left`."""
        late = 0.0 if self._checked_at is None else now - self._checked_at
        self._checked_at = now
        if late > LATE_SECONDS:
            # One second is left to each whose beat was in time when this process stopped.
            fresh = now - DEAD_SECONDS + LATE_SECONDS
            for node, peer in self.alive.items():
                self.alive[node] = peer._replace(heard_at=max(peer.heard_at, fresh))
        return [node for node, peer in self.alive.items() if now - peer.heard_at > DEAD_SECONDS]
