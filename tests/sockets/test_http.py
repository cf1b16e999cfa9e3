"""HTTP from clients that are no browsers: old versions, offers of an upgrade, bodies in every framing."""

import asyncio
import json
import socket

import httpx
import pytest

from tests.support.clients import TIMEOUT, Api, Driver, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.support.plain_http import H2C, WEBSOCKET, Plain, chunked
from tracking.sockets.listening import bound_socket


async def life_of_a_link(api: Api, plain: Plain, headers: str, body: bytes, *, length: bool = True, cut: int = 0) -> float:
    """Makes a share link with this request. Returns how many seconds it is valid."""
    trip = await api.trip(await api.fleet(), None)
    plain.ask(f"POST /v1/trips/{trip['trip_id']}/shares", headers, body[:cut] if cut else body, length=length)
    if cut:
        await plain.writer.drain()
        await api.call("GET", f"/trips/{trip['trip_id']}")  # the first part has arrived by then
        plain.writer.write(body[cut:])
    answer = await plain.answer()
    assert answer.status == 201, answer
    expires_at = answer.json["expires_at"]
    assert isinstance(expires_at, int)
    return (expires_at - now_ms()) / 1000


FIVE_MINUTES = b'{"expires_in": 300}'


@pytest.mark.parametrize("offer", ["", H2C, WEBSOCKET, "Connection: Upgrade\r\nUpgrade: TLS/1.0, other\r\n"])
async def test_a_body_counts_whatever_upgrade_is_offered(hub: HubProcess, api: Api, offer: str) -> None:
    """RFC 9110, 7.8: an upgrade that is not accepted is ignored. The connection continues."""
    async with Plain(hub.port) as plain:
        assert 290 < await life_of_a_link(api, plain, offer, FIVE_MINUTES) <= 300
        by_chunks = offer + "Transfer-Encoding: chunked\r\n"
        assert 290 < await life_of_a_link(api, plain, by_chunks, chunked(FIVE_MINUTES), length=False) <= 300
        plain.ask("GET /v1/fleets/none", "" if offer == WEBSOCKET else offer)
        assert (await plain.answer()).status == 404


@pytest.mark.parametrize(
    ("version", "headers"), [("1.0", H2C), ("1.1", H2C.replace("Connection: ", "Connection: close, ")), ("1.0", H2C + H2C)]
)
async def test_nor_where_the_connection_is_not_to_be_kept(hub: HubProcess, api: Api, version: str, headers: str) -> None:
    async with Plain(hub.port) as plain:
        plain.ask(f"PUT /v1/fleets/{await api.fleet()} HTTP/{version}", headers, b'{"name": "Once"}')
        assert (await plain.answer()).json["name"] == "Once"
        assert await plain.ended()


async def test_nor_where_the_body_comes_later_than_the_headers(hub: HubProcess, api: Api) -> None:
    async with Plain(hub.port) as plain:
        headers = f"{H2C}Content-Length: {len(FIVE_MINUTES)}\r\n"
        assert await life_of_a_link(api, plain, headers, FIVE_MINUTES, length=False, cut=9) <= 300


async def test_requests_that_offer_an_upgrade_one_behind_the_other(hub: HubProcess, api: Api) -> None:
    async with Plain(hub.port) as plain:
        fleets = [await api.fleet() for _ in range(3)]
        for fleet_id in fleets:
            plain.ask(f"PUT /v1/fleets/{fleet_id}", H2C, json.dumps({"name": f"Named {fleet_id}"}).encode())
        answers = [await plain.answer() for _ in fleets]
    assert [answer.json["name"] for answer in answers] == [f"Named {fleet_id}" for fleet_id in fleets]


async def test_an_empty_body_is_an_error_where_all_fields_are_optional_too(api: Api) -> None:
    """If the body had been lost, the link would have the default lifetime."""
    trip = await api.trip(await api.fleet(), None)
    path = f"/trips/{trip['trip_id']}/shares"
    answer = await api.http.post(path)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_json"
    assert "empty" in answer.json()["error"]["detail"]
    assert (await api.call("GET", path))["shares"] == []
    assert (await api.http.post(path, json={})).status_code == 201


@pytest.mark.parametrize("name", ["Content-Encoding", "Transfer-Encoding"])
async def test_a_compressed_body_is_refused_by_name(hub: HubProcess, api: Api, name: str) -> None:
    body = b"\x1f\x8b\x08" + bytes(20)
    async with Plain(hub.port) as plain:
        coding = "gzip" if name == "Content-Encoding" else "gzip, chunked"
        plain.ask(
            f"PUT /v1/fleets/{await api.fleet()}",
            f"{name}: {coding}\r\n",
            body if name == "Content-Encoding" else chunked(body),
            length=name == "Content-Encoding",
        )
        answer = await plain.answer()
    assert answer.status == 415
    assert b"gzip" in answer.body


async def test_http_1_0_gets_no_chunks(hub: HubProcess, api: Api) -> None:
    """Otherwise the lengths of the chunks would be in the file that the client stores."""
    vehicle_id = await api.vehicle(await api.fleet())
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(*(fix(seq) for seq in range(1, 41)))
        await driver.acknowledged(40)
    target = f"/v1/vehicles/{vehicle_id}/track?format=csv"
    wanted = (await api.http.get(target.removeprefix("/v1"))).content
    assert wanted.count(b"\n") == 41
    for keeping in ("", "Connection: keep-alive\r\n"):
        async with Plain(hub.port) as plain:
            plain.ask(f"GET {target} HTTP/1.0", keeping)
            answer = await plain.answer()
            assert (answer.status, answer.body) == (200, wanted)
            assert "transfer-encoding" not in answer.headers
            assert answer.headers["connection"] == "close"
    async with Plain(hub.port) as plain:
        plain.ask(f"HEAD {target} HTTP/1.0")
        assert (await plain.answer(head=True)).status == 200
        assert await plain.ended()


async def test_http_1_0_knows_no_upgrade_and_no_interim_answer(hub: HubProcess, api: Api) -> None:
    async with Plain(hub.port) as plain:
        plain.ask("GET /v1/driver HTTP/1.0", WEBSOCKET)
        assert (await plain.answer()).status == 404
    async with Plain(hub.port) as plain:
        plain.ask(f"PUT /v1/fleets/{await api.fleet()} HTTP/1.0", "Expect: 100-continue\r\n", b'{"name": "Old"}')
        assert (await plain.answer()).json["name"] == "Old"


async def test_a_client_that_waits_to_be_asked_for_its_body(hub: HubProcess, api: Api) -> None:
    body = b'{"name": "Asked"}'
    headers = f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n"
    async with Plain(hub.port) as plain:
        plain.ask(f"PUT /v1/fleets/{await api.fleet()}", headers)
        assert (await plain.answer()).status == 100
        plain.writer.write(body)
        assert (await plain.answer()).json["name"] == "Asked"
        # A client that is refused may send its body or not. What follows on this connection would be ambiguous.
        plain.ask("PUT /v1/fleets/other", headers, bearer="none")
        refused = await plain.answer()
        assert (refused.status, refused.headers["connection"]) == (401, "close")
        assert await plain.ended()


async def test_what_follows_a_body_is_no_header(hub: HubProcess, api: Api) -> None:
    body = chunked(b'{"name": "Taxis"}', after=f"Authorization: Bearer {token('service')}\r\n")
    async with Plain(hub.port) as plain:
        plain.writer.write(b"PUT /v1/fleets/trailed HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert (await plain.answer()).status == 401


@pytest.mark.parametrize(("target", "status"), [("http://hub/healthz", 200), ("http://hub", 404), ("http://hub?x=1", 404)])
async def test_a_target_in_the_absolute_form(hub: HubProcess, target: str, status: int) -> None:
    async with Plain(hub.port) as plain:
        plain.ask(f"GET {target}")
        assert (await plain.answer()).status == status


async def test_a_websocket_by_a_target_in_the_absolute_form(hub: HubProcess) -> None:
    async with Plain(hub.port) as plain:
        plain.ask("GET http://hub/v1/driver", WEBSOCKET)
        assert (await plain.answer()).status == 101


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (WEBSOCKET.replace("Version: 13", "Version: 8"), 426),
        (WEBSOCKET.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        (WEBSOCKET.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        (WEBSOCKET + "Origin: http://hub\r\nOrigin: http://evil.example\r\n", 400),
    ],
)
async def test_a_handshake_that_is_none_is_told_what_it_lacks(hub: HubProcess, headers: str, status: int) -> None:
    async with Plain(hub.port) as plain:
        plain.ask("GET /v1/driver", headers)
        answer = await plain.answer()
        assert answer.status == status
        assert "Sec-WebSocket" in str(answer.json) or "Origin" in str(answer.json)
        assert await plain.ended()


async def test_connect_is_refused(hub: HubProcess) -> None:
    async with Plain(hub.port) as plain:
        plain.ask("CONNECT elsewhere.example:443")
        assert (await plain.answer()).status == 501
        assert await plain.ended()


async def test_head_is_get_without_its_body(hub: HubProcess, api: Api) -> None:
    for path in ("/trip/x", "/healthz", "/web/passenger/page.js", f"/v1/fleets/{await api.fleet()}"):
        whole = await api.http.get(f"{hub.url}{path}")
        alone = await api.http.send(httpx.Request("HEAD", f"{hub.url}{path}", headers=api.http.headers))
        assert (alone.status_code, alone.content) == (200, b"")
        assert alone.headers["content-length"] == whole.headers["content-length"]


async def test_who_goes_in_mid_body_is_no_fault_of_ours(hub: HubProcess, api: Api) -> None:
    async def errors() -> float:
        text = (await api.http.get(f"{hub.url}/metrics")).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("tracking_http_errors_total"))

    fleet_id, before = await api.fleet(), await errors()
    async with Plain(hub.port) as plain:
        plain.ask(f"PUT /v1/fleets/{fleet_id}", "Content-Length: 100\r\n", b'{"name": "cut', length=False)
        await plain.writer.drain()
    async with asyncio.timeout(TIMEOUT):
        while await errors() == before:
            pass
    assert f"a fault of ours at PUT /v1/fleets/{fleet_id}" not in hub.log.read_text()
    assert (await api.call("GET", f"/fleets/{fleet_id}"))["name"] == "Test fleet"


def test_connections_inherit_what_frees_the_hub_of_dead_ones() -> None:
    listener = bound_socket("127.0.0.1", 0)
    listener.listen()
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        found = {
            name: accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_NODELAY", "TCP_USER_TIMEOUT", "TCP_NOTSENT_LOWAT")
            if hasattr(socket, name)
        }
    assert found.pop("TCP_NODELAY") != 0
    assert found.get("TCP_USER_TIMEOUT", 30_000) == 30_000
    assert found.get("TCP_NOTSENT_LOWAT", 32 * 1024) == 32 * 1024
