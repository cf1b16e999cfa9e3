"""What goes between hubs."""

import time
from typing import Any

from driver_sim.bench.environment import Environment

SENT = 'tracking_node_positions_total{direction="out"}'
"""The metric: positions that a hub has sent to others."""


class Traffic:
    """What went between hubs from the first look to the second one."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._seen: list[tuple[float, float, int, int, int]] = []

    async def look(self) -> None:
        broker = self._environment.broker
        if broker is None:
            self._seen.append((time.perf_counter(), 0.0, 0, 0, 0))
            return
        positions = int(await self._environment.metric(SENT))
        self._seen.append((time.perf_counter(), broker.cpu(), *await broker.carried(), positions))

    def _spent(self, which: int) -> Any:
        before, after = self._seen
        return after[which] - before[which]

    @property
    def seconds(self) -> float:
        return float(self._spent(0))

    @property
    def cpu(self) -> float:
        return float(self._spent(1))

    @property
    def messages(self) -> int:
        return int(self._spent(2))

    @property
    def bytes(self) -> int:
        return int(self._spent(3))

    @property
    def positions(self) -> int:
        return int(self._spent(4))
