"""Who is there: fleets, their vehicles, watchers and dispatchers, and which hub and database each is on."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from driver_sim.scale.assumptions import Assumptions

Array = npt.NDArray[Any]
MOST_HUBS = 64
"""The hubs with a dispatcher of a fleet are one integer of 64 bits."""


class Kind(IntEnum):
    WATCHED = 0
    MOVING = 1
    PARKED = 2


@dataclass(frozen=True)
class Arrangement:
    """How an installation is laid out. `dispatchers_together`: those of one fleet are led to the same hub."""

    name: str
    hubs: int
    databases: int
    dispatchers_together: bool = False
    ping_interval: float = 20.0


@dataclass(frozen=True)
class Population:
    """Arrays with one entry a fleet: `sizes`, `database_of`, `dispatcher_hubs` (bits).

    One a vehicle: `fleet_of`, `hub_of`, `kind`, `phase` (seconds, within the vehicle's interval). One a watcher: `watched` (the
    vehicle's index), `watcher_hub`.
    """

    sizes: Array
    database_of: Array
    dispatcher_hubs: Array
    dispatchers: int
    fleet_of: Array
    hub_of: Array
    kind: Array
    phase: Array
    watched: Array
    watcher_hub: Array

    def intervals(self, assumed: Assumptions) -> Array:
        """Seconds between two fixes, for each vehicle."""
        return _intervals(assumed)[self.kind]


def fleet_sizes(assumed: Assumptions, vehicles: int, random: np.random.Generator) -> Array:
    """Sizes with a heavy tail. They sum to `vehicles`; the last fleet has what is left."""
    sizes: list[Array] = []
    total = 0
    while total < vehicles:
        drawn = assumed.smallest_fleet * (1 + random.pareto(assumed.fleet_tail, 10_000))
        sizes.append(np.minimum(drawn, assumed.largest_fleet).astype(np.int64))
        total += int(sizes[-1].sum())
    ends = np.minimum(np.cumsum(np.concatenate(sizes)), vehicles)
    kept: Array = np.diff(ends, prepend=0)
    return kept[kept > 0]


def databases_by_load(sizes: Array, databases: int) -> Array:
    """The database of each fleet: the largest fleet first, each to the database that has least."""
    loads = np.zeros(databases)
    chosen = np.zeros(len(sizes), np.int64)
    for fleet in np.argsort(-sizes, kind="stable"):
        database = int(np.argmin(loads))
        loads[database] += sizes[fleet]
        chosen[fleet] = database
    return chosen


def populate(assumed: Assumptions, arrangement: Arrangement, vehicles: int, random: np.random.Generator) -> Population:
    if not 2 <= arrangement.hubs <= MOST_HUBS:
        raise ValueError(f"2 to {MOST_HUBS} hubs can be simulated; got {arrangement.hubs}")
    sizes = fleet_sizes(assumed, vehicles, random)
    dispatchers = random.poisson(sizes / assumed.vehicles_a_dispatcher)
    fleet_of = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    shares = [assumed.watched_share, assumed.watched_share + assumed.moving_share]
    kind = np.searchsorted(shares, random.random(vehicles, np.float32), side="right").astype(np.int8)
    trips = np.flatnonzero(kind == Kind.WATCHED)
    # Each watched trip has one watcher; more have a second one.
    more = trips[random.random(len(trips)) < assumed.watchers_a_trip - 1]
    watched = np.concatenate([trips, more])
    return Population(
        sizes=sizes,
        database_of=databases_by_load(sizes, arrangement.databases),
        dispatcher_hubs=_dispatcher_hubs(dispatchers, arrangement, random),
        dispatchers=int(dispatchers.sum()),
        fleet_of=fleet_of,
        hub_of=random.integers(0, arrangement.hubs, vehicles, np.int16),
        kind=kind,
        phase=random.random(vehicles, np.float32) * _intervals(assumed)[kind].astype(np.float32),
        watched=watched,
        watcher_hub=random.integers(0, arrangement.hubs, len(watched), np.int16),
    )


def _intervals(assumed: Assumptions) -> Array:
    return np.array([assumed.watched_interval, assumed.moving_interval, assumed.parked_interval])


def _dispatcher_hubs(dispatchers: Array, arrangement: Arrangement, random: np.random.Generator) -> Array:
    """A bit for each hub that has a dispatcher of the fleet."""
    if arrangement.dispatchers_together:
        bits = np.left_shift(np.uint64(1), random.integers(0, arrangement.hubs, len(dispatchers), np.uint64))
        return np.where(dispatchers > 0, bits, np.uint64(0))
    fleet = np.repeat(np.arange(len(dispatchers)), dispatchers)
    hubs = random.integers(0, arrangement.hubs, len(fleet), np.uint64)
    found = np.zeros(len(dispatchers), np.uint64)
    np.bitwise_or.at(found, fleet, np.left_shift(np.uint64(1), hubs))
    return found
