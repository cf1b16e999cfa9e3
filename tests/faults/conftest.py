"""A database and hubs that tests may kill, and the check at the end of each test that nothing was lost."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from tests.support import prepared
from tests.support.clients import PLAIN, Api
from tests.support.devices import Device, until
from tests.support.hub_process import HubProcess
from tests.support.ledger import stored_line, wrongs
from tests.support.watcher import Watcher
from tracking.demo.postgres import PORT, Cluster

SEED = int(os.environ.get("FAULTS_SEED", "20261123"))


MORTAL = {"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}
"""After a crash, one system call writes all files, instead of one call for each file. Commits are as durable as before."""


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that is the same in each run. FAULTS_SEED=… gives another."""
    seed = f"{SEED} {request.node.name}"
    print(f"seed: {seed}")
    return random.Random(seed)


class Mortal:
    """A PostgreSQL with a database for one test, which may kill, stall and restart it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.url = cluster.url(name)
        self.socket = cluster.socket_directory / f".s.PGSQL.{PORT}"

    async def kill(self) -> None:
        await asyncio.to_thread(self.cluster.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self.cluster.start)

    async def copy(self) -> None:
        """Copies its files while it is down. `go_back` brings them back, as a replica that lags would have them."""

        def kill_copy_start() -> None:
            self.cluster.kill()
            subprocess.run(["cp", "-a", self.cluster.data, self._copy], check=True)
            self.cluster.start()

        await asyncio.to_thread(kill_copy_start)

    async def go_back(self) -> None:
        """Fails over to the copy. What was committed since is lost, and its numbers are given out again."""

        def fail_over() -> None:
            self.cluster.kill()
            shutil.rmtree(self.cluster.data)
            self._copy.rename(self.cluster.data)
            self.cluster.start()

        await asyncio.to_thread(fail_over)

    @property
    def _copy(self) -> Path:
        return self.cluster.data.with_name("copy")

    def _processes(self) -> list[psutil.Process]:
        pid = int((self.cluster.data / "postmaster.pid").read_text().split("\n", 1)[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Stops all its processes, as a disk that no longer answers would."""
        stopped: list[psutil.Process] = []
        try:
            # The postmaster first, so that there are no new ones to miss.
            for process in (self._processes()[0], *self._processes()[1:]):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGSTOP)
                    stopped.append(process)
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    async def fetchval(self, query: str, *arguments: object) -> object:
        connection = await asyncpg.connect(self.url, timeout=10)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    async def handled(self, device: Device) -> int:
        """The last handled seq of the device's session, as it is stored."""
        handled = await self.fetchval("SELECT handled_seq FROM sessions WHERE name = $1", device.account.session)
        return handled if isinstance(handled, int) else 0


@pytest.fixture(scope="session")
def mortal_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = prepared.cluster(tmp_path_factory, "mortal", settings=MORTAL)
    yield cluster
    cluster.kill()
    cluster.remove()


@pytest.fixture
async def database(mortal_cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Mortal]:
    name = f"mortal_{abs(hash(request.node.nodeid)):x}"
    await asyncio.to_thread(mortal_cluster.start)  # the test before may have left it dead
    await _administer(mortal_cluster, f"CREATE DATABASE {name} TEMPLATE {prepared.TEMPLATE}")
    yield Mortal(mortal_cluster, name)
    await asyncio.to_thread(mortal_cluster.start)
    await _administer(mortal_cluster, f"DROP DATABASE {name} WITH (FORCE)")


async def _administer(cluster: Cluster, statement: str) -> None:
    connection = await asyncpg.connect(cluster.url("postgres"), timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


MakeHub = Callable[..., HubProcess]


@pytest.fixture
def hubs(database: Mortal, tmp_path: Path) -> Iterator[MakeHub]:
    """Makes a hub for this test on the test's database. `url` is another address of the database. Settings are keywords."""
    made: list[HubProcess] = []

    def make(url: str | None = None, **settings: str) -> HubProcess:
        hub = HubProcess(url or database.url, tmp_path / f"hub-{len(made)}.log", None, **settings)
        made.append(hub)
        return hub.start()

    yield make
    for hub in made:
        hub.kill()
        log = hub.log.read_text(errors="replace")
        assert "Traceback" not in log, f"the hub's log has a traceback:\n{log[-6000:]}"


async def restart(hub: HubProcess) -> None:
    """Kills the hub with SIGKILL, and starts it again on the same port."""
    await asyncio.to_thread(hub.kill)
    await asyncio.to_thread(hub.start)


async def readiness(hub: HubProcess) -> tuple[int, str]:
    """The status of /readyz and all its reasons."""
    async with httpx.AsyncClient(timeout=10, verify=PLAIN) as http:
        response = await http.get(f"{hub.url}/readyz")
    return response.status_code, "; ".join(response.json()["reasons"])


async def ready(hub: HubProcess) -> bool:
    return (await readiness(hub))[0] == 200


@contextlib.asynccontextmanager
async def watching(*watchers: Watcher) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def on_the_road(hub: HubProcess, count: int) -> list[tuple[str, str]]:
    """`(vehicle_id, trip_id)` of `count` vehicles, each on a trip."""
    async with Api(hub.url) as api:
        return [await api.under_way() for _ in range(count)]


async def settle(
    database: Mortal, devices: list[Device], watchers: dict[str, Watcher] | None = None, *, seconds: float = 20.0
) -> None:
    """The end of every test: all fixes are acknowledged and stored right, and each passenger (by trip) sees the stored line."""
    for device in devices:
        await device.drained()
    assert await wrongs(database.url, [device.account for device in devices]) == []
    for trip_id, watcher in (watchers or {}).items():
        whose = f"the passenger's line of {trip_id} is the stored one"
        await until(lambda w=watcher, t=trip_id: _shows(database, w, t), whose, seconds)  # type: ignore[misc]
        assert watcher.breaks == []
        assert watcher.line.points


async def _shows(database: Mortal, watcher: Watcher, trip_id: str) -> bool:
    return watcher.line.points == await stored_line(database.url, trip_id)
