"""SIGKILLs of the hub and of PostgreSQL at random moments, over a proxy that cuts, delays and half-closes.

    python -m tests.soak kills --hub-kills 100 --database-kills 10 --drivers 200 --seed 1

Exits with 1 if an invariant was broken: an acknowledged fix is missing or stored twice, a passenger's numbering has a gap, or
the line on a passenger's map differs from the stored one.
"""

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from tests.faults.conftest import Mortal, on_the_road, ready, restart, watching
from tests.support.clients import Api
from tests.support.devices import Device, until
from tests.support.hub_process import HubProcess
from tests.support.ledger import stored_line, wrongs
from tests.support.proxy import UP, ChaosProxy
from tests.support.watcher import Watcher
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

EVERY = 1.0
"""Seconds between two fixes of a device."""
PATIENCE = 120.0


class Kills:
    """One run. `events` are "hub", "database", "stall", "cut" and "half_close", in the order of the faults."""

    def __init__(self, database: Mortal, hub: HubProcess, rng: random.Random, events: list[str], stall: float) -> None:
        self._database = database
        self._hub = hub
        self._rng = rng
        self._events = events
        self._stall = stall
        self.devices: list[Device] = []
        self.watchers: dict[str, Watcher] = {}
        self.recovered: dict[str, list[float]] = {"hub": [], "database": [], "stall": []}
        """Seconds from a fault to the next acknowledgement, by fault."""
        self.reconnected: list[float] = []
        """Seconds from a hub's restart until every device is connected again."""

    async def run(self, drivers: int, watched: int) -> None:
        places = await on_the_road(self._hub, drivers)
        async with contextlib.AsyncExitStack() as stack:
            wire = await stack.enter_async_context(ChaosProxy(("127.0.0.1", self._hub.port), rng=self._rng))
            wire.delay = (0.0, 0.02)
            self.devices = [Device(wire.url, vehicle_id, self._rng, late=0.05, bad=0.02) for vehicle_id, _ in places]
            self.watchers = {trip_id: Watcher(wire.url, trip_id) for _, trip_id in places[:watched]}
            await stack.enter_async_context(watching(*self.watchers.values()))
            for device in self.devices:
                await stack.enter_async_context(device.running())
            driving = asyncio.create_task(self._drive())
            try:
                for event in tqdm(self._events, desc="faults", unit=" faults", mininterval=5.0):
                    await self._let_flow()
                    await self._strike(event, wire)
                await self._let_flow()
            finally:
                driving.cancel()
                await asyncio.gather(driving, return_exceptions=True)
            for device in self.devices:
                device.release()
            for device in self.devices:
                await device.drained(PATIENCE)
            for trip_id, watcher in self.watchers.items():
                with contextlib.suppress(AssertionError):  # `broken` reports it
                    await until(lambda w=watcher, t=trip_id: self._shows(w, t), "the line is the stored one", 10)  # type: ignore[misc]

    async def _drive(self) -> None:
        """Each device reports every `EVERY` seconds. All are spread evenly."""
        begin, count = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begin) / EVERY * len(self.devices))
            for number in range(count, due):
                self.devices[number % len(self.devices)].report()
            count = due
            await asyncio.sleep(0.02)

    def _acknowledged(self) -> int:
        return sum(device.acknowledged for device in self.devices)

    async def _let_flow(self) -> None:
        """Report a random number of fixes, so that the next fault hits any moment of a commit."""
        wanted = self._acknowledged() + self._rng.randint(1, len(self.devices))
        await until(lambda: self._acknowledged() >= wanted, f"{wanted} fixes acknowledged", PATIENCE)

    async def _strike(self, event: str, wire: ChaosProxy) -> None:
        began = time.monotonic()
        match event:
            case "hub":
                await restart(self._hub)
                started = time.monotonic()
                await until(lambda: all(d.client.connected.is_set() for d in self.devices), "all are back", PATIENCE)
                self.reconnected.append(time.monotonic() - started)
            case "database":
                await self._database.kill()
                await self._database.start()
                await until(lambda: ready(self._hub), "the hub is ready again", PATIENCE)
            case "stall":
                with self._database.stalled():
                    await asyncio.sleep(self._stall)
            case "cut":
                wire.cut(0.3, reset=self._rng.random() < 0.5)
                return
            case "half_close":
                wire.half_close(UP, 0.3)
                return
        acknowledged = self._acknowledged()
        await until(lambda: self._acknowledged() > acknowledged, "something is acknowledged again", PATIENCE)
        self.recovered[event].append(time.monotonic() - began)

    async def _shows(self, watcher: Watcher, trip_id: str) -> bool:
        return watcher.line.points == await stored_line(self._database.url, trip_id)

    async def broken(self) -> list[str]:
        found = await wrongs(self._database.url, [device.account for device in self.devices])
        for trip_id, watcher in self.watchers.items():
            found += [f"{trip_id}: {line}" for line in watcher.breaks]
            if not await self._shows(watcher, trip_id):
                found.append(f"{trip_id}: the line on the passenger's map is not the stored one")
        return found


async def soak(
    cluster: Cluster, directory: Path, rng: random.Random, events: list[str], drivers: int, watched: int, stall: float
) -> list[str]:
    cluster.create_database("soak")
    database = Mortal(cluster, "soak")
    await migrate(database.url)
    hub = await asyncio.to_thread(HubProcess(database.url, directory / "hub.log", database_timeout="5").start)
    run = Kills(database, hub, rng, events, stall)
    began = time.monotonic()
    try:
        await run.run(drivers, watched)
        broken = await run.broken()
        async with Api(hub.url) as api:
            stored = await database.fetchval("SELECT count(*) FROM positions")
            await api.call("GET", f"/trips/{next(iter(run.watchers))}")
    finally:
        await asyncio.to_thread(hub.kill)
    log = hub.log.read_text(errors="replace")
    if "Traceback" in log:
        broken.append(f"the hub's log has a traceback:\n{log[log.index('Traceback') :][:2000]}")
    sent = sum(len(device.account.sent) for device in run.devices)
    resent = sum(device.client.fixes_sent for device in run.devices) - sent
    watchers = run.watchers.values()
    click.echo(
        f"{len(events)} faults in {time.monotonic() - began:.0f} s under {drivers} drivers, {watched} of them watched\n"
        f"fixes reported {sent}, sent again {resent}, acknowledged {run._acknowledged()}, stored {stored},"
        f" rejected {sum(len(device.rejected) for device in run.devices)}\n"
        f"connections of devices {sum(device.client.connections for device in run.devices)};"
        f" passengers: {sum(w.snapshots for w in watchers)} snapshots, {sum(w.resumed for w in watchers)} resumed\n"
        + "\n".join(
            f"from {event} to the next ack: {_spread(took)} s ({len(took)} times)"
            for event, took in run.recovered.items()
            if took
        )
        + (f"\nfrom the hub's restart until all devices are back: {_spread(run.reconnected)} s" if run.reconnected else "")
    )
    return broken


def _spread(took: list[float]) -> str:
    return f"median {statistics.median(took):.2f}, most {max(took):.2f}"


@click.command()
@click.option("--hub-kills", default=100, show_default=True, type=click.IntRange(0), help="SIGKILLs of the hub.")
@click.option("--database-kills", default=10, show_default=True, type=click.IntRange(0), help="SIGKILLs of PostgreSQL.")
@click.option(
    "--cuts", default=20, show_default=True, type=click.IntRange(0), help="Cuts, and as many half-closes, of some connections."
)
@click.option(
    "--stall", default=30.0, show_default=True, type=click.FloatRange(0), help="Seconds for which PostgreSQL is stopped once."
)
@click.option("--drivers", default=200, show_default=True, type=click.IntRange(1), help="Devices, each with a fix a second.")
@click.option("--watched", default=20, show_default=True, type=click.IntRange(1), help="How many of them have a passenger.")
@click.option("--seed", default=1, show_default=True, help="Decides the order of the faults, and their moments.")
def kills(hub_kills: int, database_kills: int, cuts: int, stall: float, drivers: int, watched: int, seed: int) -> None:
    """Kill the hub and PostgreSQL at random moments, and compare what was sent with PostGIS."""
    rng = random.Random(seed)
    events = [*["hub"] * hub_kills, *["database"] * database_kills, *["cut"] * cuts, *["half_close"] * cuts]
    rng.shuffle(events)
    if stall:
        events.insert(len(events) // 2, "stall")
    click.echo(f"seed {seed}: {len(events)} faults")
    broken: list[Any]
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        Path(temporary).chmod(0o711)  # if root runs this, PostgreSQL's own user must pass
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            broken = asyncio.run(soak(cluster, Path(temporary), rng, events, drivers, min(watched, drivers), stall))
        finally:
            cluster.remove()
    click.echo("nothing acknowledged missing, nothing twice" if not broken else f"BROKEN, {len(broken)} times:")
    for line in broken[:40]:
        click.echo(f"  {line}")
    sys.exit(1 if broken else 0)
