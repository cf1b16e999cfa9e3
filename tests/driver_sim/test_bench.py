"""The bench, small: it measures what it says, and loses nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driver_sim.bench import run as bench
from driver_sim.bench.environment import Conditions
from tests.support.hub_process import ROOT, launch
from tracking.demo.postgres import Cluster

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, cluster: Cluster, template: str) -> Run:
    """The figures of one small run of each shape, in this process, with hubs that are forked."""

    def run(*counts: tuple[str, int]) -> dict[str, Any]:
        path = tmp_path / "bench.json"
        trial = Conditions(
            settle_seconds=0.0,
            launch=launch,
            hubs=(2,),
            ways=("workers", "separate"),
            settings={"TRACKING_DRAIN_SECONDS": "0.2"},
            questions=10,
            cluster=cluster,
            template=template,
        )
        bench.run([(shape, [count]) for shape, count in counts], 1.0, path, trial)
        figures = json.loads(path.read_text())
        return {shape: figures[shape][-1] for shape, _ in counts} | {"all": figures}

    return run


def test_a_small_run_of_every_kind_counts_right(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "by command.json"
    small = ("--shape", "trips", "--seconds", "1", "--settle", "0", "--trips", "5", "--json", str(path))
    done = subprocess.run([sys.executable, "-m", "driver_sim", "bench", *small], cwd=ROOT, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    assert "== trips" in done.stdout.decode()
    (trips,) = json.loads(path.read_text())["trips"]
    assert trips["drivers"] == 5
    result = run(("popular", 4), ("return", 6))
    for figures, expected in ((trips, 5), (result["popular"], 10)):
        assert {
            name: figures[name] for name in ("lost", "not_acknowledged", "not_delivered", "breaks", "closed")
        } == dict.fromkeys(("lost", "not_acknowledged", "not_delivered", "breaks", "closed"), 0)
        assert figures["sent"] == expected
        assert figures["to_watcher_p50_ms"] < figures["to_ack_p99_ms"]
    assert result["return"]["clients"] == 6


def test_a_small_run_of_those_that_ask_gets_what_it_asks_for(run: Run) -> None:
    result = run(("nearest", 30_000), ("history", 100_000))
    for shape, questions in (("nearest", 6), ("history", 4)):
        wrong = {name: value for name, value in result[shape].items() if name.endswith("wrong")}
        assert (len(wrong), set(wrong.values())) == (questions, {0})
    assert (result["history"]["positions"], result["history"]["fixes_of_a_day"]) == (100_000, 20)


def test_a_small_run_of_changes_sees_each_of_them(run: Run) -> None:
    result = run(("changes", 5))["changes"]
    assert (result["patches"], result["patches_not_seen"]) == (20, 0)
    assert 0 < result["patch_to_passenger_p50_ms"] <= result["patch_to_passenger_p99_ms"]
    # Of 50 a second, each second one concerns a trip that is watched; on a slow machine it makes fewer.
    made = result["changes_watched"]
    assert 5 <= made <= 25
    assert result["changes_per_second"] <= result["changes_wanted_per_second"] == 50
    assert result["change_to_passenger_p50_ms"] > 0
    assert result["change_to_dispatcher_p50_ms"] > 0
    unwanted = ("changes_not_seen_by_passengers", "changes_not_seen_by_dispatcher", "not_acknowledged", "not_delivered")
    assert {name: result[name] for name in (*unwanted, "breaks", "closed")} == dict.fromkeys((*unwanted, "breaks", "closed"), 0)
    assert result["sent"] == 2 + 5 + 2  # without, with and without changes


def test_a_small_run_of_a_start_serves_all_three(run: Run) -> None:
    result = run(("start", 2_000))["start"]
    assert (result["vehicles"], result["fleets"], result["trips"], result["geofences"]) == (2000, 50, 100, 1000)
    served = [result[f"{name}_after_s"] for name in ("first_ack", "snapshot", "fleet_snapshot")]
    assert 0 < result["ready_after_s"] < min(served)
    assert max(served) <= result["served_after_s"] <= result["served_after_most_s"]
    assert result["vehicles_on_screen"] > 0
    assert 10 < result["hub_memory_mb (nobody)"] < 1000
    assert 10 < result["hub_memory_mb (three clients)"] < 1000


def test_a_small_run_of_several_hubs_crosses_and_loses_nothing(run: Run) -> None:
    result = run(("hubs", 4), ("hubs-change", 4))
    crossing, change = result["hubs"], result["hubs-change"]
    assert (crossing["hubs"], crossing["sent"], crossing["drivers"], crossing["passengers"]) == (2, 4, 4, 4)
    nothing = ("lost", "again", "stored_twice", "not_acknowledged", "not_delivered", "breaks", "closed", "lost (unwatched)")
    assert {name: crossing[name] for name in nothing} == dict.fromkeys(nothing, 0)
    assert crossing["to_watcher_p50_ms"] < 1000
    assert crossing["between_hubs_bytes_per_fix"] > 0
    assert crossing["positions_to_broker (unwatched)"] == 0
    assert change["passengers"] == sum(value for name, value in change.items() if name.startswith("served (")) == 4
    assert {name: change[name] for name in ("lines_not_whole", "breaks", "closed")} == dict.fromkeys(
        ("lines_not_whole", "breaks", "closed"), 0
    )


def test_a_small_fleet_on_several_hubs_is_seen_from_each(run: Run) -> None:
    result = run(("hubs-fleet", 100))["hubs-fleet"]
    assert (result["hubs"], result["vehicles"], result["dispatchers"]) == (2, 100, 80)
    assert (result["sent"] > 100, result["not_acknowledged"], result["closed"]) == (True, 0, 0)
    assert 0 < result["in_view"] <= 100
    assert result["deliveries_per_second"] > 0
    assert 0 < result["to_screen_p50_ms"] < 2000


def test_a_small_roll_loses_nothing_and_everybody_comes_back(run: Run) -> None:
    results = run(("roll", 5))["all"]["roll"]
    assert [(result["way"], result["hubs"], result["clients"]) for result in results] == [
        ("workers", 2, 10),
        ("separate", 2, 10),
    ]
    nothing = ("acknowledged_not_stored", "stored_twice", "not_acknowledged", "not_back", "lines_not_whole", "ends (reset)")
    for result in results:
        assert {name: result[name] for name in nothing} == dict.fromkeys(nothing, 0)
        # Each client was connected to one of the two hubs when that one was replaced.
        assert result["ends (1012)"] >= 10
        assert result["came_back (added)"] + result["came_back (whole)"] >= 5
        assert len(result["connections_after"]) == 2
        assert sum(result["connections_after"]) >= 8  # of 10; some may be on their way
