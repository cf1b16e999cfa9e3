"""Rows 81, 83 and 89: downloads that are read slowly, sums of days, and who may go on reading."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
from starlette.applications import Starlette

from tests.attacks import exports
from tests.attacks.exports import SlowReader, drive
from tests.attacks.scene import Scene, stage
from tests.support.clients import PLAIN, Api, now_ms, token
from tests.support.hub_process import SECRET, HubProcess
from tests.support.serving import serving
from tracking import downloads
from tracking.api import history
from tracking.app import create_app
from tracking.config import Settings, load
from tracking.history import sums
from tracking.service import Service
from tracking.store.days import DAY_MS

ROWS = 20_000
"""Some 2.5 MB of CSV: more than the system takes on the way."""


class Clock:
    """The system's, which a test sets forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


class Stage:
    """A hub in this process, a vehicle of a fleet on a trip under way, and its long track."""

    def __init__(self, app: Starlette, url: str, port: int, api: Api, clock: Clock, settings: Settings) -> None:
        self.app = app
        self.url = url
        self.port = port
        self.api = api
        self.clock = clock
        self.settings = settings
        self.vehicle_id = ""
        self.trip_id = ""
        self.fleet_id = ""

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    @property
    def path(self) -> str:
        return f"/trips/{self.trip_id}/track?format=csv"

    def reader(self, bearer: str, path: str | None = None, method: str = "GET") -> SlowReader:
        return SlowReader(self.port, path or self.path, bearer, method)

    async def share(self) -> dict[str, Any]:
        share: dict[str, Any] = await self.api.call("POST", f"/trips/{self.trip_id}/shares", {})
        return share


Make = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(downloads, "CHECK_SECONDS", 0.05)
    async with contextlib.AsyncExitStack() as open_:

        async def made(rows: int = ROWS, **settings: Any) -> Stage:
            clock = Clock()
            loaded = load(database_url=database_url, jwt_secret=SECRET, **settings)
            app = create_app(loaded, clock=clock)
            served = await open_.enter_async_context(serving(app, lifespan="on"))
            api = await open_.enter_async_context(Api(served.url))
            stage = Stage(app, served.url, served.port, api, clock, loaded)
            stage.vehicle_id, stage.trip_id = await api.under_way()
            stage.fleet_id = (await api.call("GET", f"/vehicles/{stage.vehicle_id}"))["fleet_id"]
            await drive(database_url, stage.vehicle_id, stage.trip_id, rows, begin=now_ms() - (rows + 60) * 1_000)
            return stage

        yield made


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def count_of_csv(stage: Stage, bearer: str) -> int:
    """Rows of the whole track."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {bearer}"}, verify=PLAIN) as http:
        answer = await http.get(f"{stage.url}/v1{stage.path}", timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text.count("\n") - 1


# --- readers who dawdle -------------------------------------------------------------------------------------------------


async def test_row_81_a_token_has_so_many_downloads_and_no_connection_is_held(make: Make, database_url: str) -> None:
    stage = await make()
    shared = token("passenger", stage.trip_id)
    async with stage.reader(shared) as one, stage.reader(shared) as two:
        assert [await one.begun(), await two.begun()] == [200, 200]
        async with stage.reader(shared) as three:
            assert await three.begun() == 429
            assert b"\r\nretry-after: 1" in three.head.lower()
            assert b"rate_limited" in three.tail
        # Both are as far ahead of their readers as they get.
        await until(lambda: stage.service.exports._pool is not None and stage.service.exports._pool.get_idle_size() >= 1)
        connection = await asyncpg.connect(database_url)
        states = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
        assert await connection.fetchval(states) == 0
        await connection.close()
        assert await count_of_csv(stage, token("passenger", stage.trip_id)) == ROWS
        assert await count_of_csv(stage, token("service")) == ROWS
        # Nothing is asked of the store for it, and it takes no place.
        async with stage.reader(shared, method="HEAD") as head:
            assert await head.begun() == 200
            assert b"text/csv" in head.head
        while await one.read() and not one.whole:
            pass
        await until(lambda: stage.service.downloads._held[_jti(shared)] == 1)
        assert await count_of_csv(stage, shared) == ROWS


def _jti(bearer: str) -> str:
    jti: str = jwt.decode(bearer, options={"verify_signature": False})["jti"]
    return jti


async def test_row_81_in_all_there_are_so_many_and_a_backend_has_half_of_them(make: Make) -> None:
    stage = await make(downloads_at_once=4)
    service = token("service")
    async with contextlib.AsyncExitStack() as open_:
        for bearer, status in (
            (service, 200),
            (service, 200),
            (service, 429),
            (token("passenger", stage.trip_id), 200),
            (token("passenger", stage.trip_id), 200),
            (token("passenger", stage.trip_id), 503),
        ):
            reader = await open_.enter_async_context(stage.reader(bearer))
            assert await reader.begun() == status
        assert b"retry-after" in reader.head.lower()
    # Their clients are gone, and nothing of them is left.
    await until(lambda: not stage.service.downloads._held)
    assert not stage.service.downloads._waiting


async def test_row_81_who_waits_is_let_in_when_another_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await make(downloads_per_token=1)
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 10.0)
    shared = token("passenger", stage.trip_id)
    async with stage.reader(shared) as one:
        assert await one.begun() == 200
        waiting = [asyncio.create_task(count_of_csv(stage, shared)) for _ in range(downloads.WAITING)]
        await until(lambda: len(stage.service.downloads._waiting) == len(waiting))
        async with stage.reader(shared) as too_many:
            assert await too_many.begun() == 429
    assert await asyncio.gather(*waiting) == [ROWS] * len(waiting)


async def test_row_81_who_reads_too_slowly_is_cut_off(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.2)
    stage = await make(download_least_rate=1e6)
    async with stage.reader(token("passenger", stage.trip_id)) as reader:
        assert await reader.begun() == 200
        await until(lambda: not stage.service.downloads._held)
        while await reader.read():
            pass
        assert not reader.whole
    # And who reads fast is not, however short the patience.
    assert await count_of_csv(stage, token("passenger", stage.trip_id)) == ROWS


async def test_row_81_a_download_has_a_time(make: Make) -> None:
    stage = await make(download_seconds=0.2)
    for version in ("1.1", "1.0"):
        async with SlowReader(stage.port, stage.path, token("passenger", stage.trip_id), version=version) as reader:
            assert await reader.begun() == 200
            await until(lambda: not stage.service.downloads._held)
            while await reader.read():
                pass
            assert reader.reset
            assert not reader.whole


async def test_row_81_each_token_has_a_budget_of_downloads(make: Make) -> None:
    stage = await make(rows=1, budget_downloads="2/60")
    bearer = {"Authorization": f"Bearer {token('passenger', stage.trip_id)}"}
    async with httpx.AsyncClient(headers=bearer, verify=PLAIN, base_url=f"{stage.url}/v1") as http:
        answers = [(await http.get(stage.path)).status_code for _ in range(3)]
        assert answers == [200, 200, 429]
        assert (await http.head(stage.path)).status_code == 200
    await stage.api.track(f"/trips/{stage.trip_id}/track")


# --- who may go on ------------------------------------------------------------------------------------------------------


async def _revoke_token(stage: Stage, bearer: str) -> None:
    await stage.api.call("DELETE", f"/tokens/{_jti(bearer)}")


async def _expire(stage: Stage, _: str) -> None:
    stage.clock.ahead = 3_700_000


async def _end_trip(stage: Stage, _: str) -> None:
    await stage.api.advance(stage.trip_id, "canceled")


async def _erase_vehicle(stage: Stage, _: str) -> None:
    await stage.api.advance(stage.trip_id, "canceled")
    await stage.api.call("DELETE", f"/vehicles/{stage.vehicle_id}")


async def _move_vehicle(stage: Stage, _: str) -> None:
    await stage.api.advance(stage.trip_id, "canceled")
    body = {"fleet_id": await stage.api.fleet(), "name": "Van"}
    await stage.api.call("PUT", f"/vehicles/{stage.vehicle_id}", body)


async def _delete_trip(stage: Stage, _: str) -> None:
    await stage.api.advance(stage.trip_id, "canceled")
    await stage.api.call("DELETE", f"/trips/{stage.trip_id}")


@pytest.mark.parametrize(
    ("role", "what", "change"),
    [
        ("passenger", "trip", _revoke_token),
        ("passenger", "trip", _expire),
        ("passenger", "trip", _end_trip),
        ("service", "trip", _erase_vehicle),
        ("dispatcher", "trip", _delete_trip),
        ("service", "vehicle", _erase_vehicle),
        ("dispatcher", "vehicle", _move_vehicle),
        ("dispatcher", "vehicle", _revoke_token),
    ],
)
async def test_row_89_a_download_ends_with_the_right_to_it(
    make: Make, role: str, what: str, change: Callable[[Stage, str], Awaitable[None]]
) -> None:
    stage = await make()
    subjects = {"passenger": stage.trip_id, "dispatcher": stage.fleet_id}
    bearer = token(role, subjects.get(role))
    path = stage.path if what == "trip" else f"/vehicles/{stage.vehicle_id}/track?format=csv"
    async with stage.reader(bearer, path) as reader:
        assert await reader.begun() == 200
        await change(stage, bearer)
        await until(lambda: not stage.service.downloads._held)
        while await reader.read():
            pass
        assert not reader.whole
        assert reader.got < 2_000_000


async def test_row_89_a_share_link_that_is_revoked_gives_no_more(make: Make) -> None:
    """While it is read as fast as it comes."""
    stage = await make(rows=100_000)
    share = await stage.share()
    async with stage.reader(share["token"]) as reader:
        assert await reader.begun() == 200
        revoking: asyncio.Task[Any] | None = None
        while await reader.read():
            if revoking is None and reader.got > 200_000:
                revoking = asyncio.create_task(stage.api.call("DELETE", f"/shares/{share['share_id']}"))
        assert not reader.whole
        assert reader.got < 5_000_000
        assert revoking is not None
        await revoking


@pytest.mark.parametrize(
    ("role", "what", "change", "status"),
    [
        ("passenger", "trip", _end_trip, 403),
        ("passenger", "trip", _revoke_token, 401),
        ("dispatcher", "vehicle", _move_vehicle, 404),
        ("dispatcher", "vehicle", _erase_vehicle, 404),
    ],
)
async def test_row_89_who_waits_for_a_place_is_asked_again_before_the_first_piece(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    what: str,
    change: Callable[[Stage, str], Awaitable[None]],
    status: int,
) -> None:
    """Another download of its token goes on meanwhile. An erased vehicle's id does not come into the audit by it either."""
    stage = await make(downloads_per_token=1)
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 10.0)
    # Only what is asked before the first piece counts.
    monkeypatch.setattr(downloads, "CHECK_SECONDS", 10.0)
    subjects = {"passenger": stage.trip_id, "dispatcher": stage.fleet_id}
    bearer = token(role, subjects[role])
    path = stage.path if what == "trip" else f"/vehicles/{stage.vehicle_id}/track?format=csv"
    async with contextlib.AsyncExitStack() as waiting:
        async with stage.reader(bearer, path) as first:
            assert await first.begun() == 200
            second = await waiting.enter_async_context(stage.reader(bearer, path))
            await until(lambda: stage.service.downloads._waiting)
            await change(stage, bearer)
        assert await second.begun() == status
    [entry] = (await stage.api.call("GET", "/audit", action="exported"))["entries"]
    assert (entry["subject"] in (stage.trip_id, stage.vehicle_id)) is (change is not _erase_vehicle)


# --- days ---------------------------------------------------------------------------------------------------------------


async def today(stage: Stage, rows: int) -> str:
    """A vehicle with so many fixes today."""
    vehicle_id = await stage.api.vehicle(stage.fleet_id)
    await drive(stage.settings.database_url, vehicle_id, None, rows, begin=now_ms() // DAY_MS * DAY_MS, step=1)
    return vehicle_id


async def test_row_83_a_day_is_summed_up_once_for_all_who_ask(make: Make) -> None:
    stage = await make(rows=1)
    vehicle_id = await today(stage, 50_000)
    path = f"/vehicles/{vehicle_id}/days"
    first = await stage.api.call("GET", path)
    assert first["days"][-1]["positions"] == 50_000
    stage.clock.ahead += sums.KEPT_MS
    made = []
    original = stage.service.sums._make

    async def counted(vehicle: int, day: int, since: int) -> Any:
        made.append((vehicle, day))
        return await original(vehicle, day, since)

    stage.service.sums._make = counted  # type: ignore[method-assign]
    answers = await asyncio.gather(*(stage.api.call("GET", path) for _ in range(12)))
    assert answers == [first] * 12
    assert len(made) == len(set(made))
    # And kept for a minute.
    await drive(stage.settings.database_url, vehicle_id, None, 1, begin=now_ms() // DAY_MS * DAY_MS + 100_000)
    assert await stage.api.call("GET", path) == first
    stage.clock.ahead += sums.KEPT_MS
    assert (await stage.api.call("GET", path))["days"][-1]["positions"] == 50_001


async def test_row_83_who_asks_for_many_days_takes_turns_with_others(make: Make) -> None:
    stage = await make(rows=1)
    day = now_ms() // DAY_MS
    order: list[str] = []

    async def ask(holder: str, vehicle: int) -> None:
        await stage.service.sums.day(holder, vehicle, day)
        order.append(holder)

    async with asyncio.TaskGroup() as group:
        for vehicle in range(1_000, 1_006):
            group.create_task(ask("greedy", vehicle))
        for vehicle in (2_000, 2_001):
            group.create_task(ask("other", vehicle))
    assert order == ["greedy", "other", "greedy", "other", *["greedy"] * 4]


async def test_row_83_an_erased_vehicle_leaves_no_sum(make: Make) -> None:
    stage = await make(rows=1)
    vehicle_id = await today(stage, 10)
    await stage.api.call("GET", f"/vehicles/{vehicle_id}/days")
    assert stage.service.sums._kept
    await stage.api.call("DELETE", f"/vehicles/{vehicle_id}")
    assert not stage.service.sums._kept
    assert not stage.service.sums._waited
    await stage.api.call("GET", f"/vehicles/{vehicle_id}/days", expect=404)


async def test_row_83_a_token_has_a_budget_of_sums(make: Make) -> None:
    stage = await make(rows=1, budget_sums="4/60")
    async with Api(stage.url, token("dispatcher", stage.fleet_id)) as dispatcher:
        vehicles = [await today(stage, 1) for _ in range(3)]
        for vehicle_id in vehicles[:2]:
            for _ in range(3):
                await dispatcher.call("GET", f"/vehicles/{vehicle_id}/days")
        refused = await dispatcher.http.get(f"/vehicles/{vehicles[2]}/days")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        # What is stored costs nothing.
        await dispatcher.call("GET", f"/vehicles/{vehicles[2]}/days", to="2026-01-01")


# --- other answers that are as long as what was stored ------------------------------------------------------------------


async def test_the_summary_of_a_long_trip_is_a_download(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = await make(rows=3_000, summary_delay=0.5)
    await stage.api.advance(stage.trip_id, "arrived_at_pickup", "enroute_to_dropoff", "complete")
    path = f"/trips/{stage.trip_id}/summary"
    async with asyncio.timeout(20):
        while (short := await stage.api.http.get(path)).status_code == 404:
            await asyncio.sleep(0.02)
    assert len(short.json()["track"]["coordinates"]) == 3_000
    monkeypatch.setattr(history, "LONG", 1_000)
    monkeypatch.setattr(history, "PIECE", 1_000)
    long = await stage.api.http.get(path)
    assert "content-length" not in long.headers
    assert long.json() == short.json()
    async with SlowReader(stage.port, path, token("dispatcher", stage.fleet_id), "HEAD") as head:
        assert await head.begun() == 200
        assert head.tail == b""


async def test_the_summary_of_a_trip_is_cut_off_where_its_vehicle_is_erased(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make(rows=100_000, summary_delay=0.5)
    await stage.api.advance(stage.trip_id, "arrived_at_pickup", "enroute_to_dropoff", "complete")
    path = f"/trips/{stage.trip_id}/summary"
    async with asyncio.timeout(20):
        while (await stage.api.http.head(path)).status_code == 404:
            await asyncio.sleep(0.1)
    async with stage.reader(token("dispatcher", stage.fleet_id), path) as reader:
        assert await reader.begun() == 200
        await stage.api.http.request("DELETE", f"/vehicles/{stage.vehicle_id}")
        await asyncio.sleep(0.5)
        while await reader.read():
            pass
        assert not reader.whole


# --- with honest clients beside it --------------------------------------------------------------------------------------


async def test_rows_81_83_89_honest_clients_notice_nothing(own_hub: Callable[..., HubProcess]) -> None:
    async def attack(scene: Scene) -> None:
        await exports.days(scene, rows=20_000)
        # Two of them: a third waits for five seconds until it is refused.
        await exports.dawdlers(scene, rows=20_000, readers=2)
        await exports.outlived(scene, rows=60_000)

    (await stage(own_hub(), attack, 0.3)).check(slack=5)
