"""A hub in this process with a vehicle whose long track the tests download."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import jwt
from starlette.applications import Starlette

from tests.attacks.exports import SlowReader
from tests.support.clients import PLAIN, Api, now_ms
from tracking.config import Settings
from tracking.service import Service

ROWS = 20_000
"""Some 2.5 MB of CSV, more than the system buffers."""


class Clock:
    """The system's clock, which a test can set forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


class ExportHub:
    """A hub in this process, and a vehicle on a trip under way with a long track."""

    def __init__(self, app: Starlette, url: str, port: int, api: Api, clock: Clock, settings: Settings) -> None:
        self.app = app
        self.url = url
        self.port = port
        self.api = api
        self.clock = clock
        self.settings = settings
        self.vehicle_id = ""
        self.trip_id = ""
        self.fleet_id = ""

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    @property
    def path(self) -> str:
        return f"/trips/{self.trip_id}/track?format=csv"

    def reader(self, bearer: str, path: str | None = None, method: str = "GET") -> SlowReader:
        return SlowReader(self.port, path or self.path, bearer, method)

    async def share(self) -> dict[str, Any]:
        share: dict[str, Any] = await self.api.call("POST", f"/trips/{self.trip_id}/shares", {})
        return share


MakeExportHub = Callable[..., Awaitable[ExportHub]]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def count_of_csv(export_hub: ExportHub, bearer: str) -> int:
    """Download the whole track, and count its rows."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {bearer}"}, verify=PLAIN) as http:
        answer = await http.get(f"{export_hub.url}/v1{export_hub.path}", timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text.count("\n") - 1


def jti_of(bearer: str) -> str:
    jti: str = jwt.decode(bearer, options={"verify_signature": False})["jti"]
    return jti
