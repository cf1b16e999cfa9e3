"""Changes of a fleet over HTTP: at once, held, and as a stream, from a hub of this process and its real database."""

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.changes import Hub, a_hub, an_event, append, changes, streaming, types
from tests.support.devices import until
from tracking.api import changes as http_changes
from tracking.api import health
from tracking.life import HEARTBEAT
from tracking.live import recent_changes


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    async with a_hub(database_url) as hub:
        yield hub


async def test_what_was_committed_is_told_in_order_from_where_the_reader_is(hub: Hub) -> None:
    api = hub.api
    fleet_id, other = await api.fleet(), await api.fleet()
    begin = (await changes(hub, fleet_id))["last"]
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    await api.vehicle(other)
    changed = await api.advance(trip["trip_id"], "enroute_to_pickup")
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Renamed"})
    told = await changes(hub, fleet_id, after=begin)
    assert types(told) == ["vehicle.changed", "trip.created", "trip.changed", "fleet.changed"]
    assert told["changes"][2]["data"] == changed
    assert told["changes"][0]["data"]["plate"] == "FL 12345"
    assert told["changes"][3]["data"]["name"] == "Renamed"
    numbers = [change["change"] for change in told["changes"]]
    assert numbers == sorted(set(numbers)) and numbers[0] > begin
    assert told["changes"][0]["timestamp"].endswith("Z") and len(told["changes"][0]["timestamp"]) == 24
    # The cursor passes over what is another fleet's.
    assert told["last"] == hub.service.follower.applied
    assert (await changes(hub, fleet_id, after=told["last"])) == {"changes": [], "last": told["last"]}
    # In pages.
    first = await changes(hub, fleet_id, after=begin, limit=3)
    assert first["changes"] == told["changes"][:3] and first["last"] == numbers[2]
    assert (await changes(hub, fleet_id, after=first["last"], limit=3))["changes"] == told["changes"][3:]


@pytest.mark.parametrize("rows", [20_000, 1])
async def test_memory_and_store_tell_the_same(hub: Hub, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(recent_changes, "MAX_ROWS", rows)
    api = hub.api
    fleet_id, other = await api.fleet(), await api.fleet()
    begin = (await changes(hub, fleet_id))["last"]
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    event = await an_event(hub, fleet_id, vehicle_id, trip_id=trip["trip_id"], longitude=9.5, latitude=47.1)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Other"})
    await api.vehicle(other)
    told = await changes(hub, fleet_id, after=begin)
    assert types(told) == ["vehicle.changed", "trip.created", "event.idle", "vehicle.changed"]
    [listed] = (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]
    assert told["changes"][2]["data"] == listed and listed["event_id"] == event
    # Another hub, whose memory begins after all this, reads it from the store.
    async with a_hub(hub.service.settings.database_url) as second:
        again = await changes(second, fleet_id, after=begin)
    assert again["changes"] == told["changes"]


async def test_a_vehicle_that_moves_away_is_removed_from_its_old_fleet(hub: Hub) -> None:
    api = hub.api
    old, new = await api.fleet(), await api.fleet()
    vehicle_id = await api.vehicle(old)
    begin = (await changes(hub, old))["last"]
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": new, "name": "Secret", "plate": "FL 1"})
    told = await changes(hub, old, after=begin)
    assert types(told) == ["vehicle.deleted"] and told["changes"][0]["data"] == {"vehicle_id": vehicle_id}
    assert new not in json.dumps(told) and "Secret" not in json.dumps(told)
    assert types(await changes(hub, new, after=begin)) == ["vehicle.changed"]


async def test_an_event_that_is_gone_is_left_out(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    vehicle_id = await hub.api.vehicle(fleet_id)
    begin = (await changes(hub, fleet_id))["last"]
    event = await an_event(hub, fleet_id, vehicle_id)
    async with hub.service.database.transaction() as connection:
        await connection.execute("DELETE FROM events WHERE event = $1", event)
    told = await changes(hub, fleet_id, after=begin)
    assert told == {"changes": [], "last": hub.service.follower.applied}


async def test_a_held_answer_comes_with_the_change(hub: Hub) -> None:
    fleet_id, other = await hub.api.fleet(), await hub.api.fleet()
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(changes(hub, fleet_id, wait=30))
        await until(lambda: fleet_id in hub.service.change_feed.readers.waiting, "it waits")
        await hub.api.vehicle(other)
        assert not held.done()
        await hub.api.vehicle(fleet_id)
    assert types(held.result()) == ["vehicle.changed"]
    assert not hub.service.change_feed.readers.waiting


async def test_a_held_answer_is_empty_when_its_time_is_over(hub: Hub) -> None:
    fleet_id, other = await hub.api.fleet(), await hub.api.fleet()
    before = hub.service.follower.applied
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(changes(hub, fleet_id, wait=1))
        await until(lambda: fleet_id in hub.service.change_feed.readers.waiting, "it waits")
        await hub.api.vehicle(other)
    assert held.result() == {"changes": [], "last": hub.service.follower.applied}
    assert held.result()["last"] > before


@pytest.mark.parametrize(
    ("query", "field"),
    [("after=x", "after"), ("after=-1", "after"), ("limit=0", "limit"), ("limit=1001", "limit"), ("wait=31", "wait")],
)
async def test_a_bad_parameter_is_named(hub: Hub, query: str, field: str) -> None:
    fleet_id = await hub.api.fleet()
    refused = await hub.api.call("GET", f"/fleets/{fleet_id}/changes?{query}", expect=422)
    assert refused["error"]["field"] == field


async def test_what_is_not_kept_and_what_never_was_is_gone(database_url: str) -> None:
    async with a_hub(database_url) as hub:
        fleet_id = await hub.api.fleet()
        for _ in range(3):
            await hub.api.vehicle(fleet_id)
        told = await changes(hub, fleet_id, after=0)
        async with hub.service.database.transaction() as connection:
            await connection.execute("UPDATE changes_kept SET after = $1", told["changes"][1]["change"])
    async with a_hub(database_url) as hub:
        await hub.api.vehicle(fleet_id)
        # At a hub's start a heartbeat is appended, some time. It must not be the change that never was.
        await _end_task(HEARTBEAT)
        for after in (0, told["changes"][1]["change"] - 1, await _head(hub) + 1):
            for accept in ("*/*", "text/event-stream"):
                answer = await hub.api.http.get(
                    f"/fleets/{fleet_id}/changes?wait=30", params={"after": after}, headers={"Accept": accept}
                )
                assert answer.status_code == 410 and answer.json()["error"]["code"] == "gone", (after, accept)
        rest = await changes(hub, fleet_id, after=told["changes"][1]["change"])
        assert rest["changes"][:-1] == told["changes"][2:]


async def _end_task(name: str) -> None:
    """Ends a task of the hub in this process."""
    ended = [task for task in asyncio.all_tasks() if task.get_name() == name]
    for task in ended:
        task.cancel()
    await asyncio.wait(ended)


async def _head(hub: Hub) -> int:
    """The number of the last change in the log."""
    async with hub.service.database.connection() as connection:
        return int(await connection.fetchval("SELECT max(number) FROM changes"))


async def test_who_is_ahead_of_this_hub_waits_for_it(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    await _end_task("follower")
    await append(hub, fleet_id, "{}", 3)
    head = await _head(hub)
    assert await changes(hub, fleet_id, after=head) == {"changes": [], "last": head}
    assert types(await changes(hub, fleet_id, after=hub.service.follower.applied)) == []
    following = asyncio.create_task(hub.service.follower.run())
    answer = await changes(hub, fleet_id, after=head - 1, wait=30)
    assert [change["change"] for change in answer["changes"]] == [head]
    following.cancel()


async def test_trust_73_an_erased_vehicle_or_trip_is_in_no_change_in_memory_or_store(hub: Hub) -> None:
    api = hub.api
    fleet_id = await api.fleet()
    begin = (await changes(hub, fleet_id))["last"]
    vehicle_id, stays = await api.vehicle(fleet_id, plate="FL 666"), await api.vehicle(fleet_id, plate="FL 777")
    waits, driven = await api.trip(fleet_id, vehicle_id), await api.trip(fleet_id, stays)
    await api.advance(driven["trip_id"], "enroute_to_pickup")
    await an_event(hub, fleet_id, vehicle_id)
    await an_event(hub, fleet_id, stays, trip_id=driven["trip_id"])
    await api.advance(driven["trip_id"], "canceled")
    assert "FL 666" in json.dumps(await changes(hub, fleet_id, after=begin))
    assert (await api.http.delete(f"/vehicles/{vehicle_id}")).status_code in (202, 204)
    told = await changes(hub, fleet_id, after=begin)
    assert "FL 666" not in json.dumps(told)
    of_the_other = ["vehicle.changed", "trip.created", "trip.changed", "event.idle", "trip.changed"]
    assert types(told) == [*of_the_other, "trip.changed", "vehicle.deleted"] or types(told) == [
        *of_the_other,
        "vehicle.deleted",
        "trip.changed",
    ]
    assert told["changes"][3]["data"]["trip_id"] == driven["trip_id"]
    for trip in (waits, driven):
        await api.call("DELETE", f"/trips/{trip['trip_id']}", expect=204)
    told = await changes(hub, fleet_id, after=begin)
    assert types(told) == ["vehicle.changed", "event.idle", "vehicle.deleted", "trip.deleted", "trip.deleted"]
    text = json.dumps(told, ensure_ascii=False)
    assert [text.count(trip["trip_id"]) for trip in (waits, driven)] == [1, 1] and "Städtle" not in text
    async with a_hub(hub.service.settings.database_url) as second:
        assert (await changes(second, fleet_id, after=begin))["changes"] == told["changes"]

    async def blanked() -> bool:
        async with hub.service.database.connection() as connection:
            rows = await connection.fetch("SELECT kind, public::text, subject FROM changes WHERE number > $1", begin)
        text = str([tuple(row) for row in rows])
        # The notice itself, and the one to its vehicle.
        assert "trip.deleted" in text
        return "FL 666" not in text and "Städtle" not in text and text.count(driven["trip_id"]) <= 3

    await until(blanked, "the rows say nothing any more")


async def test_a_row_that_is_shown_from_the_store_is_not_of_what_is_being_erased(hub: Hub) -> None:
    """Between the removal and the last batch of the erasure."""
    api = hub.api
    fleet_id = await api.fleet()
    begin = (await changes(hub, fleet_id))["last"]
    vehicle_id = await api.vehicle(fleet_id, plate="FL 666")
    trip = await api.trip(fleet_id, None)
    async with hub.service.database.transaction() as connection:
        await connection.execute("DELETE FROM vehicles WHERE vehicle_id = $1", vehicle_id)
        await connection.execute(
            "INSERT INTO trip_erasures (trip, trip_id, asked_at) VALUES (2000000, $1, now())", trip["trip_id"]
        )
    hub.service.change_feed.recent.forget_all(hub.service.follower.applied)
    assert (await changes(hub, fleet_id, after=begin))["changes"] == []


async def test_trust_47_while_the_database_is_away_memory_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet_id = await hub.api.fleet()
    begin = (await changes(hub, fleet_id))["last"]
    vehicle_id = await hub.api.vehicle(fleet_id)
    event = await an_event(hub, fleet_id, vehicle_id)
    monkeypatch.setattr(http_changes, "RETRY_SECONDS", 0.05)
    service = hub.service
    await service.database.close()
    await service.following.close()
    told = await changes(hub, fleet_id, after=begin)
    # The event was not read yet.
    assert types(told) == ["vehicle.changed"] and told["last"] == told["changes"][-1]["change"]
    assert await changes(hub, fleet_id, after=told["last"]) == {"changes": [], "last": told["last"]}
    async with streaming(hub, fleet_id, str(begin)) as stream:
        assert (await stream.change())["type"] == "vehicle.changed"
        held = asyncio.create_task(changes(hub, fleet_id, after=told["last"], wait=30))
        await until(lambda: len(service.change_feed.readers._readers) == 2, "both read")
        await service.following.open()
        await service.database.open()
        assert (await stream.change())["data"]["event_id"] == event
        assert (await held)["changes"][0]["data"]["event_id"] == event


async def test_a_hub_that_can_not_read_the_log_says_so(hub: Hub, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BEHIND_SECONDS", 1.0)

    async def degraded() -> bool:
        body = (await hub.api.http.get(f"{hub.url}/readyz")).json()
        assert body["status"] == "ready"
        return any("the change log was not read" in reason for reason in body["degraded"])

    assert not await degraded()
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE changes IN ACCESS EXCLUSIVE MODE")
            await until(degraded, "it says that it is behind")
    finally:
        await blocker.close()

    async def well() -> bool:
        return not await degraded()

    await until(well, "it has caught up")
