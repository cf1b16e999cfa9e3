"""A track as GPX: valid, whole, cut at silences, and written without holding it in memory."""

import re
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import gpxpy
import gpxpy.gpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.track_rows import a_row
from tracking.gpx import GAP_MS, gpx
from tracking.store.positions import TrackRow

BEGIN = 1_700_000_000_000
LATEST = 4_102_444_800_000
SPEED, COURSE = (f"{{http://www.garmin.com/xmlschemas/TrackPointExtension/v2}}{name}" for name in ("speed", "course"))


async def each(rows: Sequence[TrackRow]) -> AsyncIterator[TrackRow]:
    for row in rows:
        yield row


async def parsed(rows: Sequence[TrackRow], name: str = "van") -> tuple[str, gpxpy.gpx.GPX]:
    text = b"".join([piece async for piece in gpx(each(rows), name)]).decode()
    return text, gpxpy.parse(text, version="1.1")


_real = st.none() | st.floats(-1e4, 1e4) | st.floats(-1e-3, 1e-3)
_speed = st.none() | st.floats(0, 1e4) | st.floats(0, 1e-3)
_course = st.none() | st.floats(0, 360) | st.floats(0, 1e-3)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30).filter(
        lambda name: name == name.strip()
    ),
    st.lists(st.tuples(st.integers(0, LATEST), st.floats(-90, 90), st.floats(-180, 180), _real, _speed, _course), max_size=20),
)
@example("next to zero", [(0, 51.4779, -0.00004, -0.00065, 0.00002, 0.00001), (1, -0.0, 2e-7, 1e-320, 3e-9, -0.0)])
@example("the ends of ranges", [(0, -90.0, 180.0, 1e16, 1e22, 360.0), (1, 90.0, -180.0, -1e16, 0.0, 359.99999999999994)])
async def test_whatever_the_track_it_is_read_back_as_it_was(name: str, fixes: list[tuple[Any, ...]]) -> None:
    rows = [
        a_row(fix_time, latitude, longitude, altitude=altitude, speed=speed, bearing=bearing)
        for fix_time, latitude, longitude, altitude, speed, bearing in sorted(fixes, key=lambda fix: fix[0])
    ]
    text, document = await parsed(rows, name)
    assert list(against_the_schema(text)) == []
    (track,) = document.tracks
    assert track.name == name
    points = [point for segment in track.segments for point in segment.points]
    assert [round(point.time.timestamp() * 1000) for point in points if point.time] == [row.fix_time for row in rows]
    for point, row in zip(points, rows, strict=True):
        speed, course = extension_of(point)
        # gpxpy writes tiny numbers with ten decimals: a hundredth of a millimetre.
        longitude = -180.0 if row.longitude == 180.0 else row.longitude
        assert (point.latitude, point.longitude) == pytest.approx((row.latitude, longitude), abs=1e-9)
        assert point.elevation == pytest.approx(row.altitude, abs=1e-9)
        assert speed == pytest.approx(row.speed, abs=1e-12)
        assert course == pytest.approx(0.0 if row.bearing == 360.0 else row.bearing, abs=1e-12)


GPX_NAMESPACE = "http://www.topografix.com/GPX/1/1"
DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
# The rules of the schemas of GPX 1.1 and TrackPointExtension v2 for the elements that the hub writes: which children in which
# order, and which values. The schemas themselves are works of others.
CHILDREN = {
    "gpx": ["metadata", "wpt", "rte", "trk"],
    "trk": ["name", "trkseg"],
    "trkseg": ["trkpt"],
    "trkpt": ["ele", "time", "extensions"],
    "extensions": [SPEED.replace("}speed", "}TrackPointExtension")],
    SPEED.replace("}speed", "}TrackPointExtension"): [SPEED, COURSE],
}
ONCE = {"name", "ele", "time", "extensions", SPEED, COURSE}
WITHIN = {"lat": (-90.0, 90.0, True), "lon": (-180.0, 180.0, False), COURSE: (0.0, 360.0, False), "ele": None, SPEED: None}


def against_the_schema(text: str) -> Iterator[str]:
    """Everything in a file that the schemas do not allow."""
    root = ElementTree.fromstring(text)
    if root.tag != f"{{{GPX_NAMESPACE}}}gpx" or root.get("version") != "1.1" or not root.get("creator"):
        yield f"the root is {root.tag} {root.attrib}"
    for element in root.iter():
        tag = _short(element.tag)
        allowed = CHILDREN.get(tag, [])
        children = [_short(child.tag) for child in element]
        if any(child not in allowed for child in children) or children != sorted(children, key=allowed.index):
            yield f"{tag} has {children}"
        if any(children.count(child) > 1 for child in ONCE):
            yield f"{tag} has one of {children} twice"
        values = [(tag, (element.text or "").strip())] if tag in WITHIN else []
        if tag == "trkpt":
            values += [(name, element.get(name, "none")) for name in ("lat", "lon")]
        for name, value in values:
            if not DECIMAL.fullmatch(value):
                yield f"{name} {value}"
            elif (bounds := WITHIN[name]) is not None:
                least, most, including = bounds
                if not (least <= float(value) < most or (including and float(value) == most)):
                    yield f"{name} {value}"
        if tag == "time" and not DATE_TIME.fullmatch(element.text or ""):
            yield f"time {element.text}"


def _short(tag: str) -> str:
    return tag.removeprefix(f"{{{GPX_NAMESPACE}}}")


def test_what_the_schema_does_not_allow_is_found() -> None:
    """Otherwise the test above would find nothing."""
    head = f'<gpx xmlns="{GPX_NAMESPACE}" version="1.1" creator="x"><trk><trkseg>'
    for point in (
        '<trkpt lat="1" lon="180.0"/>',
        '<trkpt lat="1" lon="4e-05"/>',
        '<trkpt lat="1" lon="1"><ele>1e-7</ele></trkpt>',
        '<trkpt lat="1" lon="1"><time>2023-11-14T22:13:20Z</time><ele>1</ele></trkpt>',
        '<trkpt lat="1" lon="1"><speed>1</speed></trkpt>',
    ):
        assert len(list(against_the_schema(f"{head}{point}</trkseg></trk></gpx>"))) == 1, point


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
    """10,000 points here. A million take the same (measured once: a file of 312 MB, a process of 31 MB)."""

    async def rows() -> AsyncIterator[TrackRow]:
        for second in range(10_000):
            yield a_row(BEGIN + second * 1000, speed=8.5, altitude=460.0)

    tracemalloc.start()
    size = 0
    async for piece in gpx(rows(), "van"):
        size += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 2_800_000
    assert peak < 700_000
