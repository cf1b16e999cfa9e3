"""The HTTP contract of share links."""

import time
from typing import Any

import pytest

from tests.support.clients import Api
from tests.support.hub_process import HubProcess
from tests.trust.answers import NOT_FOUND, decoded, refused

pytestmark = pytest.mark.also_two_hubs


async def test_a_share_is_a_link_at_the_public_address(api: Api, hub: HubProcess) -> None:
    _, trip_id = await api.under_way()
    before = int(time.time())
    response = await api.http.post(
        f"/trips/{trip_id}/shares",
        json={"expires_in": 60},
        headers={"Host": "elsewhere.example", "X-Forwarded-Host": "x.example"},
    )
    assert response.status_code == 201
    share = response.json()
    assert set(share) == {"share_id", "url", "token", "expires_at"}
    assert share["url"] == f"{hub.url}/trip/{trip_id}#{share['token']}"
    assert (before + 60) * 1000 <= share["expires_at"] <= (int(time.time()) + 60) * 1000
    claims = decoded(share["token"])
    assert (claims["role"], claims["trip_id"], claims["share_id"]) == ("passenger", trip_id, share["share_id"])
    assert claims["exp"] * 1000 == share["expires_at"]
    response = await api.http.get(f"/trips/{trip_id}", headers={"Authorization": f"Bearer {share['token']}"})
    assert response.status_code == 200


async def test_shares_are_listed_without_their_tokens(api: Api) -> None:
    _, trip_id = await api.under_way()
    shares = [await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 60 + n}) for n in range(3)]
    response = await api.http.get(f"/trips/{trip_id}/shares")
    assert [(s["share_id"], s["expires_at"]) for s in response.json()["shares"]] == [
        (s["share_id"], s["expires_at"]) for s in shares
    ]
    assert not any(s["token"].rpartition(".")[2] in response.text for s in shares)


@pytest.mark.parametrize("expires_in", [0, -1, 1e300, "60", None, True])
async def test_a_wrong_request_for_a_share(api: Api, fleet_id: str, expires_in: Any) -> None:
    trip = await api.trip(fleet_id, None)
    error = await refused(api, "POST", f"/trips/{trip['trip_id']}/shares", {"expires_in": expires_in}, status=422)
    assert error["field"] == "expires_in"


async def test_a_trip_that_is_over_cannot_be_shared(api: Api, fleet_id: str) -> None:
    trip = await api.trip(fleet_id, None)
    await api.advance(trip["trip_id"], "canceled")
    await refused(api, "POST", f"/trips/{trip['trip_id']}/shares", {}, status=409)


async def test_an_unknown_share(api: Api) -> None:
    for method, path in (("DELETE", "/shares/none"), ("DELETE", "/shares/a%00b"), ("GET", "/trips/none/shares")):
        assert (await api.http.request(method, path)).json() == NOT_FOUND
    assert (await api.http.post("/trips/none/shares", json={})).json() == NOT_FOUND
