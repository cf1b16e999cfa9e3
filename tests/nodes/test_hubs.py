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


async def test_hubs_name_their_peers_and_say_that_the_broker_is_away(
    own_hub: Callable[..., HubProcess], own_broker: Broker
) -> None:
    first, second = (own_hub(nats_url=own_broker.url, node_name=name) for name in ("first", "second"))
    async with Api(first.url) as api, Api(second.url) as other:
        await until(lambda: _peers(api, "second"), "the first hears the second")
        await until(lambda: _peers(other, "first"), "the second hears the first")
        assert (await metrics(api))["tracking_broker_connected"] == 1
        await asyncio.to_thread(own_broker.kill)
        await until(lambda: _degraded(api, "other hubs by the database: second"), "the broker is away")
        await asyncio.to_thread(own_broker.start)
        await until(lambda: _peers(api, "second"), "the first hears the second again")
        await until(lambda: _peers(other, "first"), "the second hears the first again")
        assert not await _degraded(api, "NATS server")
        await asyncio.to_thread(second.stop)
        # Without a goodbye it takes three seconds.
        await until(lambda: _peers(api), "the second has said goodbye", seconds=2.5)
    assert "Traceback" not in first.log.read_text()


async def _ready(api: Api) -> dict[str, Any]:
    body: dict[str, Any] = (await api.http.get(f"{api.url}/readyz")).json()
    return body


async def _peers(api: Api, *names: str) -> bool:
    nodes = (await _ready(api))["nodes"]
    return nodes["connected"] is True and [peer["name"] for peer in nodes["peers"]] == list(names)


async def _degraded(api: Api, words: str) -> bool:
    return any(words in reason for reason in (await _ready(api))["degraded"])
