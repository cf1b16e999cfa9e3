"""Runs random sequences, one after the other, until one shows a fault."""

import logging
from collections.abc import AsyncGenerator, Iterable
from typing import NamedTuple

from tests.changes.actions import live
from tests.changes.judge import judge
from tests.changes.mutations import Mutation
from tests.changes.station import Station
from tests.changes.world import World

STEPS = 40
"""Actions in a sequence, about."""
PER_STATION = 50
"""Sequences on the same hubs, one after the other, unless one kills them."""


class Outcome(NamedTuple):
    """The result of one sequence: what is wrong, and what was done."""

    seed: str
    wrongs: list[str]
    done: list[str]

    def __str__(self) -> str:
        return "\n".join([f"sequence {self.seed}:", *(f"  {wrong}" for wrong in self.wrongs), *self.done])


async def fuzz(
    url: str, seeds: Iterable[str], *, steps: int = STEPS, mutation: Mutation | None = None
) -> AsyncGenerator[Outcome, None]:
    """Runs the sequences on the hubs of one station, which the first seed sets up. It needs a database of its own."""
    seeds = list(seeds)
    # What is cut off, and whose answers are lost, is warned of.
    logging.getLogger("tracking").setLevel(logging.CRITICAL)
    try:
        async with Station(url, seeds[0], mutation=mutation) as station:
            for seed in seeds:
                yield await sequence(station, seed, steps)
    finally:
        logging.getLogger("tracking").setLevel(logging.NOTSET)


async def sequence(station: Station, seed: str, steps: int) -> Outcome:
    async with World(station, seed) as world:
        try:
            await live(world, steps)
            await world.come_to_rest()
        except TimeoutError:
            behind = [f"{hub} ({hub.service.follower.applied})" for hub in world.hubs if await world.behind(hub)]
            waiting = [f"{hub} is asked for {len(hub.requests)} changes" for hub in world.hubs if hub.requests]
            return Outcome(seed, ["it does not come to rest", f"behind: {behind}", *waiting], world.done)
        return Outcome(seed, await judge(world), world.done)
