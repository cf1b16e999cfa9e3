"""Changes of a fleet over HTTP: at once, held, and as a stream, from a hub of this process and its real database."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import asyncpg
import httpx
import pytest

from tests.support.clients import Api, Message, now_ms, token
from tests.support.devices import until
from tests.support.hub_process import SECRET
from tests.support.serving import Served, serving
from tracking.api import changes as http_changes
from tracking.api import health
from tracking.app import create_app
from tracking.config import load
from tracking.live import change_feed
from tracking.model import Event, EventKind
from tracking.service import Service
from tracking.store import events


class Hub(NamedTuple):
    url: str
    api: Api
    service: Service
    served: Served


@contextlib.asynccontextmanager
async def a_hub(database_url: str, clock: Callable[[], int] = now_ms, **settings: Any) -> AsyncIterator[Hub]:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0, **settings), clock=clock)
    async with serving(app, lifespan="on") as served, Api(served.url) as api:
        yield Hub(served.url, api, app.state.service, served)


@pytest.fixture
async def hub(database_url: str) -> AsyncIterator[Hub]:
    async with a_hub(database_url) as hub:
        yield hub


class Stream:
    """A reader of server-sent events. `last` is the last `id`."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last = ""
        self.comments = 0
        self.lines = response.aiter_lines()

    async def event(self) -> tuple[str, Message] | None:
        """The next one with data: its name and that. None: the stream has ended."""
        name, data = "", ""
        async for line in self.lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("id: "):
                self.last = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                return name, json.loads(data)
        return None

    async def change(self) -> Message:
        async with asyncio.timeout(10):
            event = await self.event()
        assert event is not None and event[0] == "", event
        assert self.last == str(event[1]["change"])
        return event[1]


@contextlib.asynccontextmanager
async def streaming(
    hub: Hub, fleet_id: str, last: str | None = None, bearer: str | None = None, **params: Any
) -> AsyncIterator[Stream]:
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last is not None else {})}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    async with hub.api.http.stream("GET", f"/fleets/{fleet_id}/changes", headers=headers, params=params) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def changes(hub: Hub, fleet_id: str, **params: Any) -> Message:
    answer: Message = await hub.api.call("GET", f"/fleets/{fleet_id}/changes", **params)
    return answer


def _types(answer: Message) -> list[str]:
    return [change["type"] for change in answer["changes"]]


async def an_event(hub: Hub, fleet_id: str, vehicle_id: str, kind: EventKind = EventKind.IDLE, **fields: Any) -> int:
    """Stores an event, as the watch does, and returns when it is applied; its id."""
    async with hub.service.database.transaction() as connection:
        [number] = await events.reserve(connection, 1)
        await events.insert(connection, [fleet_id], [None], [Event(number, kind, vehicle_id, now_ms(), **fields)])
    hub.service.follower.wake()
    async with hub.service.database.connection() as connection:
        last = await connection.fetchval("SELECT max(number) FROM changes")
    await until(lambda: hub.service.follower.applied >= last, "the event is applied")
    return number


# --- what is told -----------------------------------------------------------------------------------------------------


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
    assert _types(told) == ["vehicle.changed", "trip.created", "trip.changed", "fleet.changed"]
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
    monkeypatch.setattr(change_feed, "MAX_ROWS", rows)
    api = hub.api
    fleet_id, other = await api.fleet(), await api.fleet()
    begin = (await changes(hub, fleet_id))["last"]
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    event = await an_event(hub, fleet_id, vehicle_id, trip_id=trip["trip_id"], longitude=9.5, latitude=47.1)
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Other"})
    await api.vehicle(other)
    told = await changes(hub, fleet_id, after=begin)
    assert _types(told) == ["vehicle.changed", "trip.created", "event.idle", "vehicle.changed"]
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
    assert _types(told) == ["vehicle.deleted"] and told["changes"][0]["data"] == {"vehicle_id": vehicle_id}
    assert new not in json.dumps(told) and "Secret" not in json.dumps(told)
    assert _types(await changes(hub, new, after=begin)) == ["vehicle.changed"]


async def test_an_event_that_is_gone_is_left_out(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    vehicle_id = await hub.api.vehicle(fleet_id)
    begin = (await changes(hub, fleet_id))["last"]
    event = await an_event(hub, fleet_id, vehicle_id)
    async with hub.service.database.transaction() as connection:
        await connection.execute("DELETE FROM events WHERE event = $1", event)
    told = await changes(hub, fleet_id, after=begin)
    assert told == {"changes": [], "last": hub.service.follower.applied}


# --- a held answer ------------------------------------------------------------------------------------------------------


async def test_a_held_answer_comes_with_the_change(hub: Hub) -> None:
    fleet_id, other = await hub.api.fleet(), await hub.api.fleet()
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(changes(hub, fleet_id, wait=30))
        await until(lambda: fleet_id in hub.service.change_feed.waiting, "it waits")
        await hub.api.vehicle(other)
        assert not held.done()
        await hub.api.vehicle(fleet_id)
    assert _types(held.result()) == ["vehicle.changed"]
    assert not hub.service.change_feed.waiting


async def test_a_held_answer_is_empty_when_its_time_is_over(hub: Hub) -> None:
    fleet_id, other = await hub.api.fleet(), await hub.api.fleet()
    before = hub.service.follower.applied
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(changes(hub, fleet_id, wait=1))
        await until(lambda: fleet_id in hub.service.change_feed.waiting, "it waits")
        await hub.api.vehicle(other)
    assert held.result() == {"changes": [], "last": hub.service.follower.applied}
    assert held.result()["last"] > before


async def test_a_client_that_goes_leaves_its_place(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    feed = hub.service.change_feed
    for stream in (False, True):
        with socket.create_connection(("127.0.0.1", hub.served.port)) as client:
            accept = "text/event-stream" if stream else "*/*"
            head = f"GET /v1/fleets/{fleet_id}/changes?wait=30 HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n"
            client.sendall(f"{head}Authorization: Bearer {token('service')}\r\n\r\n".encode())
            await until(lambda: len(feed._readers) == 1, "it reads")
        await until(lambda: not feed._readers and not feed.waiting and not feed._held, "it has gone")


# --- a stream -----------------------------------------------------------------------------------------------------------


async def test_a_stream_tells_each_change_once_and_goes_on_where_it_was_lost(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    async with streaming(hub, fleet_id) as stream:
        first = await hub.api.vehicle(fleet_id)
        assert (await stream.change())["data"]["vehicle_id"] == first
    second, third = await hub.api.vehicle(fleet_id), await hub.api.vehicle(fleet_id)
    # The address has what it had at the first connection; the header counts.
    async with streaming(hub, fleet_id, stream.last, after=0) as stream:
        assert [(await stream.change())["data"]["vehicle_id"] for _ in range(2)] == [second, third]
        fourth = await hub.api.vehicle(fleet_id)
        assert (await stream.change())["data"]["vehicle_id"] == fourth


async def test_a_silent_stream_says_where_it_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_changes, "COMMENT_SECONDS", 0.05)
    fleet_id, other = await hub.api.fleet(), await hub.api.fleet()
    async with streaming(hub, fleet_id) as stream:
        reading = asyncio.create_task(stream.event())
        await until(lambda: stream.comments >= 2, "comments come")
        await hub.api.vehicle(other)
        applied = hub.service.follower.applied
        await until(lambda: stream.last == str(applied), "the cursor moves on past what is another fleet's")
        assert not reading.done()
        await hub.api.vehicle(fleet_id)
        assert await reading is not None


async def test_head_is_answered_at_once(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    for accept, kind in (("*/*", "application/json"), ("text/event-stream", "text/event-stream")):
        response = await hub.api.http.head(f"/fleets/{fleet_id}/changes?wait=30", headers={"Accept": accept})
        assert response.status_code == 200 and response.headers["content-type"].startswith(kind) and not response.content


async def test_a_reader_that_takes_nothing_is_ended_and_the_others_are_not(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_changes, "SLOW_SECONDS", 2.0)
    async with a_hub(database_url) as hub:
        fleet_id = await hub.api.fleet()
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", hub.served.port))
        head = f"GET /v1/fleets/{fleet_id}/changes HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n"
        slow.sendall(f"{head}Authorization: Bearer {token('service')}\r\n\r\n".encode())
        feed = hub.service.change_feed
        await until(lambda: len(feed._readers) == 1, "it reads")
        [reader] = feed._readers
        async with streaming(hub, fleet_id) as good:
            text = json.dumps({"name": "x" * 50_000})
            told = 0
            while reader.ended is None:
                await _append(hub, fleet_id, text)
                assert (await good.change())["data"]["name"] == "x" * 50_000
                told += 1
            assert reader.ended == "slow"
            # What it is told at last stands behind all that it had not taken.
            slow.settimeout(10)
            said = await asyncio.to_thread(_read_all, slow)
            assert said.endswith(b"\r\n0\r\n\r\n") and b"event: end" in said[-400:] and b"too_slow" in said[-400:]
            ids = [int(line[4:]) for line in said.split(b"\n") if line.startswith(b"id: ")]
            assert len(ids) < told
        async with streaming(hub, fleet_id, str(ids[-1])) as again:
            assert (await again.change())["change"] == ids[-1] + 1


def _read_all(connection: socket.socket) -> bytes:
    said = b""
    while piece := connection.recv(65536):
        said += piece
    connection.close()
    return said


async def _append(hub: Hub, fleet_id: str, public: str, count: int = 1) -> None:
    """Changes of the fleet, as services write them."""
    async with hub.service.database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO pending_changes (kind, subject, fleet_id, public)
            SELECT 'fleet.changed', $1, $1, $2::text::jsonb FROM generate_series(1, $3::int)
            """,
            fleet_id,
            public,
            count,
        )
    hub.service.follower.wake()


# --- who may, and how many ----------------------------------------------------------------------------------------------


async def test_trust_32_a_revoked_token_ends_its_stream_and_its_held_answer(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    issued = await hub.api.call("POST", "/tokens", {"role": "dispatcher", "fleet_id": fleet_id})
    async with Api(hub.url, issued["token"]) as dispatcher, streaming(hub, fleet_id, bearer=issued["token"]) as stream:
        held = asyncio.create_task(dispatcher.http.get(f"/fleets/{fleet_id}/changes?wait=30"))
        await until(lambda: len(hub.service.change_feed._readers) == 2, "both read")
        began = asyncio.get_running_loop().time()
        await hub.api.call("DELETE", f"/tokens/{issued['jti']}")
        end = await stream.event()
        assert end is not None and end[0] == "end" and end[1]["code"] == "unauthorized"
        assert await stream.event() is None
        assert (await held).status_code == 401
        assert asyncio.get_running_loop().time() - began < 1.5


async def test_trust_31_a_stream_ends_when_its_token_expires(database_url: str) -> None:
    ahead = 0
    async with a_hub(database_url, clock=lambda: now_ms() + ahead) as hub:
        fleet_id = await hub.api.fleet()
        async with streaming(hub, fleet_id, bearer=token("dispatcher", fleet_id, 60)) as stream:
            ahead = 60_000
            end = await stream.event()
            assert end is not None and end[0] == "end" and "expired" in end[1]["detail"]


async def test_readers_are_counted_by_token_and_in_all(database_url: str) -> None:
    async with a_hub(database_url, change_readers=3, change_readers_per_token=2) as hub:
        fleet_id = await hub.api.fleet()
        one, other = token("dispatcher", fleet_id), token("dispatcher", fleet_id)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(streaming(hub, fleet_id, bearer=one))
            async with Api(hub.url, one) as api:
                refused = await api.http.get(f"/fleets/{fleet_id}/changes?wait=1")
                assert refused.status_code == 429 and "retry-after" in refused.headers
                assert refused.json()["error"]["code"] == "rate_limited"
                # What is not held takes no place.
                await api.call("GET", f"/fleets/{fleet_id}/changes")
            await stack.enter_async_context(streaming(hub, fleet_id, bearer=other))
            async with Api(hub.url, other) as api:
                refused = await api.http.get(f"/fleets/{fleet_id}/changes", headers={"Accept": "text/event-stream"})
                assert refused.status_code == 503 and "retry-after" in refused.headers
        await until(lambda: not hub.service.change_feed._held, "all places are free")


@pytest.mark.parametrize(
    ("query", "field"),
    [("after=x", "after"), ("after=-1", "after"), ("limit=0", "limit"), ("limit=1001", "limit"), ("wait=31", "wait")],
)
async def test_a_bad_parameter_is_named(hub: Hub, query: str, field: str) -> None:
    fleet_id = await hub.api.fleet()
    refused = await hub.api.call("GET", f"/fleets/{fleet_id}/changes?{query}", expect=422)
    assert refused["error"]["field"] == field


async def test_a_last_event_id_that_is_none_of_ours_is_refused(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "abc"}
    refused = await hub.api.http.get(f"/fleets/{fleet_id}/changes", headers=headers)
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "Last-Event-ID"


# --- what is kept -------------------------------------------------------------------------------------------------------


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
        for after in (0, told["changes"][1]["change"] - 1, hub.service.follower.applied + 1):
            for accept in ("*/*", "text/event-stream"):
                answer = await hub.api.http.get(
                    f"/fleets/{fleet_id}/changes?wait=30", params={"after": after}, headers={"Accept": accept}
                )
                assert answer.status_code == 410 and answer.json()["error"]["code"] == "gone", (after, accept)
        rest = await changes(hub, fleet_id, after=told["changes"][1]["change"])
        assert rest["changes"][:-1] == told["changes"][2:]


async def test_who_is_ahead_of_this_hub_waits_for_it(hub: Hub) -> None:
    fleet_id = await hub.api.fleet()
    for task in asyncio.all_tasks():
        if task.get_name() == "follower":
            task.cancel()
    await asyncio.sleep(0)
    await _append(hub, fleet_id, "{}", 3)
    async with hub.service.database.connection() as connection:
        head = await connection.fetchval("SELECT max(number) FROM changes")
    assert await changes(hub, fleet_id, after=head) == {"changes": [], "last": head}
    assert _types(await changes(hub, fleet_id, after=hub.service.follower.applied)) == []
    following = asyncio.create_task(hub.service.follower.run())
    answer = await changes(hub, fleet_id, after=head - 1, wait=30)
    assert [change["change"] for change in answer["changes"]] == [head]
    following.cancel()


# --- erasure ------------------------------------------------------------------------------------------------------------


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
    assert _types(told) == [*of_the_other, "trip.changed", "vehicle.deleted"] or _types(told) == [
        *of_the_other,
        "vehicle.deleted",
        "trip.changed",
    ]
    assert told["changes"][3]["data"]["trip_id"] == driven["trip_id"]
    for trip in (waits, driven):
        await api.call("DELETE", f"/trips/{trip['trip_id']}", expect=204)
    told = await changes(hub, fleet_id, after=begin)
    assert _types(told) == ["vehicle.changed", "event.idle", "vehicle.deleted", "trip.deleted", "trip.deleted"]
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
    hub.service.change_feed._forget_all(hub.service.follower.applied)
    assert (await changes(hub, fleet_id, after=begin))["changes"] == []


# --- going down, and the database away ------------------------------------------------------------------------------------


async def test_trust_54_at_shutdown_held_answers_are_empty_and_streams_end(database_url: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(a_hub(database_url))
        fleet_id = await hub.api.fleet()
        stream = await stack.enter_async_context(streaming(hub, fleet_id))
        held = asyncio.create_task(changes(hub, fleet_id, wait=30))
        await until(lambda: len(hub.service.change_feed._readers) == 2, "both read")
        last = hub.service.follower.applied
        for connection in list(hub.served.server.server_state.connections):
            connection.shutdown()
        assert await held == {"changes": [], "last": last}
        end = await stream.event()
        assert end is not None and end[0] == "end" and end[1]["code"] == "unavailable"
        assert await stream.event() is None


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
    assert _types(told) == ["vehicle.changed"] and told["last"] == told["changes"][-1]["change"]
    assert await changes(hub, fleet_id, after=told["last"]) == {"changes": [], "last": told["last"]}
    async with streaming(hub, fleet_id, str(begin)) as stream:
        assert (await stream.change())["type"] == "vehicle.changed"
        held = asyncio.create_task(changes(hub, fleet_id, after=told["last"], wait=30))
        await until(lambda: len(service.change_feed._readers) == 2, "both read")
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
