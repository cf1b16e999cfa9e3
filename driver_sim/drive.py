"""The demo: a fleet that drives through Liechtenstein for ever."""

import asyncio
import logging
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from driver_sim.areas import AREAS, THRESHOLDS
from driver_sim.backend import Backend, BackendError, for_each
from driver_sim.callbacks import Callbacks
from driver_sim.client import DriverClient
from driver_sim.close_codes import NORMAL
from driver_sim.connection import Ending
from driver_sim.driver_loop import DriverLoop
from driver_sim.fleet import HOMES, VADUZ, vehicles
from driver_sim.itineraries import Itineraries, Itinerary, ShowcaseItineraries
from driver_sim.outbox import Outbox
from driver_sim.receiver import DeadZone, dead_zones
from driver_sim.roads import RoadGraph
from driver_sim.store import SqliteStore
from tracking.model import Vehicle
from tracking.protocol.http import TripView

logger = logging.getLogger(__name__)


async def drive(
    hub: str,
    service_token: str,
    *,
    drivers: int,
    fleet: str,
    state: Path,
    stopping: asyncio.Event,
    standby: int = 0,
    seed: int | None = None,
    pace: float = 1.0,
    say: Callable[[str], None] = print,
) -> None:
    """Provision `fleet`, connect `drivers` vehicles, and drive until `stopping` is set.

    `standby` more vehicles make no trips of their own. They wait for trips of a dispatcher. `state` is the directory of the
    outboxes. A hub that is away is waited for. Raises `BackendError` if the hub refuses, and `StoreError` if the state
    directory can't be used.
    """
    rng = random.Random(seed)
    roads = RoadGraph.load()
    zones = dead_zones(rng, [roads.nodes[node] for node in sorted(roads.nodes)], spare=[VADUZ])
    chosen = vehicles(fleet, drivers + standby, random.Random(fleet))
    store = SqliteStore(state / f"{fleet}.sqlite")
    tasks: list[asyncio.Task[object]] = []
    clients: list[DriverClient] = []
    try:
        async with Backend(hub, service_token) as backend:
            provisioning = asyncio.ensure_future(_provision(backend, fleet, chosen))
            await _first(provisioning, stopping)
            if stopping.is_set():
                provisioning.cancel()
                await asyncio.gather(provisioning, return_exceptions=True)
                return
            provisioning.result()
            for number, vehicle in enumerate(chosen):
                itineraries = _itineraries(number, roads, random.Random(rng.random()))
                outbox = store.outbox(vehicle.vehicle_id)
                client, loop = _driver(hub, vehicle, backend, outbox, itineraries, zones, pace, waits=number >= drivers)
                clients.append(client)
                tasks.append(asyncio.ensure_future(_stay(vehicle, client, say)))
                tasks.append(asyncio.ensure_future(loop.run()))
            tasks.append(asyncio.ensure_future(_announce(clients, fleet, hub, say)))
            try:
                await _watch(tasks, stopping)
            finally:
                for client in clients:
                    client.stop()
                for task in tasks[1::2]:
                    task.cancel()
                # The sockets close themselves first. What arrives meanwhile still counts.
                await asyncio.wait(tasks, timeout=0.8)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        store.close()


async def _provision(backend: Backend, fleet: str, chosen: list[Vehicle]) -> None:
    name = "Liechtenstein demo" if fleet == "demo" else f"Liechtenstein {fleet}"
    await backend.put_fleet(fleet, name, THRESHOLDS)
    for area in AREAS:
        await backend.put_geofence(fleet, area.geofence_id, area.feature())
    await for_each(chosen, backend.put_vehicle)
    # Nobody drives the trips of an earlier run any more.
    numbered = re.compile(re.escape(fleet) + r"-\d+")
    await backend.cancel_left_over(fleet, lambda vehicle_id: numbered.fullmatch(vehicle_id) is not None)


def _itineraries(number: int, roads: RoadGraph, rng: random.Random) -> Itineraries:
    if number == 0:
        return ShowcaseItineraries(roads, rng)
    _, home, radius = HOMES[number % len(HOMES)]
    return Itineraries(roads, rng, home, radius)


def _driver(
    hub: str,
    vehicle: Vehicle,
    backend: Backend,
    outbox: Outbox,
    itineraries: Itineraries,
    zones: Sequence[DeadZone],
    pace: float,
    *,
    waits: bool,
) -> tuple[DriverClient, DriverLoop]:
    async def token() -> str:
        return await backend.driver_token(vehicle.vehicle_id)

    async def make_trip(itinerary: Itinerary, trouble: bool) -> TripView:
        while True:
            try:
                if trouble:
                    await backend.cancel_left_over(vehicle.fleet_id, vehicle.vehicle_id.__eq__)
                return await backend.create_trip(
                    vehicle.fleet_id, vehicle.vehicle_id, itinerary.pickup, itinerary.dropoff, itinerary.stops, itinerary.line
                )
            except BackendError as error:
                if error.status != 409:
                    raise
                trouble = True
                await asyncio.sleep(2.0)

    client = DriverClient(
        hub,
        outbox,
        fetch_token=token,
        callbacks=Callbacks(
            on_trip=lambda trip: loop.taken(trip),
            on_done=lambda request, code, detail: loop.answered(request, code, detail),
            on_rejected=lambda rejection: logger.info("%s: fix rejected: %s", vehicle.vehicle_id, rejection),
            on_lost=lambda code, reason: logger.info("%s: connection lost: %d %s", vehicle.vehicle_id, code, reason),
        ),
    )
    loop = DriverLoop(vehicle.vehicle_id, client, itineraries, None if waits else make_trip, zones=zones, pace=pace)
    return client, loop


async def _stay(vehicle: Vehicle, client: DriverClient, say: Callable[[str], None]) -> Ending:
    ending = await client.run()
    if ending.code != NORMAL:
        say(f"{vehicle.vehicle_id} left for good, {ending.code}: {ending.reason}")
    return ending


async def _announce(clients: list[DriverClient], fleet: str, hub: str, say: Callable[[str], None]) -> None:
    for client in clients:
        await client.connected.wait()
    say(f"{len(clients)} drivers of fleet {fleet} are connected to {hub}")


async def _first(task: asyncio.Future[None], stopping: asyncio.Event) -> None:
    stop = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()


async def _watch(tasks: list[asyncio.Task[object]], stopping: asyncio.Event) -> None:
    """Wait until asked to stop. A task that fails ends all: tasks wait for an absent hub, so a failure is a bug."""
    stop: asyncio.Task[object] = asyncio.ensure_future(stopping.wait())
    running = {*tasks, stop}
    try:
        while stop in running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        stop.cancel()
