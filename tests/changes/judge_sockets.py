"""What must hold of all that passengers, drivers and dispatchers were sent. The functions yield what is wrong."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.changes.stand_ins import Device, Heard
from tests.changes.station import FuzzHub
from tests.changes.truth import Truth, came_before_commit, remembers
from tests.changes.world import World
from tracking.ingest.vehicles import span_at, windows_of
from tracking.model import TripStatus
from tracking.store.changes import ChangeKind


def judge_passengers(world: World, truth: Truth) -> Iterable[str]:
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
    """Whether a position may be on the trip's line. The hub may not know yet that it does not belong there."""
    stored = truth.vehicles.get(device.vehicle_id)
    if stored is None or world.device_of(device.vehicle_id) is not device or trip_id not in truth.trips:
        return True  # it is erased, or being erased
    if any(row.subject == trip_id and applied_at >= at for applied_at, row in hub.applied):
        return True
    sent = device.sent_at.get(fix_time, [])
    if not remembers(sent) or any(taker is not hub for taker, _, _ in sent):
        return True  # another hub corrects it, in the store, when it applies the change
    if came_before_commit(truth, stored.number, sent):
        return True
    span = span_at(windows_of(truth.spans.get(stored.number, [])), fix_time)
    return span is not None and span.trip_id == trip_id


def _may_be_known(hub: FuzzHub, trip_id: str, at: int, vehicle_id: str) -> bool:
    """Whether the trip is under way with the vehicle, by the last row that the hub had applied then, or a later one."""
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


def judge_drivers(world: World, truth: Truth) -> Iterable[str]:
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


def judge_screens(world: World, truth: Truth) -> Iterable[str]:
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
