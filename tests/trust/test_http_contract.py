"""The HTTP contract: bodies, methods, paths, and the routes for operators."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.clients import Api, new_id, token
from tests.support.hub_process import HubProcess
from tests.trust.answers import NOT_FOUND, error_of

# --- bodies, methods, paths -----------------------------------------------------------------------------------------

INVALID_BODIES = {
    "half an object": b'{"name":',
    "NaN": b'{"name":NaN}',
    "no JSON": b"name=x",
    "no UTF-8": b'{"name":"\xff"}',
    "lone surrogate": rb'{"name":"\ud800"}',
    "nested": b'{"name":"x","other":' + b"[" * 60_000,
    "nested and closed": b'{"name":"x","other":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "5,000 digits": b'{"name":"x","other":[1,' + b"9" * 5_000 + b"}",
    "two objects": b'{"name":"x"}{"name":"y"}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", INVALID_BODIES.values(), ids=INVALID_BODIES.keys())
async def test_a_body_that_is_not_json(api: Api, body: bytes) -> None:
    fleet_id = new_id("fleet")
    response = await api.http.put(f"/fleets/{fleet_id}", content=body)
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_json")
    assert (await api.http.get(f"/fleets/{fleet_id}")).status_code == 404


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"true"])
async def test_a_body_that_is_not_an_object(api: Api, body: bytes) -> None:
    response = await api.http.put(f"/fleets/{new_id('fleet')}", content=body)
    assert (response.status_code, error_of(response)["code"]) == (422, "bad_type")


async def test_an_empty_body_lacks_its_fields(api: Api) -> None:
    response = await api.http.put(f"/fleets/{new_id('fleet')}", content=b"")
    error = error_of(response)
    assert (response.status_code, error["code"], error["field"]) == (422, "bad_field", "name")


async def test_unknown_fields_of_a_body_are_ignored(api: Api) -> None:
    fleet_id = new_id("fleet")
    made = await api.call("PUT", f"/fleets/{fleet_id}", {"name": "x", "fleet_id": "another", "colour": None})
    assert (made["fleet_id"], made["name"], "colour" in made) == (fleet_id, "x", False)


async def test_a_huge_body_is_refused(api: Api) -> None:
    """With a declared length, and without."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"name":"'
        for _ in range(40):
            yield b"x" * 64 * 1024
        yield b'"}'

    fleet_id = new_id("fleet")
    for content in (b'{"name":"' + b"x" * 2_500_000 + b'"}', chunks()):
        try:
            response = await api.http.put(f"/fleets/{fleet_id}", content=content)
        except httpx.WriteError:
            continue
        assert response.status_code == 413
        assert error_of(response)["code"] == "batch_too_large"
    assert (await api.http.get(f"/fleets/{fleet_id}")).json() == NOT_FOUND


async def test_an_unknown_method(api: Api, fleet_id: str) -> None:
    for method, path in (
        ("POST", f"/fleets/{fleet_id}"),
        ("DELETE", f"/fleets/{fleet_id}"),
        ("PATCH", "/vehicles/x"),
        ("PUT", "/trips"),
        ("GET", "/tokens"),
        ("GET", "/tokens/x"),
        ("PATCH", "/shares/x"),
        ("POST", "/vehicles/x/track"),
    ):
        response = await api.http.request(method, path)
        assert response.status_code == 405, (method, path)
        assert response.headers["allow"]
        error_of(response)


async def test_an_unknown_path_is_not_found(api: Api, hub: HubProcess) -> None:
    for path in ("/nothing", "/fleets", "/trips/x/y/z", "/v2/fleets/x", "/%00", "/fleets/x/vehicles/y"):
        response = await api.http.get(path)
        assert (response.status_code, response.json()) == (404, NOT_FOUND), path
    for path in ("/v2/fleets/x", "/admin", "/web/../tracking/app.py", "/web/%2e%2e/pyproject.toml", "/.git/config"):
        response = await api.http.get(f"{hub.url}{path}")
        assert (response.status_code, response.json()) == (404, NOT_FOUND), path


async def test_every_401_is_the_same(api: Api, fleet_id: str) -> None:
    """Without a token nobody learns whether a thing exists."""
    vehicle_id, trip_id = await api.under_way()
    seen = set()
    for path in (
        f"/fleets/{fleet_id}",
        "/fleets/none",
        f"/vehicles/{vehicle_id}",
        "/vehicles/none",
        f"/trips/{trip_id}",
        "/trips/none",
        f"/trips/{trip_id}/track",
        "/trips/none/track?format=nonsense",
    ):
        response = await api.http.get(path, headers={"Authorization": "Bearer x.y.z"})
        assert response.status_code == 401
        seen.add(response.content)
    assert len(seen) == 1
    error = json.loads(seen.pop())["error"]
    assert error["code"] == "unauthorized"


# --- for operators --------------------------------------------------------------------------------------------------


async def test_healthz_and_readyz_need_no_token(hub: HubProcess, api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        response = await api.http.send(httpx.Request("GET", f"{hub.url}{path}"))
        assert response.status_code == 200, response.text
    assert response.json()["reasons"] == []


@pytest.fixture
def lost_hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub whose database does not exist."""
    process = HubProcess("postgresql://nobody@127.0.0.1:1/none", tmp_path / "log").start()
    yield process
    process.kill()


async def test_readyz_gives_the_reasons(lost_hub: HubProcess, api: Api) -> None:
    hub = lost_hub
    assert (await api.http.get(f"{hub.url}/healthz")).status_code == 200
    response = await api.http.get(f"{hub.url}/readyz")
    assert response.status_code == 503
    assert response.json()["reasons"]
    # Routes that need the database answer with an error of the protocol, without internal details.
    response = await api.http.get(f"{hub.url}/v1/fleets/none")
    assert (response.status_code, error_of(response)["code"]) == (503, "unavailable")
    assert "nobody" not in response.text


async def test_metrics_are_for_operators(hub: HubProcess, api: Api) -> None:
    url = f"{hub.url}/metrics"
    for role, subject, status in (
        ("operator", None, 200),
        ("driver", "v", 403),
        ("passenger", "t", 403),
        ("dispatcher", "f", 403),
    ):
        response = await api.http.get(url, headers={"Authorization": f"Bearer {token(role, subject)}"})
        assert response.status_code == status
        if status == 200:
            assert response.headers["content-type"].startswith("text/plain")
            assert "# TYPE tracking_" in response.text
        else:
            assert error_of(response)["code"] == "forbidden"
