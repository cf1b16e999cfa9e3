"""All hubs are replaced by turns. Each one's clients go to the others, which may be replaced later."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from driver_sim.scale.assumptions import Assumptions
from driver_sim.scale.population import Array

SETTLE_SECONDS = 5.0
"""Between a hub's start and the next one's drain: the load balancer must find it ready."""
STEP = 1.0

Balancer = Callable[[Array], Array]
"""Connections of each hub that takes new ones -> the share that the next clients give to each."""


@dataclass(frozen=True)
class Rolled:
    seconds: float
    moves: float
    """of one client, on average"""
    fullest: float
    """connections of the fullest hub at any time, as a multiple of the mean"""
    arrivals: float
    """most clients that came to one hub in a second"""
    even_after: float
    """seconds after the last start until no hub has more than `shed_above` times the mean; infinity if never within an hour"""


def by_turns(connections: Array) -> Array:
    """Round robin."""
    return np.full(len(connections), 1 / len(connections))


def of_two_the_emptier(connections: Array) -> Array:
    """nginx's `random two least_conn`."""
    count = len(connections)
    rank = np.empty(count)
    rank[np.argsort(connections, kind="stable")] = np.arange(count)
    if count == 1:
        return np.ones(1)
    return 2 * (count - 1 - rank) / (count * (count - 1))


def the_emptiest(connections: Array) -> Array:
    """nginx's `least_conn`: all go to the emptiest hub, until it is as full as the next."""
    share = np.zeros(len(connections))
    share[np.argmin(connections)] = 1.0
    return share


BALANCERS: dict[str, Balancer] = {
    "round robin": by_turns,
    "the emptier of two at random": of_two_the_emptier,
    "least connections": the_emptiest,
}


class _Shedding:
    """Which hubs send clients away: those above `shed_above` times the mean, until half of that too much is left."""

    def __init__(self, assumed: Assumptions, hubs: int, enabled: bool) -> None:
        self._assumed = assumed
        self._enabled = enabled
        self._active = np.zeros(hubs, bool)
        self._quiet = 0.0
        """seconds since the hubs changed"""

    def changed(self) -> None:
        self._quiet = 0.0
        self._active[:] = False

    def step(self, load: Array, takes: Array) -> Array:
        """Connections that each hub closes in this step."""
        self._quiet += STEP
        if not self._enabled or self._quiet <= self._assumed.shed_settle:
            return np.zeros(len(load))
        mean, above = load[takes].mean(), self._assumed.shed_above
        self._active = takes & ((load > above * mean) | (self._active & (load > (1 + above) / 2 * mean)))
        return np.where(self._active, load * self._assumed.shed_share * STEP, 0)


def roll(assumed: Assumptions, hubs: int, clients: int, balancer: Balancer, *, sheds: bool = True) -> Rolled:
    load = np.full(hubs, clients / hubs)
    mean = clients / hubs
    shedding = _Shedding(assumed, hubs, sheds)
    fullest, most, moved, seconds = 1.0, 0.0, 0.0, 0.0
    for hub in range(hubs):
        leaving = load[hub] / assumed.drain_seconds * STEP
        shedding.changed()
        for _ in range(round(assumed.drain_seconds / STEP)):
            away = np.zeros(hubs)
            away[hub] = min(leaving, load[hub])
            came = _move(load, away, balancer, shedding, closed=hub)
            moved, most, fullest = moved + came.sum(), max(most, came.max()), max(fullest, load.max() / mean)
            seconds += STEP
        shedding.changed()
        for _ in range(round(SETTLE_SECONDS / STEP)):
            came = _move(load, np.zeros(hubs), balancer, shedding, closed=None)
            moved, most = moved + came.sum(), max(most, came.max())
            seconds += STEP
        seconds += assumed.start_seconds
    after = 0.0
    while sheds and load.max() > assumed.shed_above * mean * 1.01 and after < 3_600:
        _move(load, np.zeros(hubs), balancer, shedding, closed=None)
        after += STEP
    if load.max() > assumed.shed_above * mean * 1.01:
        after = float("inf")
    return Rolled(seconds, float(moved / clients), float(fullest), float(most / STEP), after)


def _move(load: Array, away: Array, balancer: Balancer, shedding: _Shedding, *, closed: int | None) -> Array:
    """One step: `away` of each hub and what it sheds go to the others. Returns what came to each; changes `load`."""
    takes = np.ones(len(load), bool)
    if closed is not None:
        takes[closed] = False
    away = away + shedding.step(load, takes)
    load -= away
    came = np.zeros(len(load))
    # In parts, so that the balancer sees what it has done.
    parts = 20 if away.sum() else 0
    for _ in range(parts):
        part = away.sum() / parts * balancer(load[takes])
        load[takes] += part
        came[takes] += part
    return came
