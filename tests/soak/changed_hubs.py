"""SIGKILLs of the hub at random moments of a mixed load of changes. Each committed change must be told exactly once.

    python -m tests.soak changed-hubs --kills 100 --seed 1

Exits with 1 if a client was told something wrong, or if the change log misses or repeats a change.
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import click
from tqdm import tqdm

from tests.faults.changing import UNBOUND, Load
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate


async def soak(cluster: Cluster, directory: Path, rng: random.Random, kills: int) -> list[str]:
    cluster.create_database("soak")
    url = cluster.url("soak")
    await migrate(url)
    began = time.monotonic()
    hub = HubProcess(url, directory / "hub.log", None, **UNBOUND)
    await asyncio.to_thread(hub.start)
    unanswered = 0
    try:
        async with Load(hub.url, url, rng) as load:
            await load.begin()
            for _ in tqdm(range(kills), desc="kills", unit=" kills", mininterval=5.0):
                await load.meet()
                unanswered += await load.kill_under_load(hub)
                await asyncio.to_thread(hub.start)
            await load.meet()
    finally:
        await asyncio.to_thread(hub.kill)
    broken = await load.wrongs()
    log = hub.log.read_text(errors="replace")
    if "Traceback" in log:
        broken.append(f"the hub's log has a traceback:\n{log[log.index('Traceback') :][:2000]}")
    click.echo(
        f"{kills} kills in {time.monotonic() - began:.0f} s; changes answered {load.answered}, under way at a kill {unanswered}"
    )
    return broken


@click.command()
@click.option("--kills", default=100, show_default=True, type=click.IntRange(1), help="SIGKILLs of the hub.")
@click.option("--seed", default=1, show_default=True, help="Decides what changes, and the moments of the kills.")
def changed_hubs(kills: int, seed: int) -> None:
    """Kill the hub under a mixed load of changes, and compare what clients are told with PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        Path(temporary).chmod(0o711)  # if root runs this, PostgreSQL's own user must pass
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            broken = asyncio.run(soak(cluster, Path(temporary), random.Random(seed), kills))
        finally:
            cluster.remove()
    click.echo("all that was committed is told, once" if not broken else f"BROKEN, {len(broken)} times:")
    for line in broken[:40]:
        click.echo(f"  {line}")
    sys.exit(1 if broken else 0)
