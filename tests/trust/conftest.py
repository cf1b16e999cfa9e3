from collections.abc import AsyncIterator

import pytest

from tests.support.clients import Api, Driver
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench


@pytest.fixture(scope="session")
async def api(hub: HubProcess) -> AsyncIterator[Api]:
    """One client for all of these many small tests."""
    async with Api(hub.url) as api:
        yield api


@pytest.fixture(scope="session")
async def fleet_id(api: Api) -> str:
    """A fleet for tests that are about a vehicle only."""
    return await api.fleet()


@pytest.fixture
async def bench(hub: HubProcess, api: Api, fleet_id: str) -> AsyncIterator[Bench]:
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver:
        yield Bench(hub.url, api, driver, fleet_id, vehicle_id)
