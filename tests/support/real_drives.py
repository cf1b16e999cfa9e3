"""Real traces as drives that a test reports through hubs, and the events that come of them.

The fixes keep their times towards each other. Each drive is moved in time, so that its last fix is a minute old.
"""

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import websockets

from driver_sim.tracks import Row, read
from tests.support.clients import Api, Driver, Message, new_id, now_ms, token
from tests.support.geofence_truth import Seen
from tests.support.monitoring import Monitored
from tests.support.random_ways import Geometry, Place, random_fence

DATA = Path(__file__).parents[2].parent / "shared/data"
FILES = ("porto_taxis_dev.csv.gz", "hof_fcd_dev.csv.gz", "munich_car_1hz.csv", "liverpool_bus14_dev.csv")
AGE_MS = 60_000
"""How old the last fix is when the drive begins to be reported."""
CHUNK = (3, 12)
"""Fixes in one message. The device sends a queue, so each message is younger than the one before by more than a moment."""
THRESHOLDS: dict[str, Any] = {"speed_limit": 13.9, "idle_after": 110, "dwell_after": 53, "signal_lost_after": 1e6}
"""Of the fleet. No stay is long enough right after a fix, whose times are 15 s apart, or a whole number of seconds."""
GONE = (websockets.WebSocketException, OSError, TimeoutError)
"""How a connection ends whose hub was killed, or has sent the driver away."""

Told = tuple[str, str, str | None, int | None]
"""Kind, vehicle, geofence and fix time of an event. The fix time is that of the trace."""


class Leg(NamedTuple):
    """What one device reports: the fixes from one place to another in the trace."""

    begin: int
    end: int


class Trace(NamedTuple):
    """`fixes` are positions without numbers. Each leg is driven by another device. `shift` was added to all times."""

    name: str
    fixes: list[Message]
    legs: list[Leg]
    shift: int


def traces(count: int, most: int, rng: random.Random, *, files: tuple[str, ...] = FILES, devices: float = 0.3) -> list[Trace]:
    """So many drives with at most so many fixes each, the longest of each file. `devices` is the share with two devices."""
    of_file = [_longest(DATA / name, most) for name in files]
    made: list[Trace] = []
    while len(made) < count and any(of_file):
        for drives in of_file:
            if drives and len(made) < count:
                name, rows = drives.pop(0)
                made.append(_trace(name, rows, rng, devices))
    return made


def _longest(path: Path, most: int) -> list[tuple[str, list[Row]]]:
    rows: dict[str, list[Row]] = {}
    for row in read(path):
        if isinstance(row, Row):
            rows.setdefault(row.vehicle_id, []).append(row)
    drives = []
    for vehicle_id, drive in rows.items():
        # One set has days of two years. The times may not be older than a week.
        first = drive[0].time
        drives.append((f"{path.name.partition('_')[0]}-{vehicle_id}", [row for row in drive if row.time - first < 86_400_000]))
    drives.sort(key=lambda drive: -len(drive[1]))
    return [(name, drive[:most]) for name, drive in drives]


def _trace(name: str, rows: list[Row], rng: random.Random, devices: float) -> Trace:
    shift = now_ms() // 1000 * 1000 - AGE_MS - rows[-1].time
    fixes = [
        {
            "fix_time": row.time + shift,
            "latitude": row.latitude,
            "longitude": row.longitude,
            "accuracy": rng.choice((3.0, 8.0, 20.0)),
        }
        for row in rows
    ]
    ends = [len(fixes)]
    if rng.random() < devices and len(fixes) > 20:
        ends.insert(0, rng.randrange(10, len(fixes) - 5))
    return Trace(name, fixes, [Leg(*leg) for leg in zip([0, *ends], ends, strict=False)], shift)


def fences_about(drives: list[Trace], count: int, rng: random.Random) -> dict[str, Geometry]:
    """Random geofences at places of the drives."""
    about = [rng.choice(rng.choice(drives).fixes) for _ in range(count)]
    return {f"fence-{n}": random_fence(rng, Place(at["longitude"], at["latitude"])) for n, at in enumerate(about)}


class Fleet:
    """A fleet with these drives and geofences. `vehicles` are the drives' vehicles."""

    def __init__(self, drives: list[Trace], fences: dict[str, Geometry]) -> None:
        self.drives = drives
        self.fences = fences
        self.fleet_id = new_id("fleet")
        self.vehicles = {drive.name: new_id("van") for drive in drives}

    async def make(self, api: Api) -> None:
        await api.call("PUT", f"/fleets/{self.fleet_id}", {"name": "Real drives", **THRESHOLDS})
        for vehicle_id in self.vehicles.values():
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": self.fleet_id})
        for geofence_id, geometry in self.fences.items():
            body = {"type": "Feature", "geometry": geometry, "properties": {}}
            await api.call("PUT", f"/fleets/{self.fleet_id}/geofences/{geofence_id}", body)

    async def told(self, database_url: str) -> Counter[Told]:
        """All events that are stored."""
        names = {vehicle_id: (drive.name, drive.shift) for drive in self.drives if (vehicle_id := self.vehicles[drive.name])}
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch(
                """
                SELECT e.kind, vehicle_id, geofence_id, (extract(epoch FROM fix_time) * 1000)::bigint
                FROM events e JOIN vehicles USING (vehicle) WHERE e.fleet_id = $1
                """,
                self.fleet_id,
            )
        finally:
            await connection.close()
        found: Counter[Told] = Counter()
        for kind, vehicle_id, geofence_id, fix_time in rows:
            name, shift = names[vehicle_id]
            found[kind, name, geofence_id, None if fix_time is None else fix_time - shift] += 1
        return found

    async def stored(self, database_url: str) -> Counter[tuple[str, int]]:
        """How often each fix of each drive is stored."""
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch(
                """
                SELECT vehicle_id, (extract(epoch FROM fix_time) * 1000)::bigint
                FROM positions JOIN vehicles USING (vehicle) WHERE fleet_id = $1
                """,
                self.fleet_id,
            )
        finally:
            await connection.close()
        of = {self.vehicles[drive.name]: drive for drive in self.drives}
        return Counter((of[vehicle_id].name, fix_time - of[vehicle_id].shift) for vehicle_id, fix_time in rows)

    async def of_stored(self, database_url: str) -> Counter[Told]:
        """The events that one home would have told of the fixes as they are stored, with the filters' verdicts on them."""
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch(
                """
                SELECT vehicle_id, (extract(epoch FROM fix_time) * 1000)::bigint AS fix_time, ST_X(point) AS longitude,
                    ST_Y(point) AS latitude, accuracy, speed
                FROM positions JOIN vehicles USING (vehicle) WHERE fleet_id = $1 AND suspect IS NULL
                ORDER BY fix_time, session, seq
                """,
                self.fleet_id,
            )
        finally:
            await connection.close()
        found: Counter[Told] = Counter()
        for drive in self.drives:
            # One clock for each: the drives are from different days.
            monitored = Monitored(**THRESHOLDS)
            for geofence_id, geometry in self.fences.items():
                monitored.put(geofence_id, geometry)
            newest = 0
            for vehicle_id, fix_time, longitude, latitude, accuracy, speed in rows:
                # One that came late did not move the marker.
                if vehicle_id != self.vehicles[drive.name] or fix_time < newest:
                    continue
                newest = fix_time
                for event in monitored.drive(Seen(vehicle_id, fix_time, longitude, latitude, accuracy), speed=speed):
                    assert event.fix_time is not None
                    found[event.kind.value, drive.name, event.geofence_id, event.fix_time - drive.shift] += 1
        return found

    def reported(self) -> Counter[tuple[str, int]]:
        return Counter((drive.name, fix["fix_time"] - drive.shift) for drive in self.drives for fix in drive.fixes)


class Way:
    """How a fleet is driven: `pick` says to which hub a driver goes next. `changes` counts changes of hub.

    With `changing`, drivers leave their hub at random: after all acks, with some under way, or while they are at the next one.
    """

    def __init__(self, pick: Callable[[], str], rng: random.Random, *, changing: bool, pause: float = 0.0) -> None:
        """`pause` is the longest time (s) between two messages."""
        self._pick = pick
        self._rng = rng
        self._changing = changing
        self._pause = pause
        self._closing: set[asyncio.Task[None]] = set()
        self.changes = 0
        self.lost = 0
        """Connections that ended before the driver left."""

    async def drive(self, fleet: Fleet) -> None:
        await asyncio.gather(*(self._drive(fleet.vehicles[drive.name], drive) for drive in fleet.drives))
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _drive(self, vehicle_id: str, drive: Trace) -> None:
        bearer = token("driver", vehicle_id)
        for leg in drive.legs:
            session, handled = str(uuid.uuid4()), 0
            fixes = [{"seq": seq, **fix} for seq, fix in enumerate(drive.fixes[leg.begin : leg.end], 1)]
            at = ""
            while handled < len(fixes):
                before, at = at, self._pick()
                self.changes += before not in ("", at)
                driver = Driver(at, vehicle_id, session, bearer)
                try:
                    async with asyncio.timeout(20):
                        await driver.__aenter__()
                        await self._report(driver, fixes)
                except GONE:
                    self.lost += 1
                    await asyncio.sleep(self._rng.uniform(0.0, 0.1))
                handled = max(handled, driver.handled)
                self._leave(driver)

    async def _report(self, driver: Driver, fixes: list[Message]) -> None:
        for count in self._sizes():
            seq = driver.handled if count is None else self._sent(driver)
            if count is None or seq == len(fixes):
                break
            await driver.report(*fixes[seq : seq + count])
            driver.sent = min(len(fixes), seq + count)  # type: ignore[attr-defined]
            if self._rng.random() < 0.4:
                await driver.acknowledged(self._sent(driver))
            await asyncio.sleep(self._rng.uniform(0.0, self._pause))
        if self._sent(driver) == len(fixes) or self._rng.random() < 0.4:
            await driver.acknowledged(self._sent(driver))

    @staticmethod
    def _sent(driver: Driver) -> int:
        return max(driver.handled, getattr(driver, "sent", 0))

    def _sizes(self) -> Iterator[int | None]:
        """Of the messages on one connection."""
        while True:
            yield self._rng.randint(*CHUNK)
            if self._changing and self._rng.random() < 0.5:
                yield None

    def _leave(self, driver: Driver) -> None:
        if getattr(driver, "connection", None) is None:
            return
        if self._rng.random() < 0.3:
            driver.connection.transport.abort()

        async def close() -> None:
            with contextlib.suppress(*GONE):
                await driver.connection.close()

        # Meanwhile it says hello to the next hub.
        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def difference(told: Counter[Told], expected: Counter[Told]) -> list[str]:
    """Each event that is missing, too many, or told twice."""
    wrong = [f"missing: {event}" for event in (expected - told).elements()]
    wrong += [f"too many: {event}" for event in (told - expected).elements()]
    return sorted(wrong)
