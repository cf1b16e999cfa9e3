"""Which fleets are wanted where, and what is asked again, whatever is lost on the way."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tracking.cluster.fleet_asks import NOTICED_MS, OVERLAP_MS, FleetAsks
from tracking.cluster.fleet_interest import FleetInterest
from tracking.nodes.messages import WantFleet

FLEETS = ("a", "b", "c")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["want", "unwant"]), st.sampled_from(FLEETS)),
    st.tuples(st.sampled_from(["lose", "carry", "repair", "gone"]), st.just("")),
)


class Wire:
    """In the place of `Nodes`: from one hub to the other, in order. Messages are lost while `loses`."""

    def __init__(self) -> None:
        self.other: Wire
        self.loses = False
        self._heard: dict[type, Callable[[str, Any], None]] = {}
        self._number = 0

    def listen(self, kind: type, heard: Callable[[str, Any], None]) -> None:
        self._heard[kind] = heard

    def tell(self, peer: str, notice: Any) -> None:
        if not self.loses:
            self.other._heard[type(notice)]("peer", notice)

    def tell_all(self, notice: Any) -> None:
        self.tell("peer", notice)

    def next_ask(self) -> int:
        self._number += 1
        return self._number


@given(st.lists(STEPS, max_size=30))
def test_after_a_repair_a_hub_knows_what_the_other_wants(steps: list[tuple[str, str]]) -> None:
    here, there = Wire(), Wire()
    here.other, there.other = there, here
    asking, answering = FleetInterest(here), FleetInterest(there)  # type: ignore[arg-type]
    wanted: set[str] = set()
    answering.on_wanted = lambda _, want: wanted.add(want.fleet_id)
    answering.on_unwanted = lambda _, fleet_id: wanted.remove(fleet_id)

    def repair() -> None:
        here.loses = False
        answering.missed("peer")
        wants = [WantFleet(fleet_id, number) for number, fleet_id in enumerate(asking.ours, 1)]
        asking.tell_again("peer", wants)

    for what, fleet_id in [*steps, ("repair", "")]:
        match what:
            case "want":
                asking.want(fleet_id, 1)
            case "unwant":
                asking.unwant(fleet_id)
            case "lose" | "carry":
                here.loses = what == "lose"
            case "repair":
                repair()
            case "gone":
                answering.gone("peer")
        assert wanted == {fleet_id for fleet_id, peers in answering.theirs.items() if "peer" in peers}
    assert wanted == asking.ours


def test_what_may_be_missing_is_asked_again() -> None:
    async def ask() -> None:
        asks, now = FleetAsks(Wire()), 1_000_000  # type: ignore[arg-type]
        number = asks.begin("fleet", ["peer"])
        asks.answered("peer", "fleet", number + 1, now)
        assert not asks.is_settled("fleet")
        # Its first answer has not come: all is still wanted.
        (want,) = asks.again("peer", ["fleet"], now)
        assert (want.ask, want.since) == (number + 1, 0)
        asks.answered("peer", "fleet", want.ask, now)
        assert asks.is_settled("fleet")
        # The last part has come a moment ago. Another one may be what was missed.
        (want,) = asks.again("peer", ["fleet"], now + 1_000)
        assert want.since == 0
        asks.answered("peer", "fleet", want.ask, now + 1_000)
        (want,) = asks.again("peer", ["fleet"], now + 60_000)
        assert want.since == now + 60_000 - NOTICED_MS - OVERLAP_MS
        # It went and came back: nothing that it told before counts.
        asks.gone("peer")
        assert asks.is_settled("fleet")
        (want,) = asks.again("peer", ["fleet"], now + 61_000)
        assert want.since == 0

    asyncio.run(ask())
