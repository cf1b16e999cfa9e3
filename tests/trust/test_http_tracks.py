"""The HTTP contract of tracks: formats, spans, and who sees them."""

from collections.abc import AsyncIterator
from typing import Any

import gpxpy
import pytest

from tests.support.clients import Api, Driver, Message, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.trust.answers import HOUR_MS, refused

COLUMNS = "vehicle_id,session,seq,fix_time,server_time,latitude,longitude,accuracy,altitude,speed,bearing,trip_id,suspect"


class Driven:
    """A vehicle on a trip with three fixes, one of them suspect, and with one fix from long before the trip."""

    def __init__(self, vehicle_id: str, trip_id: str, session: str, fixes: list[Message]) -> None:
        self.vehicle_id, self.trip_id, self.session, self.fixes = vehicle_id, trip_id, session, fixes


@pytest.fixture(scope="module")
async def driven(hub: HubProcess, api: Api) -> AsyncIterator[Driven]:
    vehicle_id, trip_id = await api.under_way()
    now = now_ms()
    fixes = [
        fix(1, fix_time=now - HOUR_MS),
        fix(2, fix_time=now - 2_000, accuracy=4.7, altitude=-3.25, speed=8.5, bearing=359.9),
        fix(3, fix_time=now - 1_000, latitude=0, longitude=0, accuracy=900),
        fix(4, fix_time=now),
    ]
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(*fixes)
        assert await driver.acknowledged(4) == []
        yield Driven(vehicle_id, trip_id, driver.session, fixes)


async def csv_of(api: Api, path: str, **params: Any) -> list[str]:
    response = await api.http.get(path, params={"format": "csv", **params})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/csv")
    header, *rows = response.text.split("\n")
    assert header == COLUMNS
    assert rows.pop() == ""
    return rows


async def test_a_csv_track_has_these_columns_and_values(api: Api, driven: Driven) -> None:
    first, second, _, fourth = driven.fixes
    rows = await csv_of(api, f"/vehicles/{driven.vehicle_id}/track")
    server_times = [row.split(",")[4] for row in rows]
    assert all(abs(int(time_) - second["fix_time"]) < 60_000 for time_ in server_times)
    begin = f"{driven.vehicle_id},{driven.session}"
    assert rows == [
        f"{begin},1,{first['fix_time']},{server_times[0]},{first['latitude']},9.521,,,,,,",
        f"{begin},2,{second['fix_time']},{server_times[1]},{second['latitude']},9.521,4.7,-3.25,8.5,359.9,{driven.trip_id},",
        f"{begin},4,{fourth['fix_time']},{server_times[2]},{fourth['latitude']},9.521,,,,,{driven.trip_id},",
    ]
    assert await csv_of(api, f"/trips/{driven.trip_id}/track") == rows[1:]


async def test_suspects_are_in_a_track_on_request(api: Api, driven: Driven) -> None:
    for path, others in ((f"/vehicles/{driven.vehicle_id}/track", 3), (f"/trips/{driven.trip_id}/track", 2)):
        rows = await csv_of(api, path, suspect="true")
        assert len(rows) == others + 1
        (suspect,) = [row.split(",") for row in rows if not row.endswith(",")]
        assert suspect[2] == "3"
        assert {"null_island", "inaccurate"} <= set(suspect[12].split(";"))
        assert [row for row in rows if row.endswith(",")] == await csv_of(api, path, suspect="false") == await csv_of(api, path)
        response = await api.http.get(path)
        assert "[0.0,0.0]" not in response.text
        response = await api.http.get(path, params={"suspect": "true"})
        assert "[0.0,0.0]" in response.text


async def test_a_geojson_track_is_geojson(api: Api, driven: Driven) -> None:
    _, second, _, fourth = driven.fixes
    line = [[f["longitude"], f["latitude"]] for f in (second, fourth)]
    for params in ({}, {"format": "geojson"}):
        response = await api.http.get(f"/trips/{driven.trip_id}/track", params=params)
        assert response.headers["content-type"].startswith("application/geo+json")
        collection = response.json()
        assert collection["type"] == "FeatureCollection"
        (feature,) = collection["features"]
        assert feature["type"] == "Feature"
        assert feature["geometry"] == {"type": "LineString", "coordinates": line}
        assert isinstance(feature["properties"], dict)


async def test_a_gpx_track_is_gpx(api: Api, driven: Driven) -> None:
    _, second, _, fourth = driven.fixes
    for path, name, fixes in (
        (f"/trips/{driven.trip_id}/track", driven.trip_id, [second, fourth]),
        (f"/vehicles/{driven.vehicle_id}/track", driven.vehicle_id, [driven.fixes[0], second, fourth]),
    ):
        response = await api.http.get(path, params={"format": "gpx"})
        assert response.headers["content-type"] == "application/gpx+xml"
        document = gpxpy.parse(response.text, version="1.1")
        (track,) = document.tracks
        assert track.name == name
        points = [point for segment in track.segments for point in segment.points]
        assert [(point.latitude, point.longitude) for point in points] == [(f["latitude"], f["longitude"]) for f in fixes]
        assert [round(point.time.timestamp() * 1000) for point in points if point.time] == [f["fix_time"] for f in fixes]
        # The first fix is an hour before the others.
        assert len(track.segments) == len(fixes) - 1
        assert points[-2].elevation == second["altitude"]


async def test_a_geojson_track_of_one_position_and_of_none(api: Api, driven: Driven) -> None:
    """A LineString needs two positions (RFC 7946, 3.1.4)."""
    first = driven.fixes[0]
    path = f"/vehicles/{driven.vehicle_id}/track"
    (feature,) = (await api.call("GET", path, to=first["fix_time"] + 1))["features"]
    assert feature["geometry"] == {"type": "Point", "coordinates": [first["longitude"], first["latitude"]]}
    assert (await api.call("GET", path, to=first["fix_time"] - HOUR_MS))["features"] == []


async def test_a_track_over_many_chunks_is_complete(api: Api, hub: HubProcess, fleet_id: str) -> None:
    vehicle_id = await api.vehicle(fleet_id)
    begin = now_ms() - 2_000_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000, latitude=47 + seq * 0.00005) for seq in range(1, 1_203)]
    async with Driver(hub.url, vehicle_id) as driver:
        for place in range(0, len(fixes), 400):
            await driver.report(*fixes[place : place + 400])
        await driver.acknowledged(len(fixes))
    path = f"/vehicles/{vehicle_id}/track"
    assert [int(row.split(",")[2]) for row in await csv_of(api, path)] == list(range(1, 1_203))
    (feature,) = (await api.call("GET", path))["features"]
    assert feature["geometry"]["coordinates"] == [[f["longitude"], f["latitude"]] for f in fixes]


async def test_a_span_of_a_track(api: Api, driven: Driven) -> None:
    """The span may be any length. It includes a fix at `from`."""
    first, second, _, fourth = driven.fixes
    path = f"/vehicles/{driven.vehicle_id}/track"

    async def seqs(**span: int) -> list[str]:
        return [row.split(",")[2] for row in await csv_of(api, path, **span)]

    assert await seqs(**{"from": first["fix_time"]}) == ["1", "2", "4"]
    assert await seqs(**{"from": first["fix_time"] + 1}) == ["2", "4"]
    assert await seqs(to=second["fix_time"]) == ["1"]
    assert await seqs(to=second["fix_time"] + 1) == ["1", "2"]
    assert await seqs(**{"from": second["fix_time"], "to": fourth["fix_time"] + 1}) == ["2", "4"]
    assert await seqs(**{"from": fourth["fix_time"], "to": fourth["fix_time"]}) == []
    assert await seqs(**{"from": 0, "to": now_ms() + 10 * 365 * 24 * HOUR_MS}) == ["1", "2", "4"]


@pytest.mark.parametrize(
    "query, field",
    [
        ("format=xml", "format"),
        ("format=", "format"),
        ("format=CSV", "format"),
        ("format=csv%00", "format"),
        ("suspect=1", "suspect"),
        ("suspect=True", "suspect"),
        ("from=yesterday", "from"),
        ("from=-1", "from"),
        ("from=1.5", "from"),
        ("to=99999999999999999999999", "to"),
        ("to=1e12", "to"),
        ("from=", "from"),
        ("from=1700000000001&to=1700000000000", "from"),
    ],
)
async def test_a_wrong_request_for_a_track(api: Api, driven: Driven, query: str, field: str) -> None:
    error = await refused(api, "GET", f"/vehicles/{driven.vehicle_id}/track?{query}", status=422)
    assert (error["code"], error["field"]) == ("bad_field", field)


async def test_who_sees_a_track(api: Api, driven: Driven) -> None:
    fleet_id = (await api.call("GET", f"/vehicles/{driven.vehicle_id}"))["fleet_id"]
    for role, subject, of_trip, of_vehicle in (
        ("service", None, 200, 200),
        ("dispatcher", fleet_id, 200, 200),
        ("passenger", driven.trip_id, 200, 403),
        ("passenger", "another", 404, 403),
        ("dispatcher", "another", 404, 404),
        ("driver", "another", 404, 403),
        ("operator", None, 404, 403),
    ):
        headers = {"Authorization": f"Bearer {token(role, subject)}"}
        response = await api.http.get(f"/trips/{driven.trip_id}/track", headers=headers)
        assert response.status_code == of_trip, role
        response = await api.http.get(f"/vehicles/{driven.vehicle_id}/track", headers=headers)
        assert response.status_code == of_vehicle, role
