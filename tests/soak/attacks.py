"""Run every attack, one after the other, and measure honest clients beside it.

    python -m tests.soak attacks --seconds 20 --only flood

Exits with 1 if an honest client was closed or waited too long, or if the hub kept too much memory.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from tests.attacks import exports, rows
from tests.attacks.drivers import flood
from tests.attacks.looks import looks, reconnects
from tests.attacks.messages import messages
from tests.attacks.nothing import nothing
from tests.attacks.scene import Attack, stage
from tests.attacks.searches import searches
from tests.attacks.shapes import fences, routes
from tests.attacks.snapshots import revisions, snapshots
from tests.attacks.stock import MANY_VEHICLES, stock_trip, stock_vehicles
from tests.attacks.strangers import idling, pipelining, without_end
from tests.attacks.unknown_keys import unknown_keys
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

ATTACKS: dict[str, Attack] = {
    "nothing": nothing,
    "pipelining": pipelining,
    "without-end": without_end,
    "idling": idling,
    "unknown-keys": unknown_keys,
    **{f"flood-{n}": flood(n) for n in (1, 4, 16)},
    "messages": messages,
    "looks": looks,
    "looks-at-clusters": looks,
    "reconnects": reconnects,
    "snapshots": snapshots,
    "revisions": revisions,
    "searches": searches,
    "fences": fences,
    "routes": routes,
    "shares": rows.shares,
    "sessions": rows.sessions,
    "trips": rows.trips,
    "dawdlers": exports.dawdlers,
    "days": exports.days,
    "outlived": exports.outlived,
}
STOCKS: dict[str, Callable[[str], Awaitable[None]]] = {
    "looks": stock_vehicles,
    "looks-at-clusters": lambda url: stock_vehicles(url, 5_000),
    "reconnects": stock_vehicles,
    "snapshots": stock_trip,
    "revisions": stock_trip,
    "searches": lambda url: stock_vehicles(url, MANY_VEHICLES),
    "fences": stock_vehicles,
    "routes": stock_vehicles,
}
"""What is written into the database before the hub starts."""


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="How long each attack lasts.")
@click.option("--only", "names", multiple=True, type=click.Choice(list(ATTACKS)), help="Only this attack. May be repeated.")
def attacks(seconds: float, names: tuple[str, ...]) -> None:
    """Attack a hub in every known way, and measure honest clients meanwhile."""
    failed = asyncio.run(_run(seconds, names or tuple(ATTACKS)))
    sys.exit(1 if failed else 0)


async def _run(seconds: float, names: tuple[str, ...]) -> int:
    """Returns how many attacks had an effect."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o711)  # if root runs this, PostgreSQL's own user must pass
        cluster = Cluster(place / "pg", die_with_parent=True)
        cluster.start()
        try:
            for name in names:
                database = f"attack_{name}"
                cluster.create_database(database)
                await migrate(cluster.url(database))
                if name in STOCKS:
                    await STOCKS[name](cluster.url(database))
                # Each attack has its own hub, so that it does not inherit the state of the one before.
                hub = HubProcess(cluster.url(database), place / f"{name}.log").start()
                try:
                    outcome = await stage(hub, ATTACKS[name], seconds)
                    outcome.check()
                except AssertionError as error:
                    failed += 1
                    click.echo(f"FAILED {name}: {error}")
                else:
                    click.echo(f"held   {name}: {outcome}")
                finally:
                    hub.kill()
        finally:
            cluster.remove()
    return failed
