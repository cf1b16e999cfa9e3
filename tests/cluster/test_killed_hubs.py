"""The soak of several hubs, small: hubs and the broker are killed, connections are cut, trips turn over.

Rows 44, 60 and 64. `make soak ARGS='hubs'` is the long one.
"""

import random
from pathlib import Path

from tests.soak.hubs import Hubs
from tests.support.several_hubs import SeveralHubs

EVENTS = ("hub", "change", "broker", "hub", "cut", "hub")


async def test_killed_hubs_and_a_killed_broker_lose_nothing(database_url: str, tmp_path: Path) -> None:
    rng = random.Random(20261128)
    async with SeveralHubs(database_url, tmp_path, 3).running() as hubs:
        run = Hubs(hubs, database_url, rng, EVENTS, broker_down=(0.2, 3.5))
        await run.run(12, 4, turn_every=1.0)
        broken = await run.broken()
    assert broken == []
    assert run.acknowledged() > 0
    assert len(run.turnover.over) >= 2, "too few trips have ended to say anything"
