"""Positions that are accepted and perhaps not committed, by this hub and by others."""

from collections.abc import Sequence

from tracking.ingest.commit_queue import CommitQueue
from tracking.live.recent import RecentPositions
from tracking.model import Position


class UncommittedPositions:
    """`queue` has what waits for a commit here. `of_peers` has what peers told lately. They do not tell when it is stored."""

    def __init__(self, queue: CommitQueue) -> None:
        self.queue = queue
        self.of_peers = RecentPositions()

    def pending(self, trip_id: str) -> Sequence[Position]:
        """The trip's positions that are not known to be committed. Read them at once: more may join."""
        found = self.queue.pending(trip_id)
        return [*found, *self.of_peers.of(trip_id).positions] if trip_id in self.of_peers else found
