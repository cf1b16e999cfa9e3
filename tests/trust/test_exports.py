"""Rows 81, 83 and 89: slow downloads, and downloads that end when the right to them ends."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest

from tests.attacks import exports
from tests.attacks.exports import SlowReader
from tests.attacks.scene import Scene, stage
from tests.support.clients import PLAIN, token
from tests.support.hub_process import HubProcess
from tests.trust.export_hub import ROWS, ExportHub, MakeExportHub, count_of_csv, jti_of, until
from tracking import downloads
from tracking.api import history

# --- slow readers -------------------------------------------------------------------------------------------------------


async def test_row_81_a_token_has_a_limit_of_downloads_and_no_connection_is_held(
    make_export_hub: MakeExportHub, database_url: str
) -> None:
    export_hub = await make_export_hub()
    shared = token("passenger", export_hub.trip_id)
    async with export_hub.reader(shared) as one, export_hub.reader(shared) as two:
        assert [await one.begun(), await two.begun()] == [200, 200]
        async with export_hub.reader(shared) as three:
            assert await three.begun() == 429
            assert b"\r\nretry-after: 1" in three.head.lower()
            assert b"rate_limited" in three.tail
        # Both downloads wait for their readers.
        await until(
            lambda: export_hub.service.exports._pool is not None and export_hub.service.exports._pool.get_idle_size() >= 1
        )
        connection = await asyncpg.connect(database_url)
        states = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
        assert await connection.fetchval(states) == 0
        await connection.close()
        assert await count_of_csv(export_hub, token("passenger", export_hub.trip_id)) == ROWS
        assert await count_of_csv(export_hub, token("service")) == ROWS
        # HEAD reads nothing from the store, and does not count.
        async with export_hub.reader(shared, method="HEAD") as head:
            assert await head.begun() == 200
            assert b"text/csv" in head.head
        while await one.read() and not one.whole:
            pass
        await until(lambda: export_hub.service.downloads._held[jti_of(shared)] == 1)
        assert await count_of_csv(export_hub, shared) == ROWS


async def test_row_81_there_is_a_limit_of_all_downloads_and_a_backend_has_half_of_it(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(downloads_at_once=4)
    service = token("service")
    async with contextlib.AsyncExitStack() as open_:
        for bearer, status in (
            (service, 200),
            (service, 200),
            (service, 429),
            (token("passenger", export_hub.trip_id), 200),
            (token("passenger", export_hub.trip_id), 200),
            (token("passenger", export_hub.trip_id), 503),
        ):
            reader = await open_.enter_async_context(export_hub.reader(bearer))
            assert await reader.begun() == status
        assert b"retry-after" in reader.head.lower()
    # The clients have left, and the hub keeps nothing of them.
    await until(lambda: not export_hub.service.downloads._held)
    assert not export_hub.service.downloads._waiting


async def test_row_81_a_waiting_download_begins_when_another_ends(
    make_export_hub: MakeExportHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_hub = await make_export_hub(downloads_per_token=1)
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 10.0)
    shared = token("passenger", export_hub.trip_id)
    async with export_hub.reader(shared) as one:
        assert await one.begun() == 200
        waiting = [asyncio.create_task(count_of_csv(export_hub, shared)) for _ in range(downloads.WAITING)]
        await until(lambda: len(export_hub.service.downloads._waiting) == len(waiting))
        async with export_hub.reader(shared) as too_many:
            assert await too_many.begun() == 429
    assert await asyncio.gather(*waiting) == [ROWS] * len(waiting)


async def test_row_81_a_reader_that_is_too_slow_is_cut_off(
    make_export_hub: MakeExportHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.2)
    export_hub = await make_export_hub(download_least_rate=1e6)
    async with export_hub.reader(token("passenger", export_hub.trip_id)) as reader:
        assert await reader.begun() == 200
        await until(lambda: not export_hub.service.downloads._held)
        while await reader.read():
            pass
        assert not reader.whole
    # A fast reader is not, however short the patience.
    assert await count_of_csv(export_hub, token("passenger", export_hub.trip_id)) == ROWS


async def test_row_81_a_download_has_a_time_limit(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(download_seconds=0.2)
    for version in ("1.1", "1.0"):
        async with SlowReader(
            export_hub.port, export_hub.path, token("passenger", export_hub.trip_id), version=version
        ) as reader:
            assert await reader.begun() == 200
            await until(lambda: not export_hub.service.downloads._held)
            while await reader.read():
                pass
            assert reader.reset
            assert not reader.whole


async def test_row_81_each_token_has_a_budget_of_downloads(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(rows=1, budget_downloads="2/60")
    bearer = {"Authorization": f"Bearer {token('passenger', export_hub.trip_id)}"}
    async with httpx.AsyncClient(headers=bearer, verify=PLAIN, base_url=f"{export_hub.url}/v1") as http:
        answers = [(await http.get(export_hub.path)).status_code for _ in range(3)]
        assert answers == [200, 200, 429]
        assert (await http.head(export_hub.path)).status_code == 200
    await export_hub.api.track(f"/trips/{export_hub.trip_id}/track")


# --- lost rights --------------------------------------------------------------------------------------------------------


async def _revoke_token(export_hub: ExportHub, bearer: str) -> None:
    await export_hub.api.call("DELETE", f"/tokens/{jti_of(bearer)}")


async def _expire(export_hub: ExportHub, _: str) -> None:
    export_hub.clock.ahead = 3_700_000


async def _end_trip(export_hub: ExportHub, _: str) -> None:
    await export_hub.api.advance(export_hub.trip_id, "canceled")


async def _erase_vehicle(export_hub: ExportHub, _: str) -> None:
    await export_hub.api.advance(export_hub.trip_id, "canceled")
    await export_hub.api.call("DELETE", f"/vehicles/{export_hub.vehicle_id}")


async def _move_vehicle(export_hub: ExportHub, _: str) -> None:
    await export_hub.api.advance(export_hub.trip_id, "canceled")
    body = {"fleet_id": await export_hub.api.fleet(), "name": "Van"}
    await export_hub.api.call("PUT", f"/vehicles/{export_hub.vehicle_id}", body)


async def _delete_trip(export_hub: ExportHub, _: str) -> None:
    await export_hub.api.advance(export_hub.trip_id, "canceled")
    await export_hub.api.call("DELETE", f"/trips/{export_hub.trip_id}")


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
    make_export_hub: MakeExportHub, role: str, what: str, change: Callable[[ExportHub, str], Awaitable[None]]
) -> None:
    export_hub = await make_export_hub()
    subjects = {"passenger": export_hub.trip_id, "dispatcher": export_hub.fleet_id}
    bearer = token(role, subjects.get(role))
    path = export_hub.path if what == "trip" else f"/vehicles/{export_hub.vehicle_id}/track?format=csv"
    async with export_hub.reader(bearer, path) as reader:
        assert await reader.begun() == 200
        await change(export_hub, bearer)
        await until(lambda: not export_hub.service.downloads._held)
        while await reader.read():
            pass
        assert not reader.whole
        assert reader.got < 2_000_000


async def test_row_89_a_share_link_that_is_revoked_gives_no_more(make_export_hub: MakeExportHub) -> None:
    """Even for a fast reader."""
    export_hub = await make_export_hub(rows=100_000)
    share = await export_hub.share()
    async with export_hub.reader(share["token"]) as reader:
        assert await reader.begun() == 200
        revoking: asyncio.Task[Any] | None = None
        while await reader.read():
            if revoking is None and reader.got > 200_000:
                revoking = asyncio.create_task(export_hub.api.call("DELETE", f"/shares/{share['share_id']}"))
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
async def test_row_89_a_waiting_download_is_checked_again_before_the_first_piece(
    make_export_hub: MakeExportHub,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    what: str,
    change: Callable[[ExportHub, str], Awaitable[None]],
    status: int,
) -> None:
    """It waits for another download of its token. The audit does not get the id of an erased vehicle by it either."""
    export_hub = await make_export_hub(downloads_per_token=1)
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 10.0)
    # Only the check before the first piece counts here.
    monkeypatch.setattr(downloads, "CHECK_SECONDS", 10.0)
    subjects = {"passenger": export_hub.trip_id, "dispatcher": export_hub.fleet_id}
    bearer = token(role, subjects[role])
    path = export_hub.path if what == "trip" else f"/vehicles/{export_hub.vehicle_id}/track?format=csv"
    async with contextlib.AsyncExitStack() as waiting:
        async with export_hub.reader(bearer, path) as first:
            assert await first.begun() == 200
            second = await waiting.enter_async_context(export_hub.reader(bearer, path))
            await until(lambda: export_hub.service.downloads._waiting)
            await change(export_hub, bearer)
        assert await second.begun() == status
    [entry] = (await export_hub.api.call("GET", "/audit", action="exported"))["entries"]
    assert (entry["subject"] in (export_hub.trip_id, export_hub.vehicle_id)) is (change is not _erase_vehicle)


# --- other long answers -------------------------------------------------------------------------------------------------


async def test_the_summary_of_a_long_trip_is_a_download(
    make_export_hub: MakeExportHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_hub = await make_export_hub(rows=3_000, summary_delay=0.5)
    await export_hub.api.advance(export_hub.trip_id, "arrived_at_pickup", "enroute_to_dropoff", "complete")
    path = f"/trips/{export_hub.trip_id}/summary"
    async with asyncio.timeout(20):
        while (short := await export_hub.api.http.get(path)).status_code == 404:
            await asyncio.sleep(0.02)
    assert len(short.json()["track"]["coordinates"]) == 3_000
    monkeypatch.setattr(history, "LONG", 1_000)
    monkeypatch.setattr(history, "PIECE", 1_000)
    long = await export_hub.api.http.get(path)
    assert "content-length" not in long.headers
    assert long.json() == short.json()
    async with SlowReader(export_hub.port, path, token("dispatcher", export_hub.fleet_id), "HEAD") as head:
        assert await head.begun() == 200
        assert head.tail == b""


async def test_the_summary_of_a_trip_is_cut_off_when_its_vehicle_is_erased(
    make_export_hub: MakeExportHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_hub = await make_export_hub(rows=100_000, summary_delay=0.5)
    await export_hub.api.advance(export_hub.trip_id, "arrived_at_pickup", "enroute_to_dropoff", "complete")
    path = f"/trips/{export_hub.trip_id}/summary"
    async with asyncio.timeout(20):
        while (await export_hub.api.http.head(path)).status_code == 404:
            await asyncio.sleep(0.1)
    async with export_hub.reader(token("dispatcher", export_hub.fleet_id), path) as reader:
        assert await reader.begun() == 200
        await export_hub.api.http.request("DELETE", f"/vehicles/{export_hub.vehicle_id}")
        await asyncio.sleep(0.5)
        while await reader.read():
            pass
        assert not reader.whole


# --- with honest clients beside it --------------------------------------------------------------------------------------


async def test_rows_81_83_89_honest_clients_notice_nothing(own_hub: Callable[..., HubProcess]) -> None:
    async def attack(scene: Scene) -> None:
        await exports.days(scene, rows=20_000)
        # Only two, because a third waits five seconds until it is refused.
        await exports.dawdlers(scene, rows=20_000, readers=2)
        await exports.outlived(scene, rows=60_000)

    (await stage(own_hub(), attack, 0.3)).check(slack=5)
