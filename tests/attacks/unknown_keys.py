"""Tokens that name unknown keys, against a hub whose identity provider does not answer (row 77)."""

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.attacks.scene import Scene, stage
from tests.support.clients import KEY_VARIABLE, Socket
from tests.support.hub_process import HubProcess
from tests.support.provider import Provider, providing, public
from tracking.store.migrations import migrate

STRANGERS = 20
PAUSE_SECONDS = 0.05
"""Seconds between two tokens of one client. The attack is on the provider, not on the number of handshakes."""


async def unknown_keys(scene: Scene) -> None:
    """Another hub on the same database, which has a provider's keys, with its own honest clients."""
    async with hub_with_a_provider(scene) as (hub, provider):

        async def attack(inner: Scene) -> None:
            provider.answers.clear()
            ends = time.monotonic() + inner.seconds
            codes = await asyncio.gather(*(_stranger(hub, ends) for _ in range(STRANGERS)))
            # Asked to come back, because nobody can check the token. Or refused, if the provider had answered before.
            assert set().union(*codes) <= {4014, 4500}

        outcome = await stage(hub, attack, scene.seconds)
        outcome.check(slack=3 if scene.seconds < 5 else 1)
        assert provider.most_at_once == 1


@asynccontextmanager
async def hub_with_a_provider(scene: Scene) -> AsyncIterator[tuple[HubProcess, Provider]]:
    """Inside, `clients.token` signs with the provider's key, here and in processes started from here."""
    key = ec.generate_private_key(ec.SECP256R1())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        async with providing(public(key, "tests")) as provider:
            hub = HubProcess(await _database_beside(scene), place / "log", jwks=provider.url, jwks_refresh="0.5")
            del hub.environment["TRACKING_JWT_SECRET"]
            await asyncio.to_thread(hub.start)
            os.environ[KEY_VARIABLE] = str(place / "key.pem")
            try:
                yield hub, provider
            finally:
                del os.environ[KEY_VARIABLE]
                hub.kill()


async def _database_beside(scene: Scene) -> str:
    """The URL of a new database. Two hubs without a broker may not share one."""
    url = urlsplit(scene.database_url)
    name = f"{url.path.removeprefix('/')}_keys"
    connection = await asyncpg.connect(scene.database_url)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    finally:
        await connection.close()
    beside = urlunsplit(url._replace(path=f"/{name}"))
    await migrate(beside)
    return beside


async def _stranger(hub: HubProcess, ends: float) -> set[int]:
    key = ec.generate_private_key(ec.SECP256R1())
    codes = set()
    while time.monotonic() < ends:
        claims = {"aud": "tracking", "exp": int(time.time()) + 60, "jti": str(uuid.uuid4()), "role": "service"}
        bearer = jwt.encode(claims, key, algorithm="ES256", headers={"kid": str(uuid.uuid4())})
        async with Socket(f"{hub.url}/v1/driver", bearer) as socket:
            codes.add(await socket.closed())
        await asyncio.sleep(PAUSE_SECONDS)
    return codes
