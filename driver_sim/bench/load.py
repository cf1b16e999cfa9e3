"""What the scenarios share: connecting clients, making them report, waiting for what is under way, and the figures of it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from driver_sim.bench.clients import Client, DriverClient, connect
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
    with tqdm(total=len(clients), desc=f"{name}: connecting", unit="", leave=False) as bar:
        await connect(list(clients), environment.port, told=bar.update)


async def report(drivers: Sequence[DriverClient], hertz: float, seconds: float, name: str) -> None:
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


async def drained(drivers: Sequence[DriverClient]) -> None:
    deadline = time.perf_counter() + DRAIN_SECONDS
    # A look now and then costs the load less than an event for each ack.
    while any(driver.acknowledged < driver.sent for driver in drivers) and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)  # for the last deliveries


def close(clients: Sequence[Client]) -> None:
    for client in clients:
        client.close()
