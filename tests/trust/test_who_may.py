"""Rows 27 to 32: origins and tokens that are accepted or refused."""

import asyncio
import json
import time
from typing import Any

import asyncpg
import httpx
import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.support.clients import Api, Driver, Passenger, Socket, fix, token
from tests.support.hub_process import HubProcess
from tests.trust.credentials import OTHER_SECRET, PATHS, SOCKETS, claims, close_code, hs512, part, signed, status_of, unsigned

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


async def test_row_27_the_hubs_own_origin_and_none_are_accepted(hub: HubProcess, api: Api, fleet_id: str) -> None:
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


@pytest.mark.parametrize("headers", NO_CREDENTIAL.values(), ids=NO_CREDENTIAL.keys())
async def test_row_28_a_client_without_a_credential_is_refused(hub: HubProcess, api: Api, headers: dict[str, str]) -> None:
    for path in SOCKETS:
        assert await close_code(f"{hub.url}{path}", None, headers=headers) == 4401
    for method, path in PATHS:
        request = httpx.Request(method, f"{hub.url}{path}", headers=headers, json={})
        response = await api.http.send(request)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized"), (method, path)
        assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("offered", [["tracking.v1"], ["tracking.v1", "bearer."], ["chat"]], ids=str)
async def test_row_28_subprotocols_without_a_credential_are_refused(hub: HubProcess, offered: list[str]) -> None:
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
            # The token is never sent back.
            assert connection.subprotocol == "tracking.v1"
            assert json.loads(await connection.recv())["type"] == "snapshot"


QUERIES = ["token={}", "access_token={}", "bearer={}", "authorization=Bearer%20{}", "jwt={}", "bearer.{}", "{}"]


async def test_row_29_a_token_in_a_query_is_refused_and_no_log_has_one(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """No token is logged: neither a good one, nor a bad one, nor one in a wrong place."""
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
    # A malformed request.
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(f"GET /v1/driver?token={driver} HTTP/1.1\r\nAuthorization Bearer {driver}\r\n\x00\r\n\r\n".encode())
    await reader.read()
    writer.close()
    await api.call("GET", f"/fleets/{fleet_id}")
    log = hub.log.read_text()
    assert log, "the log is empty, so this test proves nothing"
    for bearer in (driver, service, share, forged):
        for piece in bearer.split("."):
            assert piece[-20:] not in log


# --- row 30: bad tokens ---------------------------------------------------------------------------------------------

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
    "an unknown role": signed(role="admin"),
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
    "a jti with another expiry": signed(jti=f"{'A' * 22}.{int(time.time())}"),
    "parts of several tokens": ".".join(
        [*token("passenger", "t").split(".")[:1], *token("service").split(".")[1:2], token("driver", "v").split(".")[2]]
    ),
    "claims of an array": part(b'{"alg":"HS256"}') + "." + part(b"[]") + "." + part(b"x"),
    "a critical extension": signed(headers={"crit": ["exp"]}),
    "cut short": signed()[:-4],
    "two parts": signed().rpartition(".")[0],
    "four parts": signed() + ".AAAA",
    "no token": "x",
    "dots": "...",
    "an endless header": part(b"[" * 4_000) + "." + part(b"{}") + ".AAAA",
    "as long as a header may be": "x" * 8_100,
}


@pytest.mark.parametrize("bearer", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_row_30_a_bad_token_is_refused_for_good(hub: HubProcess, api: Api, bearer: str) -> None:
    for path in SOCKETS:
        assert await close_code(f"{hub.url}{path}", bearer) == 4500
    response = await api.http.get("/fleets/none", headers={"Authorization": f"Bearer {bearer}"})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


async def test_row_30_a_token_that_is_too_long_is_refused(api: Api) -> None:
    for length in (8_193, 50_000):
        response = await api.http.get("/fleets/none", headers={"Authorization": f"Bearer {'x' * length}"})
        assert response.status_code in (401, 431)


async def test_row_30_the_good_token_behind_the_bad_ones_is_accepted(hub: HubProcess, api: Api, fleet_id: str) -> None:
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
        # Reconnecting with it gives the same code. Others notice nothing.
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
        # Another token of the same trip stays valid.
        await other.send({"type": "message", "client_id": "c", "text": "still here"})
        assert (await other.expect("done"))["client_id"] == "c"


async def test_row_32_nobody_is_accepted_before_the_hub_knows_the_revoked_tokens(own_hub: Any, database_url: str) -> None:
    """After a restart the list of revoked tokens can't be read yet. A revoked link shows nothing, then or later."""
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
