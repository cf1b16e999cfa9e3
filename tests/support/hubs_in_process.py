"""Several hubs in the test's process, on one database, joined without a broker."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.clients import Api
from tests.support.clocks import ShiftedClock
from tests.support.devices import until
from tests.support.hub_in_process import SETTINGS, World
from tests.support.serving import serving
from tracking.app import create_app
from tracking.auth import Auth
from tracking.config import load
from tracking.nodes.local import Exchange, LocalBackplane
from tracking.service import assemble


class Hubs(list[World]):
    """The hubs, and what joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange = Exchange()

    async def knows(self, vehicle_id: str) -> None:
        """Waits until each hub has applied the changes until now."""
        for world in self:
            await world.service.follower.begin()


@contextlib.asynccontextmanager
async def hubs(database_url: str, count: int = 2, **settings: Any) -> AsyncIterator[Hubs]:
    made = Hubs()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            clock = ShiftedClock()
            known = load(database_url=database_url, **SETTINGS, **settings)
            app = create_app(known, clock=clock)
            backplane = LocalBackplane(made.exchange)
            app.state.service = assemble(known, database_url, Auth(known, clock), clock, backplane=backplane)
            served = await stack.enter_async_context(serving(app, lifespan="on"))
            made.append(World(app.state.service, served.url, clock, database_url))
        for world in made:
            await until(lambda world=world: len(world.service.nodes.peers) == count - 1, "the hubs know each other")  # type: ignore[misc]
        yield made


async def a_vehicle(world: World) -> str:
    async with Api(world.url) as api:
        return await api.vehicle(await api.fleet())
