"""Hubs on a network, without what hubs do: who they are, and what each has heard."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from tests.support.broker import Broker
from tracking.config import load
from tracking.model import Position
from tracking.nodes.backplane import Backplane
from tracking.nodes.local import Exchange, LocalBackplane
from tracking.nodes.messages import Unwant, Want
from tracking.nodes.nats_backplane import NatsBackplane
from tracking.nodes.node import Node
from tracking.nodes.nodes import Nodes


class Network(Protocol):
    """What joins hubs. `cut` loses all connections, and `restore` gives them back."""

    def backplane(self) -> Backplane: ...
    def cut(self) -> None: ...
    def restore(self) -> None: ...


class LocalNetwork:
    def __init__(self) -> None:
        self._exchange = Exchange()

    def backplane(self) -> Backplane:
        return LocalBackplane(self._exchange)

    def cut(self) -> None:
        self._exchange.cut()

    def restore(self) -> None:
        self._exchange.restore()


class NatsNetwork:
    def __init__(self, broker: Broker, cluster: str = "cluster") -> None:
        self.broker = broker
        self._cluster = cluster

    def backplane(self) -> Backplane:
        return nats(self.broker.url, self._cluster)

    def cut(self) -> None:
        self.broker.kill()

    def restore(self) -> None:
        self.broker.start()


def nats(url: str, cluster: str = "cluster", **settings: str) -> NatsBackplane:
    async def name() -> str:
        return cluster

    return NatsBackplane(load(nats_url=url, **settings), name)


class Clock:
    """Seconds, which the test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Station:
    """A hub, and what it has heard of others."""

    def __init__(self, name: str, backplane: Backplane, now: Callable[[], float] | None = None) -> None:
        self.backplane = backplane
        self.nodes = Nodes(Node(name, f"hub {name}", "1.0", 0), backplane, now=now or time.monotonic)
        self.missed_: list[str] = []
        self.gone_: list[str] = []
        self.connections: list[bool] = []
        self.wants: list[tuple[str, str]] = []
        self.seqs: list[int] = []
        self.nodes.observe(self)
        self.nodes.listen(Want, lambda peer, want: self.wants.append((peer, want.trip_id)))
        self.nodes.listen(Unwant, lambda peer, want: self.wants.append((peer, f"not {want.trip_id}")))
        self.nodes.listen_positions(self._heard)

    def missed(self, peer: str) -> None:
        self.missed_.append(peer)

    def gone(self, peer: str) -> None:
        self.gone_.append(peer)

    def connection_changed(self, connected: bool) -> None:
        self.connections.append(connected)

    def knows(self, *peers: str) -> bool:
        return set(self.nodes.peers) == set(peers)

    def _heard(self, _: str, positions: list[Position]) -> None:
        self.seqs += [position.seq for position in positions]


@contextlib.asynccontextmanager
async def running(*stations: Station) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(station.nodes.run()) for station in stations]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results
