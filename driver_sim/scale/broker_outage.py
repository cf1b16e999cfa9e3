"""The broker is away. Readers whose driver is on another hub are fed from the store, and later asked about what they missed."""

from dataclasses import dataclass

import numpy as np

from driver_sim.scale.assumptions import Assumptions
from driver_sim.scale.population import Arrangement, Array, Population

SAMPLE = 200_000


@dataclass(frozen=True)
class Outage:
    fed_trips: int
    """of one hub: watched trips whose driver is elsewhere"""
    database_share: float
    """of one core of the busiest database, for these questions"""
    hub_share: float
    """of a hub's core, for reading the answers"""
    every: float
    """seconds between two questions: more than intended if one takes longer"""
    late: Array
    """seconds from a fix to the passenger, sampled"""
    questions: int
    """of all hubs, about what was missed, when the broker is back"""
    answer_mb: float
    """of one hub: positions of the last minute that peers send it"""
    lines: float
    """seconds until one hub has sent the line again to each of its passengers"""


def broker_outage(
    assumed: Assumptions, arrangement: Arrangement, population: Population, free: float, random: np.random.Generator
) -> Outage:
    """`free` is the share of a hub's core that is left."""
    hubs = arrangement.hubs
    elsewhere = population.hub_of[population.watched] != population.watcher_hub
    fed = round(float(np.count_nonzero(elsewhere)) / hubs)
    database = population.database_of[population.fleet_of[population.watched[elsewhere]]]
    asked = np.bincount(database, minlength=arrangement.databases).max()
    question = asked / 4_000 * assumed.store_4000_ms / 1000
    reading = fed / 4_000 * assumed.store_read_4000_ms / 1000
    every = max(assumed.store_every, question, reading / max(free, 1e-3))
    sample = min(SAMPLE, max(fed * hubs, 1))
    commit = random.random(sample) * assumed.commit_interval + 0.05
    late = commit + random.random(sample) * every + min(reading / max(free, 1e-3), every)
    passengers = len(population.watched) / hubs
    minute = fed * 60 / assumed.watched_interval
    return Outage(
        fed_trips=fed,
        database_share=question / every,
        hub_share=reading / every,
        every=every,
        late=late,
        questions=int(np.ceil(fed / assumed.asked_trips)) * (hubs - 1) * hubs,
        answer_mb=minute * assumed.position_bytes / 1e6,
        lines=passengers * assumed.passenger_connect_ms / 1000 / max(free, 1e-3),
    )
