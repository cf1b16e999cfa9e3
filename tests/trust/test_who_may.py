"""Rows 27 to 34, 38 and 39: who may come in, and what is not theirs."""

import asyncio
import base64
import hmac
import json
import time
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.support.clients import Api, Driver, Message, Passenger, Socket, fix, new_id, token
from tests.support.hub_process import SECRET, HubProcess
from tests.trust.bench import Bench
from tracking.demo.postgres import Cluster

OTHER_SECRET = "another secret, as long as the hub's own is"


def claims(**changes: Any) -> Message:
    """Good claims of a service's token, but for these; None leaves one out."""
    good = {"aud": "tracking", "exp": int(time.time()) + 3600, "jti": new_id("jti"), "role": "service"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(secret: str = SECRET, headers: Message | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm="HS256", headers=headers)


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def hs512() -> str:
    text = part(b'{"alg":"HS512","typ":"JWT"}') + "." + part(json.dumps(claims()).encode())
    return f"{text}.{part(hmac.digest(SECRET.encode(), text.encode(), 'sha512'))}"


def unsigned(algorithm: Any, signature: str = "") -> str:
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    return f"{part(header)}.{part(json.dumps(claims()).encode())}.{signature}"


async def close_code(url: str, bearer: str | None, **options: Any) -> int:
    """How the hub ends a connection that it accepted."""
    async with Socket(url, bearer, **options) as socket:
        return await socket.closed()


async def status_of(hub: HubProcess, path: str, origin: str | None, bearer: str) -> int:
    """The HTTP status of a handshake that fails, 101 where it does not."""
    try:
        async with Socket(f"{hub.url}{path}", bearer, origin=origin):
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


# --- row 27: origins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://elsewhere.example",
        "null",
        "file://",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "{url}.elsewhere.example",
        "http://elsewhere.example/{host}",
        "{url}@elsewhere.example",
    ],
)
async def test_row_27_a_foreign_origin_is_refused_before_accepting(
    hub: HubProcess, api: Api, fleet_id: str, origin: str
) -> None:
    origin = origin.format(url=hub.url, host=hub.url.partition("://")[2])
    vehicle_id = await api.vehicle(fleet_id)
    assert await status_of(hub, "/v1/driver", origin, token("driver", vehicle_id)) == 403
    assert await status_of(hub, "/v1/trips/none/live", origin, token("service")) == 403


async def test_row_27_our_own_origin_and_none_are_let_in(hub: HubProcess, api: Api, fleet_id: str) -> None:
    bearer = token("driver", await api.vehicle(fleet_id))
    assert await status_of(hub, "/v1/driver", hub.url, bearer) == 101
    assert await status_of(hub, "/v1/driver", None, bearer) == 101


# --- rows 28 and 29: no credential, or in the wrong place -----------------------------------------------------------

NO_CREDENTIAL: dict[str, dict[str, str]] = {
    "nothing": {},
    "another scheme": {"Authorization": "Basic c2VydmljZTpzZXJ2aWNl"},
    "a scheme alone": {"Authorization": "Bearer"},
    "no scheme": {"Authorization": token("service")},
    "a cookie": {"Cookie": f"token={token('service')}"},
}
SOCKETS = ["/v1/driver", "/v1/trips/none/live"]
PATHS = [
    ("GET", "/v1/fleets/none"),
    ("PUT", "/v1/fleets/none"),
    ("GET", "/v1/fleets/none/vehicles"),
    ("GET", "/v1/fleets/none/trips"),
    ("GET", "/v1/vehicles/none"),
    ("PUT", "/v1/vehicles/none"),
    ("DELETE", "/v1/vehicles/none"),
    ("GET", "/v1/vehicles/none/track"),
    ("POST", "/v1/trips"),
    ("GET", "/v1/trips/none"),
    ("PATCH", "/v1/trips/none"),
    ("DELETE", "/v1/trips/none"),
    ("GET", "/v1/trips/none/track"),
    ("GET", "/v1/trips/none/shares"),
    ("POST", "/v1/trips/none/shares"),
    ("DELETE", "/v1/shares/none"),
    ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens/none"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize("headers", NO_CREDENTIAL.values(), ids=NO_CREDENTIAL.keys())
async def test_row_28_without_a_credential_nobody_comes_in(hub: HubProcess, api: Api, headers: dict[str, str]) -> None:
    for path in SOCKETS:
        assert await close_code(f"{hub.url}{path}", None, headers=headers) == 4401
    for method, path in PATHS:
        request = httpx.Request(method, f"{hub.url}{path}", headers=headers, json={})
        response = await api.http.send(request)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized"), (method, path)
        assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("offered", [["tracking.v1"], ["tracking.v1", "bearer."], ["chat"]], ids=str)
async def test_row_28_nor_with_subprotocols_that_hold_none(hub: HubProcess, offered: list[str]) -> None:
    for path in SOCKETS:
        url = f"{hub.url}{path}".replace("http", "ws", 1)
        async with connect(url, subprotocols=[Subprotocol(name) for name in offered], proxy=None) as connection:
            await connection.wait_closed()
            assert connection.close_code == 4401


async def test_row_28_a_browser_gives_its_token_as_a_subprotocol(hub: HubProcess, api: Api) -> None:
    _, trip_id = await api.under_way()
    bearer = token("passenger", trip_id)
    for order in ([f"bearer.{bearer}", "tracking.v1"], ["tracking.v1", f"bearer.{bearer}"]):
        async with connect(
            f"{hub.url}/v1/trips/{trip_id}/live".replace("http", "ws", 1),
            subprotocols=[Subprotocol(name) for name in order],
            proxy=None,
        ) as connection:
            # The token is never said back.
            assert connection.subprotocol == "tracking.v1"
            assert json.loads(await connection.recv())["type"] == "snapshot"


QUERIES = ["token={}", "access_token={}", "bearer={}", "authorization=Bearer%20{}", "jwt={}", "bearer.{}", "{}"]


async def test_row_29_a_token_in_a_query_is_refused_and_no_log_holds_any(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """Good ones, bad ones, and ones in places where they should not be: nothing of them is written anywhere."""
    vehicle_id = await api.vehicle(fleet_id)
    driver, service = token("driver", vehicle_id), token("service")
    share = (await api.call("POST", f"/trips/{(await api.trip(fleet_id, None))['trip_id']}/shares", {}))["token"]
    forged = token("service", secret=OTHER_SECRET)
    for query in QUERIES:
        assert await close_code(f"{hub.url}/v1/driver?{query.format(driver)}", None) == 4401
        url = httpx.URL(f"{hub.url}/v1/fleets/{fleet_id}?{query.format(service)}")
        assert (await api.http.send(httpx.Request("GET", url))).status_code == 401
    for bearer in (driver, service, share, forged):
        headers = {"Authorization": f"Bearer {bearer}"}
        for method, path in [
            *PATHS,
            ("GET", f"/trip/{bearer}"),
            ("GET", f"/v1/trips/{bearer}"),
            ("DELETE", f"/v1/tokens/{bearer}"),
        ]:
            await api.http.send(httpx.Request(method, f"{hub.url}{path}", headers=headers, content=bearer))
        for path in (*SOCKETS, f"/v1/trips/{bearer}/live", f"/v1/none/{bearer}"):
            for options in ({}, {"origin": "null"}, {"subprotocols": ["tracking.v1", f"bearer.{bearer}"]}):
                try:
                    async with Socket(f"{hub.url}{path}", bearer, **options) as socket:
                        await socket.send_text(bearer)
                        await socket.send({"type": "hello", "session": bearer[:64]})
                        await socket.send({"type": bearer})
                except (websockets.InvalidStatus, websockets.ConnectionClosed):
                    continue
    # A request that is none at all.
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(f"GET /v1/driver?token={driver} HTTP/1.1\r\nAuthorization Bearer {driver}\r\n\x00\r\n\r\n".encode())
    await reader.read()
    writer.close()
    await api.call("GET", f"/fleets/{fleet_id}")
    log = hub.log.read_text()
    assert log, "nothing is logged at all: this test would find nothing"
    for bearer in (driver, service, share, forged):
        for piece in bearer.split("."):
            assert piece[-20:] not in log


# --- row 30: tokens that are not good -------------------------------------------------------------------------------

BAD_TOKENS: dict[str, str] = {
    "alg none": unsigned("none"),
    "alg None": unsigned("None"),
    "alg NONE, with a signature": unsigned("NONE", "AAAA"),
    "alg none, signed": unsigned("none", signed().rpartition(".")[2]),
    "alg null": unsigned(None),
    "alg a list": unsigned(["HS256"]),
    "HS256 without a signature": unsigned("HS256"),
    "HS512 with the hub's secret": hs512(),
    "another secret": signed(OTHER_SECRET),
    "an empty secret": part(b'{"alg":"HS256"}') + "." + part(json.dumps(claims()).encode()) + "." + part(b"\0" * 32),
    "another audience": signed(aud="metrics"),
    "no audience": signed(aud=None),
    "an audience in capitals": signed(aud="TRACKING"),
    "no exp": signed(exp=None),
    "no jti": signed(jti=None),
    "no role": signed(role=None),
    "a role that is none": signed(role="admin"),
    "a role that is empty": signed(role=""),
    "a driver of nothing": signed(role="driver"),
    "a driver with a trip": signed(role="driver", trip_id="t"),
    "a driver of an empty vehicle": signed(role="driver", vehicle_id=""),
    "a driver of a list": signed(role="driver", vehicle_id=["v"]),
    "a passenger of nothing": signed(role="passenger"),
    "a dispatcher of nothing": signed(role="dispatcher"),
    "a dispatcher of all": signed(role="dispatcher", fleet_id=True),
    "a role that is a list": signed(role=["service"]),
    "a number as jti": signed(jti=7),
    "a jti of the hub's that tells another expiry": signed(jti=f"{'A' * 22}.{int(time.time())}"),
    "claims exchanged": ".".join(
        [*token("passenger", "t").split(".")[:1], *token("service").split(".")[1:2], token("driver", "v").split(".")[2]]
    ),
    "claims of an array": part(b'{"alg":"HS256"}') + "." + part(b"[]") + "." + part(b"x"),
    "a critical extension": signed(headers={"crit": ["exp"]}),
    "cut short": signed()[:-4],
    "two parts": signed().rpartition(".")[0],
    "four parts": signed() + ".AAAA",
    "no token": "x",
    "dots": "...",
    "a header without end": part(b"[" * 4_000) + "." + part(b"{}") + ".AAAA",
    "as long as a header may be": "x" * 8_100,
}


@pytest.mark.parametrize("bearer", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_row_30_a_bad_token_is_refused_for_good(hub: HubProcess, api: Api, bearer: str) -> None:
    for path in SOCKETS:
        assert await close_code(f"{hub.url}{path}", bearer) == 4500
    response = await api.http.get("/fleets/none", headers={"Authorization": f"Bearer {bearer}"})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


async def test_row_30_a_token_longer_than_any_is_refused(api: Api) -> None:
    for length in (8_193, 50_000):
        response = await api.http.get("/fleets/none", headers={"Authorization": f"Bearer {'x' * length}"})
        assert response.status_code in (401, 431)


async def test_row_30_the_good_token_that_the_bad_ones_differ_from_is_taken(hub: HubProcess, api: Api, fleet_id: str) -> None:
    for bearer in (signed(), signed(aud=["tracking", "metrics"])):
        response = await api.http.get(f"/fleets/{fleet_id}", headers={"Authorization": f"Bearer {bearer}"})
        assert response.status_code == 200


# --- rows 31 and 32: expiry and revocation --------------------------------------------------------------------------


async def test_row_31_a_token_that_expires_closes_its_socket_at_that_second(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    expires_at = int(time.time()) + 3
    driver = signed(role="driver", vehicle_id=vehicle_id, exp=expires_at)
    passenger = signed(role="passenger", trip_id=trip_id, exp=expires_at)

    async def watch(url: str, bearer: str) -> float:
        async with Socket(url, bearer) as socket:
            await socket.expect("welcome", "snapshot")
            assert await socket.closed() == 4405
            return time.time()

    live = f"{hub.url}/v1/trips/{trip_id}/live"
    async with Passenger(hub.url, trip_id) as lasting:
        for ended in await asyncio.gather(watch(f"{hub.url}/v1/driver", driver), watch(live, passenger)):
            assert expires_at - 0.05 <= ended < expires_at + 2
        # Whoever comes back with it is told the same, and the others notice nothing.
        assert await close_code(f"{hub.url}/v1/driver", driver) == 4405
        assert await close_code(live, passenger) == 4405
        async with Driver(hub.url, vehicle_id) as again:
            await again.report(fix(1))
            await lasting.expect("position")
    response = await api.http.get(f"/trips/{trip_id}", headers={"Authorization": f"Bearer {passenger}"})
    assert response.status_code == 401


async def test_row_32_revocation_closes_every_socket_of_the_token(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    issued = await api.call("POST", "/tokens", {"role": "passenger", "trip_id": trip_id})
    drivers = await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id})
    live = f"{hub.url}/v1/trips/{trip_id}/live"
    async with (
        Socket(live, issued["token"]) as one,
        Socket(live, issued["token"]) as two,
        Socket(live, None, subprotocols=["tracking.v1", f"bearer.{issued['token']}"]) as three,
        Passenger(hub.url, trip_id) as other,
        Socket(f"{hub.url}/v1/driver", drivers["token"]) as driver,
    ):
        for socket in (one, two, three, other):
            await socket.expect("snapshot")
        await driver.expect("welcome")
        await api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
        async with asyncio.timeout(2):
            assert [await socket.closed() for socket in (one, two, three)] == [4503] * 3
        await api.call("DELETE", f"/tokens/{drivers['jti']}", expect=204)
        async with asyncio.timeout(2):
            assert await driver.closed() == 4503
        assert await close_code(live, issued["token"]) == 4503
        assert await close_code(f"{hub.url}/v1/driver", drivers["token"]) == 4503
        response = await api.http.get(f"/trips/{trip_id}", headers={"Authorization": f"Bearer {issued['token']}"})
        assert response.status_code == 401
        # Another token of the same trip lives on.
        await other.send({"type": "message", "client_id": "c", "text": "still here"})
        assert (await other.expect("done"))["client_id"] == "c"


async def test_row_32_nobody_comes_in_before_the_hub_knows_who_must_stay_out(own_hub: Any, database_url: str) -> None:
    """A restart, and the list of revoked tokens can't be read yet: a revoked link shows nothing, then or later."""
    hub: HubProcess = own_hub()
    async with Api(hub.url) as api:
        _, trip_id = await api.under_way()
        share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3600})
        await api.call("DELETE", f"/shares/{share['share_id']}", expect=204)
        hub.kill()
        live = f"{hub.url}/v1/trips/{trip_id}/live"
        database = await asyncpg.connect(database_url)
        try:
            async with database.transaction():
                await database.execute("LOCK TABLE revoked_tokens IN ACCESS EXCLUSIVE MODE")
                hub.start()
                async with Socket(live, share["token"]) as socket:
                    with pytest.raises(websockets.ConnectionClosed):
                        pytest.fail(f"a revoked link was shown: {await socket.receive()}")
                    assert socket.connection.close_code in (4014, 4503)
        finally:
            await database.close()
        while (code := await close_code(live, share["token"])) == 4014:
            pass
        assert code == 4503


# --- row 33: identity comes from the token alone --------------------------------------------------------------------


async def test_row_33_a_driver_reports_its_own_vehicle_whatever_it_says(bench: Bench) -> None:
    victim_id, victim_trip = await bench.api.under_way()
    async with Passenger(bench.url, victim_trip) as passenger:
        await passenger.expect("snapshot")
        for seq, claim in enumerate(({"vehicle_id": victim_id}, {"trip_id": victim_trip}, {"vehicle": victim_id}), 1):
            await bench.driver.send({"type": "position", **fix(seq), **claim})
        await bench.driver.send({"type": "hello", "session": bench.driver.session, "vehicle_id": victim_id})
        await bench.driver.acknowledged(3)
        async with Driver(bench.url, victim_id) as victim:
            await victim.report(fix(1, latitude=47.3))
            assert (await passenger.expect("position"))["latitude"] == 47.3
            await victim.acknowledged(1)
    assert await bench.stored() == [1, 2, 3]
    assert [row["trip_id"] for row in await bench.api.track(f"/vehicles/{bench.vehicle_id}/track")] == [""] * 3
    assert len(await bench.api.track(f"/trips/{victim_trip}/track")) == 1


async def test_row_33_a_session_is_the_vehicles_own(bench: Bench) -> None:
    """Another vehicle that names the same session neither sees nor moves its numbers."""
    await bench.driver.report(fix(5))
    await bench.driver.acknowledged(5)
    other_id = await bench.api.vehicle(bench.fleet_id)
    async with Driver(bench.url, other_id, bench.driver.session) as other:
        assert other.handled == 0
        await other.report(fix(100))
        await other.acknowledged(100)
    await bench.goes_on(stored=[5], seq=6)


async def test_row_33_a_trip_that_is_not_its_own_is_forbidden(bench: Bench) -> None:
    """The same answer for another's trip, for one of no vehicle and for none at all; none of them changes."""
    _, others = await bench.api.under_way()
    nobodys = (await bench.api.trip(bench.fleet_id, None))["trip_id"]
    before = [await bench.api.call("GET", f"/trips/{trip_id}") for trip_id in (others, nobodys)]
    async with Passenger(bench.url, others) as passenger:
        await passenger.expect("snapshot")
        for body in ({"type": "trip_status", "status": "canceled"}, {"type": "message", "text": "get out here"}):
            answers = []
            for trip_id in (others, nobodys, "none", "", "../" + others, "x" * 300):
                await bench.driver.send({**body, "trip_id": trip_id, "client_id": "same"})
                answers.append(await bench.driver.expect("done", "error"))
            assert {answer["code"] for answer in answers} == {"forbidden"}
            assert all(answer == answers[0] for answer in answers)
        await passenger.send({"type": "message", "client_id": "marker", "text": "marker"})
        assert (await passenger.expect("message", "trip"))["text"] == "marker"
    assert [await bench.api.call("GET", f"/trips/{trip_id}") for trip_id in (others, nobodys)] == before


async def test_row_33_a_driver_loses_a_trip_with_its_vehicle(bench: Bench) -> None:
    trip = await bench.api.trip(bench.fleet_id, bench.vehicle_id)
    trip = await bench.api.advance(trip["trip_id"], "enroute_to_pickup")
    new_id_ = await bench.api.vehicle(bench.fleet_id)
    await bench.api.call("PATCH", f"/trips/{trip['trip_id']}", {"vehicle_id": new_id_, "version": trip["version"]})
    await bench.driver.send({"type": "trip_status", "trip_id": trip["trip_id"], "status": "canceled", "client_id": "c"})
    assert (await bench.driver.expect("done"))["code"] == "forbidden"
    assert (await bench.api.call("GET", f"/trips/{trip['trip_id']}"))["status"] == "enroute_to_pickup"


async def test_row_33_other_roles_have_no_driver_socket(hub: HubProcess, api: Api, fleet_id: str) -> None:
    trip_id = (await api.trip(fleet_id, None))["trip_id"]
    for bearer in (token("passenger", trip_id), token("dispatcher", fleet_id), token("operator"), token("service")):
        assert await close_code(f"{hub.url}/v1/driver", bearer) == 4502
    # A vehicle that there is not is no different.
    assert await close_code(f"{hub.url}/v1/driver", token("driver", new_id("van"))) == 4502


# --- rows 34, 38, 39: what is not yours looks as if it were not there ------------------------------------------------


class Other:
    """Another fleet with everything in it, and the tokens of strangers to it."""

    def __init__(self, fleet_id: str, vehicle_id: str, trip_id: str, share_id: str) -> None:
        self.fleet_id, self.vehicle_id, self.trip_id, self.share_id = fleet_id, vehicle_id, trip_id, share_id


@pytest.fixture(scope="session")
async def other(hub: HubProcess, api: Api) -> Other:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
    fleet = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
    share = await api.call("POST", f"/trips/{trip_id}/shares", {})
    return Other(fleet, vehicle_id, trip_id, share["share_id"])


PLACE = {"latitude": 47, "longitude": 9}
REQUESTS: list[tuple[str, str, Message | None]] = [
    ("GET", "/fleets/{fleet_id}", None),
    ("GET", "/fleets/{fleet_id}/vehicles", None),
    ("GET", "/fleets/{fleet_id}/trips", None),
    ("GET", "/fleets/{fleet_id}/trips?status=new", None),
    ("GET", "/vehicles/{vehicle_id}", None),
    ("PUT", "/vehicles/{vehicle_id}", {"fleet_id": "{own_fleet}", "name": "mine"}),
    ("PUT", "/vehicles/{vehicle_id}", {"fleet_id": "{fleet_id}", "name": "theirs"}),
    ("PUT", "/fleets/{fleet_id}", {"name": "mine"}),
    ("PUT", "/fleets/{fleet_id}/geofences/yard", {"type": "Feature"}),
    ("GET", "/fleets/{fleet_id}/geofences", None),
    ("GET", "/fleets/{fleet_id}/geofences/yard", None),
    ("DELETE", "/fleets/{fleet_id}/geofences/yard", None),
    ("GET", "/fleets/{fleet_id}/events", None),
    ("GET", "/fleets/{own_fleet}/events?vehicle_id={vehicle_id}", None),
    ("POST", "/trips", {"fleet_id": "{fleet_id}", "pickup": PLACE, "dropoff": PLACE}),
    ("GET", "/vehicles/{vehicle_id}/days", None),
    ("GET", "/trips/{trip_id}/summary", None),
    ("DELETE", "/vehicles/{vehicle_id}", None),
    ("GET", "/vehicles/{vehicle_id}/track", None),
    ("GET", "/vehicles/{vehicle_id}/track?format=csv", None),
    ("GET", "/vehicles/{vehicle_id}/track?format=nonsense", None),
    ("GET", "/trips/{trip_id}", None),
    ("GET", "/trips/{trip_id}/track", None),
    ("GET", "/trips/{trip_id}/track?format=nonsense", None),
    ("PATCH", "/trips/{trip_id}", {"status": "canceled", "version": 2}),
    ("PATCH", "/trips/{trip_id}", {"status": "canceled", "version": 99}),
    ("PATCH", "/trips/{trip_id}", {"vehicle_id": "none", "version": 2}),
    ("DELETE", "/trips/{trip_id}", None),
    ("GET", "/trips/{trip_id}/shares", None),
    ("POST", "/trips/{trip_id}/shares", {"expires_in": 60}),
    ("DELETE", "/shares/{share_id}", None),
]


@pytest.mark.parametrize("method, path, body", REQUESTS, ids=[f"{method} {path}" for method, path, _ in REQUESTS])
async def test_rows_34_38_39_missing_and_forbidden_are_the_same_bytes(
    api: Api, fleet_id: str, other: Other, method: str, path: str, body: Message | None
) -> None:
    """Whoever asks: status, bytes and headers of another's thing are those of a thing that does not exist."""
    own_trip = (await api.trip(fleet_id, None))["trip_id"]
    own_vehicle = await api.vehicle(fleet_id)
    before = await api.call("GET", f"/trips/{other.trip_id}")
    # As long as the real names, so that nothing in the answers may come from their length.
    names = {"fleet_id": new_id("fleet"), "vehicle_id": new_id("van"), "trip_id": "x" * 22, "share_id": "x" * 22}
    asked = []
    for of in (vars(other), names):
        written = {
            name: value.format(**of, own_fleet=fleet_id) if isinstance(value, str) else value
            for name, value in (body or {}).items()
        }
        asked.append((path.format(**of, own_fleet=fleet_id), written if body is not None else None))
    for role, subject in (
        ("dispatcher", fleet_id),
        ("passenger", own_trip),
        ("driver", own_vehicle),
        ("operator", None),
    ):
        headers = {"Authorization": f"Bearer {token(role, subject)}"}
        answers = [await api.http.request(method, path, json=body, headers=headers) for path, body in asked]
        assert answers[0].content == answers[1].content, role
        assert answers[0].status_code == answers[1].status_code
        assert {**answers[0].headers, "date": ""} == {**answers[1].headers, "date": ""}
        # A role that may do such a thing at all is told 404, one that never may 403.
        if "own_fleet" not in path or role != "dispatcher":
            assert answers[0].status_code in ((404,) if role == "dispatcher" else (403, 404))
            assert "error" in answers[0].json()
    assert await api.call("GET", f"/trips/{other.trip_id}") == before
    assert (await api.call("GET", f"/vehicles/{other.vehicle_id}"))["fleet_id"] == other.fleet_id
    assert (await api.http.get(f"/vehicles/{names['vehicle_id']}")).status_code == 404, "a dispatcher makes no new ids"


async def test_row_34_a_dispatcher_waits_for_no_other_fleets_vehicle(
    hub: HubProcess, api: Api, fleet_id: str, other: Other, cluster: Cluster
) -> None:
    """How long an answer takes would tell that there is such a vehicle, and hold up whoever changes it."""
    headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    connection = await asyncpg.connect(cluster.url("shared"))
    async with asyncio.timeout(5), connection.transaction():
        await connection.execute("SELECT FROM vehicles WHERE vehicle_id = $1 FOR UPDATE", other.vehicle_id)
        trip = {"fleet_id": fleet_id, "vehicle_id": other.vehicle_id, "pickup": PLACE, "dropoff": PLACE}
        for method, path, body in (
            ("PUT", f"/vehicles/{other.vehicle_id}", {"fleet_id": fleet_id}),
            ("DELETE", f"/vehicles/{other.vehicle_id}", None),
            ("POST", "/trips", trip),
        ):
            assert (await api.http.request(method, path, json=body, headers=headers)).status_code == 404
    await connection.close()


async def test_a_dispatcher_changes_the_vehicles_that_are_there_and_a_backend_makes_new_ones(api: Api, fleet_id: str) -> None:
    headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    vehicle_id = new_id("van")
    body = {"fleet_id": fleet_id, "name": "Van 7", "kind": "van", "plate": "FL 7"}
    assert (await api.http.put(f"/vehicles/{vehicle_id}", json=body, headers=headers)).status_code == 404
    assert (await api.http.put(f"/vehicles/{vehicle_id}", json=body)).status_code == 201
    changed = await api.http.put(f"/vehicles/{vehicle_id}", json={**body, "name": "Van 8"}, headers=headers)
    assert (changed.status_code, changed.json()["name"]) == (200, "Van 8")


async def test_row_39_a_dispatcher_cannot_take_anothers_vehicle(api: Api, fleet_id: str, other: Other) -> None:
    """Neither by moving it, nor by sending it on a trip; a vehicle that there is not looks the same."""
    headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    body = {"fleet_id": fleet_id, "name": "mine now"}
    assert (await api.http.put(f"/vehicles/{other.vehicle_id}", json=body, headers=headers)).status_code == 404
    body = {"fleet_id": other.fleet_id, "name": "planted"}
    assert (await api.http.put(f"/vehicles/{new_id('van')}", json=body, headers=headers)).status_code == 404
    place = {"latitude": 47, "longitude": 9}
    missing = "van-000000000000"
    answers = []
    for vehicle_id in (other.vehicle_id, missing):
        trip = {"fleet_id": fleet_id, "vehicle_id": vehicle_id, "pickup": place, "dropoff": place}
        answers.append(await api.http.post("/trips", json=trip, headers=headers))
    own = await api.trip(fleet_id, None)
    for vehicle_id in (other.vehicle_id, missing):
        change = {"vehicle_id": vehicle_id, "version": own["version"]}
        answers.append(await api.http.patch(f"/trips/{own['trip_id']}", json=change, headers=headers))
    assert {answer.status_code for answer in answers} == {404}
    assert answers[0].text.replace(other.vehicle_id, missing) == answers[1].text
    assert answers[2].text.replace(other.vehicle_id, missing) == answers[3].text
    trip = {"fleet_id": other.fleet_id, "pickup": place, "dropoff": place}
    assert (await api.http.post("/trips", json=trip, headers=headers)).status_code == 404
    assert (await api.call("GET", f"/vehicles/{other.vehicle_id}"))["fleet_id"] == other.fleet_id


async def test_row_34_on_sockets_missing_and_forbidden_are_the_same_close(
    hub: HubProcess, api: Api, fleet_id: str, other: Other
) -> None:
    own_trip = (await api.trip(fleet_id, None))["trip_id"]
    strangers = [
        token("passenger", own_trip),
        token("dispatcher", fleet_id),
        token("driver", await api.vehicle(fleet_id)),
        token("operator"),
    ]
    for bearer in strangers:
        seen = set()
        for trip_id in (other.trip_id, "x" * 22, "x", "%F0%9F%98%80", "x" * 2_000):
            for query in ("", "?epoch=x&offset=0"):
                async with Socket(f"{hub.url}/v1/trips/{trip_id}/live{query}", bearer) as socket:
                    with pytest.raises(websockets.ConnectionClosed):
                        await socket.receive()
                    seen.add((socket.connection.close_code, socket.connection.close_reason))
        assert len(seen) == 1, seen
        assert seen.pop()[0] == 4502


async def test_row_34_ids_from_the_hub_are_unguessable(api: Api, fleet_id: str) -> None:
    """At least 128 random bits: 22 characters of 6 bits, none of which stays the same."""
    trips = [(await api.trip(fleet_id, None))["trip_id"] for _ in range(8)]
    shares = [(await api.call("POST", f"/trips/{trips[0]}/shares", {}))["share_id"] for _ in range(8)]
    tokens = [(await api.call("POST", "/tokens", {"role": "operator"}))["jti"] for _ in range(8)]
    for ids in (trips, shares, tokens):
        assert len(set(ids)) == 8
        assert all(len(id_) >= 22 for id_ in ids)
        assert all(len({id_[place] for id_ in ids}) > 1 for place in range(21))


async def test_row_38_a_passenger_gets_nothing_of_a_fleet(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """Not even of the fleet, the vehicle and the trip that are its own."""
    vehicle_id = await api.vehicle(fleet_id)
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    headers = {"Authorization": f"Bearer {token('passenger', trip_id)}"}
    place = {"latitude": 47, "longitude": 9}
    for method, path, body in (
        ("GET", f"/fleets/{fleet_id}", None),
        ("GET", f"/fleets/{fleet_id}/vehicles", None),
        ("GET", f"/fleets/{fleet_id}/trips", None),
        ("PUT", f"/fleets/{fleet_id}", {"name": "x"}),
        ("GET", f"/vehicles/{vehicle_id}", None),
        ("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id}),
        ("DELETE", f"/vehicles/{vehicle_id}", None),
        ("GET", f"/vehicles/{vehicle_id}/track", None),
        ("POST", "/trips", {"fleet_id": fleet_id, "pickup": place, "dropoff": place}),
        ("PATCH", f"/trips/{trip_id}", {"status": "canceled", "version": 1}),
        ("DELETE", f"/trips/{trip_id}", None),
        ("GET", f"/trips/{trip_id}/shares", None),
        ("POST", f"/trips/{trip_id}/shares", {}),
        ("POST", "/tokens", {"role": "service"}),
        ("DELETE", "/tokens/none", None),
    ):
        response = await api.http.request(method, path, json=body, headers=headers)
        assert response.status_code in (403, 404), (method, path)
        assert vehicle_id not in response.text
    assert (await api.http.get(f"/trips/{trip_id}", headers=headers)).status_code == 200
