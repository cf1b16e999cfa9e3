"""A trip's line joins stored, waiting and published positions. It agrees with the frames that were sent."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.trip_feeds import BEGIN, Reader, a_feed, a_position, a_trip, begin, updates
from tracking.live.kept_updates import KeptBytes
from tracking.live.trip_line import join
from tracking.live.trips import TripFeed
from tracking.model import Position
from tracking.protocol.fit import DrivenPoint

VEHICLES = ("van-1", "van-2", "van-3")
Fix = tuple[int, str]
"""A second, and a vehicle."""
fixes = st.tuples(st.integers(0, 20), st.sampled_from(VEHICLES))


def point(fix: Fix) -> DrivenPoint:
    second, vehicle_id = fix
    return BEGIN + second * 1000, 9.5, 47 + second / 1000, vehicle_id


def position(fix: Fix, suspect: bool = False) -> Position:
    made = a_position(fix[0], vehicle_id=fix[1])
    return replace(made, suspect=("jump",)) if suspect else made


@given(
    st.dictionaries(fixes, st.sets(st.sampled_from(["stored", "uncommitted", "published"]), min_size=1)),
    st.sets(fixes),
    st.sets(fixes),
    st.sets(st.sampled_from(VEHICLES)),
)
def test_a_line_is_the_same_wherever_its_points_are(
    places: dict[Fix, set[str]], suspects: set[Fix], taken_out: set[Fix], erased: set[str]
) -> None:
    """Each point once, in the order of time, though it is committed while the line is read, and published as well."""

    def at(place: str) -> list[Fix]:
        return [fix for fix, where in places.items() if place in where]

    line = join(
        map(point, at("stored")),
        [position(fix) for fix in at("uncommitted")] + [position(fix, suspect=True) for fix in suspects - places.keys()],
        map(point, at("published")),
        taken_out={(vehicle_id, BEGIN + second * 1000) for second, vehicle_id in taken_out},
        erased=erased,
    )
    assert line == sorted(point(fix) for fix in places if fix not in taken_out and fix[1] not in erased)


actions = st.one_of(
    st.tuples(st.just("position"), st.integers(0, 20)),
    st.tuples(st.just("vehicle"), st.integers(0, 2)),
    st.tuples(st.just("revision"), st.lists(fixes, min_size=1, max_size=6)),
    st.tuples(st.just("message"), st.none()),
    st.tuples(st.just("take out"), fixes),
    st.tuples(st.just("put in"), fixes),
    st.tuples(st.just("grow old"), st.none()),
)


@given(st.lists(actions, max_size=40), st.integers(1, 30), st.booleans())
def test_a_snapshot_shows_what_the_frames_say(done: list[tuple[str, Any]], keep: int, measured: bool) -> None:
    """A feed keeps values of what it published. They are those of the frames that it sends to a reader who resumes."""
    feed, model = a_feed(KeptBytes(updates(keep))), Model()
    now = BEGIN
    for version, (what, value) in enumerate(done, 3):
        if what == "position":
            shown = replace(a_position(value, vehicle_id=feed.vehicle_id), server_time=BEGIN + version)
            feed.publish_position(replace(shown, bearing=90.5, speed=7.25, accuracy=4.0) if measured else shown)
        elif what == "vehicle":
            feed.publish_trip(a_trip(version=version, vehicle_id=VEHICLES[value]))
        elif what == "revision":
            feed.publish_revision(BEGIN, BEGIN + 20_000, sorted(map(point, set(value))))
        elif what == "message":
            feed.publish_message("hello", "driver", BEGIN)
        elif what == "take out":
            feed.take_out(value[1], [BEGIN + value[0] * 1000])
            model.taken_out.add((value[1], BEGIN + value[0] * 1000))
        elif what == "put in":
            feed.put_in(value[1], [BEGIN + value[0] * 1000])
            model.taken_out.discard((value[1], BEGIN + value[0] * 1000))
        else:
            now += 200_000
            feed.beat(b"", now)
        model.note_vehicle(feed)
    snapshot = begin(feed, Reader())
    resumed = Reader()
    feed.resume(resumed.queue, feed.before_kept)
    model.read(resumed.read()[1:])
    assert whose(snapshot, feed.vehicle_id) == model.line()
    assert snapshot.get("position") == model.newest(feed.vehicle_id)
    assert len(list(feed.updates.positions_after(-1))) == len(model.positions), "no values without their frames"


class Model:
    """What a client would make of the frames that it is sent, and which vehicle the trip had at each offset."""

    def __init__(self) -> None:
        self.taken_out: set[tuple[str, int]] = set()
        self.vehicles = {0: "van-1"}
        self.points: set[DrivenPoint] = set()
        self.positions: list[tuple[str, dict[str, Any]]] = []

    def note_vehicle(self, feed: TripFeed) -> None:
        self.vehicles[feed.offset] = feed.vehicle_id

    def read(self, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            offset = message["offset"]
            if message["type"] == "position":
                vehicle_id = self.vehicles[offset]
                shown = {name: value for name, value in message.items() if name not in ("type", "offset")}
                self.positions.append((vehicle_id, shown))
                self.points.add((shown["fix_time"], shown["longitude"], shown["latitude"], vehicle_id))
            elif message["type"] == "track_revised":
                self.points |= set(whose(message, self.vehicles[offset]))

    def line(self) -> list[DrivenPoint]:
        return sorted(point for point in self.points if (point[3], point[0]) not in self.taken_out)

    def newest(self, vehicle_id: str) -> dict[str, Any] | None:
        belong = [shown for whose, shown in self.positions if whose == vehicle_id]
        belong = [shown for shown in belong if (vehicle_id, shown["fix_time"]) not in self.taken_out]
        return max(belong, key=lambda shown: shown["fix_time"], default=None)


def whose(message: dict[str, Any], vehicle_id: str) -> list[DrivenPoint]:
    """The points of a message, each with its vehicle."""
    starts = [*message.get("segments", [(0, vehicle_id)]), (len(message["track"]), "")]
    return [(time, x, y, one) for (first, one), (end, _) in pairwise(starts) for x, y, time in message["track"][first:end]]
