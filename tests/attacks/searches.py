"""One dispatcher keeps running thirty searches at once in a large fleet, and asks for all other long lists."""

import asyncio
import itertools
import time

import httpx

from tests.attacks.scene import Scene
from tests.attacks.stock import FLEET
from tests.support.clients import PLAIN, TIMEOUT, token

AT_ONCE = 30
QUERIES = (
    "vehicles?search=van&limit=1000",
    "vehicles?search=qq",
    "vehicles?search=a+b+c+d+e+f+0+1+2+zq",
    "vehicles?near=47.1,9.5&limit=1000&available=true",
    "vehicles?limit=1000",
    "events?limit=1000",
    "trips?limit=1000",
)


async def searches(scene: Scene) -> None:
    """Requests beyond the budget are refused with an error that says so."""
    until = time.monotonic() + scene.seconds
    headers = {"Authorization": f"Bearer {token('dispatcher', FLEET)}"}
    queries = itertools.cycle(QUERIES)
    statuses: set[int] = set()

    async def ask(http: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            response = await http.get(f"/v1/fleets/{FLEET}/{next(queries)}")
            statuses.add(response.status_code)
            if response.status_code == 429:
                assert int(response.headers["Retry-After"]) > 0

    async with httpx.AsyncClient(base_url=scene.url, headers=headers, timeout=TIMEOUT * 3, verify=PLAIN) as http:
        await asyncio.gather(*(ask(http) for _ in range(AT_ONCE)))
    assert statuses <= {200, 429}, statuses
    assert 200 in statuses
