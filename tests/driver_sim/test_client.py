"""The driver's client against a scripted hub on a real socket."""

import asyncio
import time
from typing import Any

import pytest

from driver_sim.callbacks import Rejection
from driver_sim.client import DriverClient
from driver_sim.connection import driver_url
from driver_sim.outbox import MemoryOutbox, Outbox, Request
from tests.driver_sim.clients import client_of, drained, report, running, stored, turns
from tests.driver_sim.hub import ScriptedHub
from tracking.model import TripStatus
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.protocol.driver import MAX_BATCH, DriverTextMessage
from tracking.protocol.http import TripView
from tracking.protocol.shared import Error

TRIP: dict[str, Any] = {
    "trip_id": "t1",
    "fleet_id": "demo",
    "status": "new",
    "version": 1,
    "pickup": {"latitude": 47.1, "longitude": 9.5},
    "dropoff": {"latitude": 47.2, "longitude": 9.5},
    "stops": [],
    "created_at": 1,
}


# --- normal operation -----------------------------------------------------------------------------------------------


async def test_fixes_are_reported_and_leave_the_outbox_when_acknowledged(hub: ScriptedHub, outbox: Outbox) -> None:
    client = client_of(hub, outbox)
    async with running(client):
        client.report(47.141, 9.521, fix_time=5, accuracy=4.0, speed=3.0, bearing=90.0, altitude=455.0, battery=0.5)
        await drained(client)
    assert len(outbox) == 0
    (fix,) = hub.stored[outbox.session]
    assert (fix.seq, fix.fix_time, fix.latitude, fix.speed, fix.battery) == (1, 5, 47.141, 3.0, 0.5)
    assert hub.tokens == ["good"]


async def test_a_backlog_goes_in_order_in_batches_that_fit(hub: ScriptedHub, outbox: Outbox) -> None:
    client = client_of(hub, outbox)
    report(client, 1_300)
    async with running(client):
        await drained(client)
    assert stored(hub, client) == list(range(1, 1_301))
    assert len(hub.frames) < 10
    assert max(len(frame) for frame in hub.raw) <= MAX_FRAME_BYTES
    assert max(len(frame["positions"]) for frame in hub.frames) <= MAX_BATCH


async def test_reporting_needs_no_connection_and_refuses_numbers_that_json_does_not_have() -> None:
    client = DriverClient("http://127.0.0.1:9", MemoryOutbox(), "good", clock=lambda: 42)
    assert client.report(47.1, 9.5) == 1
    assert client.outbox.unacknowledged(0, 1)[0].fix.fix_time == 42
    with pytest.raises(ValueError, match="finite"):
        client.report(float("nan"), 9.5)
    with pytest.raises(ValueError, match="finite"):
        client.report(47.1, 9.5, speed=float("inf"))
    assert len(client.outbox) == 1


async def test_no_more_fixes_than_the_limit_are_in_flight(hub: ScriptedHub) -> None:
    hub.acknowledging = False
    client = client_of(hub, max_in_flight=10)
    report(client, 25)
    async with running(client):
        await hub.until(lambda: hub.handled.get(client.outbox.session) == 10)
        await turns()
        assert client.fixes_sent == 10
        await hub.acknowledge(4)
        await hub.until(lambda: hub.handled[client.outbox.session] == 14)
        hub.acknowledging = True
        await hub.acknowledge(14)
        await drained(client)
    assert stored(hub, client) == list(range(1, 26))


async def test_what_was_sent_on_an_earlier_connection_may_be_acknowledged_on_this_one(hub: ScriptedHub) -> None:
    """The hub resumes a session at once, and commits what it had of that session a moment later."""
    hub.acknowledging = False
    client = client_of(hub, max_in_flight=3)
    report(client, 5)
    async with running(client):
        await hub.until(lambda: hub.handled.get(client.outbox.session) == 3)
        await hub.acknowledge(5)
        await drained(client)
        hub.acknowledging = True
        report(client, 1)
        await drained(client)
    assert 6 in stored(hub, client)


async def test_messages_of_the_hub_reach_the_caller(hub: ScriptedHub) -> None:
    trips: list[TripView] = []
    messages: list[DriverTextMessage] = []
    intervals: list[float] = []
    errors: list[Error] = []
    hub.greeting = {"interval": 3.0, "trip": TRIP}
    client = client_of(
        hub, on_trip=trips.append, on_message=messages.append, on_interval=intervals.append, on_error=errors.append
    )
    async with running(client):
        await hub.until(lambda: len(hub.live) == 1)
        await hub.say(type="of_a_later_version", what={"ever": None})
        await hub.say(type="interval", interval=7.5, added_later=True)
        await hub.say(type="trip", trip=TRIP | {"status": "canceled", "version": 2})
        await hub.say(type="message", trip_id="t1", text="I am at the gate", server_time=1, **{"from": "passenger"})
        await hub.say(type="error", code="bad_field", detail="scripted")
        client.report(47.1, 9.5)
        await drained(client)
    assert intervals == [3.0, 7.5]
    assert client.interval == 7.5
    assert [(trip.trip_id, trip.status, trip.version) for trip in trips] == [("t1", "new", 1), ("t1", "canceled", 2)]
    assert [(message.from_, message.text) for message in messages] == [("passenger", "I am at the gate")]
    assert [error.code for error in errors] == ["bad_field"]


async def test_a_message_that_cannot_be_read_does_not_end_the_connection(hub: ScriptedHub) -> None:
    client = client_of(hub)
    async with running(client):
        await hub.until(lambda: len(hub.live) == 1)
        await hub.live[0].send("not json")
        await hub.say(type="interval", interval="soon")
        client.report(47.1, 9.5)
        await drained(client)
    assert client.connections == 1
    assert client.interval == 2.0


async def test_rejected_fixes_are_reported_and_leave_the_outbox(hub: ScriptedHub, outbox: Outbox) -> None:
    told: list[Rejection] = []
    hub.reject = lambda fix: "out_of_range" if fix.latitude > 90 else None
    client = client_of(hub, outbox, on_rejected=told.append)
    async with running(client):
        client.report(47.1, 9.5)
        client.report(95.1, 9.5)
        client.report(47.2, 9.5)
        await drained(client)
    assert [(rejection.seq, rejection.code) for rejection in told] == [(2, "out_of_range")]
    assert told[0].fix is not None
    assert told[0].fix.latitude == 95.1
    assert stored(hub, client) == [1, 3]


async def test_in_a_dead_zone_fixes_wait(hub: ScriptedHub) -> None:
    client = client_of(hub)
    async with running(client):
        client.set_signal(False)
        await hub.until(lambda: len(hub.live) == 1)
        report(client, 3)
        await turns()
        assert client.fixes_sent == 0
        client.set_signal(True)
        await drained(client)
    assert stored(hub, client) == [1, 2, 3]


async def test_a_failing_callback_is_not_swallowed(hub: ScriptedHub) -> None:
    def fail(_interval: float) -> None:
        raise RuntimeError("the caller's fault")

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="the caller's fault"):
            await client_of(hub, on_interval=fail).run()


# --- requests -------------------------------------------------------------------------------------------------------


async def test_a_status_change_is_kept_until_done_and_sent_again(hub: ScriptedHub, outbox: Outbox) -> None:
    done: list[tuple[Request, str | None, str | None]] = []
    hub.answering = False
    client = client_of(hub, outbox, on_done=lambda *what: done.append(what))
    async with running(client):
        client_id = client.advance("t1", TripStatus.ENROUTE_TO_PICKUP)
        await hub.until(lambda: len(hub.frames) == 1)
        assert [request.client_id for request in outbox.requests()] == [client_id]
        hub.answering = True
        hub.live[0].transport.abort()
        await drained(client)
    assert hub.frames[0] == hub.frames[1]
    assert hub.frames[0] == {"type": "trip_status", "trip_id": "t1", "status": "enroute_to_pickup", "client_id": client_id}
    assert [(request.client_id, code) for request, code, _ in done] == [(client_id, None)]
    assert outbox.requests() == []


async def test_requests_are_sent_one_after_the_other(hub: ScriptedHub) -> None:
    hub.answering = False
    client = client_of(hub)
    async with running(client):
        first = client.advance("t1", TripStatus.ENROUTE_TO_PICKUP)
        second = client.send_text("t1", "On my way")
        await hub.until(lambda: len(hub.frames) == 1)
        report(client, 1)
        await hub.until(lambda: len(hub.frames) == 2)
        await turns()
        assert [frame.get("client_id") for frame in hub.frames] == [first, None], "asked again before the answer was due"
        hub.answering = True
        await hub.say(type="done", client_id=first)
        await drained(client)
    assert [frame.get("client_id") for frame in hub.frames] == [first, None, second]
    assert hub.frames[2]["text"] == "On my way"


async def test_a_refused_request_is_reported_and_dropped(hub: ScriptedHub) -> None:
    done: list[tuple[str, str | None, str | None]] = []
    hub.refuse = lambda frame: "conflict"
    client = client_of(hub, on_done=lambda request, code, detail: done.append((request.client_id, code, detail)))
    async with running(client):
        client_id = client.advance("t1", TripStatus.COMPLETE)
        await drained(client)
    assert done == [(client_id, "conflict", "scripted")]
    assert len(hub.frames) == 1


async def test_a_request_refused_for_now_is_sent_again(hub: ScriptedHub) -> None:
    answers = iter(["unavailable", "rate_limited"])
    hub.refuse = lambda _frame: next(answers, None)
    client = client_of(hub, backoff=lambda _attempt: 0.1)
    began = time.monotonic()
    async with running(client):
        client.advance("t1", TripStatus.COMPLETE)
        await drained(client)
    assert len(hub.frames) == 3
    assert time.monotonic() - began >= 0.2, "the hub was not given the time it asked for"


async def test_a_request_without_an_answer_is_sent_again(hub: ScriptedHub) -> None:
    hub.answering = False
    client = client_of(hub, answer_timeout=0.05)
    async with running(client):
        client.advance("t1", TripStatus.COMPLETE)
        await hub.until(lambda: len(hub.frames) == 1)
        hub.answering = True
        await drained(client)
    assert hub.frames[0] == hub.frames[1]
    assert client.connections == 1


async def test_a_rate_limit_is_obeyed(hub: ScriptedHub) -> None:
    errors: list[Error] = []
    told = asyncio.Event()

    def on_error(error: Error) -> None:
        errors.append(error)
        told.set()

    hub.answering = False
    client = client_of(hub, on_error=on_error)
    async with running(client):
        client.send_text("t1", "Hello")
        await hub.until(lambda: len(hub.frames) == 1)
        hub.answering = True
        await hub.say(type="error", code="rate_limited", detail="scripted", retry_after=0.15)
        async with asyncio.timeout(5):
            await told.wait()
        began = time.monotonic()
        client.report(47.1, 9.5)
        await drained(client)
    assert time.monotonic() - began >= 0.14
    assert [frame["type"] for frame in hub.frames] == ["message", "message", "position"]


@pytest.mark.parametrize(
    ("hub_address", "url"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/driver"),
        ("https://hub.example/base/", "wss://hub.example/base/v1/driver"),
        ("ws://h:1/v1/driver", "ws://h:1/v1/driver"),
    ],
)
def test_the_address_of_the_driver_socket(hub_address: str, url: str) -> None:
    assert driver_url(hub_address) == url


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://h", "http://"])
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="looks like http"):
        driver_url(address)
