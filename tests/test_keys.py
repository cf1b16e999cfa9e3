"""The keys of an identity provider: which are accepted, and that a slow, absent or wrong provider delays no other token."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import RSAAlgorithm

from tests.support.provider import Provider, providing, public
from tracking import keys as keys_module
from tracking.errors import ConfigError, ErrorCode, Refusal
from tracking.keys import MAX_BYTES, MAX_MISSED, Keys, read_keys

RSA = rsa.generate_private_key(65_537, 2_048)
OTHER_RSA = rsa.generate_private_key(65_537, 2_048)
SHORT_RSA = rsa.generate_private_key(65_537, 1_024)
EC = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
OCT = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256"}
REFRESH = 0.05
"""Seconds."""

LEFT_OUT: dict[str, tuple[Any, str]] = {
    "for encryption": (public(RSA, "k", use="enc"), "`use` is 'enc', not `sig`"),
    "RSA of 1,024 bits": (public(SHORT_RSA, "k"), "1024 bits"),
    "symmetric": (OCT, "symmetric"),
    "another algorithm": (public(RSA, "k", alg="RS512"), "must be RS256"),
    "of encryption": (public(RSA, "k", alg="RSA-OAEP"), "must be RS256"),
    "an algorithm of another type": (public(EC, "k", alg="RS256"), "must be ES256"),
    "another curve": (public(P384, "k"), "P-256"),
    "that signs only": (public(EC, "k", key_ops=["sign"]), "`key_ops` lacks `verify`"),
    "private": (json.loads(RSAAlgorithm.to_jwk(RSA)), "private key"),
    "of no type": ({"kid": "k"}, "`kty` is None"),
    "of a list for its type": ({"kid": "k", "kty": ["RSA"]}, "`kty`"),
    "without a modulus": ({"kty": "RSA", "kid": "k", "e": "AQAB"}, "key 'k'"),
    "with a number for its modulus": ({"kty": "RSA", "kid": "k", "n": 5, "e": "AQAB"}, "key 'k'"),
    "off its curve": ({**public(EC, "k"), "x": "AQAB"}, "key 'k'"),
    "with a number for its name": ({**public(EC, "k"), "kid": 5}, "`kid` must be text"),
    "no object": ("key", "keys[0]"),
}


@pytest.mark.parametrize("member, why", LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_a_key_that_verifies_nothing_is_left_out_with_the_reason(member: Any, why: str, tmp_path: Path) -> None:
    found = read_keys(json.dumps({"keys": [member, public(EC, "good")]}).encode())
    assert [key.kid for key in found.keys] == ["good"]
    assert len(found.left_out) == 1 and why in found.left_out[0]
    # And a file with nothing else teaches what is wanted.
    (tmp_path / "jwks").write_text(json.dumps({"keys": [member]}))
    with pytest.raises(ConfigError, match="publish RSA keys of at least 2048 bits") as error:
        Keys(str(tmp_path / "jwks"), refresh=1, grace=1)
    assert why in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000], ids=repr)
def test_what_is_no_jwks_is_told_of_as_such(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no J"):
        read_keys(content)
    (tmp_path / "jwks").write_bytes(content)
    with pytest.raises(ConfigError, match=r"TRACKING_JWKS: .*jwks can't be used"):
        Keys(str(tmp_path / "jwks"), refresh=1, grace=1)


def test_a_file_that_is_missing_or_huge_is_told_of_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Keys(str(tmp_path / "none"), refresh=1, grace=1)
    (tmp_path / "jwks").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="bytes"):
        Keys(str(tmp_path / "jwks"), refresh=1, grace=1)


class Time:
    """A clock in seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def kept(keys: Keys) -> AsyncIterator[Keys]:
    """Keys that are read again and again."""
    running = asyncio.create_task(keys.run())
    try:
        yield keys
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing(public(RSA, "rsa"), public(EC, "ec")) as provider:
        yield provider


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def is_known(keys: Keys, kid: str, algorithm: str = "RS256") -> bool:
    return bool(await keys.look_for(kid, algorithm))


async def test_a_key_is_of_one_name_and_one_algorithm(provider: Provider) -> None:
    keys = Keys(provider.url, refresh=REFRESH, grace=60)
    assert await is_known(keys, "rsa") and await is_known(keys, "ec", "ES256")
    assert not await is_known(keys, "rsa", "ES256") and not await is_known(keys, "ec", "RS256")
    assert [key.kid for key in keys.find(None, "ES256")] == ["ec"]
    assert not keys.find(None, "HS256")


async def test_row_90_a_key_that_is_taken_out_is_no_more_and_told_of(provider: Provider) -> None:
    removed: list[str | None] = []
    keys = Keys(provider.url, refresh=REFRESH, grace=60)
    keys.on_removed = lambda gone: removed.extend(key.kid for key in gone)
    async with kept(keys):
        assert await is_known(keys, "rsa")
        stays = keys.find("ec", "ES256")[0]
        provider.keys.pop(0)
        await until(lambda: not keys.find("rsa", "RS256"))
        assert removed == ["rsa"]
        assert keys.find("ec", "ES256")[0] is stays
        # Another key by the same name is another key.
        provider.keys[0] = public(ec.generate_private_key(ec.SECP256R1()), "ec")
        await until(lambda: removed == ["rsa", "ec"])
        # All of them taken out, and nobody is let in: they are told to come back, as it may be a mistake.
        provider.keys.clear()
        await until(lambda: not keys.find("ec", "ES256"))
        with pytest.raises(Refusal) as refused:
            await keys.look_for("ec", "ES256")
        assert refused.value.code is ErrorCode.UNAVAILABLE
        provider.keys.append(public(RSA, "rsa"))
        await until(lambda: keys.find("rsa", "RS256"))


async def test_row_77_a_key_that_is_known_waits_for_nothing_and_the_provider_is_asked_by_one_at_a_time(
    provider: Provider,
) -> None:
    keys = Keys(provider.url, refresh=REFRESH, grace=60)
    assert await is_known(keys, "rsa")
    provider.answers.clear()
    strangers = [asyncio.create_task(keys.look_for(f"unknown {number}", "RS256")) for number in range(500)]
    await until(lambda: provider.at_once)
    # `find` is no coroutine: nothing can hold it up.
    assert keys.find("rsa", "RS256")
    # Some wait, the others are told at once to come back.
    await until(lambda: sum(task.done() for task in strangers) == 300)
    assert all(isinstance(task.exception(), Refusal) for task in strangers if task.done())
    provider.answers.set()
    found = await asyncio.gather(*strangers, return_exceptions=True)
    assert sum(isinstance(one, tuple | list) and not one for one in found) == 200
    assert provider.most_at_once == 1 and provider.asked <= 4


async def test_row_77_a_name_that_the_provider_does_not_know_is_asked_for_once(provider: Provider) -> None:
    keys = Keys(provider.url, refresh=REFRESH, grace=60)
    assert not await is_known(keys, "none")
    asked = provider.asked
    for _ in range(3):
        assert not await is_known(keys, "none")
    assert not await is_known(keys, "x" * 257) and not await is_known(keys, "") and not await keys.look_for(None, "HS256")
    assert not await is_known(keys, "rsa", "ES256")
    assert provider.asked == asked
    # And forgotten when the key comes.
    provider.keys.append(public(OTHER_RSA, "none"))
    async with kept(keys):
        await until(lambda: keys.find("none", "RS256"))
    for number in range(2 * MAX_MISSED):
        keys._miss(str(number))
    assert len(keys._missed) == MAX_MISSED


async def test_a_new_key_is_found_by_the_first_token_that_names_it(provider: Provider) -> None:
    keys = Keys(provider.url, refresh=REFRESH, grace=60)
    assert await is_known(keys, "rsa")
    provider.keys.append(public(OTHER_RSA, "new"))
    assert await is_known(keys, "new")
    assert provider.asked == 2


BAD: dict[str, dict[str, Any]] = {
    "an error": {"status": "503 Service Unavailable"},
    "a page": {"body": b"<html>"},
    "another document": {"body": b'{"error": "maintenance"}'},
    "too much": {"body": b" " * (MAX_BYTES + 1)},
    "a redirect to nowhere": {"status": "302 Found", "headers": "Location: http://127.0.0.1:1/\r\n"},
    "redirects without end": {"status": "302 Found", "headers": "Location: /jwks\r\n"},
}


@pytest.mark.parametrize("how", BAD.values(), ids=BAD.keys())
async def test_while_the_provider_is_away_known_keys_go_on_for_a_while(
    provider: Provider, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    time = Time()
    keys = Keys(provider.url, refresh=20, grace=3_600, now=time)
    assert await is_known(keys, "rsa")
    good = {name: getattr(provider, name) for name in how}
    for name, value in how.items():
        setattr(provider, name, value)
    time.now += 3_599
    with pytest.raises(Refusal) as refused:
        await keys.look_for("new", "RS256")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert "the keys can't be read" in caplog.text and "good for 1 s more" in caplog.text
    assert keys.find("rsa", "RS256")
    assert keys.trouble is None
    time.now += 2
    assert not keys.find("rsa", "RS256")
    assert keys.trouble is not None and "3601 s" in keys.trouble
    with pytest.raises(Refusal):
        await keys.look_for("rsa", "RS256")
    for name, value in good.items():
        setattr(provider, name, value)
    time.now += 20
    assert await is_known(keys, "rsa")


async def test_a_provider_that_fails_is_asked_less_and_less_often(provider: Provider) -> None:
    provider.status = "500 Internal Server Error"
    time = Time()
    keys = Keys(provider.url, refresh=20, grace=60, now=time)
    waits = []
    for _ in range(7):
        with pytest.raises(Refusal):
            await keys.look_for("rsa", "RS256")
        waits.append(keys._due() - time.now)
        asked = provider.asked
        with pytest.raises(Refusal):
            await keys.look_for("rsa", "RS256")
        assert provider.asked == asked
        time.now = keys._due()
    assert waits == [1, 2, 4, 8, 16, 20, 20]


@pytest.mark.parametrize("drips", [False, True], ids=["says nothing", "drips"])
async def test_a_provider_that_never_comes_to_an_end_is_given_up(
    provider: Provider, drips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "READ_SECONDS", 0.3)
    provider.drips = drips
    if not drips:
        provider.answers.clear()
    keys = Keys(provider.url, refresh=20, grace=60)
    with pytest.raises(Refusal):
        await keys.look_for("rsa", "RS256")
    assert provider.asked == 1
    # Nor does the next token wait for another such reading: the next one is due a second after this one has ended.
    with pytest.raises(Refusal):
        await keys.look_for("rsa", "RS256")
    assert provider.asked == 1


def write(path: Path, *members: Any) -> None:
    """Replaces the file in one step, as a careful writer does."""
    path.with_suffix(".new").write_text(json.dumps({"keys": members}))
    os.replace(path.with_suffix(".new"), path)  # noqa: PTH105


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jwks.json"
    write(path, public(RSA, "rsa"))
    keys = Keys(str(path), refresh=REFRESH, grace=60)
    async with kept(keys):
        assert keys.find("rsa", "RS256")
        write(path, public(EC, "ec"))
        await until(lambda: keys.find("ec", "ES256") and not keys.find("rsa", "RS256"))
        path.write_text('{"keys": [')
        await until(lambda: "the keys can't be read" in caplog.text)
        assert keys.find("ec", "ES256")
        # It is no good file only because it has not changed since.
        failures = keys._failures
        await until(lambda: keys._failures > failures)
        write(path, public(RSA, "rsa"), OCT)
        await until(lambda: keys.find("rsa", "RS256"))
        assert "left out key 'shared': it is symmetric" in caplog.text


async def test_no_log_holds_the_password_of_the_providers_address(provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    provider.status = "401 Unauthorized"
    keys = Keys(provider.url.replace("http://", "http://hub:hunter2@") + "?key=hunter3", refresh=20, grace=60)
    with pytest.raises(Refusal):
        await keys.look_for("rsa", "RS256")
    assert "it answered 401" in caplog.text and "hunter" not in caplog.text


def test_private_parts_in_pem_are_no_jwks(tmp_path: Path) -> None:
    pem = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "jwks").write_bytes(pem)
    with pytest.raises(ConfigError, match="no JSON"):
        Keys(str(tmp_path / "jwks"), refresh=1, grace=1)
