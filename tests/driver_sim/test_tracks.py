import contextlib
import csv
import gzip
import io
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver_sim.tracks import BadRow, Row, TrackError, read, read_csv, read_gpx, vehicle_name

SHARED = Path(__file__).parents[3] / "shared" / "data"

GPX = """<?xml version="1.0"?>
<gpx version="1.1" creator="t" xmlns="http://www.topografix.com/GPX/1/1"><trk><name>Morning drive</name><trkseg>
<trkpt lat="47.141" lon="9.521"><ele>455</ele><time>2024-05-01T08:00:00Z</time></trkpt>
<trkpt lat="47.142" lon="9.522"></trkpt>
<trkpt lat="47.143" lon="9.523"><time>2024-05-01T10:00:02+02:00</time></trkpt>
</trkseg></trk></gpx>"""


def rows(text: str) -> list[Row | BadRow]:
    return list(read_csv(io.StringIO(text), "file"))


def test_the_header_says_which_columns_there_are() -> None:
    assert rows("lat,ts,speed,vehicle_id,lon,note\n47.1,2013-07-01T00:00:53Z,3.5,a,9.5,x\n") == [
        Row(2, "a", 1372636853000, 1372636853000, 47.1, 9.5, speed=3.5)
    ]


def test_an_exported_track_can_be_replayed() -> None:
    text = (
        "vehicle_id,session,seq,fix_time,server_time,latitude,longitude,accuracy,altitude,speed,bearing,trip_id,suspect\n"
        "a,s,1,1372636853000,1,47.1,9.5,4.5,,3,90,,\n"
    )
    assert rows(text) == [Row(2, "a", 1372636853000, 1372636853000, 47.1, 9.5, 3.0, 90.0, 4.5)]


def test_a_row_is_due_when_it_was_received() -> None:
    (row,) = rows("recv_ts,vehicle_id,ts,lon,lat\n2013-07-01T00:00:54.391Z,a,2013-07-01T00:00:53Z,9.5,47.1\n")
    assert isinstance(row, Row)
    assert (row.due - row.time, row.time) == (1391, 1372636853000)


def test_without_a_vehicle_column_the_file_names_it_and_without_a_zone_a_time_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    (row,) = rows("ts,lon,lat\n2013-07-01T00:00:53,9.5,47.1\n")
    assert isinstance(row, Row)
    assert (row.vehicle_id, row.time) == ("file", 1372636853000)
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,yesterday,9.5,47.1", "no time: 'yesterday'"),
        ("a,2013-07-01T00:00:53Z,9.5,", "`latitude` is no number: ''"),
        ("a,2013-07-01T00:00:53Z,nan,47.1", "`longitude` is not finite"),
        ("a,2013-07-01T00:00:53Z,9.5", "3 values are too few"),
        (",2013-07-01T00:00:53Z,9.5,47.1", "id is empty"),
        ("a,99999999999999999999,9.5,47.1", "no time"),
    ],
)
def test_a_bad_row_is_named_and_the_next_one_read(line: str, reason: str) -> None:
    bad, good = rows(f"vehicle_id,ts,lon,lat\n{line}\n\na,2013-07-01T00:00:53Z,9.5,47.1\n")
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert reason in bad.reason
    assert isinstance(good, Row)
    assert good.line in (3, 4)


@pytest.mark.parametrize(
    ("text", "said"), [("", "empty"), ("a,b\n", "no column ts or fix_time, lat or latitude, lon or longitude")]
)
def test_a_file_that_is_not_a_recorded_drive(text: str, said: str) -> None:
    with pytest.raises(TrackError, match=said):
        rows(text)


instants = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
good_rows = st.lists(
    st.tuples(
        st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
        instants,
        st.floats(-180, 180),
        st.floats(-90, 90),
        st.none() | st.floats(0, 60),
        st.none() | st.floats(0, 359.9),
    ),
    max_size=6,
)


@settings(max_examples=50, deadline=None)
@given(good_rows, st.permutations(["vehicle_id", "ts", "lon", "lat", "speed", "bearing"]))
def test_every_good_row_is_read_as_it_was_written(written: list[tuple[object, ...]], order: list[str]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, order)
    writer.writeheader()
    names = ("vehicle_id", "ts", "lon", "lat", "speed", "bearing")
    for values in written:
        by_name = dict(zip(names, values, strict=True))
        by_name["ts"] = by_name["ts"].isoformat()  # type: ignore[attr-defined]
        writer.writerow({name: "" if value is None else value for name, value in by_name.items()})
    text.seek(0)
    back = list(read_csv(text))
    assert [
        (row.vehicle_id, datetime.fromtimestamp(row.time / 1000, UTC), row.longitude, row.latitude, row.speed, row.bearing)
        for row in back
        if isinstance(row, Row)
    ] == written


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_makes_the_reader_raise_another_error(text: str) -> None:
    for row in rows("vehicle_id,ts,lon,lat\n" + text):
        assert row.line >= 2


@given(st.text(st.sampled_from('ab,"\n\r0123456789.-:TZ')))
def test_no_header_makes_the_reader_raise_another_error(text: str) -> None:
    with contextlib.suppress(TrackError):
        rows(text)


@given(st.text())
def test_the_hub_accepts_every_vehicle_name(text: str) -> None:
    name = vehicle_name(text)
    assert 1 <= len(name) <= 64
    assert name.isascii()
    assert set("/ \n") & set(name) == set()


def test_gpx_points_with_a_time_are_rows() -> None:
    one, bad, other = read_gpx(GPX, "drive")
    assert one == Row(1, "Morning-drive", 1714550400000, 1714550400000, 47.141, 9.521, altitude=455.0)
    assert bad == BadRow(2, "the point has no <time>")
    assert isinstance(other, Row)
    assert other.time - one.time == 2000


@pytest.mark.parametrize("text", ["", "<gpx", "<gpx></gpx>", "not xml"])
def test_text_that_is_not_gpx(text: str) -> None:
    with pytest.raises(TrackError):
        list(read_gpx(text))


def test_files_by_their_names(tmp_path: Path) -> None:
    text = "ts,lon,lat\n2013-07-01T00:00:53Z,9.5,47.1\n"
    (tmp_path / "Drive.csv").write_text("\ufeff" + text, encoding="utf-8")
    (tmp_path / "Drive.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "Drive.GPX").write_text(GPX)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text.encode() * 100)[:-9])
    (tmp_path / "drive.txt").write_text(text)
    for name in ("Drive.csv", "Drive.csv.gz"):
        (row,) = read(tmp_path / name)
        assert isinstance(row, Row)
        assert row.vehicle_id == "Drive"
    assert len(list(read(tmp_path / "Drive.GPX"))) == 3
    for name in ("cut.csv.gz", "drive.txt", "absent.csv"):
        with pytest.raises(TrackError, match=name):
            list(read(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("munich_car_1hz.csv", 1194, 0), ("liverpool_bus14_dev.csv", 993, 0), ("porto_center_dev.csv.gz", 10_337, 0)],
)
def test_real_recordings_are_read_whole(name: str, good: int, bad: int) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"the shared data (../shared/data/{name}) is not here")
    every = list(read(SHARED / name))
    assert sum(isinstance(row, Row) for row in every) == good
    assert sum(isinstance(row, BadRow) for row in every) == bad
