"""A small world that changes at random: some hubs on one database, and all who speak to them, in one process.

async with Station(url, seed) as station:
    async with World(station, seed) as world:
        await live(world, steps)    # changes, fixes, connections, kills, cuts, in an order that the seed decides
        await world.come_to_rest()  # everything is committed and applied
        wrongs = await judge(world)
"""

import asyncio
import random
import uuid
from types import TracebackType
from typing import Self

from tests.changes.stand_ins import Device, Message, StandInWire
from tests.changes.station import HOUR, PLACES, STUCK_SECONDS, Book, FuzzHub, Station
from tracking.auth import Auth, Issued, Principal, Role
from tracking.model import Fleet, Trip, Vehicle
from tracking.sockets.driver import DriverConnection


class Passenger:
    """Somebody who watches one trip, and resumes it after a break."""

    def __init__(self, hub: FuzzHub, trip_id: str, wire: StandInWire, token: str) -> None:
        self.hub = hub
        self.trip_id = trip_id
        self.wire = wire
        self.token = token


class World(Book):
    """Vehicles, trips, devices and watchers on the hubs of a station, until it ends."""

    def __init__(self, station: Station, seed: str) -> None:
        super().__init__(seed)
        self.station = station
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = station.clock
        self.witness = station.witness
        self.settings = station.settings
        self.other_clock = station.other_clock
        self.name = uuid.uuid4().hex[:8]
        self.fleets = [f"fleet-{self.name}-{n}" for n in range(2)]
        self.vehicles = [f"van-{self.name}-{n}" for n in range(3)]
        self.trips: dict[str, Trip | None] = {}
        """All trips that are known to be made, each after its last change."""
        self.fleet_of: dict[str, str] = {}
        """The fleet of each vehicle, as far as it is known."""
        self.devices: list[Device] = []
        self.passengers: list[Passenger] = []
        self.screens: list[tuple[FuzzHub, str, StandInWire]] = []
        self.drivers: list[tuple[FuzzHub, str, StandInWire]] = []
        self.shares: list[tuple[str, str, Issued]] = []
        self.jtis: list[str] = []
        self.hubs = station.hubs
        self.former: list[FuzzHub] = []

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        for hub in self.hubs:
            hub.join(self)
        services = [hub.service for hub in self.hubs]
        await asyncio.gather(*(services[0].fleets.put(Fleet(fleet, ""), may_create=True) for fleet in self.fleets))
        for name in self.vehicles:
            self.new_device(name)
            self.fleet_of[name] = self.rng.choice((*self.fleets, self.fleets[0]))
        await asyncio.gather(
            *(services[0].vehicles.put(Vehicle(name, fleet), own=None) for name, fleet in self.fleet_of.items())
        )
        await asyncio.gather(*(self.create_trip_now(self.hub(), name) for name in self.vehicles))
        for vehicle_id in self.vehicles[:2]:
            self.connect_driver(vehicle_id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.turns.be_calm()
        for hub in self.hubs:
            for wire in hub.wires:
                wire.leave()
            hub.world = None
        for hub in self.former:
            await hub.end()

    def tick(self) -> None:
        for hub in self.hubs:
            for _ in hub.service.hub.fleets.ticking():
                pass

    async def come_to_rest(self) -> None:
        """Waits until all requests are done and all commits are applied."""
        self.turns.be_calm()
        for hub in self.hubs:
            # Those that nobody notifies have to ask.
            hub.following.away = False
        async with asyncio.timeout(STUCK_SECONDS):
            while requests := [task for hub in self.hubs for task in hub.requests]:
                await asyncio.wait(requests)
            for hub in self.hubs:
                while await self.behind(hub):
                    await asyncio.sleep(0.002)
            for hub in self.hubs:
                # What was asked for on sockets.
                while any(getattr(wire._listener, "_worker", None) is not None for wire in hub.wires):
                    await asyncio.sleep(0.001)
                await hub.service.recorder.flush()
            for hub in self.hubs:
                while await self.behind(hub) or hub.service.follower._works:
                    await asyncio.sleep(0.002)
                await hub.service.refiling.flush()
            self.tick()

    async def behind(self, hub: FuzzHub) -> bool:
        return bool(hub.service.follower.applied < await self.witness.fetchval("SELECT max(number) FROM changes"))

    # --- who takes part -----------------------------------------------------------------------------------------------

    def hub(self) -> FuzzHub:
        return self.rng.choice(self.hubs)

    def trip(self) -> str | None:
        """One of the last trips."""
        trips = list(self.trips)[-4:]
        return self.rng.choice(trips) if trips else None

    def vehicle(self) -> str:
        return self.rng.choice(self.vehicles)

    def device_of(self, vehicle_id: str) -> Device:
        return next(device for device in reversed(self.devices) if device.vehicle_id == vehicle_id)

    def new_device(self, vehicle_id: str) -> Device:
        number = sum(1 for _ in self.devices)
        device = Device(vehicle_id, round(40.0 + 0.05 * number, 2), self.clock())
        self.devices.append(device)
        return device

    def issue(self, role: Role, subject: str) -> str:
        issued = Auth(self.settings, self.clock).issue(role, subject, 7_200)
        self.jtis.append(issued.jti)
        return issued.token

    def principal(self, role: Role, subject: str) -> Principal:
        return Principal(role, subject, f"{role}-{subject}", self.clock() + HOUR, issued_at=self.clock())

    async def create_trip_now(self, hub: FuzzHub, vehicle_id: str | None) -> None:
        fleet_id = self.fleet_of[vehicle_id] if vehicle_id is not None else self.rng.choice(self.fleets)
        self.noted(
            await hub.service.trips.create(
                fleet_id=fleet_id, vehicle_id=vehicle_id, pickup=PLACES[0], dropoff=PLACES[1], stops=(), route=None
            )
        )

    def noted(self, trip: Trip) -> None:
        known = self.trips.get(trip.trip_id)
        if known is None or known.version < trip.version:
            self.trips[trip.trip_id] = trip

    def connect_driver(self, vehicle_id: str | None = None) -> None:
        hub, vehicle_id = self.hub(), vehicle_id or self.vehicle()
        device = self.device_of(vehicle_id)
        token = self.issue(Role.DRIVER, vehicle_id)
        wire = hub.connect(token, lambda wire, principal: DriverConnection(wire.websocket(), hub.service, principal))
        self.drivers.append((hub, vehicle_id, wire))

        def on_heard(message: Message) -> None:
            if message["type"] == "welcome":
                # Once what it is called from has ended.
                asyncio.get_running_loop().call_soon(begin)
            device.heard(message)

        def begin() -> None:
            if wire.open and self.device_of(vehicle_id) is device:
                device.take(hub, wire)
                device.send_again(self.stamp())

        wire.on_heard = on_heard
        self.note("connect", vehicle_id, "to", hub)
