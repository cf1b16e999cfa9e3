"""A trip under way that a passenger watches."""

import contextlib
from collections.abc import AsyncIterator

from tests.support.clients import Api, Passenger


@contextlib.asynccontextmanager
async def watched(api: Api) -> AsyncIterator[tuple[str, Passenger, int]]:
    """The trip, its passenger, and its version."""
    _, trip_id = await api.under_way()
    async with Passenger(api.url, trip_id, ping_interval=None) as passenger:
        yield trip_id, passenger, (await passenger.expect("snapshot"))["trip"]["version"]
