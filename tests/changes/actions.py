"""What happens in a world, at random."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from tests.changes.stand_ins import Heard
from tests.changes.station import ROUTES, YARDS, FuzzHub, told_numbers
from tests.changes.world import Passenger, World
from tracking.auth import Role
from tracking.model import NEXT_STATUS, Fleet, Trip, TripStatus, Vehicle
from tracking.sockets.dispatcher import DispatcherConnection
from tracking.sockets.passenger import PassengerConnection
from tracking.store import changes
from tracking.store.changes import Change


async def live(world: World, steps: int) -> None:
    world.turns.calm = False
    operations = list(OPERATIONS)
    weights = [OPERATIONS[operation] for operation in operations]
    for _ in range(steps):
        if world.rng.random() < 0.75:
            operation = world.rng.choices(operations, weights)[0]
            operation(world)
        for _ in range(world.rng.choice((0, 1, 2, 3))):
            world.turns.let_go()
        for _ in range(world.rng.choice((0, 1, 1, 3))):
            await asyncio.sleep(0)
        if world.rng.random() < 0.3:
            # As long as an answer of the database's takes.
            await asyncio.sleep(0.001)
        if world.rng.random() < 0.1:
            world.tick()


def create_trip(world: World) -> None:
    hub, vehicle_id = world.hub(), world.vehicle() if world.rng.random() < 0.8 else None
    world.note("create a trip of", vehicle_id, "at", hub)
    hub.ask("create a trip", lambda: world.create_trip_now(hub, vehicle_id), lost=_lost(world))


def _lost(world: World) -> bool:
    return world.rng.random() < 0.04


def advance(world: World) -> None:
    _change_trip(world, lambda trip: _next_status(world, trip))


def reassign(world: World) -> None:
    vehicle_id = world.vehicle() if world.rng.random() < 0.8 else None
    _change_trip(world, lambda _: {"vehicle_id": vehicle_id})


def reroute(world: World) -> None:
    route = world.rng.choice((None, *ROUTES))
    _change_trip(world, lambda _: {"route": route})


def at_once(world: World) -> None:
    """Two requests change one trip at the same time, at one hub or at two."""
    trip_id = world.trip()
    for _ in range(2):
        _change_trip(world, lambda trip: _next_status(world, trip), trip_id)


def _next_status(world: World, trip: Trip | None) -> dict[str, Any]:
    steps = sorted(NEXT_STATUS[trip.status]) if trip is not None else []
    # A trip that ends at once shows nobody anything.
    likely = [status for status in steps if status is not TripStatus.CANCELED] or steps
    if TripStatus.COMPLETE in likely and world.rng.random() < 0.5:
        likely = [TripStatus.COMPLETE]
    if not steps or world.rng.random() < 0.1:
        return {"status": world.rng.choice(list(TripStatus))}
    return {"status": world.rng.choice(likely if world.rng.random() < 0.8 else steps)}


def _change_trip(world: World, change: Callable[[Trip | None], dict[str, Any]], trip_id: str | None = None) -> None:
    hub, trip_id = world.hub(), trip_id or world.trip()
    if trip_id is None:
        return create_trip(world)
    said = change(world.trips[trip_id])
    world.note("change", trip_id, said, "at", hub)

    async def change_it() -> None:
        world.noted(await hub.service.trips.change(trip_id, allowed=lambda _: True, **said))

    hub.ask(f"change {trip_id}", change_it, lost=_lost(world))


def delete_trip(world: World) -> None:
    hub, trip_id = world.hub(), world.trip()
    if trip_id is not None:
        world.note("delete", trip_id, "at", hub)
        hub.ask("delete a trip", lambda: hub.service.trips.delete(trip_id, allowed=lambda _: True, record=_nothing))


def put_vehicle(world: World) -> None:
    hub = world.hub()
    vehicle_id = world.vehicle()
    # One with trips does not move.
    fleet_id = world.rng.choice((*world.fleets, world.fleet_of[vehicle_id]))
    vehicle = Vehicle(vehicle_id, fleet_id, name=world.rng.choice(("", "Van", "Bus")))
    world.note("put", vehicle.vehicle_id, "into", vehicle.fleet_id, "at", hub)

    async def put() -> None:
        await hub.service.vehicles.put(vehicle, own=None)
        world.fleet_of[vehicle.vehicle_id] = vehicle.fleet_id

    hub.ask("put a vehicle", put, lost=_lost(world))


def delete_vehicle(world: World) -> None:
    hub, vehicle_id = world.hub(), world.vehicle()
    fleet_id = world.rng.choice(world.fleets)

    async def delete() -> None:
        if await hub.service.vehicles.remove(vehicle_id, own=None, record=_nothing) is not None:
            # The next one of this id is another, with a device of its own.
            world.new_device(vehicle_id)
            world.fleet_of[vehicle_id] = fleet_id
            if world.rng.random() < 0.8:
                put_anew(world, vehicle_id, fleet_id)

    world.note("delete", vehicle_id, "at", hub)
    hub.ask("delete a vehicle", delete)


def put_anew(world: World, vehicle_id: str, fleet_id: str) -> None:
    hub = world.hub()
    hub.ask("make a vehicle anew", lambda: hub.service.vehicles.put(Vehicle(vehicle_id, fleet_id), own=None))


def put_fleet(world: World) -> None:
    hub = world.hub()
    fleet = Fleet(world.rng.choice(world.fleets), world.rng.choice(("", "A", "B")), idle_after=world.rng.choice((60.0, 300.0)))
    hub.ask("put a fleet", lambda: hub.service.fleets.put(fleet, may_create=True), lost=_lost(world))


def put_geofence(world: World) -> None:
    hub, fleet_id = world.hub(), world.rng.choice(world.fleets)
    yard, geofence_id = world.rng.choice(YARDS), world.rng.choice(("a", "b"))

    async def put() -> None:
        checked = await hub.service.geofences.check(fleet_id, geofence_id, yard, {}, by="someone")
        await hub.service.geofences.put(checked)

    hub.ask("put a geofence", put, lost=_lost(world))


def delete_geofence(world: World) -> None:
    hub, fleet_id, geofence_id = world.hub(), world.rng.choice(world.fleets), world.rng.choice(("a", "b"))
    hub.ask("delete a geofence", lambda: hub.service.geofences.delete(fleet_id, geofence_id), lost=_lost(world))


def write(world: World) -> None:
    hub, trip_id = world.hub(), world.trip()
    if trip_id is None:
        return
    text, messages = uuid.uuid4().hex, hub.service.messages
    vehicle_id, fleet_id = world.vehicle(), world.rng.choice(world.fleets)
    work: Callable[[], Awaitable[None]] = world.rng.choice(
        (
            lambda: messages.from_passenger(world.principal(Role.PASSENGER, trip_id), trip_id, text, text),
            lambda: messages.from_driver(world.principal(Role.DRIVER, vehicle_id), trip_id, text, text),
            lambda: messages.from_dispatcher(world.principal(Role.DISPATCHER, fleet_id), fleet_id, trip_id, text, text),
        )
    )
    world.note("write about", trip_id, "at", hub)
    hub.ask("write", work, lost=_lost(world))


def share(world: World) -> None:
    hub, trip_id = world.hub(), world.trip()
    if trip_id is None:
        return

    async def share() -> None:
        found = await hub.service.shown_trips.get(trip_id)
        if found is not None:
            share, issued = await hub.service.access.share(found[0], 3_600, _nothing)
            world.shares.append((share.share_id, trip_id, issued))
            world.jtis.append(issued.jti)

    hub.ask("share", share)


def revoke(world: World) -> None:
    hub = world.hub()
    if world.shares and world.rng.random() < 0.5:
        share_id, _, _ = world.rng.choice(world.shares)
        hub.ask(
            "revoke a share",
            lambda: hub.service.access.revoke_share(share_id, allowed=lambda _: True, record=_nothing),
            lost=_lost(world),
        )
    elif world.jtis:
        jti = world.rng.choice(world.jtis)
        hub.ask("revoke a token", lambda: hub.service.access.revoke_token(jti, _nothing), lost=_lost(world))


def strange_row(world: World) -> None:
    """A row as another version may write it: of an unknown kind, or with a strange body."""
    hub, trip_id = world.hub(), world.trip()
    kind = world.rng.choice(("trip.painted", "message.posted", "geofence.changed", "event.x", "vehicle.trips", ""))
    subject = world.rng.choice((trip_id or "", world.vehicle(), "no such thing", "\ud7ff"))
    internal = world.rng.choice((None, "text", {"message": "x"}, {"message": -1, "event": -1}, 5))

    async def append() -> None:
        async with hub.service.database.transaction() as connection:
            await changes.append(connection, [Change(kind, subject, world.rng.choice(world.fleets), None, None, internal)])
        told_numbers.set(None)

    hub.ask("append a strange row", append)


def report(world: World) -> None:
    devices = [device for device in world.devices if device.connected]
    if not devices:
        return world.connect_driver()
    device = world.rng.choice(devices)
    now = world.clock()
    match world.rng.random():
        case chance if chance < 0.7:
            times = [now]
        case chance if chance < 0.85:
            times = [now - world.rng.randrange(40_000 if world.other_clock else 200)]
        case _:
            times = sorted(now - world.rng.randrange(40_000 if world.other_clock else 200) for _ in range(5))
    device.report(times, world.stamp())


def disconnect_driver(world: World) -> None:
    devices = [device for device in world.devices if device.connected]
    if devices:
        wire = world.rng.choice(devices).wire
        assert wire is not None
        wire.leave()


def join(world: World) -> None:
    trip_id = world.trip()
    if trip_id is None:
        return
    links = [issued.token for _, shared, issued in world.shares if shared == trip_id]
    token = world.rng.choice(links) if links and world.rng.random() < 0.5 else world.issue(Role.PASSENGER, trip_id)
    _watch(world, world.hub(), trip_id, token)


def _watch(world: World, hub: FuzzHub, trip_id: str, token: str, **query: str) -> None:
    wire = hub.connect(
        token, lambda wire, principal: PassengerConnection(wire.websocket(**query), hub.service, principal, trip_id)
    )
    world.note("watch", trip_id, "at", hub)
    world.passengers.append(Passenger(hub, trip_id, wire, token))


def leave(world: World) -> None:
    watching = [passenger for passenger in world.passengers if passenger.wire.open]
    if watching:
        passenger = world.rng.choice(watching)
        passenger.wire.leave()
        if world.rng.random() < 0.7:
            epoch, offset = stand(passenger.wire.heard)
            hub = passenger.hub if passenger.hub.alive else world.hub()
            _watch(world, hub, passenger.trip_id, passenger.token, epoch=epoch, offset=str(offset))


def look(world: World) -> None:
    hub, fleet_id = world.hub(), world.rng.choice(world.fleets)
    token = world.issue(Role.DISPATCHER, fleet_id)
    wire = hub.connect(token, lambda wire, principal: DispatcherConnection(wire.websocket(), hub.service, principal, fleet_id))
    world.screens.append((hub, fleet_id, wire))


def let_go_of_ingest_vehicles(world: World) -> None:
    hub = world.hub()
    hub.let_go_at = world.stamp()
    for _ in range(2):
        hub.service.ingest_vehicles.let_go(hub.service.hub.drivers)


def let_go_of_feeds(world: World) -> None:
    hub = world.hub().service.hub
    for feed in [feed for feed in hub.feeds.values() if not feed.queues]:
        hub._let_go(feed)


def kill(world: World) -> None:
    index = world.rng.randrange(len(world.hubs))
    killed = world.hubs[index]
    world.note("kill", killed)
    killed.kill()
    world.former.append(killed)
    world.hubs[index] = born = FuzzHub(world.station, f"{killed.name.split('.')[0]}.{len(world.former)}", world.turns)
    born.world = world
    # Whoever comes before it has begun is turned away.
    born.ask("begin", born.begin)


def cut(world: World) -> None:
    hub = world.hub()
    world.note("cut off", hub)
    hub.following.cut()


def deafen(world: World) -> None:
    world.hub().following.deafen()


def mend(world: World) -> None:
    for hub in world.hubs:
        hub.catches_up()


def turn_clock(world: World) -> None:
    if world.other_clock:
        world.station.turned += world.rng.choice((10, 500, 4_000, 31_000))


OPERATIONS: dict[Callable[[World], None], float] = {
    create_trip: 3,
    advance: 14,
    reassign: 5,
    reroute: 1,
    at_once: 2,
    delete_trip: 1,
    put_vehicle: 2,
    delete_vehicle: 1,
    put_fleet: 1,
    put_geofence: 1,
    delete_geofence: 0.5,
    write: 4,
    share: 1,
    revoke: 1,
    strange_row: 0.7,
    report: 20,
    World.connect_driver: 3,
    disconnect_driver: 1,
    join: 7,
    leave: 2,
    look: 2,
    let_go_of_ingest_vehicles: 1,
    let_go_of_feeds: 1,
    kill: 0.5,
    cut: 0.7,
    deafen: 0.5,
    mend: 1,
    turn_clock: 2,
}


async def _nothing(*_: object) -> None: ...


def stand(heard: list[Heard]) -> tuple[str, int]:
    """The epoch and the last offset that a passenger received."""
    epoch, offset = "", 0
    for _, message in heard:
        epoch = message.get("epoch", epoch)
        offset = message.get("offset", offset)
    return epoch, offset
