"""A hub in this process, whose clock the test sets."""

from collections.abc import AsyncIterator

import pytest

from tests.support.clients import Api
from tests.support.clocks import ShiftedClock
from tests.support.hub_in_process import SETTINGS, World
from tests.support.serving import serving
from tracking.app import create_app
from tracking.config import load


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, **SETTINGS), clock=clock)
    async with serving(app, lifespan="on") as served:
        yield World(app.state.service, served.url, clock, database_url)


@pytest.fixture
async def api(world: World) -> AsyncIterator[Api]:
    async with Api(world.url) as api:
        yield api
