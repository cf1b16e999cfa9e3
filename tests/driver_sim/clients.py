"""Drivers' clients for the tests, connected to a scripted hub."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from driver_sim.callbacks import Callbacks
from driver_sim.client import DriverClient
from driver_sim.connection import Ending
from driver_sim.outbox import MemoryOutbox, Outbox
from driver_sim.settings import ConnectionSettings
from tests.driver_sim.conftest import no_backoff
from tests.driver_sim.hub import ScriptedHub


def client_of(hub: ScriptedHub, outbox: Outbox | None = None, **options: Any) -> DriverClient:
    """`options` are those of `DriverClient`, and the fields of `Callbacks` and `ConnectionSettings`."""
    options.setdefault("token", "good")
    options.setdefault("backoff", no_backoff)
    for name, kind in (("callbacks", Callbacks), ("settings", ConnectionSettings)):
        options[name] = kind(**{field: options.pop(field) for field in kind.__dataclass_fields__ if field in options})
    return DriverClient(hub.url, outbox if outbox is not None else MemoryOutbox(), **options)


@contextlib.asynccontextmanager
async def running(client: DriverClient) -> AsyncIterator["asyncio.Task[Ending]"]:
    task = asyncio.create_task(client.run())
    try:
        yield task
    finally:
        client.stop()
        async with asyncio.timeout(5):
            await task


async def drained(client: DriverClient) -> None:
    async with asyncio.timeout(10):
        await client.drained()


def report(client: DriverClient, count: int) -> None:
    for _ in range(count):
        client.report(47.1, 9.5)


def stored(hub: ScriptedHub, client: DriverClient) -> list[int]:
    return [fix.seq for fix in hub.stored.get(client.outbox.session, [])]


async def turns(count: int = 50) -> None:
    """Let every task run that is ready to run."""
    for _ in range(count):
        await asyncio.sleep(0)
