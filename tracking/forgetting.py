"""Drops what parts hold of vehicles and trips that are removed."""

from typing import NamedTuple

from tracking.erasure import Erasures
from tracking.history.revisions import Revisions
from tracking.history.sums import Sums
from tracking.ingest.latest import Latest
from tracking.ingest.recorder import Recorder
from tracking.live.hub import Hub
from tracking.model import Trip
from tracking.refiling import Refiling


class Forgetting(NamedTuple):
    """The parts that hold data of vehicles and trips: they drop it when these are removed, and read a trip's line again."""

    recorder: Recorder
    latest: Latest
    refiling: Refiling
    revisions: Revisions
    sums: Sums
    erasures: Erasures
    hub: Hub

    def forget(self, numbers: set[int]) -> None:
        """See `live_state.applying.Forgetting`."""
        self.recorder.forget(numbers)
        self.latest.forget(numbers)
        self.refiling.forget(numbers)
        for number in numbers:
            self.sums.forget(number)
        if self.hub.trip_exchange is not None:
            self.hub.trip_exchange.forget(numbers)
        self.erasures.asked()

    def fill_line(self, trip: Trip) -> None:
        self.revisions.revise_all(trip)
