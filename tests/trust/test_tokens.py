"""Ordinary tokens are judged at once, all others by PyJWT: both come to the same end."""

import json
from typing import Any

import jwt
from hypothesis import given
from hypothesis import strategies as st

from tracking.auth import AUDIENCE, Auth, Role
from tracking.config import load
from tracking.errors import TokenRefused

SECRET = "long enough for each of HS256, HS384 and HS512, and for tests only"
NOW = 1_800_000_000_000
GOOD: dict[str, Any] = {"aud": AUDIENCE, "exp": NOW / 1000 + 60, "jti": "an id", "role": "driver", "vehicle_id": "van"}
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "x", 5, -1, 1.5, 1e300, True, [], [AUDIENCE], ["x", AUDIENCE], {}, "service", "passenger", "none"]
)
claims = st.builds(
    lambda changed, left_out: {name: value for name, value in {**GOOD, **changed}.items() if name not in left_out},
    st.dictionaries(st.sampled_from([*GOOD, "trip_id", "share_id", "sub", "iss", "iat", "nbf", "crit"]), ODD, max_size=2),
    st.sets(st.sampled_from(list(GOOD)), max_size=1),
)
headers = st.sampled_from([{}, {"typ": "at+jwt"}, {"kid": "x"}, {"crit": ["b64"]}])


def auth() -> Auth:
    made = Auth(load(jwt_secret=SECRET), lambda: NOW)
    made.revoked = {"revoked"}
    return made


async def judged(auth: Auth, token: str) -> Any:
    try:
        return await auth.authenticate(token)
    except (TokenRefused, OverflowError) as refused:
        return str(refused)


async def warm() -> Auth:
    """One that has seen a good token of each header."""
    made = auth()
    for header in ({}, {"typ": "at+jwt"}, {"kid": "x"}):
        await made.authenticate(jwt.encode(GOOD, SECRET, "HS256", headers=header))
    return made


@given(claims, headers, st.sampled_from([SECRET, SECRET[::-1]]), st.sampled_from(["HS256", "HS512"]))
async def test_a_token_is_judged_alike_at_once_and_at_length(
    claims: dict[str, Any], header: dict[str, Any], secret: str, algorithm: str
) -> None:
    # Not by `jwt.encode`, which signs nothing that is odd.
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), secret, algorithm, header)
    assert await judged(await warm(), token) == await judged(auth(), token)


@given(st.integers(0, 400), st.sampled_from("AZaz09-_.=\u00e9\ud800"))
async def test_a_token_that_was_tampered_with_is_refused(place: int, letter: str) -> None:
    token = jwt.encode(GOOD, SECRET, "HS256")
    place %= len(token)
    tampered = token[:place] + letter + token[place + 1 :]
    found = await judged(await warm(), tampered)
    assert found == await judged(auth(), tampered)
    # The last letter of a signature has bits that say nothing.
    assert isinstance(found, str) or tampered == token or place == len(token) - 1


async def test_an_ordinary_token_is_judged_at_once_and_revoked_all_the_same() -> None:
    made = await warm()
    token = made.issue(Role.DRIVER, "van", 60).token
    assert made._claims_at_once(token) is not None
    principal = await made.authenticate(token)
    assert made.revoked is not None
    made.revoked.add(principal.jti)
    assert "revoked" in await judged(made, token)
    assert "revoked" in await judged(made, jwt.encode({**GOOD, "jti": "revoked"}, SECRET, "HS256"))
