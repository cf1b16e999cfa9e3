"""Rows 30, 77 and 90: a hub with an identity provider's keys, from a file or a URL, and without a secret."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.attacks.scene import Scene
from tests.attacks.unknown_keys import unknown_keys
from tests.support.clients import PLAIN, Api, Driver, Socket, fix, new_id, token
from tests.support.hub_process import HubProcess
from tests.support.provider import Key, Provider, providing, public
from tracking.demo.postgres import Cluster

RSA = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER_RSA = rsa.generate_private_key(65_537, 2_048)
STRANGER_EC = ec.generate_private_key(ec.SECP256R1())
OTHER_CURVE = ec.generate_private_key(ec.SECP384R1())


JWKS = {"keys": [public(RSA, "rsa", alg="RS256", use="sig"), public(EC, "ec", alg="ES256")]}


def signed(key: Key, algorithm: str, kid: str | None, **changes: Any) -> str:
    good = {"aud": "tracking", "exp": int(time.time()) + 3600, "jti": new_id("jti"), "role": "service"}
    claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return jwt.encode(claims, pem, algorithm=algorithm, headers={"kid": kid} if kid is not None else None)


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def hmac_signed(secret: bytes, kid: str | None, algorithm: str = "HS256") -> str:
    """Signed by hand, because the library refuses a public key as a secret."""
    header = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid is not None else {})}
    claims = {"aud": "tracking", "exp": int(time.time()) + 3600, "jti": new_id("jti"), "role": "service"}
    text = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(hmac.digest(secret, text.encode(), 'sha256'))}"


def forms_of(key: Key) -> Iterator[bytes]:
    """A public key in every form that could be used as a secret."""
    public_key = key.public_key()
    for encoding in (Encoding.PEM, Encoding.DER):
        yield public_key.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    yield public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip()
    yield json.dumps(JWKS).encode()
    yield b""


@pytest.fixture(scope="module")
def jwks_hub(cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("jwks")
    (folder / "jwks.json").write_text(json.dumps(JWKS))
    cluster.create_database("jwks", template)
    process = HubProcess(cluster.url("jwks"), folder / "log", jwks=str(folder / "jwks.json"), jwks_refresh="0.2")
    del process.environment["TRACKING_JWT_SECRET"]
    process.start()
    yield process
    process.kill()


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, verify=PLAIN) as http:
        yield http


async def status(http: httpx.AsyncClient, hub: HubProcess, bearer: str) -> int:
    """404 if the hub accepts the token, 401 if not."""
    return (await http.get(f"{hub.url}/v1/fleets/none", headers={"Authorization": f"Bearer {bearer}"})).status_code


async def close_code(hub: HubProcess, bearer: str) -> int:
    async with Socket(f"{hub.url}/v1/driver", bearer) as socket:
        return await socket.closed()


GOOD: dict[str, Callable[[], str]] = {
    "RS256": lambda: signed(RSA, "RS256", "rsa"),
    "ES256": lambda: signed(EC, "ES256", "ec"),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD.keys())
async def test_row_30_a_token_of_the_provider_is_accepted(
    jwks_hub: HubProcess, http: httpx.AsyncClient, make: Callable[[], str]
) -> None:
    bearer = make()
    assert await status(http, jwks_hub, bearer) == 404
    # The token is accepted, but the role has no such socket.
    assert await close_code(jwks_hub, bearer) == 4502


BAD: dict[str, Callable[[], str]] = {
    "HS256 with the tests' secret": lambda: token("service"),
    "RS256 of a stranger": lambda: signed(STRANGER_RSA, "RS256", "rsa"),
    "ES256 of a stranger": lambda: signed(STRANGER_EC, "ES256", "ec"),
    "RS256 of a stranger, no kid": lambda: signed(STRANGER_RSA, "RS256", None),
    "ES256 of a stranger, no kid": lambda: signed(STRANGER_EC, "ES256", None),
    "an unknown kid": lambda: signed(RSA, "RS256", "other"),
    "a kid of the other key": lambda: signed(RSA, "RS256", "ec"),
    "the other kid of the other key": lambda: signed(EC, "ES256", "rsa"),
    "an empty kid": lambda: signed(RSA, "RS256", ""),
    "RS512": lambda: signed(RSA, "RS512", "rsa"),
    "PS256": lambda: signed(RSA, "PS256", "rsa"),
    "ES384": lambda: signed(OTHER_CURVE, "ES384", "ec"),
    "another audience": lambda: signed(RSA, "RS256", "rsa", aud="metrics"),
    "no audience": lambda: signed(EC, "ES256", "ec", aud=None),
    "no exp": lambda: signed(RSA, "RS256", "rsa", exp=None),
    "no jti": lambda: signed(RSA, "RS256", "rsa", jti=None),
    "alg none": lambda: ".".join([part(b'{"alg":"none","kid":"rsa"}'), signed(RSA, "RS256", "rsa").split(".")[1], ""]),
    "alg none, signed": lambda: ".".join([part(b'{"alg":"none","kid":"rsa"}'), *signed(RSA, "RS256", "rsa").split(".")[1:]]),
    "a signature of zeros": lambda: signed(EC, "ES256", "ec").rpartition(".")[0] + "." + part(b"\0" * 64),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
async def test_row_30_any_other_token_is_refused(
    jwks_hub: HubProcess, http: httpx.AsyncClient, make: Callable[[], str]
) -> None:
    assert await close_code(jwks_hub, make()) == 4500
    assert await status(http, jwks_hub, make()) == 401


@pytest.mark.parametrize("key, kid", [(RSA, "rsa"), (EC, "ec")], ids=["rsa", "ec"])
async def test_row_30_hs256_signed_with_a_public_key_is_refused(
    jwks_hub: HubProcess, http: httpx.AsyncClient, key: Key, kid: str
) -> None:
    for secret in forms_of(key):
        for named in (kid, None):
            for algorithm in ("HS256", "RS256", "ES256"):
                assert await status(http, jwks_hub, hmac_signed(secret, named, algorithm)) == 401
    for secret in forms_of(key):
        assert await close_code(jwks_hub, hmac_signed(secret, kid)) == 4500


async def test_row_30_a_hub_with_a_secret_refuses_tokens_of_a_provider(hub: HubProcess, http: httpx.AsyncClient) -> None:
    for make in GOOD.values():
        assert await close_code(hub, make()) == 4500
        assert await status(http, hub, make()) == 401


async def test_row_31_a_providers_token_expires_too(jwks_hub: HubProcess, http: httpx.AsyncClient) -> None:
    bearer = signed(RSA, "RS256", "rsa", exp=int(time.time()) - 1)
    assert await close_code(jwks_hub, bearer) == 4405
    assert await status(http, jwks_hub, bearer) == 401


async def test_a_hub_without_a_secret_issues_no_tokens(jwks_hub: HubProcess, http: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {GOOD['RS256']()}"}
    response = await http.post(f"{jwks_hub.url}/v1/tokens", json={"role": "service"}, headers=headers)
    assert response.status_code >= 400
    assert "JWKS" in response.json()["error"]["detail"]


def test_a_hub_with_a_secret_and_a_jwks_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    process = HubProcess("postgresql://127.0.0.1:1/none", tmp_path / "log", jwks=str(tmp_path / "jwks.json"))
    with pytest.raises(AssertionError, match="never both"):
        process.start()


# --- rows 77 and 90: keys by an address -----------------------------------------------------------------------------


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing(*JWKS["keys"]) as provider:
        yield provider


@pytest.fixture
async def url_hub(provider: Provider, database_url: str, tmp_path: Path) -> AsyncIterator[HubProcess]:
    process = HubProcess(database_url, tmp_path / "log", jwks=provider.url, jwks_refresh="0.3")
    del process.environment["TRACKING_JWT_SECRET"]
    await asyncio.to_thread(process.start)
    yield process
    process.kill()


async def test_row_77_good_tokens_do_not_wait_for_unknown_keys_or_a_hanging_provider(
    url_hub: HubProcess, http: httpx.AsyncClient, provider: Provider
) -> None:
    bearer = signed(RSA, "RS256", "rsa")
    assert await status(http, url_hub, bearer) == 404
    provider.answers.clear()
    strangers = [
        asyncio.create_task(close_code(url_hub, signed(STRANGER_RSA, "RS256", f"unknown {number}"))) for number in range(30)
    ]
    async with asyncio.timeout(10):
        while not provider.at_once:
            await asyncio.sleep(0.01)
    began = time.monotonic()
    for _ in range(10):
        assert await status(http, url_hub, bearer) == 404
        assert await close_code(url_hub, bearer) == 4502
    assert time.monotonic() - began < 3
    assert not any(task.done() for task in strangers)
    provider.answers.set()
    assert set(await asyncio.gather(*strangers)) == {4500}
    assert provider.most_at_once == 1


async def test_row_77_honest_clients_do_not_notice_unknown_keys(database_url: str, tmp_path: Path) -> None:
    # The scene's own hub has a secret. It is not needed.
    await unknown_keys(Scene(HubProcess(database_url, tmp_path / "none"), 1.5))


async def test_row_90_a_removed_key_is_refused_and_its_open_sockets_end(
    url_hub: HubProcess, http: httpx.AsyncClient, provider: Provider
) -> None:
    async with Api(url_hub.url, signed(RSA, "RS256", "rsa")) as api:
        fleet_id = await api.fleet()
        vans = [await api.vehicle(fleet_id), await api.vehicle(fleet_id)]
    stays, goes = (
        signed(RSA, "RS256", "rsa", role="driver", vehicle_id=vans[0]),
        signed(EC, "ES256", "ec", role="driver", vehicle_id=vans[1]),
    )
    async with Driver(url_hub.url, vans[0], bearer=stays) as staying, Driver(url_hub.url, vans[1], bearer=goes) as going:
        provider.keys = [key for key in provider.keys if key["kid"] != "ec"]
        assert await going.closed() == 4500
        assert await close_code(url_hub, goes) == 4500
        assert await status(http, url_hub, GOOD["ES256"]()) == 401
        await staying.report(fix(1))
        await staying.acknowledged(1)
    assert (await http.get(f"{url_hub.url}/readyz")).status_code == 200
    # Without any key the hub can't check tokens. It asks clients to come back.
    provider.keys.clear()
    async with asyncio.timeout(10):
        while (ready := await http.get(f"{url_hub.url}/readyz")).status_code == 200:
            await asyncio.sleep(0.02)
    assert "no key that tokens can be verified with" in ready.json()["reasons"][0]
    assert await close_code(url_hub, stays) == 4014
    assert await status(http, url_hub, stays) == 503
