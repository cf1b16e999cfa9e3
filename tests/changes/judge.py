"""What must hold of a world that came to rest. Each function returns what is wrong; nothing: all is well."""

import json
from collections import defaultdict
from collections.abc import Iterable

from tests.changes.judge_live_state import judge_live_state
from tests.changes.judge_sockets import judge_drivers, judge_passengers, judge_screens
from tests.changes.station import WAIT_SECONDS, FuzzHub
from tests.changes.truth import Truth, came_before_commit, read, remembers
from tests.changes.world import World
from tests.support.devices import until
from tracking.ingest.vehicles import span_at, windows_of
from tracking.protocol.fit import live_view
from tracking.store import changes
from tracking.store.changes import ChangeKind, Row


async def judge(world: World) -> list[str]:
    truth = await read(world)
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
                found[:] = await judge_live_state(world, hub, fresh, truth)
                return not found

            try:
                # Geofences are made in threads.
                await until(same, "the same", 2.0)
            except AssertionError:
                wrongs += found
    finally:
        await fresh.forget_all()
    wrongs += await _judge_positions(world, truth)
    wrongs += judge_passengers(world, truth)
    wrongs += judge_drivers(world, truth)
    wrongs += judge_screens(world, truth)
    return wrongs


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
            if not remembers(sent) or came_before_commit(truth, stored.number, sent):
                continue
            wrongs.append(
                f"the fix of {vehicle_id} at {row['fix_time']} ({row['server_time']}) belongs to {want}, was filed to {have}: "
                f"{[(s.trip_id, s.started_at, s.ended_at) for s in truth.spans.get(stored.number, [])]}; it was sent {sent}; "
                f"changes: {[(row.number, row.kind, row.at) for row in truth.rows if row.vehicle == stored.number]}"
            )
    return wrongs
