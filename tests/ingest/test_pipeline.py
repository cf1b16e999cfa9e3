"""`accept` and `preview`: what the pipeline does with a fix while the queue has room, and while it is full."""

from typing import Any

import pytest

from tests.support.clients import now_ms
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.pipeline import Pipeline
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.model import Fix, Vehicle


class Taken(CommitQueue):
    """A queue that records what it is offered."""

    def __init__(self) -> None:
        super().__init__(rows=1, limit=1)
        self.entries: list[Entry] = []

    def offer(self, entry: Entry) -> None:
        self.entries.append(entry)


@pytest.mark.parametrize(
    "other", [{"fix_time": 2**62}, {"fix_time": -(2**62)}, {"latitude": 95.0}, {"longitude": 1e300}, {"accuracy": -1.0}]
)
def test_a_fix_that_was_shown_and_comes_again_as_another_is_judged(other: dict[str, Any]) -> None:
    """Without a check, its time could be outside all partitions. Then no fix would be stored any more."""
    queue = Taken()
    pipeline, vehicle, session, now = Pipeline(queue), IngestVehicle(1, Vehicle("van", "fleet")), Session(1, "", 0), now_ms()
    good: dict[str, Any] = {"fix_time": now, "latitude": 47.1, "longitude": 9.5}
    assert pipeline.preview(vehicle, session, Fix(1, **good), now) is not None
    assert pipeline.accept(vehicle, session, Fix(1, **(good | other)), now) is None
    [entry] = queue.entries
    assert entry.position is None
    assert entry.rejected is not None
    assert not session.previewed


def test_a_fix_that_was_shown_is_stored_as_it_was_judged_and_shown_no_more() -> None:
    queue = Taken()
    pipeline, vehicle, session, now = Pipeline(queue), IngestVehicle(1, Vehicle("van", "fleet")), Session(1, "", 0), now_ms()
    places = {1: 47.1, 2: 48.1, 3: 47.1001}
    fixes = [Fix(seq, now + seq * 1000, latitude, 9.5) for seq, latitude in places.items()]
    shown = [pipeline.preview(vehicle, session, fix, now) for fix in fixes]
    assert [pipeline.accept(vehicle, session, fix, now) for fix in fixes] == [None] * 3
    assert [entry.position for entry in queue.entries] == shown
    assert [position.live for position in shown if position is not None] == [True, False, True]
