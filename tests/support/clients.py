"""Thin clients for tests. They send raw messages over real sockets, so that a test reads like the protocol."""

import asyncio
import json
import math
import os
import ssl
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import jwt
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support.hub_process import SECRET
from tracking.auth import Auth, Role
from tracking.config import load

Message = dict[str, Any]
TIMEOUT = 10.0
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For `verify` of HTTP clients. Tests use plain HTTP, and loading all certificate authorities takes longer than most tests."""
KEY_VARIABLE = "TESTS_SIGNING_KEY"
"""The variable that names the file of a P-256 private key. The hub's JWKS calls it `tests`. See `attacks.unknown_keys`."""

SPREAD: set[str] = set()
"""URLs of several hubs behind one port. Each request there uses a new connection, so that each goes to another hub."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def token(role: str, subject: str | None = None, expires_in: float = 3600, secret: str = SECRET) -> str:
    """A token signed with the hub's secret, or with a provider's key if `KEY_VARIABLE` names one."""
    made = _auth(secret).issue(Role(role), subject, expires_in).token
    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        return made
    claims = jwt.decode(made, options={"verify_signature": False})
    return jwt.encode(claims, Path(key).read_bytes(), algorithm="ES256", headers={"kid": "tests"})


@cache
def _auth(secret: str) -> Auth:
    return Auth(load(jwt_secret=secret))


def new_id(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def fix(seq: int, **fields: Any) -> Message:
    """A plausible fix in Vaduz. Each seq is a second and a few metres after the one before."""
    return {
        "seq": seq,
        "fix_time": now_ms(),
        "latitude": 47.141 + seq * 0.00005,
        "longitude": 9.521,
        **fields,
    }


class Api:
    """The HTTP API, as an integrator's backend uses it."""

    def __init__(self, url: str, bearer: str | None = None) -> None:
        self.url = url
        bearer = bearer if bearer is not None else token("service")
        self.http = httpx.AsyncClient(
            base_url=f"{url}/v1",
            headers={"Authorization": f"Bearer {bearer}"},
            timeout=TIMEOUT,
            verify=PLAIN,
            # The hub closes idle connections after 5 s. A request must not use one that is about to be closed.
            limits=httpx.Limits(keepalive_expiry=2.0, max_keepalive_connections=0 if url in SPREAD else None),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, body: Any = None, *, expect: int | None = None, **params: Any) -> Any:
        """The JSON of the answer. Fails unless the status is `expect`, or a success if that is None."""
        response = await self.http.request(method, path, json=body, params=params or None)
        good = response.status_code == expect if expect is not None else response.is_success
        assert good, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    async def fleet(self) -> str:
        fleet_id = new_id("fleet")
        await self.call("PUT", f"/fleets/{fleet_id}", {"name": "Test fleet"})
        return fleet_id

    async def vehicle(self, fleet_id: str, **fields: str) -> str:
        vehicle_id = new_id("van")
        body = {"fleet_id": fleet_id, "name": "Van 1", "kind": "van", "plate": "FL 12345", **fields}
        await self.call("PUT", f"/vehicles/{vehicle_id}", body)
        return vehicle_id

    async def trip(self, fleet_id: str, vehicle_id: str | None, **fields: Any) -> Message:
        body: Message = {
            "fleet_id": fleet_id,
            "pickup": {"latitude": 47.141, "longitude": 9.521, "name": "Städtle"},
            "dropoff": {"latitude": 47.151, "longitude": 9.515},
            **fields,
        }
        if vehicle_id is not None:
            body["vehicle_id"] = vehicle_id
        trip: Message = await self.call("POST", "/trips", body, expect=201)
        return trip

    async def advance(self, trip_id: str, *statuses: str) -> Message:
        """Move the trip through these statuses, one after the other."""
        trip: Message = await self.call("GET", f"/trips/{trip_id}")
        for status in statuses:
            trip = await self.call("PATCH", f"/trips/{trip_id}", {"status": status, "version": trip["version"]})
        return trip

    async def under_way(self, **fields: Any) -> tuple[str, str]:
        """Make a vehicle and a trip that is under way. Returns `(vehicle_id, trip_id)`."""
        fleet_id = await self.fleet()
        vehicle_id = await self.vehicle(fleet_id)
        trip = await self.trip(fleet_id, vehicle_id, **fields)
        await self.advance(trip["trip_id"], "enroute_to_pickup")
        return vehicle_id, trip["trip_id"]

    async def track(self, path: str, **params: Any) -> list[Message]:
        """The rows of a CSV track, each as a dictionary of strings."""
        response = await self.http.get(path, params={"format": "csv", **params})
        assert response.status_code == 200, response.text
        header, *rows = response.text.splitlines()
        return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


class Socket:
    """A WebSocket with JSON messages. `url` starts with http."""

    def __init__(self, url: str, bearer: str | None, **options: Any) -> None:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer is not None else {}
        headers.update(options.pop("headers", {}))
        self._connect = connect(
            url.replace("http", "ws", 1), additional_headers=headers, max_size=None, compression=None, proxy=None, **options
        )
        self.connection: ClientConnection

    async def __aenter__(self) -> Self:
        self.connection = await self._connect
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.connection.close()

    async def send(self, message: Message) -> None:
        await self.connection.send(json.dumps(message))

    async def send_text(self, text: str) -> None:
        await self.connection.send(text)

    async def receive(self) -> Message:
        async with asyncio.timeout(TIMEOUT):
            message: Message = json.loads(await self.connection.recv())
        return message

    async def expect(self, *kinds: str) -> Message:
        """The next message of one of these types. Others are skipped."""
        while True:
            message = await self.receive()
            if message["type"] in kinds:
                return message

    async def closed(self) -> int:
        """Read until the hub closes the connection. Returns the close code."""
        try:
            while True:
                await self.receive()
        except websockets.ConnectionClosed:
            code = self.connection.close_code
            assert code is not None
            return code


class Driver(Socket):
    """A driver's connection. After hello it is ready to report."""

    def __init__(
        self, url: str, vehicle_id: str, session: str | None = None, bearer: str | None = None, **options: Any
    ) -> None:
        bearer = bearer if bearer is not None else token("driver", vehicle_id)
        super().__init__(f"{url}/v1/driver", bearer, **options)
        self.session = session or str(uuid.uuid4())
        self.welcome: Message = {}
        self.handled = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.welcome = await self.expect("welcome")
        await self.send({"type": "hello", "session": self.session})
        self.handled = (await self.expect("ack"))["seq"]
        return self

    async def report(self, *fixes: Message) -> None:
        """Send one fix as `position`, several as `positions`."""
        if len(fixes) == 1:
            await self.send({"type": "position", **fixes[0]})
        else:
            await self.send({"type": "positions", "positions": list(fixes)})

    async def acknowledged(self, seq: int) -> list[Message]:
        """Wait until everything up to `seq` is acknowledged. Returns what was rejected meanwhile."""
        rejected: list[Message] = []
        while self.handled < seq:
            ack = await self.expect("ack")
            self.handled = ack["seq"]
            rejected += ack.get("rejected", [])
        return rejected


class Passenger(Socket):
    """A passenger's connection."""

    def __init__(self, url: str, trip_id: str, bearer: str | None = None, query: str = "", **options: Any) -> None:
        bearer = bearer if bearer is not None else token("passenger", trip_id)
        super().__init__(f"{url}/v1/trips/{trip_id}/live{query}", bearer, **options)


class Dispatcher(Socket):
    """A dispatcher's connection, which keeps what its screen would show.

    `vehicles` has the newest state of each vehicle, `clusters` the last clusters, and `messages` all messages in order.
    """

    def __init__(self, url: str, fleet_id: str, bearer: str | None = None, **options: Any) -> None:
        bearer = bearer if bearer is not None else token("dispatcher", fleet_id)
        super().__init__(f"{url}/v1/fleets/{fleet_id}/live", bearer, **options)
        self.vehicles: dict[str, Message] = {}
        self.clusters: list[list[float]] | None = None
        self.messages: list[Message] = []

    async def look(self, west: float, south: float, east: float, north: float, zoom: float = 12) -> None:
        await self.send({"type": "viewport", "bounds": [west, south, east, north], "zoom": zoom})

    async def receive(self) -> Message:
        message = await super().receive()
        self.messages.append(message)
        self._show(message)
        return message

    def _show(self, message: Message) -> None:
        match message["type"]:
            case "fleet_snapshot":
                self.clusters = None
                cells = set(message["cells"])
                for vehicle_id in [i for i, v in self.vehicles.items() if "latitude" in v and cell_of(v) in cells]:
                    del self.vehicles[vehicle_id]
                for vehicle in message["vehicles"]:
                    self.vehicles[vehicle["vehicle_id"]] = vehicle
            case "clusters":
                self.clusters = message["clusters"]
                self.vehicles.clear()
            case "fleet":
                for vehicle in message.get("vehicles", []):
                    known = self.vehicles.setdefault(vehicle["vehicle_id"], {})
                    for optional in ("trip_id", "clock_skew"):
                        known.pop(optional, None)
                    known.update(vehicle)
                for vehicle_id, latitude, longitude, bearing, speed, fix_time in message["positions"]:
                    state = {"latitude": latitude, "longitude": longitude, "fix_time": fix_time}
                    self.vehicles.setdefault(vehicle_id, {}).update(state, bearing=bearing, speed=speed)
                for vehicle_id in message.get("left", []):
                    self.vehicles.pop(vehicle_id, None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until the condition holds."""
        while not condition():
            await self.receive()

    async def events(self, count: int) -> list[Message]:
        """The first `count` events."""
        await self.until(lambda: len(self.news()) >= count)
        return self.news()

    def news(self) -> list[Message]:
        return [message for message in self.messages if message["type"] == "event"]


def cell_of(place: Message) -> str:
    """The web mercator tile at zoom 14 that contains a place. Source: OpenStreetMap's wiki, "Slippy map tilenames"."""
    latitude = math.radians(place["latitude"])
    x = math.floor((place["longitude"] + 180) / 360 * 2**14)
    y = math.floor((1 - math.log(math.tan(latitude) + 1 / math.cos(latitude)) / math.pi) / 2 * 2**14)
    return f"14/{x}/{y}"
