"""Row 43: how many connections one address and one token may hold, behind proxies too."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import httpx
import pytest

from tests.support.clients import PLAIN, Api, Passenger, token
from tests.support.hub_process import HubProcess
from tests.trust.credentials import close_code

LIMIT = 3


@pytest.mark.one_hub("each hub counts its own connections")
async def test_row_43_an_address_has_a_limit_of_sockets(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(connections_per_address=str(LIMIT))
    async with Api(hub.url) as api, contextlib.AsyncExitStack() as stack:
        _, trip_id = await api.under_way()
        inside = [await stack.enter_async_context(Passenger(hub.url, trip_id)) for _ in range(LIMIT)]
        for passenger in inside:
            await passenger.expect("snapshot")
        async with Passenger(hub.url, trip_id) as one_more:
            assert await one_more.closed() == 4015
        await inside[0].connection.close()
        async with Passenger(hub.url, trip_id) as next_one:
            await next_one.expect("snapshot")


@pytest.mark.one_hub("each hub counts its own connections")
async def test_row_43_behind_a_proxy_the_real_address_counts(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(connections_per_address=str(LIMIT), trusted_proxies="127.0.0.1")
    async with Api(hub.url) as api, contextlib.AsyncExitStack() as stack:
        _, trip_id = await api.under_way()

        def passenger(address: str) -> Passenger:
            return Passenger(hub.url, trip_id, headers={"X-Forwarded-For": address})

        for address in ("192.0.2.1", "192.0.2.2"):
            for _ in range(LIMIT):
                await (await stack.enter_async_context(passenger(address))).expect("snapshot")
        async with passenger("192.0.2.1") as one_more:
            assert await one_more.closed() == 4015
        async with passenger("192.0.2.3") as another:
            await another.expect("snapshot")


@pytest.mark.one_hub("each hub counts its own connections")
async def test_row_43_a_client_cannot_claim_another_address(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(connections_per_address=str(LIMIT))
    async with Api(hub.url) as api, contextlib.AsyncExitStack() as stack:
        _, trip_id = await api.under_way()
        for number in range(LIMIT):
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            await (await stack.enter_async_context(Passenger(hub.url, trip_id, headers=headers))).expect("snapshot")
        async with Passenger(hub.url, trip_id, headers={"X-Forwarded-For": "192.0.2.99"}) as one_more:
            assert await one_more.closed() == 4015


@pytest.mark.one_hub("each hub counts its own connections")
async def test_row_43_a_token_has_a_limit_of_sockets(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(connections_per_token=str(LIMIT))
    async with Api(hub.url) as api, contextlib.AsyncExitStack() as stack:
        _, trip_id = await api.under_way()
        shared = token("passenger", trip_id)
        for _ in range(LIMIT):
            await (await stack.enter_async_context(Passenger(hub.url, trip_id, shared))).expect("snapshot")
        async with Passenger(hub.url, trip_id, shared) as one_more:
            assert await one_more.closed() == 4015
        async with Passenger(hub.url, trip_id) as another:
            await another.expect("snapshot")


async def test_row_43_refused_connections_are_not_counted(own_hub: Callable[..., HubProcess]) -> None:
    """Neither for the address nor for the token."""
    hub = own_hub(connections_per_address=str(LIMIT))
    async with Api(hub.url) as api:
        _, trip_id = await api.under_way()
        for _ in range(3 * LIMIT):
            url = f"{hub.url}/v1/trips/{trip_id}/live"
            assert await close_code(url, token("passenger", "another")) == 4502
        async with Passenger(hub.url, trip_id) as passenger:
            await passenger.expect("snapshot")


@pytest.mark.one_hub("each hub counts its own connections")
async def test_row_43_connections_that_never_ask_are_answered_503(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(connections_per_address=str(LIMIT))
    silent = [socket.create_connection(("127.0.0.1", hub.port)) for _ in range(LIMIT)]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 503 ")
        writer.close()
    finally:
        for line in silent:
            line.close()
    async with httpx.AsyncClient(verify=PLAIN) as http, asyncio.timeout(5):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{hub.url}/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0)
