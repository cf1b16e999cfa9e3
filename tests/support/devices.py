"""Drivers for fault tests: `driver_sim`'s client with its outbox, and a record of what it sent."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isawaitable
from typing import NamedTuple

from driver_sim.callbacks import Callbacks, Rejection
from driver_sim.client import DriverClient
from driver_sim.outbox import MemoryOutbox, Outbox
from driver_sim.settings import ConnectionSettings
from tests.support.clients import now_ms, token
from tests.support.ledger import Account

STEP_MS = 40
"""Time between two fixes by the device's clock. It is short, so that many fixes stay near the present."""
PACE = 6.0
"""m/s"""
_METRES_PER_DEGREE = 111_195.0


async def until(condition: Callable[[], bool | Awaitable[object]], failure: str, seconds: float = 20.0) -> None:
    """Check the condition until it holds."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if await answer if isawaitable(answer) else answer:
            return
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {failure}"
        await asyncio.sleep(0.01)


class DeviceClock(NamedTuple):
    """`step`: the time between two fixes (ms). `begin`: the instant one step before the first fix; None: now."""

    step: int = STEP_MS
    begin: int | None = None


QUICK = DeviceClock()


class Device:
    """One vehicle's app, driving north.

    `late` is the share of fixes that are reported after the next few. `bad` is the share with an impossible latitude.
    """

    def __init__(
        self,
        url: str,
        vehicle_id: str,
        rng: random.Random,
        *,
        outbox: Outbox | None = None,
        late: float = 0.0,
        bad: float = 0.0,
        ping: float = 20.0,
        clock: DeviceClock = QUICK,
    ) -> None:
        self.outbox: Outbox = outbox if outbox is not None else MemoryOutbox()
        self.account = Account(vehicle_id, self.outbox.session)
        self.rejected: dict[int, str] = {}
        self.lost: list[int] = []
        """The close codes of its lost connections."""
        self._url = url
        self._rng = rng
        self._late = late
        self._bad = bad
        self._ping = ping
        self._step = clock.step
        self._latitude = 47.0 + rng.random() / 10
        self.longitude = 9.5 + rng.random() / 10
        self._begin = now_ms() if clock.begin is None else clock.begin
        self._ticks = 0
        self._held: list[tuple[int, float]] = []
        self.client = self._app()

    def _app(self) -> DriverClient:
        return DriverClient(
            self._url,
            self.outbox,
            token("driver", self.account.vehicle_id),
            callbacks=Callbacks(on_rejected=self._on_rejected, on_lost=lambda code, _: self.lost.append(code)),
            settings=ConnectionSettings(
                ping_interval=self._ping, ping_timeout=self._ping, answer_timeout=10.0, close_timeout=0.1
            ),
            backoff=lambda _: self._rng.uniform(0.0, 0.1),
        )

    def restart(self, outbox: Outbox) -> None:
        """Start the app again after a crash, with the outbox that it finds on its disk."""
        assert outbox.session == self.account.session
        self.outbox = outbox
        # A fix that was not on the disk was never sent. Its number goes to another fix.
        self.account.sent = {seq for seq in self.account.sent if seq <= outbox.last_seq}
        self.client = self._app()

    def _on_rejected(self, rejection: Rejection) -> None:
        self.rejected[rejection.seq] = rejection.code
        self.account.refused.add(rejection.seq)

    @property
    def acknowledged(self) -> int:
        self.account.acknowledged = max(self.account.acknowledged, self.outbox.acknowledged_seq)
        return self.account.acknowledged

    def report(self, count: int = 1) -> int:
        """Report the next fixes of the drive. Returns the last seq."""
        seq = 0
        for _ in range(count):
            seq = self._report_next()
        return seq

    def hold(self) -> None:
        """Hold the next fix back until `release`."""
        self._ticks += 1
        self._held.append(self._at(self._ticks))

    def release(self) -> None:
        for held in self._held:
            self._send(*held)
        self._held.clear()

    def jump(self) -> int:
        """Report a fix that is 50 km off."""
        self._ticks += 1
        fix_time, latitude = self._at(self._ticks)
        return self._send(fix_time, latitude + 0.5)

    def _at(self, ticks: int) -> tuple[int, float]:
        """The fix time and the latitude after so many ticks."""
        passed = ticks * self._step
        return self._begin + passed, self._latitude + passed / 1000 * PACE / _METRES_PER_DEGREE

    def _report_next(self) -> int:
        self._ticks += 1
        fix_time, latitude = self._at(self._ticks)
        if self._rng.random() < self._bad:
            seq = self._send(fix_time, 90.5)
            self.account.refused.add(seq)
            return seq
        if self._rng.random() < self._late:
            self._held.append((fix_time, latitude))
            return self.outbox.last_seq
        self._send(fix_time, latitude)
        if self._late and len(self._held) >= 4:
            self.release()
        return self.outbox.last_seq

    def _send(self, fix_time: int, latitude: float) -> int:
        seq = self.client.report(latitude, self.longitude, fix_time=fix_time, speed=PACE, accuracy=4.0)
        self.account.sent.add(seq)
        return seq

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Device"]:
        app = asyncio.create_task(self.client.run())
        try:
            yield self
        finally:
            app.cancel()
            await asyncio.gather(app, return_exceptions=True)
            _ = self.acknowledged

    async def drive(self, fixes: int, window: int = 30) -> None:
        """Report as fast as acks come, with at most `window` fixes in flight, until all are acknowledged."""
        for _ in range(fixes):
            await until(lambda: self._ended() or len(self.outbox) < window, f"no acks: {self}", 40)
            self.report()
        await self.drained()

    async def drained(self, seconds: float = 40.0) -> None:
        await until(lambda: self._ended() or len(self.outbox) == 0, f"unacknowledged fixes: {self}", seconds)
        _ = self.acknowledged

    def _ended(self) -> bool:
        assert self.client.ending is None, f"the client gave up: {self.client.ending}; {self}"
        return False

    def __str__(self) -> str:
        return (
            f"{self.account.vehicle_id}: reported {self.outbox.last_seq}, acknowledged {self.acknowledged},"
            f" {self.client.connections} connections, lost {self.lost[-8:]}"
        )
