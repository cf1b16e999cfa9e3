"""Hubs as processes, joined by a real broker."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.hubs import until, watching
from tests.support.broker import Broker
from tests.support.clients import Api, Driver, fix, now_ms
from tests.support.hub_process import HubProcess
from tests.support.metrics import metrics


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "broker.log").start()
    yield broker
    broker.kill()


@pytest.mark.one_hub("it starts several hubs itself")
async def test_a_passenger_elsewhere_is_whole_after_the_broker_was_away(
    own_hub: Callable[..., HubProcess], own_broker: Broker
) -> None:
    here, there = (own_hub(nats_url=own_broker.url, node_name=name, commit_interval="0") for name in ("here", "there"))
    began = now_ms() - 20_000

    async with Api(here.url) as api, Api(there.url) as other:

        async def know_each_other() -> bool:
            return all([(await metrics(one)).get("tracking_peers", 0) == 1 for one in (api, other)])

        await until(know_each_other, "the hubs know each other")
        vehicle_id, trip_id = await api.under_way()
        async with Driver(here.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
            for seq in range(1, 11):
                await driver.report(fix(seq, fix_time=began + seq * 1_000))
            await until(lambda: len(watcher.positions) == 10, "all positions")
            await asyncio.to_thread(own_broker.kill)
            for seq in range(11, 21):
                await driver.report(fix(seq, fix_time=began + seq * 1_000))
            await driver.acknowledged(20)
            await asyncio.to_thread(own_broker.start)
            await until(know_each_other, "the hubs know each other again")
            await until(lambda: watcher.positions[-1:] == [began + 20_000], "the newest")
            await until(lambda: len(watcher.line.points) == 20, "what was missed")
            assert watcher.breaks == []
            assert [time for time, *_ in watcher.line.points] == [began + seq * 1_000 for seq in range(1, 21)]
