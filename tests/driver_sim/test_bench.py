"""The bench, small: it measures what it says, and loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

from tests.hub_process import ROOT


def test_a_small_run_of_every_kind_counts_right(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    small = ("--seconds", "1", "--trips", "5", "--passengers", "4", "--clients", "6", "--json", str(path))
    shapes = [part for shape in ("trips", "popular", "return") for part in ("--shape", shape)]
    done = subprocess.run(
        [sys.executable, "-m", "driver_sim", "bench", *small, *shapes], cwd=ROOT, capture_output=True, timeout=100
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
    done = subprocess.run([sys.executable, "-m", "driver_sim", "bench", *small], cwd=ROOT, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    result = json.loads(path.read_text())
    for shape, questions in (("nearest", 6), ("history", 4)):
        (run,) = result[shape]
        wrong = {name: value for name, value in run.items() if name.endswith("wrong")}
        assert (len(wrong), set(wrong.values())) == (questions, {0})
    assert (result["history"][0]["positions"], result["history"][0]["fixes_of_a_day"]) == (100_000, 20)
