"""A hub in memory with HTTP and driver socket at one address. It is as strict about trips as the protocol."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tracking.model import NEXT_STATUS, UNDER_WAY, TripStatus


class FakeHub:
    def __init__(self) -> None:
        self.fleets: dict[str, Any] = {}
        self.geofences: dict[str, Any] = {}
        self.vehicles: dict[str, Any] = {}
        self.trips: dict[str, dict[str, Any]] = {}
        self.steps: dict[str, list[str]] = {}
        self.fixes: dict[str, list[dict[str, Any]]] = {}
        self.refusals: list[str] = []
        self.sockets: dict[str, WebSocket] = {}
        self.interval = 0.05
        self.handled: dict[str, int] = {}
        self.url = ""
        self._numbers = itertools.count(1)
        self.changed = asyncio.Condition()
        self.app = Starlette(
            routes=[
                Route("/v1/fleets/{fleet_id}", self._put_fleet, methods=["PUT"]),
                Route("/v1/fleets/{fleet_id}/trips", self._list_trips),
                Route("/v1/fleets/{fleet_id}/geofences/{geofence_id}", self._put_geofence, methods=["PUT"]),
                Route("/v1/vehicles/{vehicle_id}", self._put_vehicle, methods=["PUT"]),
                Route("/v1/tokens", self._issue, methods=["POST"]),
                Route("/v1/trips", self._create, methods=["POST"]),
                Route("/v1/trips/{trip_id}", self._trip, methods=["GET", "PATCH"]),
                WebSocketRoute("/v1/driver", self._drive),
            ]
        )

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def add_trip(self, body: dict[str, Any]) -> dict[str, Any]:
        trip_id = f"trip-{next(self._numbers)}"
        vehicle = self.vehicles[body["vehicle_id"]]
        shown = {"vehicle_id": body["vehicle_id"]} | {name: vehicle[name] for name in ("name", "kind", "plate")}
        trip = {"trip_id": trip_id, "status": "new", "version": 1, "stops": [], "created_at": 1} | body | {"vehicle": shown}
        del trip["vehicle_id"]
        self.trips[trip_id] = trip
        self.steps[trip_id] = []
        return trip

    async def advance(self, trip_id: str, status: str) -> str | None:
        trip = self.trips.get(trip_id)
        if trip is None:
            return "not_found"
        if status != trip["status"]:
            if TripStatus(status) not in NEXT_STATUS[TripStatus(trip["status"])]:
                return "conflict"
            others = (one for one in self.trips.values() if one["vehicle"] == trip["vehicle"] and one is not trip)
            if TripStatus(status) in UNDER_WAY and any(TripStatus(one["status"]) in UNDER_WAY for one in others):
                return "conflict"
            trip["status"] = status
            trip["version"] += 1
            self.steps[trip_id].append(status)
        await self._tell()
        return None

    async def _put_fleet(self, request: Request) -> JSONResponse:
        self.fleets[request.path_params["fleet_id"]] = await request.json()
        return JSONResponse({})

    async def _put_geofence(self, request: Request) -> JSONResponse:
        self.geofences[request.path_params["geofence_id"]] = await request.json()
        return JSONResponse({})

    async def _put_vehicle(self, request: Request) -> JSONResponse:
        self.vehicles[request.path_params["vehicle_id"]] = await request.json()
        return JSONResponse({})

    async def _issue(self, request: Request) -> JSONResponse:
        if request.headers["Authorization"] != "Bearer service":
            return _error(401, "unauthorized")
        return JSONResponse({"token": (await request.json())["vehicle_id"]})

    async def _list_trips(self, request: Request) -> JSONResponse:
        wanted = request.query_params["status"]
        return JSONResponse({"trips": [trip for trip in self.trips.values() if trip["status"] == wanted]})

    async def _create(self, request: Request) -> JSONResponse:
        trip = self.add_trip(await request.json())
        await self._tell()
        return JSONResponse(trip, 201)

    async def _trip(self, request: Request) -> JSONResponse:
        trip = self.trips[request.path_params["trip_id"]]
        if request.method == "PATCH":
            change = await request.json()
            if change["version"] != trip["version"] or await self.advance(trip["trip_id"], change["status"]):
                return _error(409, "conflict")
        return JSONResponse(trip)

    async def _drive(self, socket: WebSocket) -> None:
        vehicle_id = socket.headers["authorization"].removeprefix("Bearer ")
        await socket.accept()
        try:
            await socket.send_json({"type": "welcome", "server_time": 1, "interval": self.interval})
            session = (await socket.receive_json())["session"]
            await socket.send_json({"type": "ack", "seq": self.handled.get(session, 0)})
            self.sockets[vehicle_id] = socket
            while True:
                frame = await socket.receive_json()
                if frame["type"] in ("position", "positions"):
                    for fix in frame["positions"] if frame["type"] == "positions" else [frame]:
                        if fix["seq"] > self.handled.get(session, 0):
                            self.handled[session] = fix["seq"]
                            self.fixes.setdefault(vehicle_id, []).append(fix)
                    await socket.send_json({"type": "ack", "seq": self.handled[session]})
                else:
                    code = await self.advance(frame["trip_id"], frame["status"])
                    if code:
                        self.refusals.append(f"{frame['status']}: {code}")
                    refusal = {"code": code, "detail": "scripted"} if code else {}
                    await socket.send_json({"type": "done", "client_id": frame["client_id"]} | refusal)
                await self._tell()
        except WebSocketDisconnect:
            pass
        finally:
            self.sockets.pop(vehicle_id, None)
            await self._tell()


def _error(status: int, code: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "detail": "scripted"}}, status)


@asynccontextmanager
async def serving(hub: FakeHub) -> AsyncIterator[FakeHub]:
    config = uvicorn.Config(
        hub.app, port=0, ws="websockets-sansio", log_config=None, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    started = asyncio.Event()
    startup = server.startup

    async def tell_started(*arguments: Any, **named: Any) -> None:
        await startup(*arguments, **named)
        started.set()

    server.startup = tell_started  # type: ignore[method-assign]
    task = asyncio.create_task(server._serve())
    async with asyncio.timeout(10):
        await started.wait()
    hub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield hub
    finally:
        server.should_exit = True
        await task
