"""A track as GeoJSON: read back as it was, a Feature for each segment, and cut at the antimeridian (RFC 7946, 3.1.9)."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.track_rows import a_row, in_pieces
from tracking.api import tracks
from tracking.store.positions import TrackRow

BEGIN = 1_700_000_000_000


async def geojson(rows: Sequence[TrackRow]) -> list[dict[str, Any]]:
    """The Features."""
    text = b"".join([piece async for piece in tracks.as_geojson(in_pieces(rows), "van")])
    found = msgspec.json.decode(text)
    assert found["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = found["features"]
    return features


def parts_of(feature: dict[str, Any]) -> list[list[list[float]]]:
    kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
    if kind == "Point":
        return [[coordinates]]
    parts: list[list[list[float]]] = coordinates if kind == "MultiLineString" else [coordinates]
    assert all(len(part) > 1 for part in parts)
    return parts


def a_drive(longitudes: Sequence[float], vehicle_id: str = "van", begin: int = BEGIN) -> list[TrackRow]:
    return [
        a_row(begin + n * 1000, -17.0 + n / 100, longitude, vehicle_id=vehicle_id) for n, longitude in enumerate(longitudes)
    ]


async def test_a_line_across_the_antimeridian_is_cut_there() -> None:
    [feature] = await geojson(a_drive([179.0, 179.5, -179.5, -179.0, 179.8]))
    assert feature["geometry"] == {
        "type": "MultiLineString",
        "coordinates": [
            [[179.0, -17.0], [179.5, -16.99], [180.0, -16.985]],
            [[-180.0, -16.985], [-179.5, -16.98], [-179.0, -16.97], [-180.0, pytest.approx(-16.97 + 0.01 / 1.2)]],
            [[180.0, pytest.approx(-16.97 + 0.01 / 1.2)], [179.8, -16.96]],
        ],
    }
    times = [(time - BEGIN) / 1000 for time in feature["properties"]["fix_times"]]
    assert times == [0, 1, 1.5, 1.5, 2, 3, 3.833, 3.833, 4]


_longitudes = st.floats(-180, 180) | st.sampled_from([180.0, -180.0, 179.9, -179.9])
_stretches = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.lists(_longitudes, min_size=1, max_size=9)), max_size=6)


@given(_stretches, st.sampled_from([1, 3, 5_000]), st.sampled_from([1, 3, 500]))
@example([("a", [180.0, -179.0]), ("b", [-180.0])], 5_000, 500)
async def test_whatever_the_track_no_line_goes_around_the_world(
    stretches: list[tuple[str, list[float]]], undecided: int, chunk: int
) -> None:
    rows = [row for n, (name, drive) in enumerate(stretches) for row in a_drive(drive, name, BEGIN + n * 100_000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracks, "_UNDECIDED", undecided)
        patch.setattr(tracks, "_CHUNK_ROWS", chunk)
        features = await geojson(rows)
    by_vehicle = [(name, list(found)) for name, found in groupby(features, lambda f: f["properties"]["vehicle_id"])]
    driven = [(name, list(found)) for name, found in groupby(rows, lambda row: row.vehicle_id)]
    assert [name for name, _ in by_vehicle] == [name for name, _ in driven]
    for (_, found), (_, fixes) in zip(by_vehicle, driven, strict=True):
        assert undecided < 5_000 or len(found) == 1
        timed: list[tuple[float, float, int]] = []
        for feature in found:
            parts = parts_of(feature)
            places = [place for part in parts for place in part]
            assert all(abs(b[0] - a[0]) <= 180 for part in parts for a, b in pairwise(part))
            times = feature["properties"]["fix_times"]
            assert times == sorted(times)
            timed += [(x, y, time) for (x, y), time in zip(places, times, strict=True)]
        left = iter(timed)
        # Every fix is there, in order. All other points are on the antimeridian.
        for row in fixes:
            for x, y, time in left:
                if (x, y, time) == (row.longitude, row.latitude, row.fix_time):
                    break
                assert abs(x) == 180
            else:
                pytest.fail(f"{row} is missing")
        assert all(abs(x) == 180 for x, _, _ in left)
