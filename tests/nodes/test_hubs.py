"""Two hubs on one database as processes, with a broker that dies."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Broker
from tests.support.clients import Api
from tests.support.devices import until
from tests.support.hub_process import HubProcess
from tests.support.metrics import metrics


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker.log").start()
    yield broker
    broker.kill()


async def test_hubs_tell_the_ids_of_their_peers_and_that_the_broker_is_away(
    own_hub: Callable[..., HubProcess], own_broker: Broker
) -> None:
    first, second = (own_hub(nats_url=own_broker.url, node_name=name) for name in ("eastern", "western"))
    async with Api(first.url) as api, Api(second.url) as other:
        ids = [(await _ready(one))["nodes"]["node"] for one in (api, other)]
        await until(lambda: _peers(api, ids[1]), "the first hears the second")
        await until(lambda: _peers(other, ids[0]), "the second hears the first")
        assert (await metrics(api))["tracking_broker_connected"] == 1
        await asyncio.to_thread(own_broker.kill)
        await until(lambda: _degraded(api, "other hubs by the database: 1"), "the broker is away")
        # Everybody may read this.
        told = (await api.http.get(f"{api.url}/readyz")).text
        assert not [secret for secret in ("eastern", "western", "release") if secret in told]
        await asyncio.to_thread(own_broker.start)
        await until(lambda: _peers(api, ids[1]), "the first hears the second again")
        await until(lambda: _peers(other, ids[0]), "the second hears the first again")
        assert not await _degraded(api, "NATS server")
        await asyncio.to_thread(second.stop)
        # Without a goodbye it takes three seconds.
        await until(lambda: _peers(api), "the second has said goodbye", seconds=2.5)
    assert "Traceback" not in first.log.read_text()


async def _ready(api: Api) -> dict[str, Any]:
    body: dict[str, Any] = (await api.http.get(f"{api.url}/readyz")).json()
    return body


async def _peers(api: Api, *ids: str) -> bool:
    nodes = (await _ready(api))["nodes"]
    return nodes["connected"] is True and nodes["peers"] == list(ids)


async def _degraded(api: Api, words: str) -> bool:
    return any(words in reason for reason in (await _ready(api))["degraded"])
