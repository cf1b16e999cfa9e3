"""Recorded drives: fixes from CSV and GPX files, with every bad row named."""

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TextIO

import gpxpy
import gpxpy.gpx


class TrackError(Exception):
    """A file can't be read as a recorded drive at all."""


class Row(NamedTuple):
    """One recorded fix: `line` in the file, instants, degrees, m/s, metres.

    `due` is when it is to be reported: its own `time`, or when it was received, where the file has that (`recv_ts`).
    """

    line: int
    vehicle_id: str
    due: int
    time: int
    latitude: float
    longitude: float
    speed: float | None = None
    bearing: float | None = None
    accuracy: float | None = None
    altitude: float | None = None


class BadRow(NamedTuple):
    line: int
    reason: str


#: What a row holds -> the names that columns have for it.
_COLUMNS = {
    "vehicle_id": ("vehicle_id", "track_id"),
    "time": ("ts", "fix_time"),
    "due": ("recv_ts",),
    "latitude": ("lat", "latitude"),
    "longitude": ("lon", "longitude"),
    "speed": ("speed",),
    "bearing": ("bearing",),
    "accuracy": ("accuracy",),
    "altitude": ("altitude",),
}
_REQUIRED = ("time", "latitude", "longitude")
_OPTIONAL_NUMBERS = ("speed", "bearing", "accuracy", "altitude")
_MAX_INSTANT = 2**53


def read(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a `.csv`, `.csv.gz` or `.gpx` file, as they come. Raises `TrackError`."""
    name = path.name.lower()
    try:
        if name.endswith(".gpx"):
            yield from read_gpx(path.read_text(encoding="utf-8-sig"), path.stem)
        elif name.endswith((".csv", ".csv.gz")):
            raw = gzip.open(path, "rb") if name.endswith(".gz") else path.open("rb")  # noqa: SIM115  closed by the wrapper
            with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
                yield from read_csv(file, path.name.removesuffix(".gz").removesuffix(".csv"))
        else:
            raise TrackError(f"{path.name} is none of .csv, .csv.gz and .gpx; rename or convert it")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TrackError(f"{path.name} can't be read: {error}") from error


def read_csv(file: TextIO, vehicle_id: str = "vehicle") -> Iterator[Row | BadRow]:
    """Rows of a CSV whose header decides; `vehicle_id` names the vehicle where no column does.

    Columns: `ts` (ISO 8601, UTC where it names no zone) or `fix_time` (an instant), `lon`, `lat`; `vehicle_id`, `recv_ts`,
    `speed`, `bearing`, `accuracy`, `altitude` where there are such. Raises `TrackError` for a header without the first three.
    """
    lines = csv.reader(file)
    try:
        header = [name.strip().lower() for name in next(lines)]
    except StopIteration:
        raise TrackError("the file is empty; expected a header line with vehicle_id,ts,lon,lat") from None
    except csv.Error as error:
        raise TrackError(f"line 1 is not CSV: {error}") from error
    at = {field: header.index(name) for field, names in _COLUMNS.items() for name in names if name in header}
    missing = [" or ".join(_COLUMNS[field]) for field in _REQUIRED if field not in at]
    if missing:
        raise TrackError(f"the header has no column {', '.join(missing)}; it has {', '.join(header)}")
    while True:
        line = lines.line_num + 1
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, f"not CSV: {error}")
            continue
        if not values:
            continue
        try:
            yield _row(line, values, at, vehicle_id)
        except ValueError as error:
            yield BadRow(line, str(error))


def read_gpx(text: str, vehicle_id: str = "vehicle") -> Iterator[Row | BadRow]:
    """Points of a GPX's tracks, a vehicle for each, named by the track; `line` counts the points. Raises `TrackError`."""
    try:
        gpx = gpxpy.parse(text)
    except (gpxpy.gpx.GPXException, ValueError) as error:
        raise TrackError(f"not a GPX file: {error}") from error
    number = 0
    names: set[str] = set()
    for index, track in enumerate(gpx.tracks, start=1):
        name = vehicle_name(track.name or (vehicle_id if len(gpx.tracks) == 1 else f"{vehicle_id}-{index}"))
        if name in names:
            name = vehicle_name(f"{index}-{name}")
        names.add(name)
        for point in (point for segment in track.segments for point in segment.points):
            number += 1
            if point.time is None:
                yield BadRow(number, "the point has no <time>")
                continue
            time = _instant(point.time)
            yield Row(
                number, name, time, time, point.latitude, point.longitude, point.speed, point.course, altitude=point.elevation
            )
    if number == 0:
        raise TrackError("the GPX file has no track points (waypoints and routes have no times to drive by)")


def vehicle_name(text: str) -> str:
    """`text` as an id that the hub takes: `[A-Za-z0-9._-]{1,64}`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip())[:64] or "vehicle"


def _row(line: int, values: Sequence[str], at: dict[str, int], vehicle_id: str) -> Row:
    def text(field: str) -> str:
        if field not in at:
            return ""
        if at[field] >= len(values):
            raise ValueError(f"{len(values)} values are too few for the header; `{field}` is the {at[field] + 1}th")
        return values[at[field]].strip()

    time = _time(text("time"))
    if "vehicle_id" in at and not text("vehicle_id"):
        raise ValueError("the vehicle's id is empty")
    optional = {field: _number(field, text(field)) if text(field) else None for field in _OPTIONAL_NUMBERS}
    return Row(
        line,
        vehicle_name(text("vehicle_id") or vehicle_id),
        _time(text("due")) if text("due") else time,
        time,
        _number("latitude", text("latitude")),
        _number("longitude", text("longitude")),
        **optional,
    )


def _number(field: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"`{field}` is no number: {text[:40]!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"`{field}` is not finite: {text[:40]!r}")
    return number


def _time(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 16:
        instant = int(text)
        if instant <= _MAX_INSTANT:
            return instant
    try:
        return _instant(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError(f"no time: {text[:40]!r}; expected ISO 8601 as 2013-07-01T08:00:15Z, or an instant") from None


def _instant(time: datetime) -> int:
    # gpxpy's zone is its own class, and a zone-less time is UTC in both formats.
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return round(aware.timestamp() * 1000)
