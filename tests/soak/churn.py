"""Trips, links, tokens, sessions and connections come and go. The hub must not keep memory of those that are gone.

    python -m tests.soak churn --minutes 20 --vehicles 24 --trips 9.4

Each trip is made, shared, driven by a device that connects for it, watched by a passenger, and ended. Some links are revoked,
some trips are canceled and removed, and some vehicles are removed and made again. During the warm-up they come as fast as they
can, so that pools and caches reach their size. Exits with 1 if the hub's resident memory grows by more than `--allowed`
megabytes after that.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import click
import psutil

from tests.support.clients import Api, Driver, Passenger, fix, new_id, now_ms
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

MEGABYTE = 2**20
SAMPLE_SECONDS = 1.0
REPORT_SECONDS = 30.0
ROUTE = {"type": "LineString", "coordinates": [[9.521, 47.141 + i / 5000] for i in range(50)]}
CANCELED_EVERY, REVOKED_EVERY, REMOVED_EVERY = 7, 5, 25
"""Trips."""


class Churn:
    """Counts what came and went. `run` continues until it is cancelled, as fast as it can until `warm` is set."""

    def __init__(self, url: str, trips_per_second: float) -> None:
        self.warm = False
        self._url = url
        self._pause = 1 / trips_per_second
        self.trips = 0
        self.connections = 0

    async def run(self, vehicles: int) -> None:
        async with Api(self._url) as api:
            fleet_id = await api.fleet()
            async with asyncio.TaskGroup() as group:
                for number in range(vehicles):
                    group.create_task(self._drive(api, fleet_id, number, vehicles))

    async def _drive(self, api: Api, fleet_id: str, number: int, vehicles: int) -> None:
        vehicle_id = await api.vehicle(fleet_id)
        due = time.monotonic() + number * self._pause
        count = number
        while True:
            if self.warm:
                await asyncio.sleep(due - time.monotonic())
                due += vehicles * self._pause
            due = max(due, time.monotonic())
            count += 1
            await self._one_trip(api, fleet_id, vehicle_id, count)
            if count % REMOVED_EVERY == 0:
                await api.call("DELETE", f"/vehicles/{vehicle_id}")
                vehicle_id = await api.vehicle(fleet_id)

    async def _one_trip(self, api: Api, fleet_id: str, vehicle_id: str, count: int) -> None:
        trip_id = (await api.trip(fleet_id, vehicle_id, route=ROUTE))["trip_id"]
        share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3600})
        driver_token = (await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id}))["token"]
        async with Driver(self._url, vehicle_id, bearer=driver_token) as driver:
            for status in ("enroute_to_pickup", "arrived_at_pickup"):
                await driver.send({"type": "trip_status", "trip_id": trip_id, "status": status, "client_id": status})
                await driver.expect("done")
            async with Passenger(self._url, trip_id, share["token"]) as passenger:
                await passenger.expect("snapshot")
                await passenger.send({"type": "message", "text": "Where are you?", "client_id": new_id("message")})
                await driver.expect("message")
                for seq in range(1, 4):
                    await driver.report(fix(seq, fix_time=now_ms()))
                await passenger.expect("position")
                await driver.acknowledged(3)
                if count % REVOKED_EVERY == 0:
                    await api.call("DELETE", f"/shares/{share['share_id']}")
                last = ["canceled"] if count % CANCELED_EVERY == 0 else ["enroute_to_dropoff", "complete"]
                for status in last:
                    await driver.send({"type": "trip_status", "trip_id": trip_id, "status": status, "client_id": status})
                    done = await driver.expect("done")
                    assert "code" not in done, done
                assert await passenger.closed() in (4503, 4506)
        if count % CANCELED_EVERY == 0:
            await api.call("DELETE", f"/trips/{trip_id}")
        self.trips += 1
        self.connections += 2


async def soak(hub: HubProcess, minutes: float, warm_up: float, vehicles: int, trips: float) -> float:
    """Growth since the warm-up in megabytes, between the means of two quarters of a minute."""
    assert hub.process is not None
    process = psutil.Process(hub.process.pid)
    churn = Churn(hub.url, trips)
    working = asyncio.create_task(churn.run(vehicles))
    began = time.monotonic()
    samples: list[tuple[float, int, float]] = []
    shown = 0.0

    def mean(until: float) -> tuple[int, float]:
        """Trips and megabytes in the last quarter of a minute."""
        found = [(count, size) for at, count, size in samples if until - 15 < at <= until]
        return round(sum(count for count, _ in found) / len(found)), sum(size for _, size in found) / len(found)

    try:
        while (now := time.monotonic() - began) < minutes * 60:
            await asyncio.wait([working], timeout=SAMPLE_SECONDS)
            if working.done():
                break
            churn.warm = now >= warm_up * 60
            samples.append((now, churn.trips, process.memory_info().rss / MEGABYTE))
            if now - shown >= REPORT_SECONDS:
                shown = now
                count, size = mean(now)
                line = f"{now / 60:5.1f} min {size:7.2f} MB {count:7} trips {churn.connections:7} connections"
                if now > warm_up * 60 + 15:
                    count_then, size_then = mean(warm_up * 60)
                    line += (
                        f" {size - size_then:+6.2f} MB, {(size - size_then) * MEGABYTE / (count - count_then):+6.0f} B a trip"
                    )
                click.echo(line)
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    return mean(samples[-1][0])[1] - mean(warm_up * 60)[1]


@click.command()
@click.option("--minutes", default=20.0, show_default=True, type=click.FloatRange(0), help="How long the run lasts.")
@click.option("--warm-up", default=2.0, show_default=True, help="Minutes before the memory is first measured.")
@click.option("--vehicles", default=24, show_default=True, type=click.IntRange(1), help="Vehicles, one trip at a time each.")
@click.option("--trips", default=9.4, show_default=True, help="Trips a second, over all vehicles.")
@click.option("--allowed", default=2.0, show_default=True, help="Megabytes by which the hub may grow.")
def churn(minutes: float, warm_up: float, vehicles: int, trips: float, allowed: float) -> None:
    """Let trips come and go, and check that the hub's memory does not grow."""
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        Path(temporary).chmod(0o711)  # if root runs this, PostgreSQL's own user must pass
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            cluster.create_database("soak")
            asyncio.run(migrate(cluster.url("soak")))
            hub = HubProcess(cluster.url("soak"), Path(temporary) / "hub.log").start()
            try:
                grown = asyncio.run(soak(hub, minutes, warm_up, vehicles, trips))
            finally:
                hub.stop()
            log = hub.log.read_text(errors="replace")
        finally:
            cluster.remove()
    if "Traceback" in log:
        click.echo(f"the hub's log has a traceback:\n{log[log.index('Traceback') :][:2000]}")
    flat = grown <= allowed
    click.echo(f"{'flat' if flat else 'GROWING'}: {grown:+.2f} MB since the first {warm_up:g} minutes, allowed {allowed:g}")
    sys.exit(0 if flat and "Traceback" not in log else 1)
