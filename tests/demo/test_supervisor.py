"""The demo's supervisor, as a real process.

Its parts are stand-ins (`parts`), which report what happens to them in their logs. The last test runs the real parts.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.hub_process import free_port, wait_until
from tracking.demo import supervisor
from tracking.demo.postgres import Cluster
from tracking.demo.processes import processes_in
from tracking.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "tests" / "demo" / "parts.py"
GRACE = 5.0  # what a person is promised after Ctrl-C

# ------------------------------------------------------------------------------------------------------------------- driving


class Running:
    """A supervisor in its own session. Its lines are read as they arrive."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, beginning: str, seconds: float = 60.0) -> str:
        def found() -> list[str]:
            return [line for line in self.lines if line.startswith(beginning)]

        def there_or_ended() -> bool:
            return bool(found()) or (self.process.poll() is not None and not self._reader.is_alive())

        wait_until(there_or_ended, f"no line {beginning!r} in:\n{self.output}", seconds)
        assert found(), f"it ended without a line {beginning!r}:\n{self.output}"
        return found()[-1]

    def ended(self, seconds: float) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code


Demo = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Demo]:
    made: list[Running] = []

    def make(environment: dict[str, str] | None = None, **asked: Any) -> Running:
        environment = {"TRACKING_DATABASE_URL": "postgresql://elsewhere/none"} if environment is None else environment
        asked = {"here": str(tmp_path), "port": free_port(), **asked}
        running = Running([sys.executable, str(PARTS), "supervise", json.dumps(asked)], environment)
        made.append(running)
        return running

    yield make
    for running in made:
        if running.process.poll() is None:
            running.process.terminate()
            running.ended(20)


def is_alive(pid: int) -> bool:
    """Whether the process runs. A zombie does not count: in a container without an init, nobody may reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(here: Path) -> list[int]:
    files = [here / "hub.pid", here / "drivers.pid"]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), "the parts did not start")
    return [int(file.read_text()) for file in files]


# --------------------------------------------------------------------------------------------------------------------- tests


def test_it_prints_a_passengers_link_and_the_next_one_when_that_trip_is_over(start: Demo, tmp_path: Path) -> None:
    port = free_port()
    running = start(port=port)
    assert running.wait_for_line("Passenger:") == f"Passenger: http://127.0.0.1:{port}/trip/first#secret"
    assert running.wait_for_line("Dispatcher:") == f"Dispatcher: http://127.0.0.1:{port}/fleet/demo#the-fleets"
    assert running.wait_for_line("Passenger of demo-02:").endswith("/trip/second#secret")
    assert "Ctrl-C" in running.output
    (tmp_path / "over").touch()
    wait_until(lambda: running.lines[-1].endswith("/trip/next#secret"), running.output)
    assert running.lines[-1].startswith("Passenger: ")


def test_its_parts_get_their_settings(start: Demo, tmp_path: Path) -> None:
    port = free_port()
    start(port=port).wait_for_line("Passenger:")
    pids(tmp_path)
    saw = json.loads((tmp_path / "drivers.saw").read_text())
    assert saw["TRACKING_PUBLIC_URL"] == f"http://127.0.0.1:{port}"
    assert saw["TRACKING_DATABASE_URL"] == "postgresql://elsewhere/none"
    assert saw["TRACKING_SERVICE_TOKEN"] == "the-token"
    assert saw["TRACKING_JWT_SECRET"] == (tmp_path / "secret").read_text()
    assert len(saw["TRACKING_JWT_SECRET"].encode()) >= 32


def test_what_it_keeps_is_for_its_owners_eyes_and_the_token_is_not_kept(start: Demo, tmp_path: Path) -> None:
    running = start()
    running.wait_for_line("Passenger:")
    for name in ("secret", "hub.log", "drivers.log"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name
    assert not (tmp_path / "token.log").exists()
    before = (tmp_path / "secret").read_text()
    running.process.terminate()
    running.ended(GRACE)
    start().wait_for_line("Passenger:")
    assert (tmp_path / "secret").read_text() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_part_in_time(start: Demo, tmp_path: Path, number: signal.Signals) -> None:
    running = start()
    running.wait_for_line("Passenger:")
    parts = pids(tmp_path)
    running.process.send_signal(number)
    assert running.ended(GRACE) == 0, running.output
    assert not any(is_alive(pid) for pid in parts)


def test_a_part_that_does_not_want_to_stop_is_ended_in_time_too(start: Demo, tmp_path: Path) -> None:
    running = start(drive=["drivers", str(tmp_path), "stubborn"])
    running.wait_for_line("Passenger:")
    parts = pids(tmp_path)
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGINT)  # an impatient person does not stop the stopping
    assert running.ended(GRACE) == 0, running.output
    assert not any(is_alive(pid) for pid in parts)


def test_a_terminals_ctrl_c_reaches_the_supervisor_alone(start: Demo, tmp_path: Path) -> None:
    running = start()
    running.wait_for_line("Passenger:")
    for pid in pids(tmp_path):
        assert os.getsid(pid) not in (os.getsid(running.process.pid), os.getsid(0))


def test_a_killed_supervisor_leaves_no_part_behind(start: Demo, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    running = start()
    running.wait_for_line("Passenger:")
    parts = pids(tmp_path)
    running.process.kill()
    running.ended(GRACE)
    wait_until(lambda: not any(is_alive(pid) for pid in parts), "a part lives on", GRACE)


def test_a_reader_that_goes_away_stops_it(tmp_path: Path) -> None:
    """As `make demo | head -1` does."""
    asked = json.dumps({"here": str(tmp_path), "port": free_port()})
    with subprocess.Popen(
        [sys.executable, str(PARTS), "supervise", asked],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRACKING_DATABASE_URL": "postgresql://elsewhere/none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def test_when_a_part_dies_it_says_which_shows_its_last_words_and_stops_the_rest(start: Demo, tmp_path: Path) -> None:
    running = start(drive=["die"])
    assert running.ended(30) == 1
    assert "the drivers ended with exit code 3" in running.output
    assert "I have no petrol left" in running.output
    assert not is_alive(int((tmp_path / "hub.pid").read_text()))


def test_a_migration_that_fails_is_told_and_nothing_else_is_started(start: Demo, tmp_path: Path) -> None:
    running = start(migrate=["die"])
    assert running.ended(30) == 1
    assert "the migration ended with exit code 3" in running.output
    assert not (tmp_path / "hub.pid").exists()


def test_a_second_demo_says_that_one_runs_and_where(start: Demo) -> None:
    port = free_port()
    first = start(port=port)
    first.wait_for_line("Passenger:")
    second = start()
    assert second.ended(30) == 1
    assert f"a demo of this folder already runs (process {first.process.pid}, http://127.0.0.1:{port})" in second.output
    assert first.process.poll() is None


def test_a_taken_port_is_told_and_without_a_wish_the_next_one_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            supervisor._free_port(port)
        monkeypatch.setattr(supervisor, "FIRST_PORT", port)
        chosen = supervisor._free_port(None)
        assert chosen > port
        assert capsys.readouterr().out == f"Port {port} is taken: using {chosen}.\n"


def test_its_own_database_is_gone_with_it(start: Demo, tmp_path: Path) -> None:
    running = start(environment={})
    cluster = Cluster(tmp_path / "pg")
    try:
        running.wait_for_line("Passenger:")
        assert cluster.running()
        running.process.send_signal(signal.SIGINT)
        assert running.ended(GRACE) == 0, running.output
        assert not processes_in(cluster.data)
    finally:
        cluster.remove()


@pytest.mark.parametrize("workers", [None, 2])
def test_the_real_parts_show_a_driving_car_and_stop_in_time(database_url: str, tmp_path: Path, workers: int | None) -> None:
    run = f"supervisor.run({free_port()}, 3, {workers}, data=Path({str(tmp_path)!r}))"
    program = f"from pathlib import Path; from tracking.demo import supervisor; {run}"
    running = Running([sys.executable, "-c", program], {"TRACKING_DATABASE_URL": database_url})
    try:
        link = running.wait_for_line("Passenger:").removeprefix("Passenger: ")
        page, token = link.split("#")
        trip = httpx.get(page.replace("/trip/", "/v1/trips/"), headers={"Authorization": f"Bearer {token}"}).json()
        assert trip["vehicle"]["vehicle_id"] == "demo-01"
        fleet, token = running.wait_for_line("Dispatcher:").removeprefix("Dispatcher: ").split("#")
        assert httpx.get(fleet).status_code == 200
        geofences = f"{fleet.replace('/fleet/', '/v1/fleets/')}/geofences"
        found = httpx.get(geofences, headers={"Authorization": f"Bearer {token}"}).json()
        assert len(found["features"]) == 3
        hubs = re.findall(r"hub \d: process (\d+)", (tmp_path / "hub.log").read_text())
        assert len(hubs) == (workers or 0)
        running.process.send_signal(signal.SIGINT)
        assert running.ended(GRACE) == 0, running.output
        assert not any(is_alive(int(pid)) for pid in hubs)
    finally:
        running.process.kill()
        running.ended(GRACE)
