"""The examples, as processes of their own against a real hub: what each prints, and what they do when the hub is killed."""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Api, Driver, Passenger, fix, now_ms, token
from tests.support.devices import until
from tests.support.hub_process import ROOT, HubProcess
from tests.support.proxy import ChaosProxy

EXAMPLES = ROOT / "examples"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
WAIT_SECONDS = 30
INTERVALS = ("interval_idle", "interval_trip", "interval_watched")
"""Seconds between two fixes, which the hub asks for. The driver's example takes 20 fixes from pickup to drop-off."""


class Example:
    """An example that runs. `lines` are all that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def until(self, beginning: str) -> str:
        """What follows `beginning` in the next line that begins so."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                raw = await self.process.stdout.readline()
                assert raw, f"ended before it printed {beginning!r}; it printed {self.lines}"
                line = raw.decode().rstrip("\n")
                self.lines.append(line)
                if line.startswith(beginning):
                    return line.removeprefix(beginning)

    async def end(self) -> int:
        """Reads to the end; the exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            self.lines += (await self.process.stdout.read()).decode().splitlines()
            return await self.process.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.end()


@contextlib.asynccontextmanager
async def running(name: str, **environment: str) -> AsyncIterator[Example]:
    command = [sys.executable, "-u", str(EXAMPLES / name)] if name.endswith(".py") else [*node(), str(EXAMPLES / name)]
    example = Example(
        await asyncio.create_subprocess_exec(
            *command,
            env={"PATH": PATH, "NODE_NO_WARNINGS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Tests that run in the background of a shell ignore it, and what they start would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    )
    try:
        yield example
    finally:
        await example.kill()


def node() -> list[str]:
    """Node with its WebSocket, which is an option before version 22."""
    found = shutil.which("node", path=PATH)
    assert found is not None, "there is no Node: run make dev"
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    return [found] if int(version[1:].split(".")[0]) >= 22 else [found, "--experimental-websocket"]


def offsets(watcher: Example) -> list[int]:
    """Of the updates that it printed since its last snapshot."""
    last = max(n for n, line in enumerate(watcher.lines) if line.startswith("snapshot"))
    return [int(found[1]) for line in watcher.lines[last:] if (found := re.match(r"\w+ (\d+):", line))]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*")), ids=lambda path: path.name)
def test_an_example_has_at_most_40_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 40


async def test_a_trip_from_the_backend_to_its_passenger(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(**dict.fromkeys(INTERVALS, "0.1"))
    async with running("backend.py", HUB=hub.url, TOKEN=token("service")) as backend:
        driver_token, link = await backend.until("driver: "), await backend.until("passenger: ")
        async with running("watcher.mjs", LINK=link) as watcher:
            assert await watcher.until("snapshot ") == "0: new, a line of 0 points"
            async with running("driver.mjs", HUB=hub.url, TOKEN=driver_token) as driver:
                assert [await x.end() for x in (driver, watcher, backend)] == [0, 0, 0]
    steps = ["new", "enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "complete"]
    assert [line for line in backend.lines if line.startswith("status")] == [f"status: {step}" for step in steps]
    assert [line.split(": ")[1] for line in watcher.lines if line.startswith("trip ")] == steps[1:]
    assert offsets(watcher) == list(range(offsets(watcher)[0], offsets(watcher)[-1] + 1))
    places = [line.split(": ")[1] for line in watcher.lines if line.startswith("position")]
    assert places[0] == "47.14100, 9.52090"
    assert places[-1] == "47.14200, 9.52130"
    assert watcher.lines[-1].startswith("closed with 4506")
    assert sent_by(driver) >= 20


async def test_the_driver_loses_nothing_when_the_hub_is_killed(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(**dict.fromkeys(INTERVALS, "0.2"))
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        trip_id = (await api.trip(fleet_id, vehicle_id, dropoff={"latitude": 47.142, "longitude": 9.521}))["trip_id"]
        async with running("driver.mjs", HUB=hub.url, TOKEN=token("driver", vehicle_id)) as driver:
            async with Passenger(hub.url, trip_id, token("service")) as passenger:
                await passenger.expect("position")
            await asyncio.to_thread(hub.kill)
            assert "closed with 1006" in await driver.until("")
            await asyncio.to_thread(hub.start)
            assert await driver.end() == 0
        sent = sent_by(driver)
        assert (await api.call("GET", f"/trips/{trip_id}"))["status"] == "complete"
        rows = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true", **{"from": 0, "to": now_ms() + 1})
        assert [int(row["seq"]) for row in rows] == list(range(1, sent + 1))


@pytest.mark.one_hub("an epoch belongs to one hub")
async def test_the_watcher_goes_on_with_the_first_update_that_it_missed(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    share = await api.call("POST", f"/trips/{trip_id}/shares", {})
    async with (
        Driver(hub.url, vehicle_id) as driver,
        ChaosProxy(("127.0.0.1", hub.port), rng=random.Random(1)) as wire,
        running("watcher.mjs", LINK=share["url"].replace(hub.url, wire.url)) as watcher,
    ):
        await watcher.until("snapshot")
        await driver.report(fix(1))
        await watcher.until("position")
        wire.cut()
        await watcher.until("closed with 1006")
        for seq in (2, 3, 4):
            await driver.report(fix(seq))
        await driver.acknowledged(4)
        await watcher.until("resumed")
        assert [await watcher.until("position ") for _ in range(3)][-1].endswith("47.14120, 9.52100")
        assert offsets(watcher) == list(range(offsets(watcher)[0], offsets(watcher)[0] + 5))
        await api.call("DELETE", f"/shares/{share['share_id']}")
        assert await watcher.end() == 0
        assert watcher.lines[-1].startswith("closed with 4503")


async def test_the_change_reader_goes_on_from_its_cursor(own_hub: Callable[..., HubProcess], tmp_path: Path) -> None:
    """After the hub was killed, after the reader was, and anew where the hub knows nothing of its cursor."""
    hub, cursor = own_hub(), tmp_path / "changes.cursor"
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        first = await api.trip(fleet_id, None)
        asked = {"HUB": hub.url, "FLEET": fleet_id, "TOKEN": token("dispatcher", fleet_id), "CURSOR": str(cursor)}
        async with running("changes.py", **asked) as reader:
            assert first["trip_id"] in await reader.until('{"trips":')
            second = await api.trip(fleet_id, None)
            assert created(await reader.until("")) == second["trip_id"]
            await asyncio.to_thread(hub.kill)
            await asyncio.to_thread(hub.start)
            third = await api.trip(fleet_id, None)
            assert created(await reader.until("")) == third["trip_id"]
            # Its cursor is kept once it asks for what comes after.
            await until(lambda: int(cursor.read_text()) >= json.loads(reader.lines[-1])["change"], "the cursor is kept")
            reader.process.send_signal(signal.SIGINT)
            assert await reader.end() == 0
        fourth = await api.trip(fleet_id, None)
        async with running("changes.py", **asked) as reader:
            assert created(await reader.until("")) == fourth["trip_id"]
        cursor.write_text(str(10**15))
        async with running("changes.py", **asked) as reader:
            assert fourth["trip_id"] in await reader.until('{"trips":')
            assert len(reader.lines) == 1


async def test_the_backend_follows_its_trip_while_the_hub_is_killed(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub()
    async with running("backend.py", HUB=hub.url, TOKEN=token("service")) as backend, Api(hub.url) as api:
        trip_id = re.split("/trip/|#", await backend.until("passenger: "))[1]
        await backend.until("status: new")
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        await api.advance(trip_id, "enroute_to_pickup", "canceled")
        assert await backend.end() == 0
        assert backend.lines[-2:] == ["status: enroute_to_pickup", "status: canceled"]


async def test_the_backend_ends_where_its_token_is_not_good(hub: HubProcess) -> None:
    async with running("backend.py", HUB=hub.url, TOKEN="none") as backend:
        assert await backend.end() == 1
        assert "401" in "\n".join(backend.lines)


def sent_by(driver: Example) -> int:
    """How many fixes it has sent: all of them are acknowledged."""
    found = re.fullmatch(r"(\d+) of \1 fixes acknowledged; closed with 1000 ?", driver.lines[-1])
    assert found is not None, driver.lines
    return int(found[1])


def created(line: str) -> str:
    """The trip that a change of the feed says was created."""
    change: dict[str, Any] = json.loads(line)
    assert change["type"] == "trip.created", change
    trip_id: str = change["data"]["trip_id"]
    return trip_id
