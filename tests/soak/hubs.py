"""SIGKILLs of hubs and of the broker at random moments, and hubs that stand still, over proxies that cut and delay.

    python -m tests.soak hubs --hub-kills 50 --broker-kills 5 --stops 2 --drivers 200 --seed 1

Trips end and begin meanwhile, and passengers change hubs. Exits with 1 if an invariant was broken: an acknowledged fix is
missing or stored twice, an ack is not exact, the line on a passenger's map differs from the stored one, a passenger's numbering
has a gap, its server time fell, or it was shown something outside its trip.
"""

import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import click
from tqdm import tqdm

from tests.soak.turnover import Passenger, Turnover
from tests.support.clients import now_ms
from tests.support.devices import Device, DeviceClock, until
from tests.support.ledger import stored_line, wrongs
from tests.support.proxy import UP, ChaosProxy
from tests.support.several_hubs import SeveralHubs
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

EVERY = 1.0
"""Seconds between two fixes of a device."""
PATIENCE = 120.0
WHOLE_SECONDS = 20.0
"""For a passenger's line to be the stored one, at the end."""
DOWN = (0.0, 2.0)
"""The least and the most seconds for which a killed hub is down."""
BROKER_DOWN = (0.2, 8.0)
PING = 3.0
"""Seconds after which a device notices that its hub stands still, and goes to another one."""


class Hubs:
    """One run. `events` are "hub", "broker", "stop", "cut", "half_close" and "change", in the order of the faults."""

    def __init__(
        self,
        hubs: SeveralHubs,
        database_url: str,
        rng: random.Random,
        events: Sequence[str],
        *,
        stop: float = 10.0,
        broker_down: tuple[float, float] = BROKER_DOWN,
    ) -> None:
        """`stop` is how long a hub stands still, and `broker_down` the least and the most time without a broker, in seconds."""
        self.hubs = hubs
        self._database_url = database_url
        self._rng = rng
        self._events = events
        self._stop = stop
        self._broker_down_for = broker_down
        self.devices: list[Device] = []
        self.turnover: Turnover
        self._restarts: set[asyncio.Task[None]] = set()
        self._broker_down = False

    async def run(self, drivers: int, watched: int, turn_every: float) -> None:
        async with self.hubs.proxy(self._rng) as wire, self.hubs.proxy(self._rng) as passengers:
            self.turnover = Turnover(wire.url, passengers.url, self._rng)
            vehicles = await self.turnover.set_up(drivers, watched)
            wire.delay = passengers.delay = (0.0, 0.02)
            self.devices = self._made(wire.url, vehicles)
            async with contextlib.AsyncExitStack() as stack:
                for device in self.devices:
                    await stack.enter_async_context(device.running())
                driving = asyncio.create_task(self._drive())
                turning = asyncio.create_task(self.turnover.run(turn_every))
                try:
                    await self._strike_all(wire, passengers, (driving, turning))
                    self.turnover.ending = True
                    await turning
                finally:
                    for task in (driving, turning):
                        task.cancel()
                    await asyncio.gather(driving, turning, return_exceptions=True)
                await self._settle()
            await self.turnover.leave()

    def _made(self, url: str, vehicles: Sequence[str]) -> list[Device]:
        """Their fix times are those of `_drive`, so that what they report is of the trip that is under way."""
        step, begin = int(EVERY * 1000), now_ms()
        return [
            Device(
                url,
                vehicle_id,
                self._rng,
                late=0.05,
                bad=0.02,
                ping=PING,
                clock=DeviceClock(step, begin + step * number // len(vehicles) - step),
            )
            for number, vehicle_id in enumerate(vehicles)
        ]

    async def _strike_all(self, wire: ChaosProxy, passengers: ChaosProxy, running: Sequence[asyncio.Task[None]]) -> None:
        for event in tqdm(self._events, desc="faults", unit=" faults", mininterval=5.0):
            await self._let_flow()
            await self._strike(event, wire, passengers)
            for task in running:
                if task.done():
                    await task  # raises
        await self._let_flow()
        await self._all_back()

    async def _drive(self) -> None:
        """Each device reports every `EVERY` seconds. All are spread evenly."""
        begin, count = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begin) / EVERY * len(self.devices))
            for number in range(count, due):
                self.devices[number % len(self.devices)].report()
            count = due
            await asyncio.sleep(0.02)

    def acknowledged(self) -> int:
        return sum(device.acknowledged for device in self.devices)

    async def _let_flow(self) -> None:
        """Report a random number of fixes, so that the next fault hits any moment."""
        wanted = self.acknowledged() + self._rng.randint(1, len(self.devices))
        await until(lambda: self.acknowledged() >= wanted, f"{wanted} fixes acknowledged", PATIENCE)

    async def _strike(self, event: str, wire: ChaosProxy, passengers: ChaosProxy) -> None:
        match event:
            case "hub":
                number = await self._victim()
                await self.hubs.kill(number)
                self._later(self._rng.uniform(*DOWN), self.hubs.start(number))
            case "broker":
                await until(lambda: not self._broker_down, "the broker is back", PATIENCE)
                self._broker_down = True
                await self.hubs.kill_broker()
                self._later(self._rng.uniform(*self._broker_down_for), self._start_broker())
            case "stop":
                number = await self._victim()
                self.hubs.pause(number)
                await asyncio.sleep(self._stop)
                self.hubs.resume(number)
            case "cut":
                wire.cut(0.3, reset=self._rng.random() < 0.5)
            case "half_close":
                wire.half_close(UP, 0.3)
            case "change":
                passengers.cut(0.5)

    async def _victim(self) -> int:
        """A hub that lives, and is not the last one."""
        everyone = range(len(self.hubs.hubs))
        if len(everyone) > 1:
            await until(lambda: len(self.hubs.dead) < len(everyone) - 1, "hubs are back", PATIENCE)
        else:
            await until(lambda: not self.hubs.dead, "the hub is back", PATIENCE)
        return self._rng.choice([number for number in everyone if number not in self.hubs.dead])

    async def _start_broker(self) -> None:
        await self.hubs.start_broker()
        self._broker_down = False

    def _later(self, seconds: float, work: Coroutine[None, None, None]) -> None:
        async def do() -> None:
            await asyncio.sleep(seconds)
            await work

        self._restarts.add(asyncio.create_task(do()))

    async def _all_back(self) -> None:
        for task in self._restarts:
            await task
        await self.hubs.joined(PATIENCE)

    async def _settle(self) -> None:
        for device in self.devices:
            device.release()
        for device in self.devices:
            await device.drained(PATIENCE)
        for passenger in self.turnover.passengers.values():
            with contextlib.suppress(AssertionError):  # `broken` reports it
                await until(lambda p=passenger: self._shows(p), "the line is the stored one", WHOLE_SECONDS)  # type: ignore[misc]

    async def _shows(self, passenger: Passenger) -> bool:
        return passenger.watcher.line.points == await stored_line(self._database_url, passenger.trip_id)

    async def broken(self) -> list[str]:
        """A sentence for every broken invariant."""
        found = await wrongs(self._database_url, [device.account for device in self.devices])
        found += await self.turnover.broken(self._database_url)
        for passenger in self.turnover.passengers.values():
            stored = await stored_line(self._database_url, passenger.trip_id)
            shown = passenger.watcher.line.points
            if shown != stored:
                missing, more = sorted(set(stored) - set(shown)), sorted(set(shown) - set(stored))
                found.append(
                    f"{passenger.trip_id}: of {len(stored)} stored points {len(missing)} are not on the passenger's map, and"
                    f" {len(more)} are that are not stored; missing {missing[:3]}, too many {more[:3]}"
                )
        return found + self.hubs.tracebacks()


@dataclass(frozen=True)
class Options:
    """Of a run. Counts of faults, and of who takes part."""

    hubs: int
    hub_kills: int
    broker_kills: int
    stops: int
    cuts: int
    drivers: int
    watched: int
    turn_every: float
    seed: int

    def events(self, rng: random.Random) -> list[str]:
        counts = {
            "hub": self.hub_kills,
            "broker": self.broker_kills if self.hubs > 1 else 0,
            "stop": self.stops,
            "cut": self.cuts,
            "half_close": self.cuts,
            "change": self.cuts,
        }
        events = [event for event, count in counts.items() for _ in range(count)]
        rng.shuffle(events)
        return events


async def soak(cluster: Cluster, directory: Path, options: Options) -> list[str]:
    cluster.create_database("soak")
    url = cluster.url("soak")
    await migrate(url)
    began = time.monotonic()
    rng = random.Random(options.seed)
    async with SeveralHubs(url, directory, options.hubs).running() as hubs:
        run = Hubs(hubs, url, rng, options.events(rng))
        await run.run(options.drivers, min(options.watched, options.drivers), options.turn_every)
        broken = await run.broken()
    connection = await asyncpg.connect(url)
    try:
        stored = await connection.fetchval("SELECT count(*) FROM positions")
    finally:
        await connection.close()
    click.echo(_told(run, time.monotonic() - began, stored))
    return broken


def _told(run: Hubs, seconds: float, stored: int) -> str:
    sent = sum(len(device.account.sent) for device in run.devices)
    resent = sum(device.client.fixes_sent for device in run.devices) - sent
    over = run.turnover.over
    passengers = [*run.turnover.passengers.values(), *(ended.passenger for ended in over)]
    watchers = [passenger.watcher for passenger in passengers]
    late = sorted(seconds for passenger in passengers for seconds in passenger.late)
    told = sorted(ended.told_after for ended in over if ended.told_after is not None)
    return (
        f"{len(run._events)} faults in {seconds:.0f} s on {len(run.hubs.hubs)} hubs under {len(run.devices)} drivers,"
        f" {len(run.turnover.passengers)} of them watched\n"
        f"fixes reported {sent}, sent again {resent}, acknowledged {run.acknowledged()}, stored {stored},"
        f" rejected {sum(len(device.rejected) for device in run.devices)}\n"
        f"connections of devices {sum(device.client.connections for device in run.devices)}; passengers:"
        f" {sum(w.snapshots for w in watchers)} snapshots, {sum(w.additions for w in watchers)} of them only added,"
        f" {sum(w.resumed for w in watchers)} resumed, {sum(w.revisions for w in watchers)} revisions\n"
        f"live positions shown {len(late)}, after their fix time {_spread(late)}\n"
        f"trips ended {len(over)}, their passengers closed after {_spread(told)}"
    )


def _spread(took: list[float]) -> str:
    """Of sorted seconds."""
    if not took:
        return "-"
    return f"median {statistics.median(took):.2f} s, p99 {took[len(took) * 99 // 100]:.2f} s, most {took[-1]:.2f} s"


@click.command()
@click.option("--hubs", "count", default=3, show_default=True, type=click.IntRange(1), help="Hubs on one database.")
@click.option("--hub-kills", default=50, show_default=True, type=click.IntRange(0), help="SIGKILLs of hubs.")
@click.option("--broker-kills", default=5, show_default=True, type=click.IntRange(0), help="SIGKILLs of the broker.")
@click.option("--stops", default=2, show_default=True, type=click.IntRange(0), help="SIGSTOPs of a hub for 10 s.")
@click.option(
    "--cuts",
    default=15,
    show_default=True,
    type=click.IntRange(0),
    help="Cuts, as many half-closes, and as many times that half of the passengers change hubs.",
)
@click.option("--drivers", default=200, show_default=True, type=click.IntRange(1), help="Devices, each with a fix a second.")
@click.option("--watched", default=30, show_default=True, type=click.IntRange(1), help="How many of them have a passenger.")
@click.option("--turns", default=4.0, show_default=True, type=click.FloatRange(0.1), help="Seconds between ends of trips.")
@click.option("--seed", default=1, show_default=True, help="Decides the order of the faults, and their moments.")
def hubs(
    count: int,
    hub_kills: int,
    broker_kills: int,
    stops: int,
    cuts: int,
    drivers: int,
    watched: int,
    turns: float,
    seed: int,
) -> None:
    """Kill hubs and the broker at random moments, and compare what was sent and shown with PostGIS."""
    options = Options(count, hub_kills, broker_kills, stops, cuts, drivers, watched, turns, seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        Path(temporary).chmod(0o711)  # if root runs this, PostgreSQL's own user must pass
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            broken = asyncio.run(soak(cluster, Path(temporary), options))
        finally:
            cluster.remove()
    click.echo("nothing lost, nothing twice, every line whole" if not broken else f"BROKEN, {len(broken)} times:")
    for line in broken[:40]:
        click.echo(f"  {line}")
    sys.exit(1 if broken else 0)
