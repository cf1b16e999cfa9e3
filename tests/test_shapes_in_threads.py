"""What is worked out in a thread lets the others run meanwhile, whatever the shape."""

import asyncio
import time
from collections.abc import Callable
from math import cos, pi, sin

import msgspec
import numpy as np
import pytest

from tracking.geojson import read_geometry
from tracking.model import Geofence, Place, Trip, TripStatus
from tracking.protocol.fit import geofence_news, live_view, prepare_route, thinned

VERTICES = 19_998
SPIKES = [[9.5 + (0.01 + 0.004 * (n % 2)) * f(2 * pi * n / VERTICES) for f in (cos, sin)] for n in range(VERTICES)]
"""A star: of such a ring GEOS compares each edge with most of the others."""
LATE_SECONDS = 0.15
TEXT = msgspec.json.encode({"type": "Polygon", "coordinates": [[*SPIKES, SPIKES[0]]]})


def judge() -> None:
    read_geometry(TEXT)


def news() -> None:
    geofence_news(Geofence("fleet", "star", {"type": "Polygon", "coordinates": [[*SPIKES, SPIKES[0]]]}, {}))


def line() -> None:
    thinned({"van": np.column_stack((SPIKES, np.arange(VERTICES)))}, 10_000)


def test_a_route_to_and_fro_is_thinned_in_time() -> None:
    """Else those who wait for their turn would wait for half a minute."""
    places = [[9.5 + 0.05 * (n % 2), 47.1 + n * 1e-6] for n in range(20_000)]
    began = time.monotonic()
    prepare_route({"type": "LineString", "coordinates": places})
    assert time.monotonic() - began < 10
    route = {"type": "LineString", "coordinates": places}
    here, there = Place(47.1, 9.5, None), Place(47.12, 9.55, None)
    shown = live_view(Trip(1, "trip", "fleet", None, TripStatus.NEW, 1, here, there, (), route, 0, None, None)).route
    assert isinstance(shown, dict)
    thin = shown["coordinates"]
    assert [thin[0], thin[-1]] == [[9.5, 47.1], [9.55, 47.119999]]
    assert len(thin) < 1_000


@pytest.mark.parametrize("work", [judge, news, line])
async def test_the_loop_goes_on(work: Callable[[], None]) -> None:
    """It is late now and then where others are busy as well, but not most of the time."""
    began = last = time.monotonic()
    late = 0.0
    task = asyncio.create_task(asyncio.to_thread(work))
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        late += now - last if now - last > LATE_SECONDS else 0.0
        last = now
    await task
    assert late <= (last - began) / 2, f"{late:.2f} s of {last - began:.2f} s"
