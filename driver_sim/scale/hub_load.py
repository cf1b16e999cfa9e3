"""What the busiest hub of an arrangement does: CPU by its causes, and memory."""

from dataclasses import dataclass

import numpy as np

from driver_sim.scale.assumptions import Assumptions
from driver_sim.scale.population import Arrangement, Population
from driver_sim.scale.traffic import Traffic, pings

COMFORTABLE = 0.6
"""Share of a core that a hub should use at most, so that it can take what a dead hub leaves."""
FULL = 0.95
MESSAGES = "messages between hubs: sent in flushes, received one by one"


@dataclass(frozen=True)
class HubLoad:
    """`cpu`: cause -> share of one core, of the busiest hub. A hub has one core: above 1 it cannot keep up."""

    cpu: dict[str, float]
    memory_gb: float
    connections: int

    @property
    def total(self) -> float:
        return sum(self.cpu.values())

    @property
    def is_possible(self) -> bool:
        """Whether the hub has anything left. At more than this, a queue that has grown does not become shorter."""
        return self.total < FULL


def hub_load(assumed: Assumptions, arrangement: Arrangement, population: Population, load: Traffic) -> HubLoad:
    hubs = arrangement.hubs
    fixes = float(load.hub_fixes.max())
    sent, fleet_sent, fleet_read = (float(each.max()) for each in (load.hub_sent, load.hub_fleet_sent, load.hub_fleet_read))
    deliveries = float(load.hub_deliveries.max())
    watchers = len(population.watched) / hubs
    dispatchers = population.dispatchers / hubs
    read = float(load.hub_sent.mean())
    cpu = {
        "fixes: receive, judge, store, acknowledge": fixes * assumed.fix_cpu(fixes),
        "updates to passengers": deliveries * assumed.delivery_us / 1e6,
        "ticks to passengers, every 15 s": watchers / 15 * assumed.tick_us / 1e6,
        "pings to silent drivers": pings(assumed, arrangement, population) / hubs * assumed.ping_us / 1e6,
        "positions to and from other hubs, for passengers": (sent * assumed.sent_position_us + read * assumed.read_position_us)
        / 1e6,
        "positions to and from other hubs, for dispatchers": (
            fleet_sent * assumed.sent_position_us + fleet_read * assumed.fleet_position_us
        )
        / 1e6,
        MESSAGES: _messages(assumed, load, hubs),
        "dispatchers' screens": dispatchers * assumed.dispatcher_us / 1e6,
    }
    return HubLoad(cpu, _memory(assumed, population, load, hubs), round(len(population.hub_of) / hubs + watchers + dispatchers))


def hubs_needed(load: HubLoad, hubs: int) -> int:
    """Hubs that share this load so that each uses `COMFORTABLE`. Messages between hubs do not become fewer with more hubs."""
    fixed = load.cpu[MESSAGES]
    return int(np.ceil(hubs * (load.total - fixed) / (COMFORTABLE - fixed))) if fixed < COMFORTABLE else 0


def _messages(assumed: Assumptions, load: Traffic, hubs: int) -> float:
    """Packets arrive one by one, because their senders flush at different moments. Above some rate several arrive at once."""
    each_way = load.messages / hubs
    alone = min(each_way, 1 / (assumed.wake_us / 1e6) * 0.25)
    return (alone * assumed.wake_us + (each_way - alone) * assumed.message_us + each_way * assumed.message_us / 2) / 1e6


def _memory(assumed: Assumptions, population: Population, load: Traffic, hubs: int) -> float:
    """GB of one hub."""
    drivers = len(population.hub_of) / hubs
    watchers = len(population.watched) / hubs
    recent = float(load.hub_deliveries.mean() + load.hub_sent.mean()) * 60 * assumed.recent_bytes
    # A hub with a dispatcher of a fleet holds the whole fleet.
    copies = sum(
        int(bits).bit_count() * int(size) for bits, size in zip(population.dispatcher_hubs, population.sizes, strict=True)
    )
    kilobytes = (
        assumed.hub_mb * 1000
        + drivers * (assumed.driver_kb + assumed.vehicle_kb)
        + (watchers + population.dispatchers / hubs) * assumed.passenger_kb
        + copies / hubs * assumed.vehicle_kb / 2
    )
    return (kilobytes * 1000 + recent) / 1e9
