"""What must hold of the live state of each hub. The functions return what is wrong; nothing: all is well."""

from tests.changes.station import FuzzHub
from tests.changes.truth import Truth
from tests.changes.world import World
from tracking.sockets.connection import Connection
from tracking.sockets.driver import DriverConnection
from tracking.store import fleets, geofences, shares


async def judge_live_state(world: World, hub: FuzzHub, fresh: FuzzHub, truth: Truth) -> list[str]:
    judge = LiveJudge(world, hub, fresh, truth)
    await judge.ingest_vehicles()
    judge.vehicles()
    await judge.feeds()
    await judge.fleets()
    judge.drivers()
    return judge.wrongs


class LiveJudge:
    """Compares the live state of a hub with that of a fresh one, and with the store."""

    def __init__(self, world: World, hub: FuzzHub, fresh: FuzzHub, truth: Truth) -> None:
        self.world, self.hub, self.fresh, self.truth = world, hub, fresh, truth
        self.wrongs: list[str] = []

    def compare(self, what: object, have: object, want: object) -> None:
        if have != want:
            self.wrongs.append(f"{self.hub}: {what} is {have}, not {want}")

    async def ingest_vehicles(self) -> None:
        ingest_vehicles = self.hub.service.ingest_vehicles
        for vehicle_id in self.world.vehicles:
            vehicle = ingest_vehicles.get(vehicle_id)
            if vehicle is None:
                continue
            other = await self.fresh.service.ingest_vehicles.load(vehicle_id)
            if other is None:
                self.wrongs.append(f"{self.hub} knows {vehicle_id}, which was removed")
                continue
            for name in ("number", "vehicle", "joined_at", "tokens_from", "trip", "windows"):
                self.compare(f"{name} of the ingest vehicle {vehicle_id}", getattr(vehicle, name), getattr(other, name))
            self.compare(
                f"the ingest vehicle {vehicle_id} by its number", ingest_vehicles.by_number.get(vehicle.number), vehicle
            )

    def vehicles(self) -> None:
        for vehicle_id in self.world.vehicles:
            live = self.hub.service.hub.fleets.vehicles.get(vehicle_id)
            expected = self.fresh.service.hub.fleets.vehicles.get(vehicle_id)
            stored = self.truth.vehicles.get(vehicle_id)
            if live is None and stored is not None and not self.hub.service.hub.fleets.holds(stored.vehicle.fleet_id):
                continue
            if live is None or expected is None:
                self.compare(f"whether the fleets know {vehicle_id}", live is not None, expected is not None)
                continue
            for name in ("number", "vehicle", "joined_at", "trip"):
                self.compare(f"{name} of the vehicle {vehicle_id}", getattr(live, name), getattr(expected, name))
            self.compare(f"the fleet of {vehicle_id}", live.feed.fleet.fleet_id, expected.feed.fleet.fleet_id)
            self.compare(f"whether its fleet has {vehicle_id}", live in live.feed.vehicles, True)
            self.compare(
                f"the vehicle {vehicle_id} by its number", self.hub.service.hub.fleets.by_number.get(live.number), live
            )

    async def feeds(self) -> None:
        for trip_id in self.world.trips:
            feed = self.hub.service.hub.feeds.get(trip_id)
            if feed is None:
                continue
            found = await self.fresh.service.shown_trips.get(trip_id)
            if found is None or found[0].status.over:
                self.wrongs.append(
                    f"{self.hub} has a feed of {trip_id}, which is {'gone' if found is None else found[0].status}"
                )
                continue
            new = self.fresh.service.hub.feed(*found)
            self.compare(f"the trip of the feed {trip_id}", feed.trip, new.trip)
            self.compare(f"showing of the feed {trip_id}", feed.showing, new.showing)
            if new.vehicle_id:
                self.compare(f"the vehicle of the feed {trip_id}", feed.vehicle_id, new.vehicle_id)

    async def fleets(self) -> None:
        stored_fleets = {fleet_id: await fleets.get(self.world.witness, fleet_id) for fleet_id in self.world.fleets}
        revoked = await shares.revoked_tokens(self.world.witness)
        for fleet_id in self.world.fleets:
            fleet_feed = self.hub.service.hub.fleets.feeds.get(fleet_id)
            # One that is not loaded knows its vehicles alone.
            if fleet_feed is not None and fleet_feed.loaded:
                self.compare(f"the fleet {fleet_id}", fleet_feed.fleet, stored_fleets[fleet_id])
            fences = self.hub.service.monitor.fences.by_fleet.get(fleet_id)
            if fences is not None:
                rows = await geofences.rows_of_fleet(self.world.witness, fleet_id)
                wanted = {row["geofence_id"]: geofences.geofence_of(row) for row in rows}
                self.compare(
                    f"the geofences of {fleet_id}", {name: fence.geofence for name, fence in fences.by_id.items()}, wanted
                )
        self.compare(
            "what is revoked", (self.hub.service.auth.revoked or set()) & set(self.world.jtis), revoked & set(self.world.jtis)
        )
        for wire in self.hub.wires:
            listener = wire._listener
            if wire.open and isinstance(listener, Connection) and listener.principal.jti in revoked:
                self.wrongs.append(f"{self.hub}: somebody is connected with a token that was revoked")

    def drivers(self) -> None:
        ingest_vehicles = self.hub.service.ingest_vehicles
        for vehicle_id in self.world.vehicles:
            driver = self.hub.service.hub.drivers.get(vehicle_id)
            stored = self.truth.vehicles.get(vehicle_id)
            if driver is not None:
                self.compare(
                    f"the number of the driver of {vehicle_id}", driver.number, stored.number if stored is not None else None
                )
                assert isinstance(driver, DriverConnection)
                self.compare(
                    f"the ingest vehicle of the driver of {vehicle_id}", driver.vehicle, ingest_vehicles.get(vehicle_id)
                )
