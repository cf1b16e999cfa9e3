"""The hub is killed between COMMIT and notification, or at any other moment of a mixed load of changes."""

import asyncio
import random
from pathlib import Path

from tests.faults.changing import UNBOUND, Load
from tests.faults.conftest import Mortal
from tests.support.hub_process import HubProcess

KILLS = 8
"""`python -m tests.soak changed-hubs` does it a hundred times."""


async def test_trust_57_a_hub_killed_at_any_moment_tells_after_its_restart_what_was_committed(
    database: Mortal, rng: random.Random, tmp_path: Path
) -> None:
    hub = HubProcess(database.url, tmp_path / "hub.log", None, **UNBOUND)
    hub.start()
    committed = 0
    try:
        async with Load(hub.url, database.url, rng) as load:
            await load.begin()
            for _ in range(KILLS):
                await load.meet()
                committed += await load.kill_under_load(hub)
                await asyncio.to_thread(hub.start)
            await load.meet()
    finally:
        await asyncio.to_thread(hub.kill)
    assert await load.wrongs() == []
    assert committed > KILLS, "no change was under way when the hub died"
    assert "Traceback" not in hub.log.read_text(errors="replace")
