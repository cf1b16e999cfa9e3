"""What every backplane must do, in the process and through a real NATS server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.nodes.network import LocalNetwork, NatsNetwork, Network
from tests.support.broker import Broker
from tests.support.waiting import until
from tracking.nodes.backplane import Backplane


@pytest.fixture(params=["local", "nats"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    if request.param == "local":
        yield LocalNetwork()
        return
    broker = Broker(tmp_path / "broker.log").start()
    yield NatsNetwork(broker)
    broker.kill()


class Member:
    def __init__(self, backplane: Backplane) -> None:
        self.backplane = backplane
        self.beats: list[bytes] = []
        self.packets: list[bytes] = []
        self.changes: list[tuple[bool, int]] = []

    def changed(self) -> None:
        self.changes.append((self.backplane.connected, self.backplane.life))


@contextlib.asynccontextmanager
async def joined(network: Network, *names: str) -> AsyncIterator[list[Member]]:
    members = [Member(network.backplane()) for _ in names]
    tasks = [
        asyncio.create_task(m.backplane.run(name, beat=m.beats.append, packet=m.packets.append, changed=m.changed))
        for name, m in zip(names, members, strict=True)
    ]
    await until(lambda: all(member.backplane.connected for member in members))
    try:
        yield members
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(member.backplane.connected for member in members)


async def test_messages_reach_whom_they_are_for_in_order(network: Network) -> None:
    async with joined(network, "a", "b", "c") as (a, b, c):
        sent = [number.to_bytes(2) * 500 for number in range(200)]
        for data in sent:
            await a.backplane.send("b", data)
        await a.backplane.send("nobody", b"lost")
        await a.backplane.send_all(b"beat")
        await a.backplane.flush()
        await until(lambda: len(b.packets) == len(sent) and b.beats == c.beats == [b"beat"])
        assert b.packets == sent
        assert a.packets == c.packets == a.beats == []
        assert a.backplane.waiting == 0


async def test_a_lost_connection_is_told_and_another_life_begins(network: Network) -> None:
    async with joined(network, "a", "b") as (a, b):
        [(up, first)] = a.changes
        network.cut()
        await until(lambda: not a.backplane.connected and not b.backplane.connected)
        assert a.changes[1:] == [(False, first)]
        for _ in range(100):
            await a.backplane.send("b", b"sent in vain")
        await a.backplane.send_all(b"sent in vain")
        await a.backplane.flush()
        assert a.backplane.waiting == 0
        network.restore()
        await until(lambda: a.backplane.connected and b.backplane.connected)
        assert up
        assert a.backplane.life > first
        await a.backplane.send("b", b"again")
        await until(lambda: b.packets == [b"again"])
        assert b.beats == []
