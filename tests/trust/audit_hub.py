"""A hub whose audit the tests read."""

import asyncio

import httpx

from tests.support.clients import Api, Message
from tests.support.clocks import ShiftedClock
from tests.support.devices import until
from tracking.service import Service


class AuditHub:
    """A hub in this process whose clock can be set. `of` and `watches` read its audit as a service."""

    def __init__(self, service: Service, url: str, clock: ShiftedClock, api: Api) -> None:
        self.service, self.url, self.clock, self.api = service, url, clock, api

    async def of(self, subject: str, *actions: str) -> list[Message]:
        entries: list[Message] = (await self.api.call("GET", "/audit", subject=subject, after=0))["entries"]
        return [entry for entry in entries if not actions or entry["action"] in actions]

    async def watches(self, trip_id: str, count: int, *, ended: bool = False) -> list[Message]:
        """Wait until so many watches of a trip are written, with their ends if `ended`, and return them."""
        async with asyncio.timeout(10):
            while True:
                await self.service.audit.write()
                found: list[Message] = (await self.api.call("GET", f"/trips/{trip_id}/audit"))["watches"]
                if len(found) == count and (not ended or all("to" in watch for watch in found)):
                    return found
                await asyncio.sleep(0.02)

    async def gone(self) -> None:
        """Wait until nobody watches any more."""
        await until(lambda: not any(span.connections for span in self.service.audit._spans.values()), "all have left")

    async def with_bearer(self, bearer: str, method: str, path: str) -> httpx.Response:
        return await self.api.http.request(method, path, headers={"Authorization": f"Bearer {bearer}"})
