"""Several hubs in the test's process, on one database, joined without a broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.support.clients import Api
from tests.support.clocks import ShiftedClock
from tests.support.devices import until
from tests.support.hub_in_process import SETTINGS, World
from tests.support.serving import serving
from tracking.app import create_app
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.config import load
from tracking.nodes.local import Exchange, LocalBackplane
from tracking.nodes.registry import Registry


class Hubs(list[World]):
    """The hubs, and what joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange = Exchange()

    async def joined(self) -> None:
        """Waits until each hub knows all others."""
        await until(lambda: all(len(world.service.nodes.peers) == len(self) - 1 for world in self), "the hubs know each other")


@contextlib.asynccontextmanager
async def hubs(
    database_url: str, count: int = 2, *, urls: Sequence[str] = (), registered: bool = False, **settings: Any
) -> AsyncIterator[Hubs]:
    """`urls` are those of the database for each hub, if they differ. With `registered` they are in the table `nodes`."""
    made = Hubs()
    async with contextlib.AsyncExitStack() as stack:
        for url in urls or [database_url] * count:
            clock = ShiftedClock()
            known = load(database_url=url, **SETTINGS, **settings)
            app = create_app(known, clock=clock)
            backplane = LocalBackplane(made.exchange)
            app.state.service = assemble(known, url, Auth(known, clock), clock, backplane=backplane)
            served = await stack.enter_async_context(serving(app, lifespan="on"))
            made.append(World(app.state.service, served.url, clock, database_url))
            if registered:
                await stack.enter_async_context(_registered(app.state.service.registry))
        await made.joined()
        yield made


@contextlib.asynccontextmanager
async def _registered(registry: Registry) -> AsyncIterator[None]:
    await registry.admit()
    task = asyncio.create_task(registry.run())
    yield
    task.cancel()
    await asyncio.wait({task})
    await registry.leave()


async def a_vehicle(world: World) -> str:
    async with Api(world.url) as api:
        return await api.vehicle(await api.fleet())
