import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.attacks.exports import drive
from tests.support.clients import Api, Driver, now_ms, token
from tests.support.clocks import ShiftedClock
from tests.support.hub_process import SECRET, HubProcess
from tests.support.serving import serving
from tests.trust.audit_hub import AuditHub
from tests.trust.bench import Bench
from tests.trust.export_hub import ROWS, Clock, ExportHub, MakeExportHub
from tracking import downloads
from tracking.app import create_app
from tracking.config import load


@pytest.fixture(scope="session")
async def api(hub: HubProcess) -> AsyncIterator[Api]:
    """One client for all these small tests."""
    async with Api(hub.url) as api:
        yield api


@pytest.fixture(scope="session")
async def fleet_id(api: Api) -> str:
    """A fleet for tests that only need a vehicle."""
    return await api.fleet()


@pytest.fixture
async def bench(hub: HubProcess, api: Api, fleet_id: str) -> AsyncIterator[Bench]:
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver:
        yield Bench(hub.url, api, driver, fleet_id, vehicle_id)


@pytest.fixture
async def audit_hub(database_url: str) -> Any:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0), clock=clock)
    async with serving(app, lifespan="on") as served, Api(served.url, token("service", expires_in=90 * 86_400)) as api:
        yield AuditHub(app.state.service, served.url, clock, api)


@pytest.fixture
async def make_export_hub(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeExportHub]:
    monkeypatch.setattr(downloads, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(downloads, "CHECK_SECONDS", 0.05)
    async with contextlib.AsyncExitStack() as open_:

        async def made(rows: int = ROWS, **settings: Any) -> ExportHub:
            clock = Clock()
            loaded = load(database_url=database_url, jwt_secret=SECRET, **settings)
            app = create_app(loaded, clock=clock)
            served = await open_.enter_async_context(serving(app, lifespan="on"))
            api = await open_.enter_async_context(Api(served.url))
            export_hub = ExportHub(app, served.url, served.port, api, clock, loaded)
            export_hub.vehicle_id, export_hub.trip_id = await api.under_way()
            export_hub.fleet_id = (await api.call("GET", f"/vehicles/{export_hub.vehicle_id}"))["fleet_id"]
            await drive(database_url, export_hub.vehicle_id, export_hub.trip_id, rows, begin=now_ms() - (rows + 60) * 1_000)
            return export_hub

        yield made
