"""A hub whose connections to the database go through a proxy."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from tests.faults.conftest import MakeHub, Mortal, ready
from tests.support.devices import until
from tests.support.hub_process import HubProcess
from tests.support.proxy import ChaosProxy
from tracking.demo.postgres import PORT


@contextlib.asynccontextmanager
async def hub_over_wire(
    hubs: MakeHub, database: Mortal, rng: random.Random, directory: Path, **settings: str
) -> AsyncIterator[tuple[HubProcess, ChaosProxy]]:
    """The hub, and the proxy between it and the database."""
    async with ChaosProxy(database.socket, rng=rng, listen=directory / f".s.PGSQL.{PORT}") as wire:
        url = database.url.replace(str(database.cluster.socket_directory), str(directory))
        hub = await asyncio.to_thread(hubs, url, **settings)
        await until(lambda: ready(hub), "the hub is ready")
        yield hub, wire
