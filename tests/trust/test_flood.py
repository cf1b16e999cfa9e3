"""Rows 78 and 79: floods are limited, and nobody else notices."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from typing import Self

import asyncpg
import pytest
import websockets

from tests.attacks.drivers import BATCH, flood
from tests.attacks.messages import messages
from tests.attacks.scene import stage
from tests.support.clients import Api, Driver, Message, Passenger, Socket, fix, now_ms, token
from tests.support.hub_process import HubProcess

SLACK = 3.0
"""The machine is busy with other tests."""

MakeHub = Callable[..., HubProcess]


def batch(first: int, count: int = BATCH) -> list[Message]:
    return [fix(seq, fix_time=now_ms() - 3_600_000 + seq * 100) for seq in range(first, first + count)]


# --- row 78: fixes without a pause --------------------------------------------------------------------------------------


async def test_row_78_honest_drivers_do_not_notice_a_flood(own_hub: MakeHub) -> None:
    hub = own_hub()
    (await stage(hub, flood(4), 3.0)).check(SLACK)


async def test_row_78_only_the_flooder_is_limited_over_all_its_connections(own_hub: MakeHub) -> None:
    hub = own_hub(budget_fixes="100/100", budget_backlog="900/3600")
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id, other_id = [await api.vehicle(fleet_id) for _ in range(2)]
        session = str(uuid.uuid4())
        for _ in range(2):
            flooding = Driver(hub.url, vehicle_id, session)
            async with flooding, Driver(hub.url, other_id) as other:
                for first in range(flooding.handled + 1, flooding.handled + 1 + 4 * BATCH, BATCH):
                    with contextlib.suppress(websockets.ConnectionClosed):
                        await flooding.report(*batch(first))
                refused = await flooding.expect("error")
                assert refused["code"] == "rate_limited"
                assert refused["retry_after"] > 10
                assert "this vehicle's budget" in refused["detail"]
                assert await flooding.closed() == 4013
                await other.report(fix(other.handled + 1))
                await other.acknowledged(other.handled + 1)
        async with Driver(hub.url, vehicle_id, session) as again:
            # The burst, and what the budget gave since, which is more on a slow machine.
            assert 1_000 <= again.handled <= 1_200
        rows = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
        assert len(rows) == again.handled


async def test_row_78_repeats_cost_as_much(own_hub: MakeHub) -> None:
    hub = own_hub(budget_fixes="100/100", budget_backlog="900/3600")
    async with Api(hub.url) as api, Driver(hub.url, await api.vehicle(await api.fleet())) as driver:
        await driver.report(*batch(1, 100))
        await driver.acknowledged(100)
        for _ in range(10):
            await driver.report(*batch(1, 100))
        assert (await driver.expect("error"))["code"] == "rate_limited"
        assert await driver.closed() == 4013


async def test_row_78_a_small_excess_is_delayed_and_not_lost(own_hub: MakeHub) -> None:
    hub = own_hub(budget_fixes="20/1", budget_backlog="20/1")
    async with Api(hub.url) as api, Driver(hub.url, await api.vehicle(await api.fleet())) as driver:
        began = asyncio.get_running_loop().time()
        for seq in range(1, 101):
            await driver.report(fix(seq))
        assert await driver.acknowledged(100) == []
        assert asyncio.get_running_loop().time() - began > 1.0, "40 at once and 40 a second, but it did not wait"


async def test_row_78_a_depot_of_returning_phones_is_served(own_hub: MakeHub) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        phones = [Driver(hub.url, await api.vehicle(fleet_id)) for _ in range(200)]

        async def come_back(phone: Driver) -> None:
            async with phone, asyncio.timeout(30):
                await phone.report(*batch(1, 150))
                assert await phone.acknowledged(150) == []

        await asyncio.gather(*(come_back(phone) for phone in phones))


async def test_row_78_messages_behind_a_backlog_wait_for_it(own_hub: MakeHub) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(*batch(1))
            # A large frame without fixes, and a session that is not known yet.
            await driver.send({"type": "hello", "session": str(uuid.uuid4()), "padding": "x" * 10_000})
            await driver.report(*batch(1))
            await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "arrived_at_pickup", "client_id": "1"})
            assert "code" not in await driver.expect("done")
            await driver.send_text("x" * 10_000)
            assert (await driver.expect("error"))["code"] == "bad_json"
            driver.handled = 0
            await driver.report(fix(BATCH + 1))
            await driver.acknowledged(BATCH + 1)
        rows = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
        assert len(rows) == 2 * BATCH + 1


# --- row 79: messages for an absent driver ------------------------------------------------------------------------------


class _Reading(Driver):
    """A driver that skips no message after the welcome."""

    async def __aenter__(self) -> Self:
        await Socket.__aenter__(self)
        self.welcome = await self.expect("welcome")
        return self

    async def hello(self) -> None:
        await self.send({"type": "hello", "session": self.session})
        await self.expect("ack")


async def _write(passenger: Passenger, number: int) -> Message:
    await passenger.send({"type": "message", "text": f"Message {number}", "client_id": str(uuid.uuid4())})
    return await passenger.expect("done", "error")


async def test_row_79_nobody_notices_that_messages_pile_up_and_the_driver_connects(own_hub: MakeHub) -> None:
    (await stage(own_hub(), messages, 1.0)).check(SLACK)


async def test_row_79_unread_messages_are_capped_for_each_sender(own_hub: MakeHub) -> None:
    hub = own_hub(unread_messages="3")
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3600})
        async with Passenger(hub.url, trip_id) as passenger, Passenger(hub.url, trip_id, share["token"]) as friend:
            for number in range(3):
                assert "code" not in await _write(passenger, number)
            refused = await _write(passenger, 4)
            assert refused["code"] == "rate_limited"
            assert refused["retry_after"] > 0
            assert "the driver has not read 3 messages of yours" in refused["detail"]
            assert "code" not in await _write(friend, 4), "another sender has not written"
            async with _Reading(hub.url, vehicle_id) as driver:
                for _ in range(4):
                    await driver.expect("message")
                await driver.hello()
                async with asyncio.timeout(10):
                    while "code" in await _write(passenger, 5):
                        pass
                assert (await driver.expect("message"))["text"] == "Message 5"


@pytest.mark.one_hub("each hub has budgets of its own")
async def test_row_79_each_token_has_a_budget_of_messages_over_all_sockets(own_hub: MakeHub) -> None:
    hub = own_hub(budget_messages="3/3600")
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        bearer = token("passenger", trip_id)
        for number in range(3):
            async with Passenger(hub.url, trip_id, bearer) as passenger:
                assert "code" not in await _write(passenger, number)
        async with Passenger(hub.url, trip_id, bearer) as passenger, Driver(hub.url, vehicle_id) as driver:
            refused = await _write(passenger, 4)
            assert (refused["type"], refused["code"]) == ("done", "rate_limited")
            assert refused["retry_after"] > 60
            assert "budget of messages" in refused["detail"]
            await driver.send({"type": "message", "trip_id": trip_id, "text": "Here", "client_id": "1"})
            assert "code" not in await driver.expect("done"), "another token has not written"


async def test_row_79_a_driver_with_thousands_of_unread_messages_reads_them_in_pages(
    own_hub: MakeHub, database_url: str
) -> None:
    hub = own_hub()
    count = 3_000
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        store = await asyncpg.connect(database_url)
        await store.execute(
            """
            INSERT INTO messages (trip, sender, author, client_id, text, server_time)
            SELECT t.trip, 'passenger', '', n::text, rpad(n || ' ', 1000, 'x'), now()
            FROM trips t, generate_series(1, $2::int) AS g (n) WHERE trip_id = $1 ORDER BY g.n
            """,
            trip_id,
            count,
        )
        async with _Reading(hub.url, vehicle_id) as driver:
            for number in range(1, count + 1):
                text = (await driver.expect("message"))["text"]
                assert int(text.split()[0]) == number
            async with asyncio.timeout(10):
                while await store.fetchval("SELECT count(*) FROM messages WHERE read_at IS NULL"):
                    await driver.hello()
        await store.close()
        async with _Reading(hub.url, vehicle_id, driver.session) as driver:
            await driver.send({"type": "message", "trip_id": trip_id, "text": "Here", "client_id": "1"})
            assert (await driver.expect("message", "done"))["type"] == "done", "it got messages again that it had read"
