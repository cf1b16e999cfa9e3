"""The fast check of ordinary tokens and that of PyJWT agree, with the hub's secret and with a key."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.clients import Socket
from tests.support.hub_process import SECRET as HUBS_SECRET
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench
from tracking.auth import AUDIENCE, Auth, Principal, Role
from tracking.config import load
from tracking.errors import CloseCode, Refusal, TokenRefused

SECRET = "long enough for each of HS256, HS384 and HS512, and for tests only"
NOW = 1_800_000_000_000
SECONDS = NOW // 1000
GOOD: dict[str, Any] = {"aud": AUDIENCE, "exp": SECONDS + 60, "jti": "an id", "role": "driver", "vehicle_id": "van"}
ODD_TEXT = ["", "x", "\0", "a\0b", "\ud800", "\udfff\ud800", "van\n", "x" * 257, "x" * 3_000, "\u202e", "1e400"]
ODD_NUMBERS = [
    0,
    -1,
    5,
    1.5,
    -0.0,
    1e300,
    1e308,
    2**53,
    2**64,
    10**400,
    -(10**400),
    1e13,
    float("nan"),
    float("inf"),
    -float("inf"),
]
NESTED: list[Any] = []
for _ in range(200):
    NESTED = [NESTED]
ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([*ODD_TEXT, *ODD_NUMBERS, None, True, False, [], [AUDIENCE], ["x", AUDIENCE], [[]], {}, NESTED]),
    st.sampled_from(["service", "passenger", "none", SECONDS, SECONDS - 60, SECONDS + 4, SECONDS + 6, SECONDS + 0.5]),
    st.text(st.characters(exclude_categories=()), max_size=6),
    st.integers(),
    st.floats(),
)
claims = st.builds(
    lambda changed, left_out: {name: value for name, value in {**GOOD, **changed}.items() if name not in left_out},
    st.dictionaries(st.sampled_from([*GOOD, "trip_id", "share_id", "sub", "iss", "iat", "nbf", "crit"]), ODD, max_size=2),
    st.sets(st.sampled_from(list(GOOD)), max_size=1),
)
headers = st.sampled_from([{}, {"typ": "at+jwt"}, {"kid": "x"}, {"crit": ["b64"]}])
EC = ec.generate_private_key(ec.SECP256R1())
JWK = {**jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key(), as_dict=True), "kid": "x"}


def auth() -> Auth:
    made = Auth(load(jwt_secret=SECRET), lambda: NOW)
    made.revoked = {"revoked"}
    return made


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Auth:
    path = tmp_path_factory.mktemp("jwks") / "jwks.json"
    path.write_text(json.dumps({"keys": [JWK]}))
    made = Auth(load(jwks=str(path)), lambda: NOW)
    made.revoked = {"revoked"}
    return made


async def judged(auth: Auth, token: str) -> Principal | str:
    """The principal, or the refusal. Any other exception is a bug."""
    try:
        return await auth.authenticate(token)
    except Refusal as refused:
        assert isinstance(refused, TokenRefused)
        return f"{refused.close.value} {refused}"


async def warm() -> Auth:
    """An `Auth` that has seen a good token with each header."""
    made = auth()
    for header in ({}, {"typ": "at+jwt"}, {"kid": "x"}):
        await made.authenticate(jwt.encode(GOOD, SECRET, "HS256", headers=header))
    return made


@given(claims, headers, st.sampled_from([SECRET, SECRET[::-1]]), st.sampled_from(["HS256", "HS512"]))
@example({**GOOD, "exp": float("nan")}, {}, SECRET, "HS256")
@example({**GOOD, "exp": 10**400}, {}, SECRET, "HS256")
async def test_the_fast_and_the_full_check_agree(
    providers: Auth, claims: dict[str, Any], header: dict[str, Any], secret: str, algorithm: str
) -> None:
    # `jwt.encode` refuses to sign odd claims.
    payload = json.dumps(claims).encode()
    token = jwt.PyJWS().encode(payload, secret, algorithm, header)
    found = await judged(await warm(), token)
    assert found == await judged(auth(), token)
    if secret == SECRET and algorithm == "HS256" and "crit" not in header:
        by_key = await judged(providers, jwt.PyJWS().encode(payload, EC, "ES256", {**header, "kid": "x"}))
        assert by_key == found or (isinstance(by_key, Principal) and by_key._replace(key=None) == found)


@given(st.binary(max_size=60), st.booleans())
async def test_a_payload_without_claims_is_refused(payload: bytes, known_header: bool) -> None:
    token = jwt.PyJWS().encode(payload, SECRET, "HS256")
    assert isinstance(await judged(await warm() if known_header else auth(), token), str)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), ODD), st.binary(max_size=40))
async def test_a_forged_header_is_refused(providers: Auth, header: dict[str, Any], signature: bytes) -> None:
    parts = (json.dumps(header).encode(), json.dumps(GOOD).encode(), signature)
    token = ".".join(jwt.utils.base64url_encode(part).decode() for part in parts)
    for made in (auth(), providers):
        assert isinstance(await judged(made, token), str)


async def test_deep_nesting_is_refused(providers: Auth) -> None:
    deep = b'{"x":' + b"[" * 2_500 + b"]" * 2_500 + b"}"
    for made in (await warm(), auth(), providers):
        token = ".".join(jwt.utils.base64url_encode(part).decode() for part in (deep, b"{}", b"x"))
        assert "4500" in str(await judged(made, token))
    for made in (await warm(), auth()):
        assert "4500" in str(await judged(made, jwt.PyJWS().encode(deep, SECRET, "HS256")))


@given(st.integers(0, 400), st.sampled_from("AZaz09-_.=\u00e9\ud800"))
async def test_a_token_that_was_tampered_with_is_refused(place: int, letter: str) -> None:
    token = jwt.encode(GOOD, SECRET, "HS256")
    place %= len(token)
    tampered = token[:place] + letter + token[place + 1 :]
    found = await judged(await warm(), tampered)
    assert found == await judged(auth(), tampered)
    # The last character of a signature has unused bits.
    assert isinstance(found, str) or tampered == token or place == len(token) - 1


async def test_an_ordinary_token_uses_the_fast_check_and_can_be_revoked() -> None:
    made = await warm()
    token = made.issue(Role.DRIVER, "van", 60).token
    assert made._signed_at_once(token) is not None
    principal = await made.authenticate(token)
    assert principal.issued_at == NOW
    assert made.revoked is not None
    made.revoked.add(principal.jti)
    assert "revoked" in str(await judged(made, token))
    assert "revoked" in str(await judged(made, jwt.encode({**GOOD, "jti": "revoked"}, SECRET, "HS256")))


@pytest.mark.parametrize("seconds, good", [(-60, True), (0, True), (5, True), (5.1, False), (3_600, False)])
async def test_a_token_is_valid_from_its_nbf_on_with_a_tolerance_of_five_seconds(seconds: float, good: bool) -> None:
    token = jwt.PyJWS().encode(json.dumps({**GOOD, "nbf": SECONDS + seconds}).encode(), SECRET, "HS256")
    for made in (await warm(), auth()):
        assert isinstance(await judged(made, token), Principal) is good


# --- row 20, over sockets: odd claims are never a server error -------------------------------------------------------

SIGNED: dict[str, dict[str, Any]] = {
    "exp NaN": {"exp": float("nan")},
    "exp Infinity": {"exp": float("inf")},
    "exp -Infinity": {"exp": -float("inf")},
    "exp 10^400": {"exp": 10**400},
    "exp 1e300": {"exp": 1e300},
    "exp true": {"exp": True},
    "exp in milliseconds": {"exp": NOW},
    "nbf in a day": {"nbf": 4_000_000_000},
    "nbf NaN": {"nbf": float("nan")},
    "iat text": {"iat": "now"},
    "NUL in the vehicle's id": {"vehicle_id": "van\0"},
    "a surrogate in the vehicle's id": {"vehicle_id": "\ud800"},
    "a number for the vehicle's id": {"vehicle_id": 5},
    "a list for the vehicle's id": {"vehicle_id": ["van"]},
    "an empty jti": {"jti": ""},
    "NUL in the jti": {"jti": "\0"},
    "a surrogate in the jti": {"jti": "\udcff"},
    "a huge jti": {"jti": "x" * 4_000},
    "a number for the jti": {"jti": 5},
    "a number for sub": {"sub": 5},
    "a list for the role": {"role": ["driver"]},
    "NUL in the share's id": {"share_id": "\0"},
}


@pytest.mark.parametrize("odd", SIGNED.values(), ids=SIGNED.keys())
async def test_odd_signed_claims_are_an_invalid_token(hub: HubProcess, bench: Bench, odd: dict[str, Any]) -> None:
    good = {**GOOD, "exp": 4_000_000_000, "vehicle_id": bench.vehicle_id, **odd}
    began = hub.log.stat().st_size
    for role, subject, path in (
        ("driver", {}, "/v1/driver"),
        ("passenger", {"trip_id": good["vehicle_id"]}, "/v1/trips/none/live"),
        ("dispatcher", {"fleet_id": good["vehicle_id"]}, "/v1/fleets/none/live"),
    ):
        signed = {**good, **subject, "role": odd.get("role", role)}
        token = jwt.PyJWS().encode(json.dumps(signed).encode(), HUBS_SECRET, "HS256")
        async with Socket(f"{hub.url}{path}", token) as socket:
            assert await socket.closed() == CloseCode.INVALID_TOKEN
        answer = await bench.api.http.get("/fleets/none", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert "Traceback" not in Path(hub.log).read_bytes()[began:].decode()
