"""What is handed over is all that counts: a drive judged by many homes, one after the other, ends as if one had judged it."""

import dataclasses
import random
from typing import Any

import msgspec
import pytest

from tests.support.geofence_truth import METRES as METRES_PER_DEGREE
from tests.support.monitoring import FLEET, Monitored
from tests.support.moves import YARD
from tracking.cluster import hand_over
from tracking.cluster.hand_over import Live, State
from tracking.ingest.clocks import DeviceClock
from tracking.ingest.commit_queue import CommitQueue
from tracking.ingest.jumps import Rival
from tracking.ingest.motion import Motion
from tracking.ingest.pipeline import Pipeline
from tracking.ingest.vehicles import Home, IngestVehicle, Session
from tracking.model import Fix, Position, Vehicle
from tracking.monitor.replay import Replay
from tracking.monitor.rules import AlertState

VAN, NUMBER = "van", 7
BEGIN = 1_700_000_000_000
NAMES = ("first", "second")
METRES = 1 / METRES_PER_DEGREE
"""In degrees."""


@dataclasses.dataclass
class Told:
    """All that a drive leaves behind: what is stored by session and seq, what was shown in order, and the events."""

    stored: dict[tuple[int, int], Any] = dataclasses.field(default_factory=dict)
    shown: list[Any] = dataclasses.field(default_factory=list)
    events: list[Any] = dataclasses.field(default_factory=list)


class Hub:
    """One home: a pipeline with its queue, and a monitor."""

    def __init__(self, told: Told, term: int, handled: dict[str, int]) -> None:
        self.told = told
        self.queue = CommitQueue(rows=10, limit=10**6)
        self.pipeline = Pipeline(self.queue)
        self.monitored = Monitored(speed_limit=15.0, idle_after=120.0)
        self.monitored.put("yard", YARD, dwell_after=60.0)
        self.live = self.monitored.vehicle(VAN)
        self.vehicle = IngestVehicle(NUMBER, Vehicle(VAN, FLEET))
        self.vehicle.home = Home(NUMBER, term)
        for number, name in enumerate(NAMES, 1):
            self.vehicle.sessions[name] = Session(number, name, handled[name], self.vehicle.home)

    def take(self, name: str, fix: Fix, now: int, *, full: bool) -> None:
        self.monitored.clock = now
        take = self.pipeline.preview if full else self.pipeline.accept
        position = take(self.vehicle, self.vehicle.sessions[name], msgspec.structs.replace(fix), now)
        if position is not None:
            if position.live:
                self.vehicle.newest = position
                self.told.shown.append((position.session, position.seq, position.latitude, position.speed))
                self.monitored.fleets.publish(position)
            self.monitored.monitor.look()
            self.told.events += [(e.kind, e.geofence_id, e.fix_time, e.speed) for e in self.monitored.told()]

    def commit(self, count: int, handled: dict[str, int]) -> None:
        """Stores the first fixes that wait."""
        for session, seq, position, _ in self.queue.take(count):
            session.handled = handled[session.name] = seq
            self.told.stored[session.number, seq] = None if position is None else _kept(position)
        self.queue.let_go()

    def leave(self) -> State:
        live = Live(self.live, self.monitored.monitor.states.get(self.live), [], b"", [])
        data = hand_over.encode(hand_over.state_of(self.vehicle, self.queue.waiting, live, self.monitored.clock))
        state = hand_over.decode(data)
        assert state is not None
        return state

    def come(self, state: State) -> None:
        hand_over.take_up(self.vehicle, state)
        self.monitored.clock = state.server_time
        if state.newest is not None:
            self.live.feed.moved(self.live, state.newest)
        alerts = hand_over.alerts_of(state, self.live)
        if alerts is not None:
            self.monitored.monitor.go_on_with(self.live, alerts)


def _kept(position: Position) -> Any:
    return position.fix_time, position.latitude, position.speed, position.suspect, position.live


def a_drive(rng: random.Random, count: int) -> list[tuple[str, Fix]]:
    """Drives through the yard and stands there; some fixes jump, repeat, come late, lack a speed or are impossible."""
    drive: list[tuple[str, Fix]] = []
    seqs = dict.fromkeys(NAMES, 0)
    north, time, name, standing, apart = -1_500.0, BEGIN, NAMES[0], 0, 0
    for _ in range(count):
        time += rng.choice((1_000, 2_000, 5_000))
        standing = standing - 1 if standing else (rng.randrange(20, 60) if rng.random() < 0.03 else 0)
        speed = 0.0 if standing else rng.uniform(5, 22)
        north = north + speed * 2 if north < 2_500 else -1_500.0
        apart = apart - 1 if apart else (rng.randrange(1, 7) if rng.random() < 0.05 else 0)
        name = rng.choice(NAMES) if rng.random() < 0.02 else name
        seqs[name] += 1
        fields: dict[str, Any] = {"speed": speed} if rng.random() < 0.7 else {}
        latitude = 47.0 + (north + rng.gauss(0, 3) + (40_000 if apart else 0)) * METRES
        if rng.random() < 0.02:
            latitude = 90.5
        late = rng.choice((0, 0, 0, 0, 0, 7_000))
        drive.append((name, Fix(seqs[name], time - late, latitude, 9.505, accuracy=rng.choice((4.0, 12.0, 900.0)), **fields)))
    return drive


def driven(drive: list[tuple[str, Fix]], rng: random.Random | None) -> Told:
    """The drive by one hub; with `rng`, by many, and the queue is full now and then."""
    told = Told()
    handled = dict.fromkeys(NAMES, 0)
    hub = Hub(told, 1, handled)
    at = 0
    while at < len(drive):
        name, fix = drive[at]
        if fix.seq > handled[name]:
            hub.take(name, fix, fix.fix_time + 500, full=False)
        at += 1
        if rng is None:
            continue
        chance = rng.random()
        if chance < 0.1:
            hub.commit(rng.randrange(1, 20), handled)
        if chance < 0.03:
            for name, fix in drive[at : at + rng.randrange(5)]:
                hub.take(name, fix, fix.fix_time + 500, full=True)
        if chance > 0.95:
            state, term = hub.leave(), hub.vehicle.home.term + 1  # type: ignore[union-attr]
            if rng.random() < 0.3:
                # The group under way is committed after the answer, and before the claim.
                hub.commit(rng.randrange(1, 5), handled)
            hub = Hub(told, term, handled)
            hub.come(state)
            # The device sends again what was not acknowledged.
            at = next((i for i, (name, fix) in enumerate(drive) if fix.seq > handled[name]), at)
    hub.commit(10**6, handled)
    return told


@pytest.mark.parametrize("seed", range(12))
def test_a_drive_over_many_hubs_is_judged_as_by_one(seed: int) -> None:
    drive = a_drive(random.Random(seed), 400)
    expected = driven(drive, None)
    kinds = {kind.value for kind, *_ in expected.events}
    assert {"enter", "exit", "speeding"} <= kinds
    found = driven(drive, random.Random(seed + 1_000))
    assert found.stored == expected.stored
    assert found.shown == expected.shown
    assert found.events == expected.events


@pytest.mark.parametrize(
    ("state", "attributes", "left_out"),
    [
        (hand_over.MotionState, Motion.__slots__, set()),
        (hand_over.RivalState, Rival.__slots__, set()),
        (hand_over.ReplayState, Replay.__slots__, set()),
        (hand_over.ClockState, DeviceClock.__slots__, set()),
        # Schedules, and what is made again.
        (hand_over.AlertsState, AlertState.__slots__, {"due", "dwell_at", "route"}),
    ],
)
def test_nothing_that_is_remembered_is_left_out(state: Any, attributes: tuple[str, ...], left_out: set[str]) -> None:
    assert set(state.__struct_fields__) == set(attributes) - left_out, "hand it over, or say why not"


def test_a_state_of_another_version_and_a_broken_one_are_nothing() -> None:
    hub = Hub(Told(), 1, dict.fromkeys(NAMES, 0))
    known = hand_over.encode(hub.leave())
    assert hand_over.decode(known) is not None
    version = known.index(hand_over.VERSION)
    assert hand_over.decode(known[:version] + b"\x02" + known[version + 1 :]) is None
    for end in range(len(known)):
        assert hand_over.decode(known[:end]) is None


def test_a_backlog_of_verdicts_leaves_out_the_usual_ones() -> None:
    hub = Hub(Told(), 1, dict.fromkeys(NAMES, 0))
    for seq in range(1, 500):
        fix = Fix(seq, BEGIN + seq * 1_000, 47.0 + seq * 10 * METRES, 9.505, speed=10.0)
        hub.take("first", fix, fix.fix_time, full=False)
    [first, _] = hub.leave().sessions
    assert first.shown == 499
    assert len(first.verdicts) < 10
