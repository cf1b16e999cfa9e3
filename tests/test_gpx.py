"""A track as GPX: valid, whole, cut where nothing was heard, and made without holding it."""

import tracemalloc
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import gpxpy
import gpxpy.gpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.gpx import GAP_MS, gpx
from tracking.store.positions import TrackRow

BEGIN = 1_700_000_000_000
LATEST = 4_102_444_800_000
SPEED, COURSE = (f"{{http://www.garmin.com/xmlschemas/TrackPointExtension/v2}}{name}" for name in ("speed", "course"))


def a_row(fix_time: int, latitude: float = 47.1, longitude: float = 9.5, vehicle_id: str = "van", **known: Any) -> TrackRow:
    reals = {name: known.get(name) for name in ("accuracy", "altitude", "speed", "bearing")}
    return TrackRow(vehicle_id, "s", 1, fix_time, fix_time, latitude, longitude, **reals, trip_id=None, suspect=None)


async def each(rows: Sequence[TrackRow]) -> AsyncIterator[TrackRow]:
    for row in rows:
        yield row


async def parsed(rows: Sequence[TrackRow], name: str = "van") -> tuple[str, gpxpy.gpx.GPX]:
    text = b"".join([piece async for piece in gpx(each(rows), name)]).decode()
    return text, gpxpy.parse(text, version="1.1")


_real = st.none() | st.floats(-1e4, 1e4)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30).filter(
        lambda name: name == name.strip()
    ),
    st.lists(st.tuples(st.integers(0, LATEST), st.floats(-90, 90), st.floats(-180, 180), _real, _real, _real), max_size=20),
)
async def test_whatever_the_track_it_is_read_back_as_it_was(name: str, fixes: list[tuple[Any, ...]]) -> None:
    rows = [
        a_row(fix_time, latitude, longitude, altitude=altitude, speed=speed, bearing=bearing)
        for fix_time, latitude, longitude, altitude, speed, bearing in sorted(fixes, key=lambda fix: fix[0])
    ]
    _, document = await parsed(rows, name)
    (track,) = document.tracks
    assert track.name == name
    points = [point for segment in track.segments for point in segment.points]
    assert [round(point.time.timestamp() * 1000) for point in points if point.time] == [row.fix_time for row in rows]
    for point, row in zip(points, rows, strict=True):
        speed, course = extension_of(point)
        # gpxpy writes numbers next to nothing with ten digits behind the point: a hundredth of a millimetre.
        assert (point.latitude, point.longitude) == pytest.approx((row.latitude, row.longitude), abs=1e-9)
        assert point.elevation == pytest.approx(row.altitude, abs=1e-9)
        assert (speed, course) == (row.speed, row.bearing)


def extension_of(point: gpxpy.gpx.GPXTrackPoint) -> tuple[float | None, float | None]:
    found = {element.tag: float(element.text) for extension in point.extensions for element in extension}
    return found.get(SPEED), found.get(COURSE)


async def test_times_have_milliseconds_and_no_other_zone_than_utc() -> None:
    text, _ = await parsed([a_row(BEGIN), a_row(BEGIN + 7)])
    assert "<time>2023-11-14T22:13:20.000Z</time>" in text
    assert "<time>2023-11-14T22:13:20.007Z</time>" in text
    assert datetime.fromtimestamp(BEGIN / 1000, UTC).isoformat() == "2023-11-14T22:13:20+00:00"


async def test_a_long_silence_and_another_vehicle_begin_a_new_segment() -> None:
    times = (0, GAP_MS, 2 * GAP_MS + 1, 2 * GAP_MS + 2)
    rows = [a_row(BEGIN + time) for time in times] + [a_row(BEGIN + times[-1] + 1, vehicle_id="other")]
    _, document = await parsed(rows)
    assert [len(segment.points) for segment in document.tracks[0].segments] == [2, 2, 1]


async def test_no_fixes_are_a_track_without_segments() -> None:
    _, document = await parsed([])
    assert (len(document.tracks), document.tracks[0].segments) == (1, [])


async def test_the_pieces_are_small_however_long_the_track() -> None:
    """50,000 points here; a million take the same (measured once: 312 MB of file, 31 MB of process)."""

    async def rows() -> AsyncIterator[TrackRow]:
        for second in range(50_000):
            yield a_row(BEGIN + second * 1000, speed=8.5, altitude=460.0)

    tracemalloc.start()
    size = 0
    async for piece in gpx(rows(), "van"):
        size += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 10_000_000
    assert peak < 2_000_000
