"""Several hubs on one database that look like one to a test: behind a load balancer, each new connection goes to the next."""

import http.client
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.broker import Broker
from tests.support.clients import SPREAD, token
from tests.support.hub_process import HubProcess, Process, wait_until
from tests.support.round_robin import RoundRobin
from tests.support.several_hubs import PEERS


class HubsBehindProxy(HubProcess):
    """`count` hubs. Signals go to all of them. They write into one log.

    There is no `process`: `processes` has that of each.
    """

    def __init__(self, count: int, broker: Broker, database_url: str, log: Path, /, **settings: str) -> None:
        super().__init__(database_url, log, **settings)
        of_each = {"public_url": self.url, "nats_url": broker.url, **settings}
        self.hubs = [HubProcess(database_url, log, None, **of_each) for _ in range(count)]
        self._front: RoundRobin | None = None
        self._were_joined = False
        SPREAD.add(self.url)

    @property
    def alone(self) -> bool:
        return False

    @property
    def processes(self) -> list[Process]:
        return [process for hub in self.hubs for process in hub.processes]

    def begin(self) -> Process:
        self._front = RoundRobin([hub.port for hub in self.hubs], self.port).__enter__()
        first, *_ = [hub.begin() for hub in self.hubs]
        return first

    def start(self) -> "HubsBehindProxy":
        """Returns when each of them answers. The first time they also see all the others then."""
        self.begin()
        for hub in self.hubs:
            wait_until(hub.answers, f"a hub did not start; see {self.log}")
        for hub in [] if self._were_joined else self.hubs:
            wait_until(lambda port=hub.port: self._joined(port), f"a hub did not see the others; see {self.log}")  # type: ignore[misc]
        self._were_joined = True
        return self

    def _joined(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token('operator')}"})
            return f"\n{PEERS} {len(self.hubs) - 1:.1f}\n" in connection.getresponse().read().decode()
        finally:
            connection.close()

    def _end(self, number: signal.Signals) -> None:
        end: Callable[[HubProcess], None] = lambda hub: hub._end(number)  # noqa: E731
        with ThreadPoolExecutor() as threads:
            list(threads.map(end, self.hubs))
        front, self._front = self._front, None
        if front is not None:
            front.__exit__(None, None, None)
