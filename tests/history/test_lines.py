"""The line of a watched trip, on real PostGIS: the thinned line is the track, and one reading serves all who come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import shapely

from tests.attacks.stock import LONG_VEHICLE, TRIP, stock_trip
from tracking.demo.postgres import Cluster
from tracking.geo import METRES_PER_DEGREE
from tracking.history import lines as module
from tracking.history.lines import Lines
from tracking.live.kept_updates import KeptBytes
from tracking.live.trips import TripFeed
from tracking.model import Position
from tracking.protocol import fit
from tracking.protocol.fit import DrivenPoint
from tracking.store import tracks, trip_lines, trips
from tracking.store.gathered import Gathered
from tracking.store.pool import Database
from tracking.store.positions import TrackRow

FIXES = 4_000


@pytest.fixture(scope="module")
async def store(cluster: Cluster, template: str) -> AsyncIterator[Database]:
    cluster.create_database("lines", template)
    await stock_trip(cluster.url("lines"), FIXES)
    database = Database(cluster.url("lines"))
    await database.open()
    yield database
    await database.close()
    cluster.drop_database("lines")


@dataclass
class Reading:
    """Lines of one trip, with a clock that the test sets. `asked` counts the readings."""

    store: Database
    feed: TripFeed
    now: int = 1_000_000
    asked: int = 0
    erase: bool = False
    waiting: list[Position] = field(default_factory=list)

    def __post_init__(self) -> None:
        tracks: Gathered[int, list[TrackRow]] = Gathered(self._tracks)
        self.lines = Lines(self.store, tracks, self._pending, lambda: self.now, self._erased)

    async def _tracks(self, numbers: list[int]) -> dict[int, list[TrackRow]]:
        async with self.store.connection() as connection:
            return await trip_lines.short_tracks(connection, numbers)

    def _pending(self, _: str) -> list[Position]:
        self.asked += 1
        return self.waiting

    @contextlib.contextmanager
    def _erased(self) -> Iterator[set[str]]:
        """Like `Hub.erased`: the vehicles that are erased meanwhile."""
        erased: set[str] = set()
        yield erased
        if self.erase:
            erased.add(LONG_VEHICLE)


@pytest.fixture
async def reading(store: Database) -> Reading:
    async with store.connection() as connection:
        trip = await trips.get(connection, TRIP)
    assert trip is not None
    return Reading(store, TripFeed(trip, kept=KeptBytes(10**6), seconds=300, now=0))


async def whole_track(store: Database, feed: TripFeed) -> list[DrivenPoint]:
    pieces = tracks.of_trip(store, feed.trip.number, suspect=False)
    return [(row.fix_time, row.longitude, row.latitude, row.vehicle_id) async for rows in pieces for row in rows]


async def test_a_long_line_is_the_track_as_far_as_a_map_shows_it(store: Database, reading: Reading) -> None:
    line = await reading.lines.of(reading.feed)
    track = await whole_track(store, reading.feed)
    assert len(track) == FIXES
    assert len(line.stored) < FIXES / 2
    assert set(line.stored) <= set(track)
    assert (line.stored[0], line.stored[-1]) == (track[0], track[-1])
    assert list(line.stored) == sorted(line.stored)
    thin, whole = (shapely.LineString([point[1:3] for point in points]) for points in (line.stored, track))
    assert shapely.hausdorff_distance(thin, whole) * METRES_PER_DEGREE < 50
    assert line.last[LONG_VEHICLE].fix_time == track[-1][0]
    assert line.last[LONG_VEHICLE].speed == 12


async def test_a_part_of_it_is_what_lies_between_two_fix_times(store: Database, reading: Reading) -> None:
    track = await whole_track(store, reading.feed)
    part = await reading.lines.part(reading.feed.trip.number, track[100][0], track[199][0])
    assert part == track[100:200]


async def test_one_reading_serves_all_who_come(reading: Reading) -> None:
    found = await asyncio.gather(*(reading.lines.of(reading.feed) for _ in range(15)))
    assert len({id(line) for line in found}) == 1
    asked = reading.asked
    reading.now += module.KEPT_MS - 1
    assert await reading.lines.of(reading.feed) is found[0]
    assert reading.asked == asked
    # It is not kept for ever, nor if the feed has dropped what came since.
    reading.now += 1
    second = await reading.lines.of(reading.feed)
    assert second is not found[0]
    reading.feed.updates.before = reading.feed.offset = 5
    third = await reading.lines.of(reading.feed)
    assert (third is second, third.began) == (False, 5)


async def test_what_was_read_of_a_vehicle_that_was_erased_meanwhile_is_left_out(reading: Reading) -> None:
    reading.erase = True
    line = await reading.lines.of(reading.feed)
    assert (list(line.stored), line.last) == ([], {})
    reading.erase = False
    reading.feed.line = None
    line = await reading.lines.of(reading.feed)
    assert line.stored
    reading.feed.forget(LONG_VEHICLE)
    assert reading.feed.line is None


async def test_lines_are_let_go(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    feeds = [TripFeed(reading.feed.trip, kept=KeptBytes(10**6), seconds=300, now=0) for _ in range(5)]
    for feed in feeds:
        await reading.lines.of(feed)
    assert [feed.line is not None for feed in feeds] == [False, False, True, True, True]
    reading.now += module.KEPT_MS
    reading.lines.let_go()
    assert all(feed.line is None for feed in feeds)


def test_a_line_past_all_measure_is_thinned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "MAX_SIMPLIFIED", 1_000)
    steps = np.arange(5_000.0)
    line = np.column_stack((np.sin(steps), np.cos(steps * 1.7), steps))
    thin = fit.thinned({"van": line}, 10_000)
    assert 0 < len(thin) * 39 <= 10_000
    assert thin == sorted(thin)
