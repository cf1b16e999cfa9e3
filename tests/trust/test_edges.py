"""Edge cases that an attack on the hub once found."""

import asyncio
import json

import pytest

from tests.support.clients import Api, Message, Passenger, Socket, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.trust.answers import refused
from tests.trust.bench import Bench
from tests.trust.credentials import close_code

FRAME = 64 * 1024


@pytest.mark.parametrize("trip_id", [r"\u0000", r"a\u0000b"])
@pytest.mark.parametrize("kind", ['"trip_status","status":"complete"', '"message","text":"hello"'])
async def test_row_20_a_trip_id_with_a_nul_is_refused_and_later_requests_are_answered(
    bench: Bench, kind: str, trip_id: str
) -> None:
    await bench.driver.send_text(f'{{"type":{kind},"trip_id":"{trip_id}","client_id":"bad"}}')
    await bench.driver.send_text('{"type":"trip_status","status":"complete","trip_id":"none","client_id":"next"}')
    answers: list[Message] = []
    while not answers or answers[-1].get("client_id") != "next":
        answers.append(await bench.driver.expect("done", "error"))
    assert answers[0]["code"] in ("bad_field", "forbidden")
    assert answers[-1]["code"] == "forbidden"
    await bench.goes_on()


async def test_no_ack_is_longer_than_64_kib(bench: Bench) -> None:
    """500 fixes from a clock that is an hour ahead. All are rejected and named, in frames below a client's limit."""
    ahead = now_ms() + 3_600_000
    await bench.driver.report(*(fix(seq, fix_time=ahead + seq) for seq in range(1, 501)))
    rejected: list[int] = []
    while bench.driver.handled < 500:
        text = await bench.driver.connection.recv()
        assert len(str(text).encode()) <= FRAME
        ack = json.loads(text)
        if ack["type"] == "error":
            assert ack["code"] == "clock_skew"
            continue
        assert ack["type"] == "ack"
        bench.driver.handled = ack["seq"]
        rejected += [r["seq"] for r in ack["rejected"]]
    assert rejected == list(range(1, 501))


async def test_no_frame_about_a_trip_is_longer_than_64_kib(hub: HubProcess, api: Api) -> None:
    """With a long route and many long names, the driver's and the passenger's messages still fit a frame."""
    line = {"type": "LineString", "coordinates": [[9.52 + n / 10_000_019, 47.14 + n / 10_000_019] for n in range(5_000)]}
    stop = {"latitude": 47.1234567, "longitude": 9.5234567, "name": "\U0001f68f" * 20}
    vehicle_id, trip_id = await api.under_way(route=line, stops=[stop] * 100)
    whole = await api.call("GET", f"/trips/{trip_id}")
    assert len(whole["route"]["coordinates"]) == 5_000
    async with Socket(f"{hub.url}/v1/driver", token("driver", vehicle_id)) as driver, Passenger(hub.url, trip_id) as passenger:
        for socket in (driver, passenger):
            text = str(await socket.connection.recv())
            assert len(text.encode()) <= FRAME
            shown = json.loads(text)["trip"]["route"]["coordinates"]
            assert len(shown) >= 2
            assert shown[0] == pytest.approx(line["coordinates"][0], abs=1e-6)
            assert shown[-1] == pytest.approx(line["coordinates"][-1], abs=1e-6)


async def test_places_that_would_fill_a_frame_are_refused(api: Api, fleet_id: str) -> None:
    stop = {"latitude": 47, "longitude": 9, "name": "\U0001f68f" * 200}
    body = {"fleet_id": fleet_id, "pickup": stop, "dropoff": stop, "stops": [stop] * 100}
    error = await refused(api, "POST", "/trips", body, status=422)
    assert (error["code"], error["field"]) == ("bad_field", "stops")


async def test_row_33_a_driver_does_not_watch_trips(hub: HubProcess, api: Api) -> None:
    """Not even its own. The passenger's socket looks to it as if the trip did not exist."""
    vehicle_id, trip_id = await api.under_way()
    assert await close_code(f"{hub.url}/v1/trips/{trip_id}/live", token("driver", vehicle_id)) == 4502


async def test_row_34_an_id_with_a_nul_does_not_exist(hub: HubProcess, api: Api) -> None:
    body = {"version": 1, "status": "canceled"}
    for method, path in (
        ("GET", "/trips/a%00b"),
        ("PATCH", "/trips/a%00b"),
        ("DELETE", "/trips/a%00b"),
        ("GET", "/trips/a%00b/track"),
        ("GET", "/trips/a%00b/shares"),
        ("DELETE", "/shares/a%00b"),
    ):
        response = await api.http.request(method, path, json=body if method == "PATCH" else None)
        assert response.status_code == 404, (method, path, response.text)
    assert await close_code(f"{hub.url}/v1/trips/a%00b/live", token("service")) == 4502


async def test_a_polyline_of_endless_numbers_is_refused(api: Api, fleet_id: str) -> None:
    place = {"latitude": 47, "longitude": 9}
    for route in ("~" * 300 + "??", "~" * 1_000_000 + "??"):
        body = {"fleet_id": fleet_id, "pickup": place, "dropoff": place, "route": route}
        async with asyncio.timeout(5):
            assert (await refused(api, "POST", "/trips", body, status=422))["field"] == "route"


async def test_a_line_string_must_have_its_type(api: Api, fleet_id: str) -> None:
    place = {"latitude": 47, "longitude": 9}
    body = {"fleet_id": fleet_id, "pickup": place, "dropoff": place, "route": {"coordinates": [[9, 47], [9, 48]]}}
    assert (await refused(api, "POST", "/trips", body, status=422))["field"] == "route"


async def test_a_name_ends_where_it_ends(api: Api) -> None:
    body = {"role": "driver", "vehicle_id": "van\n"}
    assert (await refused(api, "POST", "/tokens", body, status=422))["code"] == "bad_field"


async def test_a_text_that_is_too_long_is_a_bad_field(api: Api) -> None:
    error = await refused(api, "PUT", "/fleets/x", {"name": "x" * 201}, status=422)
    assert (error["code"], error["field"]) == ("bad_field", "name")


async def test_no_answer_repeats_the_requests_host(hub: HubProcess, api: Api, fleet_id: str) -> None:
    for path in ("/v1", f"/v1/fleets/{fleet_id}/", "/trip/x/", "/web"):
        response = await api.http.get(f"{hub.url}{path}", headers={"Host": "elsewhere.example"})
        assert "elsewhere.example" not in str(response.headers), path


async def test_a_405_names_every_method_that_there_is(api: Api, fleet_id: str) -> None:
    response = await api.http.patch(f"/fleets/{fleet_id}")
    assert {"GET", "PUT"} <= set(response.headers["allow"].replace(" ", "").split(","))


async def test_rate_limited_says_when_to_retry(hub: HubProcess, api: Api) -> None:
    _, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id, max_queue=None) as passenger:
        for n in range(40):
            await passenger.send({"type": "message", "client_id": str(n), "text": "hello"})
        error = await passenger.expect("error")
    assert error["code"] == "rate_limited"
    assert error["retry_after"] > 0


@pytest.mark.parametrize(
    "request_",
    [b"GET /v1/driver HTTP/1.1\r\nHost: x\r\nUpg", b"GET /v1/driver HTTP/1.1\r\nX: " + b"x" * 9_000 + b"\r\n%s\r\n"],
    ids=["half", "a header that is too long"],
)
async def test_row_9_half_a_handshake_is_closed_within_10_seconds(hub: HubProcess, request_: bytes) -> None:
    upgrade = (
        b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(request_.replace(b"%s", upgrade))
    async with asyncio.timeout(12):
        await reader.read()
    writer.close()


async def test_an_accepted_fix_causes_no_error(bench: Bench) -> None:
    """A device with a clock 45 s ahead gets a warning, but the fix is stored. No `error` may name its seq."""
    await bench.driver.report(fix(1, fix_time=now_ms() + 45_000))
    messages: list[Message] = []
    while not messages or messages[-1]["type"] != "ack":
        messages.append(await bench.driver.receive())
    assert not [m for m in messages if m["type"] == "error" and m.get("seq") == 1]
