"""Geofences of 20,000 vertices, valid and invalid, six at once; and trips with the longest routes. Both are read back."""

import asyncio
import itertools
import time
from math import cos, pi, sin
from typing import Any

import httpx

from tests.attacks.scene import Scene
from tests.attacks.stock import FLEET
from tests.support.clients import PLAIN, TIMEOUT, token

AT_ONCE = 6
VERTICES = 19_999
POINTS = 20_000


async def fences(scene: Scene) -> None:
    """The fleet's vehicles are inside, so that each position is tested against all of them."""
    until = time.monotonic() + scene.seconds
    good = _feature([[9.5 + _x(n), 47.15 + _y(n)] for n in range(VERTICES)])
    broken = _feature([[9.5 + _x(n), 47.15 + _y(n)] for n in range(VERTICES - 1)] + [["no", "number"]])
    crossing = _feature([[9.5 + sin(n * 1.1) * 0.1, 47.15 + cos(n * 1.3) * 0.1] for n in range(VERTICES // 10)])
    statuses: set[int] = set()

    async def put(http: httpx.AsyncClient, number: int) -> None:
        path = f"/v1/fleets/{FLEET}/geofences"
        asked = itertools.cycle([("PUT", good), ("GET", None), ("PUT", broken), ("LIST", None), ("PUT", crossing)])
        for method, body in asked:
            if method == "PUT":
                response = await http.put(f"{path}/{number}", json=body)
            else:
                response = await http.get(path if method == "LIST" else f"{path}/{number}")
            statuses.add(response.status_code)
            if time.monotonic() > until:
                break

    async def remove(http: httpx.AsyncClient, number: int) -> None:
        # The memory of valid geofences belongs to the fleet. It is no leak.
        await http.delete(f"/v1/fleets/{FLEET}/geofences/{number}")

    await _beset(scene, put)
    await _beset(scene, remove)
    assert statuses <= {200, 201, 400, 422, 429}, statuses
    assert 201 in statuses


async def routes(scene: Scene) -> None:
    """One route near the trip's places, and one far from them. That one is also read in every other format."""
    until = time.monotonic() + scene.seconds
    statuses: set[int] = set()
    place = {"latitude": 47.15, "longitude": 9.5}
    near = {"type": "LineString", "coordinates": [[9.5 + _x(n) / 2, 47.15 + _y(n) / 2] for n in range(POINTS)]}
    far = {"type": "LineString", "coordinates": [[20 + n / 1e5, 40 + sin(n)] for n in range(POINTS)]}

    async def post(http: httpx.AsyncClient, _: int) -> None:
        for route in itertools.cycle((near, far, None)):
            if route is None:
                response = await http.get(f"/v1/fleets/{FLEET}/trips?limit=20")
            else:
                body = {"fleet_id": FLEET, "pickup": place, "dropoff": place, "route": route}
                response = await http.post("/v1/trips", json=body)
            statuses.add(response.status_code)
            if time.monotonic() > until:
                break

    await _beset(scene, post)
    assert statuses <= {200, 201, 422, 429}, statuses
    assert 201 in statuses


async def _beset(scene: Scene, work: Any) -> None:
    headers = {"Authorization": f"Bearer {token('dispatcher', FLEET)}"}
    async with httpx.AsyncClient(base_url=scene.url, headers=headers, timeout=TIMEOUT * 3, verify=PLAIN) as http:
        await asyncio.gather(*(work(http, number) for number in range(AT_ONCE)))


def _feature(ring: list[Any]) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}}


def _x(number: int) -> float:
    return (0.1 + 0.001 * (number % 2)) * cos(2 * pi * number / VERTICES)


def _y(number: int) -> float:
    return (0.1 + 0.001 * (number % 2)) * sin(2 * pi * number / VERTICES)
