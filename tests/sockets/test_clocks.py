"""A device with a wrong clock, on real sockets of a hub in this process. The test sets the hub's clock."""

from collections.abc import AsyncIterator

import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, fix
from tests.support.clocks import ShiftedClock
from tests.support.hub_process import SECRET
from tests.support.serving import serving
from tracking.app import create_app
from tracking.config import load
from tracking.demo.postgres import Cluster

MINUTE, HOUR = 60_000, 3_600_000
VADUZ = (9.5, 47.1, 9.55, 47.2)


class Stage:
    """A hub, a vehicle that reports once a second, and a dispatcher that watches it."""

    def __init__(self, url: str, clock: ShiftedClock, api: Api, fleet_id: str, vehicle_id: str) -> None:
        self.url = url
        self.clock = clock
        self.api = api
        self.fleet_id = fleet_id
        self.vehicle_id = vehicle_id
        self.seq = 0
        self.errors: list[Message] = []

    async def report(self, driver: Driver, *fix_times: int) -> None:
        """Reports these fixes in one message. The hub's clock advances by a second. Returns when all are acknowledged."""
        self.clock.ahead += 1_000
        fixes = [fix(self.seq + i, fix_time=fix_time) for i, fix_time in enumerate(fix_times, 1)]
        self.seq += len(fixes)
        await driver.report(*fixes)
        while driver.handled < self.seq:
            message = await driver.expect("ack", "error")
            if message["type"] == "ack":
                driver.handled = message["seq"]
            else:
                self.errors.append(message)

    async def live(self, driver: Driver, skew: int, seconds: int) -> None:
        for _ in range(seconds):
            await self.report(driver, self.clock() + 1_000 + skew)

    async def skews(self) -> list[int | None]:
        """The vehicle's `clock_skew` wherever HTTP shows it."""
        vehicle = await self.api.call("GET", f"/vehicles/{self.vehicle_id}")
        [listed] = (await self.api.call("GET", f"/fleets/{self.fleet_id}/vehicles"))["vehicles"]
        return [vehicle.get("clock_skew"), listed.get("clock_skew")]

    async def metric(self) -> str:
        response = await self.api.http.get(f"{self.url}/metrics")
        [line] = [line for line in response.text.splitlines() if line.startswith("tracking_clocks_wrong ")]
        return line.split()[1]


@pytest.fixture(scope="module")
async def served(cluster: Cluster, template: str) -> AsyncIterator[tuple[str, ShiftedClock]]:
    """The address of the hub, and its clock."""
    cluster.create_database("clocks", template)
    clock = ShiftedClock()
    settings = load(database_url=cluster.url("clocks"), jwt_secret=SECRET, ack_interval=0, commit_interval=0)
    async with serving(create_app(settings, clock=clock), lifespan="on") as served:
        yield served.url, clock
    cluster.drop_database("clocks")


@pytest.fixture
async def stage(served: tuple[str, ShiftedClock]) -> AsyncIterator[Stage]:
    url, clock = served
    async with Api(url) as api:
        fleet_id = await api.fleet()
        yield Stage(url, clock, api, fleet_id, await api.vehicle(fleet_id))


async def shown(screen: Dispatcher, vehicle_id: str, skew: int | None) -> None:
    """Waits until the screen shows that skew (s), give or take 2 s for the way and for rounding."""

    def is_shown() -> bool:
        seen = screen.vehicles.get(vehicle_id, {})
        found = seen.get("clock_skew")
        return bool(seen) and (found is None if skew is None else found is not None and abs(found - skew) <= 2)

    await screen.until(is_shown)


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (-2 * HOUR, "clock or time zone is 2 h 00 min behind"),
        (-5 * MINUTE, "clock is 5 min behind"),
        (-1024 * 7 * 24 * HOUR, "clock is 7168 days 0 h behind"),
        (45_000, "clock is 45 s ahead"),
        (2 * HOUR, "clock or time zone is 2 h 00 min ahead"),
    ],
    ids=["two hours behind", "minutes behind", "week rollover", "ahead, taken", "ahead, rejected"],
)
async def test_a_wrong_clock_is_told_to_its_driver_and_shown_to_dispatchers_until_it_is_set(
    stage: Stage, skew: int, words: str
) -> None:
    async with Driver(stage.url, stage.vehicle_id) as driver, Dispatcher(stage.url, stage.fleet_id) as screen:
        await stage.live(driver, 0, 1)
        await screen.look(*VADUZ)
        await shown(screen, stage.vehicle_id, None)
        assert await stage.skews() == [None, None]
        await stage.live(driver, skew, 25)
        await shown(screen, stage.vehicle_id, skew // 1000)
        assert all(found is not None and abs(found - skew // 1000) <= 2 for found in await stage.skews())
        assert await stage.metric() == "1.0"
        [error] = stage.errors
        assert error["code"] == "clock_skew"
        assert words in error["detail"]
        # A screen that looks only now is shown it too.
        async with Dispatcher(stage.url, stage.fleet_id) as other:
            await other.look(*VADUZ)
            await shown(other, stage.vehicle_id, skew // 1000)
        # The device restarts, with its clock as wrong as it was: it is told anew.
        await driver.connection.close()
        async with Driver(stage.url, stage.vehicle_id, driver.session) as again:
            await stage.live(again, skew, 3)
            assert len(stage.errors) == 2
            await stage.live(again, 0, 1)
            await shown(screen, stage.vehicle_id, None)
        assert await stage.skews() == [None, None]
        assert await stage.metric() == "0.0"


async def test_a_backlog_is_no_wrong_clock(stage: Stage) -> None:
    async with Driver(stage.url, stage.vehicle_id) as driver:
        await stage.live(driver, 0, 3)
        last, stage.clock.ahead = stage.clock(), stage.clock.ahead + 30 * MINUTE
        # One fix a message, each ten seconds after the one before it.
        for i in range(1, 16):
            await stage.report(driver, last + i * 10_000)
        # And as slowly as it grows, for a while.
        for i in range(1, 31):
            await stage.report(driver, last + 150_000 + i * 1_000)
        await stage.report(driver, *(last + 180_000 + i * 10_000 for i in range(1, 166)))
        await stage.live(driver, 0, 1)
    assert stage.errors == []
    assert await stage.skews() == [None, None]


async def test_what_a_wrong_clock_reports_live_is_news(stage: Stage) -> None:
    """Its places are shown, and its events are told, once its skew is known: they happen now."""
    await stage.api.call("PUT", f"/fleets/{stage.fleet_id}", {"name": "Limited", "speed_limit": 7})
    async with Driver(stage.url, stage.vehicle_id) as driver, Dispatcher(stage.url, stage.fleet_id) as screen:
        await screen.look(*VADUZ)
        await stage.live(driver, -2 * HOUR, 20)  # 5.6 m/s by its places
        await shown(screen, stage.vehicle_id, -7_200)
        await screen.until(lambda: screen.vehicles[stage.vehicle_id]["status"] == "available")
        stage.seq += 1
        await driver.report(fix(stage.seq, fix_time=stage.clock() - 2 * HOUR + 1_000, speed=8.0))
        [event] = await screen.events(1)
        assert event["kind"] == "speeding"
        assert "late" not in event
