"""The shape `hubs-fleet`: one large fleet on several hubs, and dispatchers on each of them."""

import itertools
import math
import random
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from driver_sim.bench.clients import DispatcherClient, DriverClient
from driver_sim.bench.environment import Environment
from driver_sim.bench.fleets import TIMED, place_of, screens_of
from driver_sim.bench.load import Result, close, connected, drained, latencies, report, settle_seconds
from driver_sim.bench.traffic import Traffic

MOST_HUBS = 2
DISPATCHERS = 40
"""On each hub."""
ON_SCREEN = 300
"""Vehicles that a screen holds, about."""
ROUNDS = 3
"""How often dispatchers come and go. Phases without any are as many. What dispatchers cost is the difference of the means."""
TURNS_SECONDS = 15.0
"""Below this the rounds are one, as for a trial."""


async def hubs_fleet(environment: Environment, count: int, seconds: float) -> list[Result]:
    """So many vehicles, spread evenly over hubs, with 40 dispatchers on each hub and without; on each number of hubs."""
    await environment.set_up_fleet(count)
    results: list[Result] = []
    for number in sorted(hubs for hubs in environment.hub_counts if hubs <= MOST_HUBS):
        await environment.run_hubs(number)
        result = await _on_hubs(environment, count, seconds)
        first = results[0] if results else result
        for name in ("hub_ms_per_dispatcher_second", "hub_us_per_delivery"):
            result[f"{name} (times the first)"] = result[name] / first[name] if first[name] else None
        results.append(result)
    return results


class _Phase(NamedTuple):
    """Of one stretch of time. `hub` is the CPU of all hubs as a share of one core."""

    hub: float
    broker: float
    load: float
    deliveries: float
    fixes: float
    bytes: float
    messages: float


class _Seen:
    """What dispatchers were shown, over all rounds."""

    def __init__(self) -> None:
        self.phases: list[_Phase] = []
        self.took: list[float] = []
        self.across: list[float] = []
        self.in_view: list[float] = []
        self.closed = 0

    def add(self, phase: _Phase, screens: Sequence[DispatcherClient]) -> None:
        self.phases.append(phase)
        self.took += itertools.chain(*(screen.to_watcher for screen in screens))
        self.across += itertools.chain(*(screen.across for screen in screens))
        self.in_view += [screen.in_view for screen in screens]
        self.closed += sum(screen.closed is not None for screen in screens)


async def _on_hubs(environment: Environment, count: int, seconds: float) -> Result:
    hubs = len(environment.hubs)
    side = math.ceil(math.sqrt(count))
    drivers = [environment.driver(n, 1.0, place_of(n % side, n // side)) for n in range(count)]
    by_id = dict(zip(environment.vehicles, drivers, strict=True))
    # Neighbours do not report at the same time, and are not on the same hub.
    random.Random(count).shuffle(drivers)
    for n, driver in enumerate(drivers):
        driver.hub = n % hubs
    await connected(environment, drivers, f"{hubs} hubs")
    for driver in drivers:
        driver.sent_at = {}
    alone: list[_Phase] = []
    seen = _Seen()
    rounds = ROUNDS if seconds >= TURNS_SECONDS else 1
    # First, because hubs tell each other of the fleet for a minute after its last dispatcher has left.
    for _ in range(rounds):
        alone.append(await _phase(environment, drivers, [], seconds, f"{hubs} hubs, no dispatchers"))
    for _ in range(rounds):
        screens = _screens(environment, side, by_id)
        await connected(environment, screens, f"{hubs} hubs: dispatchers")
        seen.add(await _phase(environment, drivers, screens, seconds, f"{hubs} hubs"), screens)
        close(screens)
    await drained(drivers)
    close(drivers)
    return {
        "hubs": hubs,
        "vehicles": count,
        **_figures(alone, seen, DISPATCHERS * hubs),
        "sent": sum(driver.sent for driver in drivers),
        "not_acknowledged": sum(driver.sent - driver.acknowledged for driver in drivers),
        "closed": seen.closed + sum(driver.closed is not None for driver in drivers),
        "hub_memory_mb": environment.memory() / 2**20,
    }


def _figures(alone: Sequence[_Phase], seen: _Seen, dispatchers: int) -> Result:
    more = fmean(phase.hub for phase in seen.phases) - fmean(phase.hub for phase in alone)
    deliveries = fmean(phase.deliveries for phase in seen.phases)
    return {
        "dispatchers": dispatchers,
        "in_view": fmean(seen.in_view),
        "fixes_per_second": fmean(phase.fixes for phase in seen.phases),
        "deliveries_per_second": deliveries,
        "hub_ms_per_dispatcher_second": 1e3 * more / dispatchers,
        "hub_us_per_delivery": 1e6 * more / max(1.0, deliveries),
        "hub_cpu_percent (alone)": 100 * fmean(phase.hub for phase in alone),
        "hub_cpu_percent": 100 * fmean(phase.hub for phase in seen.phases),
        "hub_cpu_percent (rounds, alone)": [100 * phase.hub for phase in alone],
        "hub_cpu_percent (rounds)": [100 * phase.hub for phase in seen.phases],
        "broker_cpu_percent": 100 * fmean(phase.broker for phase in seen.phases),
        "load_cpu_percent": 100 * fmean(phase.load for phase in seen.phases),
        "between_hubs_bytes_per_second (alone)": fmean(phase.bytes for phase in alone),
        "between_hubs_bytes_per_second": fmean(phase.bytes for phase in seen.phases),
        "broker_messages_per_second (alone)": fmean(phase.messages for phase in alone),
        "broker_messages_per_second": fmean(phase.messages for phase in seen.phases),
        **latencies("to_screen", seen.took),
        **latencies("to_screen_of_other_hub", seen.across),
    }


def _screens(environment: Environment, side: int, by_id: dict[str, DriverClient]) -> list[DispatcherClient]:
    """The same parts on each hub. A few on each take the times."""
    made = []
    for hub in range(len(environment.hubs)):
        for n, bounds in enumerate(screens_of(min(ON_SCREEN, side * side // 4), DISPATCHERS, side)):
            screen = environment.dispatcher(bounds, by_id if n < TIMED else None)
            screen.hub = hub
            made.append(screen)
    return made


async def _phase(
    environment: Environment, drivers: Sequence[DriverClient], screens: Sequence[DispatcherClient], seconds: float, name: str
) -> _Phase:
    await report(drivers, 1.0, settle_seconds(environment, len(drivers)), f"{name}: settling")
    for screen in screens:
        screen.delivered = 0
        screen.to_watcher.clear()
        screen.across.clear()
    traffic = Traffic(environment)
    await traffic.look()
    stored = await environment.metric("tracking_positions_stored_total")
    before = await environment.cost()
    await report(drivers, 1.0, seconds, name)
    spent = (await environment.cost()).since(before)
    stored = await environment.metric("tracking_positions_stored_total") - stored
    await traffic.look()
    return _Phase(
        hub=spent.hub / spent.at,
        broker=spent.broker / spent.at,
        load=spent.load / spent.at,
        deliveries=sum(screen.delivered for screen in screens) / spent.at,
        fixes=stored / spent.at,
        bytes=traffic.bytes / traffic.seconds,
        messages=traffic.messages / traffic.seconds,
    )
