"""Play the messy stream to a real hub over real sockets in real time, with a passenger for each vehicle.

    python -m tests.soak messy --minutes 15 --seed 1 --json soak.json

Starts its own database and hub, and removes them at the end. Exits with 1 if an invariant was broken: an acknowledged fix is
missing or stored twice, a passenger's numbering has a gap, or the line on a passenger's map differs from the stored one.
"""

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import websockets
from tqdm import tqdm

from tests.soak.legs import Due, Leg, batches, fix_key, plan
from tests.soak.messy_report import judge
from tests.support.clients import Api, Driver, Message, now_ms
from tests.support.hub_process import HubProcess
from tests.support.ledger import Account, stored_line
from tests.support.messy import DATA, read_stream
from tests.support.watcher import Point, Watcher
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

EARLY = 2.0
"""Seconds that a passenger watches before the first fix."""
LINGER = 5.0
"""Seconds that a device stays connected after its last fix."""
PATIENCE = 30.0
"""Seconds to wait for the last acks, and for the passenger's line to equal the stored one."""


class Soak:
    """One run of `legs` against the hub at `url`. `watched` names the legs that have a passenger."""

    def __init__(self, url: str, database_url: str, legs: list[Leg], watched: set[str]) -> None:
        self._url = url
        self._database_url = database_url
        self._legs = legs
        self._watched = watched
        self._begin = 0.0
        self._begin_ms = 0
        self._asking = asyncio.Semaphore(4)

    async def run(self, api: Api) -> None:
        fleet_id = await api.fleet()
        for leg in tqdm(self._legs, desc="trips", unit=" trips", mininterval=5.0):
            leg.vehicle_id = await api.vehicle(fleet_id)
            trip = await api.trip(fleet_id, leg.vehicle_id)
            leg.trip_id = trip["trip_id"]
            await api.advance(leg.trip_id, "enroute_to_pickup")
        # Every trip gets under way before the time of its first fix, even if that fix arrives late.
        earliest = min(d.fix_time for leg in self._legs for d in leg.dues if d.arrival.truth.fault != "bad_clock")
        lead = max(5.0, 1.0 - earliest / 1000)
        self._begin = time.monotonic() + lead
        self._begin_ms = now_ms() + int(lead * 1000)
        total = sum(len(leg.dues) for leg in self._legs)
        with tqdm(total=total, desc="messages", unit=" messages", mininterval=5.0) as bar:
            async with asyncio.TaskGroup() as tasks:
                for leg in self._legs:
                    tasks.create_task(self._play(leg, bar))

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._begin + at - time.monotonic()))

    async def _play(self, leg: Leg, bar: "tqdm[Any]") -> None:
        await self._until(leg.dues[0].at - EARLY)
        async with self._watching(leg):
            await self._until(leg.dues[0].at)
            try:
                async with Driver(self._url, leg.vehicle_id) as driver:
                    leg.account = Account(leg.vehicle_id, driver.session)
                    reading = asyncio.create_task(self._read(leg, driver))
                    try:
                        await self._drive(leg, driver, bar)
                        await _true(lambda: leg.account.acknowledged >= max(leg.account.sent), PATIENCE)
                        await asyncio.sleep(LINGER)
                    finally:
                        reading.cancel()
                        await asyncio.gather(reading, return_exceptions=True)
            except (OSError, TimeoutError, websockets.WebSocketException) as error:
                leg.errors.append(f"the connection was lost: {error or type(error).__name__}")
            await self._compare(leg)

    @contextlib.asynccontextmanager
    async def _watching(self, leg: Leg) -> AsyncIterator[None]:
        if leg.name not in self._watched:
            yield
            return
        leg.watcher = Watcher(self._url, leg.trip_id, on_position=lambda message, came: leg.shown.append((message, came)))
        watching = asyncio.create_task(leg.watcher.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _drive(self, leg: Leg, driver: Driver, bar: "tqdm[Any]") -> None:
        for group in batches(leg.dues):
            await self._until(group[0].at)
            now = time.monotonic()
            for due in group:
                seq = due.arrival.seq
                leg.account.sent.add(seq)
                leg.first.setdefault(seq, due)
                leg.sent_at.setdefault(seq, now)
            leg.messages += len(group)
            fixes = [self._fix(due) for due in group]
            for fix in fixes:
                if "latitude" in fix:
                    leg.seqs.setdefault(fix_key(fix), fix["seq"])
            await driver.report(*fixes)
            bar.update(len(group))

    def _fix(self, due: Due) -> Message:
        arrival = due.arrival
        fix: Message = {"seq": arrival.seq, "fix_time": self._begin_ms + due.fix_time}
        if arrival.latitude is not None:
            fix["latitude"] = arrival.latitude
        if arrival.longitude is not None:
            fix["longitude"] = arrival.longitude
        return fix

    async def _read(self, leg: Leg, driver: Driver) -> None:
        while True:
            message = json.loads(await driver.connection.recv())
            came = time.monotonic()
            if message["type"] == "error":
                leg.errors.append(f"{message['code']}: {message['detail']}")
            elif message["type"] == "ack":
                for rejected in message.get("rejected", []):
                    leg.codes[rejected["seq"]] = rejected["code"]
                    leg.account.refused.add(rejected["seq"])
                for seq in range(leg.account.acknowledged + 1, message["seq"] + 1):
                    leg.acknowledged_at[seq] = came
                leg.account.acknowledged = max(leg.account.acknowledged, message["seq"])

    async def _compare(self, leg: Leg) -> None:
        """Compare the line that the passenger sees, late fixes included, with the stored one."""
        watcher = leg.watcher
        if watcher is None:
            return
        deadline = time.monotonic() + PATIENCE
        while (stored := await self._stored(leg)) != watcher.line.points:
            if time.monotonic() > deadline:
                seen, kept = set(watcher.line.points), set(stored)
                leg.line_differs = f"{len(seen - kept)} points only on the map, {len(kept - seen)} only stored"
                return
            await asyncio.sleep(0.2)

    async def _stored(self, leg: Leg) -> list[Point]:
        async with self._asking:
            return await stored_line(self._database_url, leg.trip_id)


async def _true(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def soak(cluster: Cluster, directory: Path, legs: list[Leg], watched: set[str]) -> tuple[dict[str, Any], str]:
    cluster.create_database("soak")
    database_url = cluster.url("soak")
    await migrate(database_url)
    hub = await asyncio.to_thread(HubProcess(database_url, directory / "hub.log").start)
    try:
        async with Api(hub.url) as api:
            await Soak(hub.url, database_url, legs, watched).run(api)
            result, told = await judge(legs, api, database_url)
    finally:
        await asyncio.to_thread(hub.stop)
    log = hub.log.read_text(errors="replace").splitlines()
    complaints = [line for line in log if " ERROR " in line or " WARNING " in line]
    result["hub_complaints"] = complaints[:50]
    if complaints:
        told += f"\n\nthe hub's log complains {len(complaints)} times, first: {complaints[0]}"
    return result, told


@click.command()
@click.option("--minutes", default=15.0, show_default=True, type=click.FloatRange(min=0.1), help="How much of the stream.")
@click.option("--seed", default=1, show_default=True, help="Decides when each leg begins, and which are watched.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Above 1 the vehicles drive faster by this factor. Good for a quick try. The filters then see wrong speeds.",
)
@click.option("--as-recorded", is_flag=True, help="Keep the recorded times of the legs. By default they overlap.")
@click.option("--watch", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Share of legs with a passenger.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write the result here.")
def messy(minutes: float, seed: int, speed: float, as_recorded: bool, watch: float, json_file: Path | None) -> None:
    """Play the messy stream to a real hub in real time, and check the result."""
    if not (DATA / "messy_stream_dev.csv.gz").exists():
        click.echo("skipped: the shared data (../shared/data/messy_stream_dev.csv.gz) is not here")
        return
    legs = plan(read_stream(0), minutes=minutes, seed=seed, speed=speed, as_recorded=as_recorded)
    watched = {leg.name for leg in legs if random.Random(f"{seed} {leg.name}").random() < watch}
    messages = sum(len(leg.dues) for leg in legs)
    click.echo(f"seed {seed}: {messages} messages of {len(legs)} legs in {minutes:g} minutes at speed {speed:g}")
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            result, told = asyncio.run(soak(cluster, Path(temporary), legs, watched))
        finally:
            cluster.remove()
    click.echo(told)
    if json_file is not None:
        settings = {"minutes": minutes, "seed": seed, "speed": speed, "as_recorded": as_recorded, "watch": watch}
        json_file.write_text(json.dumps({"settings": settings, **result}, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if result["broken"] else 0)
