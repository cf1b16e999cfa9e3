"""Events of real drives over several hubs: the same as on one hub, each told once."""

import asyncio
import random
from collections import Counter

import pytest

from tests.support.clients import Api
from tests.support.hubs_in_process import Hubs, hubs
from tests.support.random_ways import Geometry
from tests.support.real_drives import DATA, FILES, Fleet, Told, Trace, Way, difference, fences_about, traces
from tracking.demo.postgres import Cluster

needs_data = pytest.mark.skipif(
    not all((DATA / name).exists() for name in FILES), reason="the shared data (../shared/data) is not here"
)


async def _flushed(made: Hubs) -> None:
    for world in made:
        await world.service.recorder.flush()
    for world in made:
        await world.service.monitor.flush()


async def _driven(
    database_url: str, count: int, fleet: Fleet, rng: random.Random, *, broker: bool = True
) -> tuple[Counter[Told], int]:
    """The events of the fleet's drives over so many hubs, and how often vehicles changed hubs."""
    async with hubs(database_url, count) as made:
        if not broker:
            made.exchange.cut()
        async with Api(made[0].url) as api:
            await fleet.make(api)
        way = Way(lambda: rng.choice(made).url, rng, changing=count > 1)
        await way.drive(fleet)
        await _flushed(made)
        assert await fleet.stored(database_url) == fleet.reported()
        return await fleet.told(database_url), way.changes


def _fleet(rng: random.Random, count: int, most: int) -> tuple[list[Trace], dict[str, Geometry]]:
    drives = traces(count, most, rng)
    return drives, fences_about(drives, 24, rng)


@needs_data
async def test_events_of_real_drives_over_three_hubs_are_those_of_one(
    database_url: str, cluster: Cluster, template: str
) -> None:
    """Each home hands over what it knows."""
    drives, fences = _fleet(random.Random(20261128), 12, 150)
    cluster.create_database("alone", template)
    try:
        async with asyncio.TaskGroup() as both:
            alone = both.create_task(_driven(cluster.url("alone"), 1, Fleet(drives, fences), random.Random(1)))
            together = both.create_task(_driven(database_url, 3, Fleet(drives, fences), random.Random(2)))
    finally:
        cluster.drop_database("alone")
    expected, _ = alone.result()
    told, changes = together.result()
    print(f"{sum(len(drive.fixes) for drive in drives)} fixes, {changes} changes of hub, {expected.total()} events")
    assert difference(told, expected) == []
    assert {"enter", "exit", "dwell", "speeding", "idle"} <= {kind for kind, *_ in expected}
    assert changes > 50


@needs_data
async def test_a_home_that_is_not_told_anything_judges_the_last_moves_again(database_url: str) -> None:
    """The broker is away, so each new home knows only what is stored. The former one finds out when it stores something."""
    fleet = Fleet(*_fleet(random.Random(1), 10, 120))
    told, changes = await _driven(database_url, 3, fleet, random.Random(2), broker=False)
    expected = await fleet.of_stored(database_url)
    print(f"{changes} changes of hub, {expected.total()} events")
    assert difference(told, expected) == []
    assert changes > 50
