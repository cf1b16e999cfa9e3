"""A hub of this process, and readers of its changes over HTTP."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx

from tests.support.clients import Api, Message, now_ms
from tests.support.devices import until
from tests.support.hub_process import SECRET
from tests.support.serving import Served, serving
from tracking.app import create_app
from tracking.config import load
from tracking.model import Event, EventKind
from tracking.service import Service
from tracking.store import events


class Hub(NamedTuple):
    url: str
    api: Api
    service: Service
    served: Served


@contextlib.asynccontextmanager
async def a_hub(database_url: str, clock: Callable[[], int] = now_ms, **settings: Any) -> AsyncIterator[Hub]:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0, **settings), clock=clock)
    async with serving(app, lifespan="on") as served, Api(served.url) as api:
        yield Hub(served.url, api, app.state.service, served)


class Stream:
    """A reader of server-sent events. `last` is the last `id`."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last = ""
        self.comments = 0
        self.lines = response.aiter_lines()

    async def event(self) -> tuple[str, Message] | None:
        """The name and data of the next event with data. None: the stream has ended."""
        name, data = "", ""
        async for line in self.lines:
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("id: "):
                self.last = line[4:]
            elif line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
            elif not line and data:
                return name, json.loads(data)
        return None

    async def change(self) -> Message:
        async with asyncio.timeout(10):
            event = await self.event()
        assert event is not None and event[0] == "", event
        assert self.last == str(event[1]["change"])
        return event[1]


@contextlib.asynccontextmanager
async def streaming(
    hub: Hub | Api, fleet_id: str, last: str | None = None, bearer: str | None = None, **params: Any
) -> AsyncIterator[Stream]:
    api = hub if isinstance(hub, Api) else hub.api
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last is not None else {})}
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    async with api.http.stream("GET", f"/fleets/{fleet_id}/changes", headers=headers, params=params) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def changes(hub: Hub, fleet_id: str, **params: Any) -> Message:
    answer: Message = await hub.api.call("GET", f"/fleets/{fleet_id}/changes", **params)
    return answer


def types(answer: Message) -> list[str]:
    return [change["type"] for change in answer["changes"]]


async def an_event(hub: Hub, fleet_id: str, vehicle_id: str, kind: EventKind = EventKind.IDLE, **fields: Any) -> int:
    """Stores an event, as the monitor does, and waits until it is applied. Returns its id."""
    async with hub.service.database.transaction() as connection:
        [number] = await events.reserve(connection, 1)
        await events.insert(connection, [fleet_id], [None], [Event(number, kind, vehicle_id, now_ms(), **fields)])
    hub.service.follower.wake()
    async with hub.service.database.connection() as connection:
        last = await connection.fetchval("SELECT max(number) FROM changes")
    await until(lambda: hub.service.follower.applied >= last, "the event is applied")
    return number


async def append(hub: Hub, fleet_id: str, public: str, count: int = 1) -> None:
    """Changes of the fleet, as services write them."""
    async with hub.service.database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO pending_changes (kind, subject, fleet_id, public)
            SELECT 'fleet.changed', $1, $1, $2::text::jsonb FROM generate_series(1, $3::int)
            """,
            fleet_id,
            public,
            count,
        )
    hub.service.follower.wake()
