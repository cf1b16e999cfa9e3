"""Rows 80, 82 and 84: many viewports, snapshots and shapes starve nobody, and honest users are not refused."""

import asyncio
import json
from collections.abc import Iterator
from math import cos, sin
from typing import Any

import pytest

from tests.attacks.looks import EVERYTHING, looks, reconnects
from tests.attacks.scene import Attack, stage
from tests.attacks.searches import searches
from tests.attacks.shapes import fences, routes
from tests.attacks.snapshots import revisions, snapshots
from tests.attacks.stock import FLEET, TRIP, VEHICLES, stock_trip, stock_vehicles
from tests.support.clients import Api, Dispatcher, Passenger, Socket, token
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster

SLACK = 5.0
"""Honest clients may wait this much longer than in the soak, because other tests run."""


@pytest.fixture(scope="module")
def attacked(cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with a large fleet and a long trip."""
    cluster.create_database("attacked", template)
    url = cluster.url("attacked")
    asyncio.run(_stock(url))
    hub = HubProcess(url, tmp_path_factory.mktemp("attacked") / "log").start()
    yield hub
    hub.kill()
    cluster.drop_database("attacked")


async def _stock(url: str) -> None:
    await stock_vehicles(url)
    await stock_trip(url)


@pytest.mark.parametrize("attack", [looks, reconnects, snapshots, revisions, searches, fences, routes])
async def test_rows_80_82_84_nobody_is_starved(attacked: HubProcess, attack: Attack) -> None:
    # The soak checks memory. In one second, what is made once looks like a leak.
    outcome = await stage(attacked, attack, 1.0, memory=False)
    outcome.check(SLACK, memory=False)


async def test_a_dispatcher_with_four_screens_and_a_passenger_with_six_tabs_are_not_refused(attacked: HubProcess) -> None:
    """Each group has one token. All connect at once, as after a restart of the hub."""
    dispatchers, link = token("dispatcher", FLEET), token("passenger", TRIP)

    async def screen() -> int:
        async with Dispatcher(attacked.url, FLEET, dispatchers) as dispatcher:
            await dispatcher.look(*EVERYTHING)
            while len(dispatcher.vehicles) < VEHICLES:
                await dispatcher.receive()
            return len(dispatcher.vehicles)

    async def tab() -> int:
        async with Passenger(attacked.url, TRIP, link) as passenger:
            return len((await passenger.expect("snapshot"))["track"])

    tracks = await asyncio.gather(*(tab() for _ in range(6)))
    assert min(tracks) > 100
    assert set(await asyncio.gather(*(screen() for _ in range(4 * 5)))) <= {VEHICLES, VEHICLES + 1}


@pytest.fixture
def mean_hub(own_hub: Any) -> HubProcess:
    """A hub with small budgets."""
    hub: HubProcess = own_hub(
        connections_per_dispatcher="3",
        budget_frames="20/60",
        budget_searches="2/60",
        budget_looks="10/60",
        budget_connects="4/60",
    )
    return hub


async def close_code(url: str, bearer: str) -> int:
    async with Socket(url, bearer) as socket:
        return await socket.closed()


@pytest.mark.one_hub("each hub has budgets of its own")
async def test_requests_beyond_a_budget_are_refused_with_a_reason(mean_hub: HubProcess) -> None:
    async with Api(mean_hub.url) as api:
        fleet_id = await api.fleet()
        _, trip_id = await api.under_way()
        live = f"{mean_hub.url}/v1/fleets/{fleet_id}/live"
        # Sockets of one dispatcher's token. Another token has its own budget.
        bearer = token("dispatcher", fleet_id)
        async with Dispatcher(mean_hub.url, fleet_id, bearer) as one, Dispatcher(mean_hub.url, fleet_id, bearer) as two:
            async with Dispatcher(mean_hub.url, fleet_id, bearer):
                assert await close_code(live, bearer) == 4015
            async with Dispatcher(mean_hub.url, fleet_id) as other:
                await other.look(9, 47, 10, 48)
                await other.expect("fleet_snapshot")
            # The frames of all its screens together.
            for _ in range(11):
                await one.look(9, 47, 10, 48)
                await two.look(9, 47, 10, 48)
            assert 4013 in await asyncio.wait_for(_first_closed(one, two), 5)
        # A share link that keeps connecting.
        link = token("passenger", trip_id)
        for _ in range(4):
            async with Passenger(mean_hub.url, trip_id, link) as passenger:
                await passenger.expect("snapshot")
        assert await close_code(f"{mean_hub.url}/v1/trips/{trip_id}/live", link) == 4013
        # Searches by text and by place. A list is no search.
        headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
        asked = ("search=x", "near=47,9", "limit=1", "search=x", "near=47,9", "limit=1")
        answers = [await api.http.get(f"/fleets/{fleet_id}/vehicles?{query}", headers=headers) for query in asked]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 200]
        assert 1 <= int(answers[3].headers["Retry-After"]) <= 30
        assert answers[3].json()["error"]["code"] == "rate_limited"


async def _first_closed(*sockets: Socket) -> set[int]:
    closing = [asyncio.create_task(socket.closed()) for socket in sockets]
    done, rest = await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return {task.result() for task in done}


async def test_a_list_has_long_routes_simplified_and_a_trip_has_its_own_whole(api: Api, fleet_id: str) -> None:
    points = [[9.5 + 0.01 * sin(n / 50), 47.14 + 0.01 * cos(n / 70)] for n in range(5_000)]
    short = points[:500]
    trips = {
        (await api.trip(fleet_id, None, route={"type": "LineString", "coordinates": given}))["trip_id"]: given
        for given in (points, short)
    }
    listed = {
        trip["trip_id"]: trip["route"]["coordinates"]
        for trip in (await api.call("GET", f"/fleets/{fleet_id}/trips"))["trips"]
        if trip["trip_id"] in trips
    }
    for trip_id, given in trips.items():
        whole = (await api.call("GET", f"/trips/{trip_id}"))["route"]["coordinates"]
        assert len(whole) == len(given)
        assert len(listed[trip_id]) == min(len(given), len(listed[trip_id]))
        assert len(listed[trip_id]) <= 600
        assert listed[trip_id][0] == pytest.approx(whole[0], abs=1e-6)
        assert listed[trip_id][-1] == pytest.approx(whole[-1], abs=1e-6)
        assert len(json.dumps(listed[trip_id])) < 32_000
