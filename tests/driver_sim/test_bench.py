"""The bench, small: it measures what it says, and loses nothing."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub_process import ROOT

MOST_SECONDS = 300
"""On a slow machine, beside other tests, a run takes minutes."""
pytestmark = pytest.mark.timeout(MOST_SECONDS + 30)


def test_a_small_run_of_every_kind_counts_right(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    small = ("--seconds", "1", "--trips", "5", "--passengers", "4", "--clients", "6", "--json", str(path))
    shapes = [part for shape in ("trips", "popular", "return") for part in ("--shape", shape)]
    done = subprocess.run(
        [sys.executable, "-m", "driver_sim", "bench", *small, *shapes], cwd=ROOT, capture_output=True, timeout=MOST_SECONDS
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    assert "== trips" in done.stdout.decode()
    result = json.loads(path.read_text())
    assert [run["drivers"] for run in result["trips"]] == [5]
    for run, expected in zip([*result["trips"], *result["popular"]], (5, 10), strict=True):
        assert {name: run[name] for name in ("lost", "not_acknowledged", "not_delivered", "breaks", "closed")} == dict.fromkeys(
            ("lost", "not_acknowledged", "not_delivered", "breaks", "closed"), 0
        )
        assert run["sent"] == expected * 4  # settling takes three seconds more
        assert run["to_watcher_p50_ms"] < run["to_ack_p99_ms"]
    assert result["return"][0]["clients"] == 6


def test_a_small_run_of_those_that_ask_gets_what_it_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    small = ("--vehicles", "30000", "--positions", "100000", "--json", str(path), "--shape", "nearest", "--shape", "history")
    done = subprocess.run(
        [sys.executable, "-m", "driver_sim", "bench", *small], cwd=ROOT, capture_output=True, timeout=MOST_SECONDS
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    result = json.loads(path.read_text())
    for shape, questions in (("nearest", 6), ("history", 4)):
        (run,) = result[shape]
        wrong = {name: value for name, value in run.items() if name.endswith("wrong")}
        assert (len(wrong), set(wrong.values())) == (questions, {0})
    assert (result["history"][0]["positions"], result["history"][0]["fixes_of_a_day"]) == (100_000, 20)


def test_a_small_run_of_changes_sees_each_of_them(tmp_path: Path) -> None:
    result = run(tmp_path, "changes", "--trips", "5", "--seconds", "1")
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
    assert result["sent"] == 5 * 3 + 2 + 5 + 2  # settling, then without, with and without changes


def test_a_small_run_of_a_start_serves_all_three(tmp_path: Path) -> None:
    result = run(tmp_path, "start", "--vehicles", "2000")
    assert (result["vehicles"], result["fleets"], result["trips"], result["geofences"]) == (2000, 50, 100, 1000)
    served = [result[f"{name}_after_s"] for name in ("first_ack", "snapshot", "fleet_snapshot")]
    assert 0 < result["ready_after_s"] < min(served)
    assert max(served) <= result["served_after_s"] <= result["served_after_most_s"]
    assert result["vehicles_on_screen"] > 0
    assert 10 < result["hub_memory_mb (nobody)"] < 1000
    assert 10 < result["hub_memory_mb (three clients)"] < 1000


def run(tmp_path: Path, shape: str, *arguments: str) -> dict[str, Any]:
    """The figures of one small run."""
    path = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "driver_sim", "bench", "--shape", shape, *arguments, "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        timeout=MOST_SECONDS,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    (result,) = json.loads(path.read_text())[shape]
    return dict(result)
