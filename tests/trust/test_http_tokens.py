"""The HTTP contract of tokens: issuing, expiry and revocation."""

import time

import jwt
import pytest

from tests.support.clients import Api, Message, new_id, token
from tests.support.hub_process import SECRET
from tests.trust.answers import decoded, refused


@pytest.mark.parametrize(
    "role, claim",
    [("service", None), ("driver", "vehicle_id"), ("passenger", "trip_id"), ("dispatcher", "fleet_id"), ("operator", None)],
)
async def test_a_token_of_every_role(api: Api, role: str, claim: str | None) -> None:
    body: Message = {"role": role, "expires_in": 600, **({claim: "some-thing_1.x"} if claim else {})}
    before = int(time.time())
    issued = await api.call("POST", "/tokens", body)
    assert set(issued) == {"token", "jti", "expires_at"}
    claims = decoded(issued["token"])
    assert claims["role"] == role
    assert claims["jti"] == issued["jti"]
    assert claims["exp"] * 1000 == issued["expires_at"]
    assert before + 600 <= claims["exp"] <= time.time() + 600
    assert {name for name in claims if name.endswith("_id")} == ({claim} if claim else set())
    if claim:
        assert claims[claim] == "some-thing_1.x"
        error = await refused(api, "POST", "/tokens", {"role": role}, status=422)
        assert (error["code"], error["field"]) == ("bad_field", claim)


@pytest.mark.parametrize(
    "body, code, field",
    [
        ({}, "bad_field", "role"),
        ({"role": "admin"}, "bad_field", "role"),
        ({"role": 1}, "bad_type", "role"),
        ({"role": None}, "bad_type", "role"),
        ({"role": "driver", "vehicle_id": 5}, "bad_type", "vehicle_id"),
        ({"role": "driver", "vehicle_id": ""}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "a b"}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "a\0b"}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "ü"}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "x" * 65}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "../x"}, "bad_field", "vehicle_id"),
        ({"role": "service", "expires_in": 0}, "out_of_range", "expires_in"),
        ({"role": "service", "expires_in": -5}, "out_of_range", "expires_in"),
        ({"role": "service", "expires_in": 1e300}, "out_of_range", "expires_in"),
        ({"role": "service", "expires_in": "60"}, "bad_type", "expires_in"),
        ({"role": "service", "expires_in": True}, "bad_type", "expires_in"),
    ],
    ids=str,
)
async def test_a_wrong_request_for_a_token(api: Api, body: Message, code: str, field: str) -> None:
    error = await refused(api, "POST", "/tokens", body, status=422)
    assert (error["code"], error["field"]) == (code, field)


async def test_a_token_works_until_it_is_revoked(api: Api) -> None:
    issued = await api.call("POST", "/tokens", {"role": "service"})
    bearer = {"Authorization": f"Bearer {issued['token']}"}
    fleet_id = await api.fleet()
    assert (await api.http.get(f"/fleets/{fleet_id}", headers=bearer)).status_code == 200
    await api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
    assert (await api.http.get(f"/fleets/{fleet_id}", headers=bearer)).status_code == 401
    # Revoking again, or revoking an unknown token, succeeds as well.
    await api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
    await api.call("DELETE", f"/tokens/{new_id('jti')}", expect=204)


@pytest.mark.parametrize("jti", ["%00", "a%00b", "x" * 300])
async def test_an_impossible_jti(api: Api, jti: str) -> None:
    await refused(api, "DELETE", f"/tokens/{jti}", status=422)


@pytest.mark.parametrize("role", ["driver", "passenger", "dispatcher", "operator"])
async def test_only_a_service_issues_and_revokes(api: Api, fleet_id: str, role: str) -> None:
    bearer = token(role, fleet_id)
    assert (await refused(api, "POST", "/tokens", {"role": "service"}, status=403, bearer=bearer))["code"] == "forbidden"
    assert (await refused(api, "DELETE", "/tokens/x", status=403, bearer=bearer))["code"] == "forbidden"


async def test_an_expired_token_is_unauthorized(api: Api) -> None:
    claims = {"aud": "tracking", "exp": int(time.time()) - 1, "jti": "x", "role": "service"}
    bearer = jwt.encode(claims, SECRET, algorithm="HS256")
    assert (await refused(api, "GET", "/fleets/none", status=401, bearer=bearer))["code"] == "unauthorized"
