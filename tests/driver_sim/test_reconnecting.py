"""What a driver's client does when its connection is lost: it reconnects, gets another token, or stops."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from driver_sim.client import DriverStopped
from driver_sim.connection import Ending
from driver_sim.outbox import Outbox
from driver_sim.store import SqliteStore
from tests.driver_sim.clients import client_of, drained, report, running, stored
from tests.driver_sim.hub import ScriptedHub

# --- lost connections -----------------------------------------------------------------------------------------------------


async def test_fixes_are_sent_again_if_the_connection_was_cut_before_they_were_stored(hub: ScriptedHub, outbox: Outbox) -> None:
    cuts = iter([False, False])
    hub.before_store = lambda _line, _fixes: next(cuts, True)
    client = client_of(hub, outbox)
    report(client, 40)
    async with running(client):
        await drained(client)
    assert client.connections == 3
    assert stored(hub, client) == list(range(1, 41))
    assert set(hub.hellos) == {outbox.session}


async def test_the_answer_to_hello_replaces_a_lost_ack(hub: ScriptedHub, outbox: Outbox) -> None:
    cuts = iter([False])
    hub.before_ack = lambda _line, _fixes: next(cuts, True)
    client = client_of(hub, outbox)
    report(client, 40)
    async with running(client):
        await drained(client)
        assert client.fixes_sent == 40, "what the hub has was sent again"
        client.report(47.1, 9.5)
        await drained(client)
    assert stored(hub, client) == list(range(1, 42))


async def test_fixes_reported_while_the_hub_is_down_arrive_when_it_is_back(hub: ScriptedHub, outbox: Outbox) -> None:
    lost: list[tuple[int, str]] = []
    tried_in_vain = asyncio.Event()

    def on_lost(code: int, reason: str) -> None:
        lost.append((code, reason))
        if reason.startswith("no connection"):
            tried_in_vain.set()

    client = client_of(hub, outbox, on_lost=on_lost, backoff=lambda _attempt: 0.01)
    async with running(client):
        report(client, 5)
        await drained(client)
        await hub.down()
        report(client, 700)
        async with asyncio.timeout(10):
            await tried_in_vain.wait()
        await hub.start()
        await drained(client)
    assert stored(hub, client) == list(range(1, 706))


async def test_a_restarted_app_sends_what_its_file_holds_under_the_same_session(hub: ScriptedHub, tmp_path: Path) -> None:
    hub.acknowledging = False
    store = SqliteStore(tmp_path / "o.sqlite")
    client = client_of(hub, store.outbox("car-1"))
    session = client.outbox.session
    async with running(client):
        report(client, 30)
        await hub.until(lambda: hub.handled.get(session, 0) > 0)
    store.close()

    hub.acknowledging = True
    store = SqliteStore(tmp_path / "o.sqlite")
    client = client_of(hub, store.outbox("car-1"))
    async with running(client):
        assert client.report(47.1, 9.5) == 31
        await drained(client)
    store.close()
    assert set(hub.hellos) == {session}
    assert stored(hub, client) == list(range(1, 32))


async def test_a_dead_connection_is_noticed_and_replaced(hub: ScriptedHub) -> None:
    hub.reading = False
    reasons: list[str] = []
    client = client_of(
        hub, on_lost=lambda _code, reason: reasons.append(reason), ping_interval=0.02, ping_timeout=0.05, close_timeout=0.05
    )
    # The hub has answered the handshake but reads nothing more. The hello never arrives.
    async with running(client):
        report(client, 3)
        await hub.until(lambda: hub.connections == 2)
        hub.reading = True
        await drained(client)
    assert "keepalive ping timeout" in reasons
    assert stored(hub, client) == [1, 2, 3]


async def test_a_connection_whose_hello_is_never_answered_is_replaced(hub: ScriptedHub) -> None:
    hub.reading = False
    reasons: list[str] = []
    client = client_of(hub, on_lost=lambda _code, reason: reasons.append(reason), answer_timeout=0.05, close_timeout=0.01)
    async with running(client):
        await hub.until(lambda: hub.connections == 2)
    assert "did not answer hello" in reasons[0]


async def test_a_hub_with_unknown_numbers_causes_a_new_session(hub: ScriptedHub, outbox: Outbox) -> None:
    old = outbox.session
    hub.handled[old] = 1_000
    client = client_of(hub, outbox)
    async with running(client):
        report(client, 3)
        await drained(client)
    assert outbox.session != old
    assert stored(hub, client) == [1, 2, 3]


# --- closing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011, 1012, 4000, 4008, 4012, 4013, 4014, 4015, 4408, 4499])
async def test_codes_after_which_the_driver_reconnects(hub: ScriptedHub, code: int | None) -> None:
    hub.closes.append(code)
    client = client_of(hub)
    report(client, 2)
    async with running(client):
        await drained(client)
    assert hub.connections == 2
    assert stored(hub, client) == [1, 2]


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4409, 4500, 4501, 4502, 4503, 4506, 4999])
async def test_codes_after_which_the_driver_stops(hub: ScriptedHub, code: int) -> None:
    hub.closes.append(code)
    client = client_of(hub)
    report(client, 2)
    async with asyncio.timeout(5):
        ending = await client.run()
    assert ending == Ending(code, "scripted")
    assert hub.connections == 1
    assert len(client.outbox) == 2, "the fixes stay"
    with pytest.raises(DriverStopped, match=f"{code}.*2 fixes"):
        await client.drained()


async def test_a_replaced_driver_reconnects_when_the_user_asks(hub: ScriptedHub) -> None:
    client = client_of(hub)
    async with asyncio.timeout(5):
        task = asyncio.create_task(client.run())
        await hub.until(lambda: len(hub.live) == 1)
        await hub.live[0].close(4409, "replaced")
        assert (await task).code == 4409
    report(client, 1)
    async with running(client):
        await drained(client)
    assert hub.connections == 2


@pytest.mark.parametrize("code", [4405, 4401])
async def test_an_expired_token_is_replaced(hub: ScriptedHub, code: int) -> None:
    tokens = iter(["first", "second"])

    async def fetch() -> str:
        return next(tokens)

    hub.closes.append(code)
    client = client_of(hub, token=None, fetch_token=fetch)
    async with running(client):
        report(client, 1)
        await drained(client)
    assert hub.tokens == ["first", "second"]


async def test_a_failing_token_source_is_called_again(hub: ScriptedHub) -> None:
    asked = 0

    async def fetch() -> str:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ConnectionError("the backend is away")
        return "good"

    client = client_of(hub, token=None, fetch_token=fetch)
    async with running(client):
        report(client, 1)
        await drained(client)
    assert asked == 3


async def test_an_expired_token_without_another_ends_the_client(hub: ScriptedHub) -> None:
    hub.closes.append(4405)
    async with asyncio.timeout(5):
        ending = await client_of(hub).run()
    assert ending.code == 4405
    assert "fetch_token" in ending.reason


@pytest.mark.parametrize("status", [401, 404, 500, 503])
async def test_a_refused_handshake_is_tried_again(hub: ScriptedHub, status: int) -> None:
    hub.statuses.append(status)
    client = client_of(hub)
    async with running(client):
        report(client, 1)
        await drained(client)
    assert len(hub.tokens) == 2


async def test_the_backoff_grows_until_a_connection_was_steady(hub: ScriptedHub) -> None:
    attempts: list[int] = []

    def backoff(attempt: int) -> float:
        attempts.append(attempt)
        return 0.0

    hub.closes.extend([4014, 1012, None])
    client = client_of(hub, backoff=backoff, steady_after=3600.0)
    async with running(client):
        await hub.until(lambda: len(hub.live) == 1)
        assert attempts == [0, 1, 2]
        client._settings = replace(client._settings, steady_after=0.0)
        await hub.live[0].close(1012, "restart")
        await hub.until(lambda: hub.connections == 5)
    assert attempts == [0, 1, 2, 0]


@pytest.mark.parametrize("connected", [True, False])
async def test_stopping_is_quick(hub: ScriptedHub, connected: bool) -> None:
    client = client_of(hub, backoff=lambda _attempt: 3600.0)
    if not connected:
        hub.closes.append(4014)
    lost = asyncio.Event()
    client.callbacks = replace(client.callbacks, on_lost=lambda _code, _reason: lost.set())
    task = asyncio.create_task(client.run())
    async with asyncio.timeout(5):
        await (client.connected.wait() if connected else lost.wait())
        began = time.monotonic()
        client.stop()
        assert (await task).code == 1000
    assert time.monotonic() - began < 1.0


async def test_a_stopped_client_can_run_again_and_a_stop_ahead_of_run_counts(hub: ScriptedHub) -> None:
    client = client_of(hub)
    async with running(client):
        async with asyncio.timeout(5):
            await client.connected.wait()
    client.stop()
    async with asyncio.timeout(5):
        assert await client.run() == Ending(1000, "stopped")
    assert hub.connections == 1
    async with running(client):
        report(client, 1)
        await drained(client)
    assert hub.connections == 2
