"""What the scenarios share: connecting clients, making them report, waiting for what is under way, and the figures of it."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from tqdm import tqdm

from driver_sim.bench.clients import Client, DriverClient, WatcherClient, connect
from driver_sim.bench.environment import Cost, Environment

Result = dict[str, Any]
"""Figures by name; the unit is the end of the name."""

DRAIN_SECONDS = 20.0
TICK = 0.002


def settle_seconds(environment: Environment, count: int) -> float:
    """Until everyone has reported a few times."""
    return environment.settle_seconds + count / 5_000


def busy(spent: Cost) -> Result:
    return {f"{name}_cpu_percent": 100 * getattr(spent, name) / spent.at for name in ("hub", "database", "load")}


def latencies(name: str, took: list[float]) -> Result:
    if not took:
        return {}
    took.sort()
    return {f"{name}_p{part}_ms": 1000 * took[min(len(took) - 1, len(took) * part // 100)] for part in (50, 95, 99)}


async def connected(environment: Environment, clients: Sequence[Client], name: str) -> None:
    """Each client connects to its hub."""
    with tqdm(total=len(clients), desc=f"{name}: connecting", unit="", leave=False) as bar:
        for number, hub in enumerate(environment.hubs):
            await connect([client for client in clients if client.hub == number], hub.port, told=bar.update)


class Reports(Protocol):
    """A driver."""

    sent: int
    acknowledged: int

    def report(self) -> None: ...


async def report(drivers: Sequence[Reports], hertz: float, seconds: float, name: str) -> None:
    """Every driver `hertz` times a second, all of them spread evenly."""
    rate = hertz * len(drivers)
    total = int(rate * seconds)
    begin = time.perf_counter()
    sent = 0
    with tqdm(total=total, desc=name, unit=" fixes", leave=False, mininterval=0.5) as bar:
        while sent < total:
            due = min(total, int((time.perf_counter() - begin) * rate))
            for number in range(sent, due):
                drivers[number % len(drivers)].report()
            bar.update(due - sent)
            sent = due
            await asyncio.sleep(TICK)


async def wait(seconds: float, name: str) -> None:
    for _ in tqdm(range(int(seconds)), desc=name, unit=" s", leave=False):
        await asyncio.sleep(1.0)


async def drained(drivers: Sequence[Reports]) -> None:
    deadline = time.perf_counter() + DRAIN_SECONDS
    # A look now and then costs the load less than an event for each ack.
    while any(driver.acknowledged < driver.sent for driver in drivers) and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)  # for the last deliveries


def close(clients: Sequence[Client]) -> None:
    for client in clients:
        client.close()


async def at_once() -> None:
    """In place of something to do when the measuring begins and when it ends."""


async def measured(
    environment: Environment,
    drivers: Sequence[DriverClient],
    watchers: Sequence[WatcherClient],
    hertz: float,
    seconds: float,
    name: str,
    *,
    settle: float | None = None,
    look: Callable[[], Awaitable[None]] = at_once,
) -> Result:
    """Connects all, lets the hubs settle, measures a while, and counts what was lost.

    `look` is called when the measuring begins and when it ends.
    """
    stored_before, _ = await environment.stored()
    await connected(environment, [*drivers, *watchers], name)
    if watchers:
        for driver in drivers:
            driver.sent_at = {}
    await report(drivers, hertz, environment.settle_seconds if settle is None else settle, f"{name}: settling")
    for driver in drivers:
        driver.to_ack.clear()
    for watcher in watchers:
        watcher.to_watcher.clear()
    await look()
    delivered = sum(watcher.delivered for watcher in watchers)
    # Not what was acknowledged: an ack may come two seconds later.
    handled = await environment.metric("tracking_positions_stored_total")
    before = await environment.cost()
    await report(drivers, hertz, seconds, name)
    spent = (await environment.cost()).since(before)
    handled = await environment.metric("tracking_positions_stored_total") - handled
    delivered = sum(watcher.delivered for watcher in watchers) - delivered
    memory = environment.memory()
    await look()
    await drained(drivers)
    counts = _counts(drivers, watchers)
    close([*drivers, *watchers])
    sent = sum(driver.sent for driver in drivers)
    stored, size = await environment.stored()
    return {
        "drivers": len(drivers),
        "passengers": len(watchers),
        "fixes_per_second": handled / spent.at,
        "deliveries_per_second": delivered / spent.at,
        **latencies("to_ack", [took for driver in drivers for took in driver.to_ack]),
        **latencies("to_watcher", [took for watcher in watchers for took in watcher.to_watcher]),
        "hub_us_per_fix": 1e6 * spent.hub / max(1, handled),
        "hub_us_per_delivery": 1e6 * spent.hub / delivered if delivered else None,
        "database_us_per_fix": 1e6 * spent.database / max(1, handled),
        "wal_bytes_per_fix": spent.wal / max(1, handled),
        "hub_memory_mb": memory / 2**20,
        "stored_bytes_per_fix": size / max(1, stored),
        **busy(spent),
        "sent": sent,
        "lost": sent - (stored - stored_before),
        **counts,
    }


def _counts(drivers: Sequence[DriverClient], watchers: Sequence[WatcherClient]) -> Result:
    """What went wrong."""
    return {
        "not_acknowledged": sum(driver.sent - driver.acknowledged for driver in drivers),
        "not_delivered": sum(driver.sent - w.delivered for driver, w in zip(itertools.cycle(drivers), watchers, strict=False)),
        "skipped": sum(watcher.skipped for watcher in watchers),
        "breaks": sum(watcher.breaks for watcher in watchers),
        "again": sum(watcher.again for watcher in watchers),
        "closed": sum(client.closed is not None for client in (*drivers, *watchers)),
    }
