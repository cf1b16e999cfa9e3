"""What must hold of a world that came to rest. Each function returns what is wrong, in words; nothing: all is well."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tests.changes.stand_ins import Device, Heard, Sent
from tests.changes.world import STUCK_SECONDS, WAIT_SECONDS, FuzzHub, World
from tests.support.devices import until
from tracking.ingest.vehicles import read_states, span_at, windows_of
from tracking.model import Trip, TripStatus
from tracking.protocol.fit import live_view
from tracking.sockets.connection import Connection
from tracking.sockets.driver import DriverConnection
from tracking.store import changes, fleets, geofences, shares, trips, vehicles
from tracking.store.changes import ChangeKind, Row
from tracking.store.trips import Span
from tracking.store.vehicles import Stored


class Truth:
    """What the store holds."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.trips: dict[str, Trip] = {}
        self.vehicles: dict[str, Stored] = {}
        self.spans: dict[int, list[Span]] = {}
        self.current: dict[str, Trip] = {}


async def judge(world: World) -> list[str]:
    truth = await _read(world)
    wrongs = list(world.faults)
    wrongs += _judge_log(world, truth)
    wrongs += _judge_answers(world, truth)
    fresh = await FuzzHub(world.station, "fresh", world.turns).read_all(world.station.pools)
    try:
        for fleet_id in world.fleets:
            await fresh.service.loader.load(fleet_id)
        for hub in world.hubs:
            found: list[str] = []

            async def same(hub: FuzzHub = hub, found: list[str] = found) -> bool:
                found[:] = await _judge_live_state(world, hub, fresh, truth)
                return not found

            try:
                # Geofences are made in threads.
                await until(same, "the same", 2.0)
            except AssertionError:
                wrongs += found
    finally:
        await fresh.forget_all()
    wrongs += await _judge_positions(world, truth)
    wrongs += _judge_passengers(world, truth)
    wrongs += _judge_drivers(world, truth)
    wrongs += _judge_screens(world, truth)
    return wrongs


async def _read(world: World) -> Truth:
    connection, truth = world.witness, Truth()
    async with connection.transaction(isolation="repeatable_read"):
        truth.rows = [Row(*row) for row in await connection.fetch(f"SELECT {changes._COLUMNS} FROM changes ORDER BY number")]
        made = {row.subject for row in truth.rows if row.kind == ChangeKind.TRIP_CREATED and row.fleet_id in world.fleets}
        # Some were made though nobody was told.
        for subject in made:
            if subject is not None:
                world.trips.setdefault(subject, None)
        truth.trips = await trips.get_all(connection, list(world.trips))
        truth.vehicles = await vehicles.get_all(connection, world.vehicles)
        numbers = [stored.number for stored in truth.vehicles.values()]
        _, _, truth.spans = await read_states(connection, numbers, world.clock())
        # By another question than hubs ask.
        truth.current = await trips.current_of_vehicles(connection, numbers)
    return truth


# --- the log ------------------------------------------------------------------------------------------------------------


def _judge_log(world: World, truth: Truth) -> Iterable[str]:
    numbers = [row.number for row in truth.rows]
    if sorted(set(numbers)) != numbers:
        yield "the log's numbers do not rise"
    for hub in world.hubs:
        expected = [number for number in numbers if number > hub.began]
        # What came since the truth was read is not judged.
        applied = [row.number for _, row in hub.applied if row.number <= numbers[-1]]
        if applied != expected:
            missed, doubled = sorted(set(expected) - set(applied)), len(applied) - len(set(applied))
            yield f"{hub} applied not each row once, in order: it missed {missed}, and {doubled} came twice"
    versions: dict[str, list[int]] = defaultdict(list)
    views: dict[str, str] = defaultdict(lambda: "{}")
    newest: dict[str, Row] = {}
    for row in truth.rows:
        if row.subject in world.trips and row.kind in (ChangeKind.TRIP_CREATED, ChangeKind.TRIP_CHANGED):
            assert row.subject is not None and row.public is not None
            versions[row.subject].append(json.loads(row.public)["version"])
            views[row.subject] = row.public
        if row.subject is not None and row.kind in (ChangeKind.VEHICLE_CHANGED, ChangeKind.VEHICLE_DELETED):
            newest[row.subject] = row
    for trip_id, trip in truth.trips.items():
        said, stored_view = json.loads(views[trip_id]), json.loads(json.dumps(changes.as_json(live_view(trip))))
        for view in (said, stored_view):
            # Of a new name the vehicle's own row tells; and one that was erased is in no trip any more.
            vehicle = view.pop("vehicle", {}) if trip.vehicle is not None else view.pop("vehicle", {}) and {}
            view["vehicle_id"] = vehicle.get("vehicle_id")
        if said != stored_view:
            yield f"the last row of {trip_id} says {said}, the store {stored_view}"
        if versions[trip_id] != list(range(1, trip.version + 1)):
            yield f"of trip {trip_id}, which is at version {trip.version}, the log has the versions {versions[trip_id]}"
    for vehicle_id in world.vehicles:
        last = newest.get(vehicle_id)
        stored = truth.vehicles.get(vehicle_id)
        if last is None or (last.kind == ChangeKind.VEHICLE_DELETED) is not (stored is None):
            yield f"the last row of {vehicle_id} is not what became of it"
        elif stored is not None and json.loads(last.public or "{}") != json.loads(json.dumps(changes.as_json(stored.vehicle))):
            yield f"the last row of {vehicle_id} says {last.public}, the store {stored.vehicle}"


def _judge_answers(world: World, truth: Truth) -> Iterable[str]:
    rows: dict[int, list[int]] = defaultdict(list)
    for row in truth.rows:
        rows[row.transaction].append(row.number)
    applied_at = {hub: {row.number: at for at, row in hub.applied} for hub in (*world.hubs, *world.former)}
    for hub, what, transaction, at, waited in world.answers:
        if transaction not in rows:
            yield f"the log has no row of {what}, transaction {transaction}"
        elif waited < WAIT_SECONDS * 0.9:
            late = [number for number in rows[transaction] if applied_at[hub].get(number, at) >= at and number > hub.began]
            if late:
                yield f"{hub} answered {what} before it had applied the rows {late} of it"


# --- the live state -----------------------------------------------------------------------------------------------------


async def _judge_live_state(world: World, hub: FuzzHub, fresh: FuzzHub, truth: Truth) -> list[str]:
    wrongs: list[str] = []

    def compare(what: object, have: object, want: object) -> None:
        if have != want:
            wrongs.append(f"{hub}: {what} is {have}, not {want}")

    ingest_vehicles = hub.service.ingest_vehicles
    for vehicle_id in world.vehicles:
        vehicle = ingest_vehicles.get(vehicle_id)
        if vehicle is None:
            continue
        other = await fresh.service.ingest_vehicles.load(vehicle_id)
        if other is None:
            wrongs.append(f"{hub} knows {vehicle_id}, which was removed")
            continue
        for name in ("number", "vehicle", "joined_at", "tokens_from", "trip", "windows"):
            compare(f"{name} of the ingest vehicle {vehicle_id}", getattr(vehicle, name), getattr(other, name))
        compare(f"the ingest vehicle {vehicle_id} by its number", ingest_vehicles.by_number.get(vehicle.number), vehicle)
    for vehicle_id in world.vehicles:
        live = hub.service.hub.fleets.vehicles.get(vehicle_id)
        expected = fresh.service.hub.fleets.vehicles.get(vehicle_id)
        stored = truth.vehicles.get(vehicle_id)
        if live is None and stored is not None and not hub.service.hub.fleets.holds(stored.vehicle.fleet_id):
            continue
        if live is None or expected is None:
            compare(f"whether the fleets know {vehicle_id}", live is not None, expected is not None)
            continue
        for name in ("number", "vehicle", "joined_at", "trip"):
            compare(f"{name} of the vehicle {vehicle_id}", getattr(live, name), getattr(expected, name))
        compare(f"the fleet of {vehicle_id}", live.feed.fleet.fleet_id, expected.feed.fleet.fleet_id)
        compare(f"whether its fleet has {vehicle_id}", live in live.feed.vehicles, True)
        compare(f"the vehicle {vehicle_id} by its number", hub.service.hub.fleets.by_number.get(live.number), live)
    for trip_id in world.trips:
        feed = hub.service.hub.feeds.get(trip_id)
        if feed is None:
            continue
        found = await fresh.service.shown_trips.get(trip_id)
        if found is None or found[0].status.over:
            wrongs.append(f"{hub} has a feed of {trip_id}, which is {'gone' if found is None else found[0].status}")
            continue
        new = fresh.service.hub.feed(*found)
        compare(f"the trip of the feed {trip_id}", feed.trip, new.trip)
        compare(f"showing of the feed {trip_id}", feed.showing, new.showing)
        if new.vehicle_id:
            compare(f"the vehicle of the feed {trip_id}", feed.vehicle_id, new.vehicle_id)
    stored_fleets = {fleet_id: await fleets.get(world.witness, fleet_id) for fleet_id in world.fleets}
    revoked = await shares.revoked_tokens(world.witness)
    for fleet_id in world.fleets:
        fleet_feed = hub.service.hub.fleets.feeds.get(fleet_id)
        # One that is not loaded knows its vehicles alone.
        if fleet_feed is not None and fleet_feed.loaded:
            compare(f"the fleet {fleet_id}", fleet_feed.fleet, stored_fleets[fleet_id])
        fences = hub.service.monitor.fences.by_fleet.get(fleet_id)
        if fences is not None:
            rows = await geofences.rows_of_fleet(world.witness, fleet_id)
            wanted = {row["geofence_id"]: geofences.geofence_of(row) for row in rows}
            compare(f"the geofences of {fleet_id}", {name: fence.geofence for name, fence in fences.by_id.items()}, wanted)
    compare("what is revoked", (hub.service.auth.revoked or set()) & set(world.jtis), revoked & set(world.jtis))
    for wire in hub.wires:
        listener = wire._listener
        if wire.open and isinstance(listener, Connection) and listener.principal.jti in revoked:
            wrongs.append(f"{hub}: somebody is connected with a token that was revoked")
    for vehicle_id in world.vehicles:
        driver = hub.service.hub.drivers.get(vehicle_id)
        stored = truth.vehicles.get(vehicle_id)
        if driver is not None:
            compare(f"the number of the driver of {vehicle_id}", driver.number, stored.number if stored is not None else None)
            assert isinstance(driver, DriverConnection)
            compare(f"the ingest vehicle of the driver of {vehicle_id}", driver.vehicle, ingest_vehicles.get(vehicle_id))
    return wrongs


# --- fixes --------------------------------------------------------------------------------------------------------------


async def _judge_positions(world: World, truth: Truth) -> list[str]:
    wrongs: list[str] = []
    by_number = {trip.number: trip.trip_id for trip in truth.trips.values()}
    for vehicle_id, stored in truth.vehicles.items():
        device = world.device_of(vehicle_id)
        windows = windows_of(truth.spans.get(stored.number, []))
        rows = await world.witness.fetch("SELECT fix_time, server_time, trip FROM positions WHERE vehicle = $1", stored.number)
        for row in rows:
            span = span_at(windows, row["fix_time"])
            have, want = by_number.get(row["trip"]), span.trip_id if span is not None else None
            if have == want:
                continue
            if span is not None and have is None and row["server_time"] < span.started_at:
                continue  # taken before the trip began: what it was then is not wrong
            sent = device.sent_at.get(row["fix_time"], [])
            if not _remembers(sent) or _came_before_commit(truth, stored.number, sent):
                continue
            wrongs.append(
                f"the fix of {vehicle_id} at {row['fix_time']} ({row['server_time']}) belongs to {want}, was filed to {have}: "
                f"{[(s.trip_id, s.started_at, s.ended_at) for s in truth.spans.get(stored.number, [])]}; it was sent {sent}; "
                f"changes: {[(row.number, row.kind, row.at) for row in truth.rows if row.vehicle == stored.number]}"
            )
    return wrongs


def _remembers(sent: Sequence[Sent]) -> bool:
    """Whether the hubs that were sent it know still which fixes are to be filed anew: that is held in memory alone."""
    return all(isinstance(hub, FuzzHub) and hub.alive and hub.let_go_at < at for hub, at, _ in sent)


def _came_before_commit(truth: Truth, number: int, sent: Sequence[Sent]) -> bool:
    """Whether it came before a change of the vehicle's trips was committed, though perhaps after the instant of its span."""
    return any(row.vehicle == number and row.at >= instant for _, _, instant in sent for row in truth.rows)


# --- passengers ---------------------------------------------------------------------------------------------------------


def _judge_passengers(world: World, truth: Truth) -> Iterable[str]:
    windows = {stored.number: windows_of(truth.spans.get(stored.number, [])) for stored in truth.vehicles.values()}
    latitudes = {round(device.latitude, 2): device for device in world.devices}
    for passenger in world.passengers:
        heard, hub, trip_id = passenger.wire.heard, passenger.hub, passenger.trip_id
        who = f"a passenger of {trip_id} at {hub}"
        if not heard:
            continue
        yield from _judge_offsets(who, heard)
        yield from _judge_messages(who, passenger.wire, hub, trip_id, truth, heard)
        told: dict[str, Any] | None = None
        for at, message in heard:
            kind = message["type"]
            if kind == "resumed":
                told = None
            elif "trip" in message:
                if told is not None and message["trip"]["version"] < told["version"]:
                    yield f"{who} was told version {told['version']}, and then {message['trip']['version']}"
                told = message["trip"]
            for _, latitude, fix_time in message.get("track", ()):
                device = latitudes[round(latitude, 2)]
                if not _is_of_trip(world, truth, hub, trip_id, at, device, fix_time):
                    yield f"{who} was shown a line with where {device.vehicle_id} was at {fix_time}, which is not of the trip"
            place = message if kind == "position" else message.get("position")
            if place is None:
                continue
            device = latitudes[round(place["latitude"], 2)]
            if told is not None:
                if not TripStatus(told["status"]).under_way:
                    yield f"{who} was shown a position after it was told that it is {told['status']}"
                if told.get("vehicle", {}).get("vehicle_id") != device.vehicle_id:
                    yield f"{who} was shown where {device.vehicle_id} is, after it was told of {told.get('vehicle')}"
            if not _may_be_known(hub, trip_id, at, device.vehicle_id):
                yield f"{who} was shown where {device.vehicle_id} is, though the trip was known not to show it"
            stored = truth.vehicles.get(device.vehicle_id)
            if kind == "position" and stored is not None and world.device_of(device.vehicle_id) is device:
                windows_of_trip = [w for w in windows[stored.number] if w.span.trip_id == trip_id]
                begins = min((w.start for w in windows_of_trip), default=None)
                if trip_id in truth.trips and (begins is None or place["fix_time"] < begins):
                    yield f"{who} was shown where {device.vehicle_id} was before the trip"


def _is_of_trip(world: World, truth: Truth, hub: FuzzHub, trip_id: str, at: int, device: Device, fix_time: int) -> bool:
    """Whether a place may be on the trip's line; also where the hub did not know yet that it is not."""
    stored = truth.vehicles.get(device.vehicle_id)
    if stored is None or world.device_of(device.vehicle_id) is not device or trip_id not in truth.trips:
        return True  # it is erased, or being erased
    if any(row.subject == trip_id and applied_at >= at for applied_at, row in hub.applied):
        return True
    sent = device.sent_at.get(fix_time, [])
    if not _remembers(sent) or any(taker is not hub for taker, _, _ in sent):
        return True  # another hub corrects it, in the store, when it applies the change
    if _came_before_commit(truth, stored.number, sent):
        return True
    span = span_at(windows_of(truth.spans.get(stored.number, [])), fix_time)
    return span is not None and span.trip_id == trip_id


def _may_be_known(hub: FuzzHub, trip_id: str, at: int, vehicle_id: str) -> bool:
    """Whether the trip is under way with the vehicle, by the last row that the hub had applied then, or by a later one."""
    known = True
    for applied_at, row in hub.applied:
        if row.subject != trip_id or row.public is None or row.kind not in (ChangeKind.TRIP_CREATED, ChangeKind.TRIP_CHANGED):
            continue
        view = json.loads(row.public)
        shows = TripStatus(view["status"]).under_way and view.get("vehicle", {}).get("vehicle_id") == vehicle_id
        known = shows if applied_at < at else known or shows
    return known


def _judge_offsets(who: str, heard: Sequence[Heard]) -> Iterable[str]:
    last: int | None = None
    for _, message in heard:
        offset = message.get("offset")
        if offset is None:
            continue
        if message["type"] not in ("snapshot", "resumed") and offset != (last or 0) + 1:
            yield f"{who} was sent the offset {offset} after {last}"
        last = offset


def _judge_messages(who: str, wire: Any, hub: FuzzHub, trip_id: str, truth: Truth, heard: Sequence[Heard]) -> Iterable[str]:
    texts = [message["text"] for _, message in heard if message["type"] == "message"]
    if len(set(texts)) < len(texts):
        yield f"{who} was told a message twice"
    end = wire.over_at if wire.over_at is not None else 1 << 60
    posted = [
        row
        for at, row in hub.applied
        if row.kind == ChangeKind.MESSAGE_POSTED
        and row.subject == trip_id
        and row.public is not None
        and wire.begun_at < at < end
    ]
    if trip_id in truth.trips and len(posted) > len(texts):
        yield f"{who} was told {len(texts)} messages of {len(posted)}"


# --- drivers and dispatchers --------------------------------------------------------------------------------------------


def _judge_drivers(world: World, truth: Truth) -> Iterable[str]:
    for hub, vehicle_id, wire in world.drivers:
        who = f"the driver of {vehicle_id} at {hub}"
        texts = [message["text"] for _, message in wire.heard if message["type"] == "message"]
        if len(set(texts)) < len(texts):
            yield f"{who} was told a message twice"
        told: dict[str, dict[str, Any]] = {}
        for _, message in wire.heard:
            if "trip" in message:
                trip = message["trip"]
                before = told.get(trip["trip_id"])
                if before is not None and trip["version"] < before["version"]:
                    yield f"{who} was told version {before['version']} of a trip, and then {trip['version']}"
                told[trip["trip_id"]] = trip
        stored = truth.vehicles.get(vehicle_id)
        if not wire.open or stored is None:
            continue
        for trip_id, view in told.items():
            now = truth.trips.get(trip_id)
            if now is not None and now.vehicle_number == stored.number:
                if now.fleet_id != stored.vehicle.fleet_id:
                    continue  # one that is another fleet's now is told of it no more
                if view["version"] != now.version or "vehicle" not in view:
                    yield f"{who} was last told {view['status']} (version {view['version']}) of {trip_id}, which is {now}"
            elif "vehicle" in view and not TripStatus(view["status"]).over:
                yield f"{who} was last told that it has {trip_id}, which is {now}"
        current = truth.current.get(vehicle_id)
        if current is not None and current.trip_id not in told:
            yield f"{who} was never told of its trip {current.trip_id}"


def _judge_screens(world: World, truth: Truth) -> Iterable[str]:
    for hub, fleet_id, wire in world.screens:
        who = f"a dispatcher of {fleet_id} at {hub}"
        told: dict[str, dict[str, Any]] = {}
        gone: set[str] = set()
        for _, message in wire.heard:
            if message["type"] == "trip":
                trip = message["trip"]
                before = told.get(trip["trip_id"])
                if before is not None and trip["version"] < before["version"]:
                    yield f"{who} was told version {before['version']} of a trip, and then {trip['version']}"
                told[trip["trip_id"]] = trip
            elif message["type"] == "trip_gone":
                gone.add(message["trip_id"])
        if not wire.open:
            continue
        for trip_id, view in told.items():
            now = truth.trips.get(trip_id)
            if now is None:
                if trip_id not in gone:
                    yield f"{who} was not told that {trip_id} is gone"
            elif now.version != view["version"]:
                yield f"{who} was last told version {view['version']} of {trip_id}, which is at {now.version}"


__all__ = ["STUCK_SECONDS", "judge"]
