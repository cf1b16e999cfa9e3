"""Dispatchers of hubs in this process, who read all the time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.support.clients import Dispatcher, Driver, Message, fix
from tests.support.devices import until
from tracking.cluster.fleets import FleetsAcrossHubs
from tracking.live.fleet import LiveVehicle
from tracking.service import Service

EVERYTHING = (9.0, 47.0, 10.0, 48.0)


def across(service: Service) -> FleetsAcrossHubs:
    assert service.safeguards.fleets is not None
    return service.safeguards.fleets


def live(service: Service, van: str) -> LiveVehicle:
    return service.hub.fleets.vehicles[van]


@contextlib.asynccontextmanager
async def looking(url: str, fleet_id: str) -> AsyncIterator["Screen"]:
    async with Dispatcher(url, fleet_id) as dispatcher:
        await dispatcher.look(*EVERYTHING)
        screen = Screen(dispatcher)
        try:
            yield screen
        finally:
            await screen.stop()


class Screen:
    """A dispatcher who reads all the time, and notes each vehicle that goes back in time."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.back: list[str] = []
        self.left: list[str] = []
        self.statuses: dict[str, list[str]] = {}
        """By vehicle: each status that differs from the one before."""
        self._reading = asyncio.create_task(self._read())

    @property
    def vehicles(self) -> dict[str, Message]:
        return self.dispatcher.vehicles

    async def _read(self) -> None:
        while True:
            before = {van: shown.get("fix_time", 0) for van, shown in self.vehicles.items()}
            # A quiet map is no fault.
            with contextlib.suppress(TimeoutError):
                message = await self.dispatcher.receive()
                self.left += message.get("left", [])
            for van, shown in self.vehicles.items():
                if shown.get("fix_time", 0) < before.get(van, 0):
                    self.back.append(f"{van} from {before[van]} to {shown['fix_time']}")
                told = self.statuses.setdefault(van, [])
                if shown.get("status") and told[-1:] != [shown["status"]]:
                    told.append(shown["status"])

    async def shows(self, van: str, fix_time: int) -> None:
        await until(lambda: self.vehicles.get(van, {}).get("fix_time") == fix_time, f"{van} is shown at {fix_time}")

    async def stop(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._reading
        assert self.back == []


async def drive(driver: Driver, seq: int, **fields: Any) -> int:
    """Reports a fix of now. Returns its time."""
    sent = fix(seq, **fields)
    await driver.report(sent)
    await driver.acknowledged(seq)
    return int(sent["fix_time"])
