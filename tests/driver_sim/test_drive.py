"""The demo's fleet and the replays, against a hub in memory that is strict about trips."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from driver_sim.backend import Backend, BackendError
from driver_sim.client import DriverClient
from driver_sim.drive import drive
from driver_sim.fleet import VADUZ, vehicles
from driver_sim.itineraries import ShowcaseItineraries, itinerary_of
from driver_sim.motion import Motion
from driver_sim.outbox import MemoryOutbox
from driver_sim.replay import Interrupted, Recording, Timing, own_fleet, record, replay
from driver_sim.roads import RoadGraph, metres
from driver_sim.tracks import BadRow, Row, TrackError
from tests.driver_sim.conftest import no_backoff
from tests.driver_sim.fake_hub import FakeHub, serving
from tests.driver_sim.hub import ScriptedHub
from tracking.model import Place, TripStatus
from tracking.protocol.http import TripView

LEGAL = [
    "enroute_to_pickup",
    "arrived_at_pickup",
    "enroute_to_dropoff",
    "arrived_at_stop",
    "enroute_to_dropoff",
    "complete",
]


@pytest.fixture
async def fake() -> AsyncIterator[FakeHub]:
    async with serving(FakeHub()) as hub:
        yield hub


@contextlib.asynccontextmanager
async def driving(
    fake: FakeHub, state: Path, drivers: int = 3, pace: float = 1.0, standby: int = 0
) -> AsyncIterator[list[str]]:
    stopping = asyncio.Event()
    said: list[str] = []
    task = asyncio.create_task(
        drive(
            fake.url,
            "service",
            drivers=drivers,
            standby=standby,
            fleet="demo",
            state=state,
            stopping=stopping,
            seed=1,
            pace=pace,
            say=said.append,
        )
    )
    try:
        yield said
    finally:
        stopping.set()
        async with asyncio.timeout(5):
            await task


async def test_a_fleet_is_made_connected_and_driven_through_whole_trips(fake: FakeHub, tmp_path: Path) -> None:
    async with driving(fake, tmp_path, drivers=3, pace=400.0) as said:
        await fake.until(lambda: sum(trip["status"] == "complete" for trip in fake.trips.values()) >= 4)
    assert said == [f"3 drivers of fleet demo are connected to {fake.url}"]
    assert fake.fleets["demo"]["name"] == "Liechtenstein demo"
    assert fake.fleets["demo"]["signal_lost_after"] == 40
    assert sorted(fake.geofences) == ["balzers", "schaan", "vaduz"]
    assert sorted(fake.vehicles) == ["demo-01", "demo-02", "demo-03"]
    assert all(vehicle["plate"].startswith("FL ") for vehicle in fake.vehicles.values())
    assert fake.refusals == []
    for trip_id, trip in fake.trips.items():
        if trip["status"] == "complete":
            stops = len(trip["stops"])
            assert fake.steps[trip_id] == [*LEGAL[:3], *LEGAL[3:5] * stops, "complete"]
            assert trip["route"]["type"] == "LineString"
    for fixes in fake.fixes.values():
        assert [fix["seq"] for fix in fixes] == sorted(fix["seq"] for fix in fixes)
        assert all(0 <= fix["battery"] <= 1 and fix["accuracy"] > 0 for fix in fixes)
        for one, other in itertools.pairwise(fixes):
            gone = metres((one["latitude"], one["longitude"]), (other["latitude"], other["longitude"]))
            assert gone <= 400.0 * 23.0 * (other["fix_time"] - one["fix_time"]) / 1000 + 100.0, "the vehicle jumped"


async def test_a_standby_vehicle_makes_no_trips_and_drives_those_of_a_dispatcher(fake: FakeHub, tmp_path: Path) -> None:
    async with driving(fake, tmp_path, drivers=1, pace=400.0, standby=1) as said:
        await fake.until(lambda: len(fake.fixes.get("demo-02", ())) >= 3 and len(fake.trips) >= 2)
        assert {trip["vehicle"]["vehicle_id"] for trip in fake.trips.values()} == {"demo-01"}
        places = {"pickup": {"latitude": 47.141, "longitude": 9.521}, "dropoff": {"latitude": 47.165, "longitude": 9.509}}
        trip_id = fake.add_trip({"fleet_id": "demo", "vehicle_id": "demo-02", **places})["trip_id"]
        await fake.sockets["demo-02"].send_json({"type": "trip", "trip": fake.trips[trip_id]})
        await fake.until(lambda: fake.trips[trip_id]["status"] == "complete")
    assert said == [f"2 drivers of fleet demo are connected to {fake.url}"]


async def test_the_showcase_is_in_vaduz_at_once_and_for_long(roads: RoadGraph) -> None:
    itineraries = ShowcaseItineraries(roads, random.Random(1))
    here = itineraries.start()
    assert metres(roads.nodes[here], VADUZ) < 800
    for _ in range(4):
        itinerary = itineraries.next(here)
        assert metres((itinerary.pickup.latitude, itinerary.pickup.longitude), VADUZ) < 200
        approach = Motion(itinerary.legs[0].edges).duration
        riding = sum(Motion(leg.edges).duration for leg in itinerary.legs[1:])
        assert approach < 180
        assert riding > 600, "the showcase must last ten minutes"
        assert itinerary.pickup.name
        here = itinerary.legs[-1].to


async def test_a_canceled_trip_is_abandoned_and_another_begun(fake: FakeHub, tmp_path: Path) -> None:
    async with driving(fake, tmp_path, drivers=1, pace=10.0):
        await fake.until(lambda: any(trip["status"] == "enroute_to_pickup" for trip in fake.trips.values()))
        (first,) = fake.trips.values()
        assert await fake.advance(first["trip_id"], "canceled") is None
        await fake.sockets["demo-01"].send_json({"type": "trip", "trip": first})
        await fake.until(lambda: len(fake.trips) > 1 and list(fake.trips.values())[-1]["status"] == "enroute_to_pickup")
    assert fake.refusals == []


async def test_a_trip_of_a_dispatcher_is_driven_next(fake: FakeHub, tmp_path: Path, roads: RoadGraph) -> None:
    async with driving(fake, tmp_path, drivers=1, pace=400.0):
        await fake.until(lambda: any(trip["status"] == "enroute_to_pickup" for trip in fake.trips.values()))
        place = {"latitude": 47.145, "longitude": 9.515}
        given = fake.add_trip(
            {"fleet_id": "demo", "vehicle_id": "demo-01", "pickup": place, "dropoff": place | {"latitude": 47.16}}
        )
        await fake.sockets["demo-01"].send_json({"type": "trip", "trip": given})
        await fake.until(lambda: given["status"] == "complete")
    assert fake.steps[given["trip_id"]] == [*LEGAL[:3], "complete"]
    assert [trip["status"] for trip in list(fake.trips.values())[:2]] == ["complete", "complete"]


async def test_the_trips_of_an_earlier_run_are_canceled_and_its_numbers_continue(fake: FakeHub, tmp_path: Path) -> None:
    async with driving(fake, tmp_path, drivers=2):
        await fake.until(lambda: all(len(fake.fixes.get(one, [])) > 3 for one in ("demo-01", "demo-02")))
    left_over = list(fake.trips)
    sessions = set(fake.handled)
    async with driving(fake, tmp_path, drivers=2):
        await fake.until(lambda: len(fake.trips) == len(left_over) + 2)
        await fake.until(lambda: all(fake.steps[trip_id] for trip_id in fake.trips))
    assert {fake.trips[trip_id]["status"] for trip_id in left_over} == {"canceled"}
    assert set(fake.handled) == sessions
    assert fake.refusals == []
    for fixes in fake.fixes.values():
        seqs = [fix["seq"] for fix in fixes]
        assert seqs == list(range(1, len(seqs) + 1))


async def test_a_wrong_service_token_is_an_error_and_is_not_retried(fake: FakeHub) -> None:
    async with Backend(fake.url, "wrong") as backend:
        with pytest.raises(BackendError, match="401 unauthorized") as caught:
            await backend.driver_token("demo-01")
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_obeys_a_signal_quickly_and_quietly(fake: FakeHub, tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "driver_sim", "drive", "--drivers", "3", "--hub", fake.url, "--state", str(tmp_path)),
        env=os.environ | {"TRACKING_SERVICE_TOKEN": "service"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert b"3 drivers of fleet demo are connected" in await process.stdout.readline()
        began = time.monotonic()
        process.send_signal(number)
        out, err = await process.communicate()
    assert time.monotonic() - began < 2.0
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_a_driver_that_must_not_reconnect_is_named(fake: FakeHub, tmp_path: Path) -> None:
    async with driving(fake, tmp_path, drivers=1) as said:
        await fake.until(lambda: "demo-01" in fake.sockets)
        await fake.sockets["demo-01"].close(4409, "replaced")
        await fake.until(lambda: not fake.sockets)
        async with asyncio.timeout(5):
            while len(said) < 2:
                await asyncio.sleep(0.01)
    assert said[-1] == "demo-01 left for good, 4409: replaced"


def test_every_vehicle_has_its_own_plate() -> None:
    chosen = vehicles("demo", 200, random.Random(1))
    assert len({vehicle.plate for vehicle in chosen}) == len({vehicle.vehicle_id for vehicle in chosen}) == 200
    assert vehicles("demo", 5, random.Random(2)) == vehicles("demo", 5, random.Random(2))


# --- replays --------------------------------------------------------------------------------------------------------


def row(second: float, vehicle_id: str = "a", **values: Any) -> Row:
    instant = 1_000_000 + round(second * 1000)
    return Row(2, vehicle_id, instant, instant, 47.1 + second / 1000, 9.5)._replace(**values)


def test_the_first_fix_is_now_and_the_rest_follow_at_their_pace() -> None:
    rows = [row(0), row(10), row(20)]
    real, double, once = Timing(rows, 1.0, 5_000), Timing(rows, 2.0, 5_000), Timing(rows, None, 50_000)
    assert [real.due(one) for one in rows] == [real.fix_time(one) for one in rows] == [5_000, 15_000, 25_000]
    assert [double.due(one) for one in rows] == [double.fix_time(one) for one in rows] == [5_000, 10_000, 15_000]
    assert [once.due(one) for one in rows] == [50_000] * 3
    assert [once.fix_time(one) for one in rows] == [30_000, 40_000, 50_000]
    assert double.velocity(row(0, speed=4.0)) == 8.0
    assert once.velocity(row(0, speed=4.0)) == 4.0


def test_a_long_silence_is_shortened_and_late_rows_stay_late() -> None:
    recording = Recording([row(0), row(10), row(100_000), row(100_005), row(100_010)._replace(time=1_000_000)], [])
    shorter = recording.shortened(60.0)
    assert [(one.due - 1_000_000) / 1000 for one in shorter.rows] == [0, 10, 70, 75, 80]
    assert [one.due - one.time for one in shorter.rows] == [one.due - one.time for one in recording.rows]
    assert recording.shortened(1e9) == recording


async def test_a_replay_is_acknowledged_and_summed_up(hub: ScriptedHub) -> None:
    hub.reject = lambda fix: "out_of_range" if fix.latitude > 90 else None
    rows = [row(number / 100, latitude=95.0 if number == 7 else 47.0) for number in range(30)]
    client = DriverClient(hub.url, MemoryOutbox(), "good", backoff=no_backoff)
    recording = Recording(rows, [BadRow(9, "scripted")])
    summary = await replay(recording, {"a": client}, speed=1.0, stopping=asyncio.Event(), progress=False)
    assert str(summary) == "sent 30, acknowledged 29, rejected 1 (out_of_range 1), bad rows 1"
    assert summary.complete
    times = [fix.fix_time for fix in hub.stored[client.outbox.session]]
    assert times[-1] - times[0] == 290


async def test_a_replay_that_the_hub_ends_says_what_is_missing(hub: ScriptedHub) -> None:
    hub.closes.extend([1012, 4503])
    client = DriverClient(hub.url, MemoryOutbox(), "good", backoff=no_backoff)
    async with asyncio.timeout(10):
        summary = await replay(
            Recording([row(0), row(1)], []), {"a": client}, speed=None, stopping=asyncio.Event(), progress=False
        )
    assert not summary.complete
    assert str(summary) == "sent 0, acknowledged 0, rejected 0, bad rows 0, not sent 2; a left for good, 4503: scripted"


async def test_a_replay_makes_its_own_fleet_and_ends_its_trips(fake: FakeHub) -> None:
    recording = Recording([row(0), row(0, "b"), row(0.05), row(0.05, "b", latitude=95.0)], [])
    said: list[str] = []
    async with (
        Backend(fake.url, "service") as backend,
        own_fleet(backend, fake.url, "replay", recording, said.append, asyncio.Event()) as clients,
    ):
        summary = await replay(recording, clients, speed=None, stopping=asyncio.Event(), progress=False)
    assert summary.complete
    assert said == ["fleet replay: 2 vehicles, 2 trips"]
    assert list(fake.steps.values()) == [[*LEGAL[:3], "complete"]] * 2
    assert {name: len(fixes) for name, fixes in fake.fixes.items()} == {"a": 2, "b": 2}


async def test_a_replay_stopped_while_it_makes_its_fleet_leaves_no_trip_under_way(fake: FakeHub) -> None:
    stopping = asyncio.Event()
    recording = Recording([row(0, f"v{number}") for number in range(20)], [])
    async with Backend(fake.url, "service") as backend:
        making = asyncio.create_task(
            own_fleet(backend, fake.url, "replay", recording, lambda _line: None, stopping).__aenter__()
        )
        await fake.until(lambda: len(fake.trips) > 0)
        stopping.set()
        with pytest.raises(Interrupted):
            await making
    assert len(fake.trips) < 20
    assert {trip["status"] for trip in fake.trips.values()} == {"canceled"}


def test_a_recording_for_one_vehicle() -> None:
    both = Recording([row(0), row(0, "b")], [])
    assert both.of("b").vehicle_ids == ["b"]
    assert Recording([row(0)], []).of("car-7").vehicle_ids == ["car-7"]
    with pytest.raises(TrackError, match="holds 2 vehicles and c is none"):
        both.of("c")


def test_bad_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("ts,lon,lat\nnever,9.5,47.1\n2013-07-01T00:00:53Z,9.5,47.1\n")
    said: list[str] = []
    assert len(record(tmp_path / "d.csv", said.append).rows) == 1
    assert said == ["d.csv, line 2: no time: 'never'; expected ISO 8601 as 2013-07-01T08:00:15Z, or an instant; skipped"]
    (tmp_path / "none.csv").write_text("ts,lon,lat\n")
    with pytest.raises(TrackError, match="no usable row"):
        record(tmp_path / "none.csv", said.append)


async def test_the_command_without_a_token_says_what_to_do() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRACKING_SERVICE_TOKEN"}
    run = subprocess.run(
        [sys.executable, "-m", "driver_sim", "drive"], env=environment, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 2
    assert "TRACKING_SERVICE_TOKEN is not set" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_trip_of_a_dispatcher_leads_to_the_nearest_junctions(roads: RoadGraph) -> None:
    here = roads.nearest(*VADUZ)
    trip = TripView("t", "demo", TripStatus.NEW, 1, Place(47.165, 9.509), Place(47.107, 9.528), [Place(47.141, 9.521)], 1)
    itinerary = itinerary_of(trip, roads, here)
    assert [leg.to for leg in itinerary.legs] == [roads.nearest(47.165, 9.509), here, roads.nearest(47.107, 9.528)]
