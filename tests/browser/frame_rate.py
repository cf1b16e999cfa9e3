"""How smoothly the dispatcher's page draws while its map is dragged: `python -m tests.browser.frame_rate`.

    a private database -> a hub -> 2,000 drivers, a fix a second each -> Chromium, its map dragged to and fro -> frames counted

No test: a figure of one machine at one time. Chromium draws in software here, beside the hub and all drivers.
"""

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
import time
import uuid
from itertools import pairwise
from pathlib import Path

import asyncpg
from playwright.async_api import Page

from driver_sim.bench.clients import DriverClient
from tests.browser.browser import launch, open_page
from tests.support.clients import token
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

FLEET = "frames"
CENTRE = 47.15, 9.54
METRES_PER_DEGREE = 111_195.0
OPENED_AT_ONCE = 50
LEGS = 12
STEPS = 50
STEP_SECONDS = 1 / 60
_PLACE = "JSON.stringify(tracking.pointOf(47.15, 9.54))"
_COUNT_FRAMES = """() => {
  const times = (window.frameTimes = []);
  const note = (now) => { times.push(now); requestAnimationFrame(note); };
  requestAnimationFrame(note);
}"""


class Car(DriverClient):
    """Drives about the country at 14 m/s, with a turn now and then."""

    def __init__(self, vehicle_id: str, dice: random.Random) -> None:
        super().__init__(token("driver", vehicle_id), str(uuid.uuid4()))
        self._dice = dice
        self._place = [CENTRE[0] + dice.uniform(-0.09, 0.09), CENTRE[1] + dice.uniform(-0.06, 0.06)]
        self._bearing = dice.uniform(0, 360)
        self._seq = 0

    def report(self) -> None:
        if self._dice.random() < 0.1:
            self._bearing = (self._bearing + self._dice.uniform(-90, 90)) % 360
        radians = math.radians(self._bearing)
        self._place[0] += 14 * math.cos(radians) / METRES_PER_DEGREE
        self._place[1] += 14 * math.sin(radians) / (METRES_PER_DEGREE * math.cos(math.radians(CENTRE[0])))
        self._seq += 1
        fix = {
            "type": "position",
            "seq": self._seq,
            "fix_time": time.time_ns() // 1_000_000,
            "latitude": self._place[0],
            "longitude": self._place[1],
            "speed": 14.0,
            "bearing": self._bearing,
        }
        self.sent += 1
        self.send(json.dumps(fix).encode())


async def prepare(database_url: str, count: int) -> list[str]:
    """A fleet of `count` vehicles, before the hub is there to be told of each."""
    await migrate(database_url)
    ids = [f"car-{number:05}" for number in range(count)]
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO fleets (fleet_id, name) VALUES ($1, 'Frame rate')", FLEET)
    await connection.executemany(
        "INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate) VALUES ($1, $2, $3, 'car', $4)",
        [(vehicle_id, FLEET, f"Car {number}", f"FL {number}") for number, vehicle_id in enumerate(ids)],
    )
    await connection.close()
    return ids


async def drive(cars: list[Car]) -> None:
    """Every car once a second, evenly spread over it."""
    while True:
        begin = time.monotonic()
        for number, car in enumerate(cars):
            if number % 50 == 0:
                await asyncio.sleep(max(begin + number / len(cars) - time.monotonic(), 0))
            car.report()
        await asyncio.sleep(max(begin + 1 - time.monotonic(), 0))


async def drag(page: Page) -> list[float]:
    """The map dragged to and fro; the times of all frames meanwhile, in milliseconds."""
    await page.evaluate(_COUNT_FRAMES)
    await page.mouse.move(850, 420)
    await page.mouse.down()
    moved = 0
    before = await page.evaluate(_PLACE)
    for leg in range(LEGS):
        way = 1 if leg % 2 == 0 else -1
        begin = time.monotonic()
        for step in range(1, STEPS + 1):
            x = 850 + (step - STEPS / 2) * 7 * way
            await page.mouse.move(x, 420 + 60 * math.sin(step / STEPS * math.pi) * way)
            await asyncio.sleep(max(begin + step * STEP_SECONDS - time.monotonic(), 0))
        place = await page.evaluate(_PLACE)
        moved += place != before
        before = place
    await page.mouse.up()
    assert moved == LEGS, f"the map moved on {moved} of {LEGS} drags: nothing was measured"
    times: list[float] = await page.evaluate("window.frameTimes")
    return times


def report(times: list[float], name: str) -> None:
    spans = sorted(later - sooner for sooner, later in pairwise(times))
    if not spans:
        print(f"{name}: no frames")
        return
    slow = spans[int(len(spans) * 0.95)]
    print(
        f"{name}: {1000 * len(spans) / sum(spans):.1f} frames a second over {sum(spans) / 1000:.1f} s,"
        f" median {statistics.median(spans):.1f} ms, 95 % within {slow:.1f} ms, longest {spans[-1]:.0f} ms"
    )


async def measure(count: int, dark: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "pg", die_with_parent=True)
        cluster.start()
        try:
            cluster.create_database("frames")
            ids = await prepare(cluster.url("frames"), count)
            hub = HubProcess(cluster.url("frames"), Path(folder) / "hub.log").start()
            try:
                await look(hub, ids, dark)
            finally:
                hub.stop()
        finally:
            cluster.remove()


async def look(hub: HubProcess, ids: list[str], dark: bool) -> None:
    dice = random.Random(4)
    loop = asyncio.get_running_loop()
    cars = [Car(vehicle_id, dice) for vehicle_id in ids]
    for at in range(0, len(cars), OPENED_AT_ONCE):
        few = cars[at : at + OPENED_AT_ONCE]
        for car in few:
            await loop.create_connection(lambda car=car: car, "127.0.0.1", hub.port)  # type: ignore[misc]
        await asyncio.gather(*(car.ready for car in few))
    driving = asyncio.create_task(drive(cars))
    try:
        async with launch() as browser:
            url = f"{hub.url}/fleet/{FLEET}#{token('dispatcher', FLEET)}"
            async with open_page(browser, url, phone=False, dark=dark) as watched:
                await watched.until(f"tracking.vehicles.length >= {len(ids)} * 0.9", 30)
                print(f"{len(ids)} vehicles drive; {await watched.page.evaluate('tracking.vehicles.length')} are in view")
                await watched.page.evaluate(_COUNT_FRAMES)
                await asyncio.sleep(4)
                report(await watched.page.evaluate("window.frameTimes"), "at rest ")
                report(await drag(watched.page), "dragging")
                for complaint in watched.complaints:
                    print("the page complains:", complaint)
    finally:
        driving.cancel()
        for car in cars:
            car.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--vehicles", type=int, default=2_000)
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.vehicles, arguments.dark))


if __name__ == "__main__":
    main()
