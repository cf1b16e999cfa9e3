"""Several hubs on one port, with their supervisor, as processes. What the supervisor decides is tested in virtual time."""

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.support.broker import Broker
from tests.support.clients import Api, Driver, Passenger, fix
from tests.support.devices import Device, DeviceClock, until
from tests.support.hub_process import ROOT
from tests.support.ledger import wrongs
from tests.workers.workers import Workers
from tracking.demo.postgres import Cluster
from tracking.workers.channel import READY, Inherited

DRAIN = 1.0
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def own_database(cluster: Cluster, template: str) -> str:
    cluster.create_database("workers", template)
    return cluster.url("workers")


@pytest.fixture(scope="module")
def workers(own_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two hubs that the tests of this module share. Its last test kills the supervisor."""
    made = Workers(own_database, tmp_path_factory.mktemp("workers") / "log", 2, drain_seconds=str(DRAIN))
    made.begin()
    yield made
    made.kill()


async def test_all_hubs_serve_one_port_and_find_each_other(workers: Workers) -> None:
    found = await workers.joined()
    assert len(found) == 2
    log = workers.log.read_text()
    for number, hub in enumerate(workers.hubs(), 1):
        assert f"/{number} {hub.pid}] " in log, "log lines tell the hubs apart"


async def test_the_token_of_the_private_server_is_nobody_elses(workers: Workers) -> None:
    await workers.joined()
    url = workers.hubs()[0].environ()["TRACKING_NATS_URL"]
    token = url.removeprefix("nats://").partition("@")[0]
    assert len(token) >= 32
    processes = [workers.supervisor, workers.broker(), *workers.hubs()]
    assert not any(token in argument for process in processes for argument in process.cmdline())
    assert token not in workers.log.read_text()
    assert token not in str(workers.broker().environ())
    assert workers.environment["TRACKING_JWT_SECRET"] not in str(workers.broker().environ())
    listening = [one.laddr.ip for one in workers.broker().net_connections() if one.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'CONNECT {"verbose":true,"auth_token":"guessed"}\r\n')
    async with asyncio.timeout(10):
        assert b"Authorization Violation" in await reader.read()
    writer.close()


async def test_a_passenger_sees_a_driver_on_another_hub(workers: Workers) -> None:
    await workers.joined()
    async with Api(workers.url) as api, contextlib.AsyncExitStack() as stack:
        vehicle_id, trip_id = await api.under_way()
        driver = await stack.enter_async_context(Driver(workers.url, vehicle_id))

        async def are_apart() -> Passenger | None:
            passenger = await stack.enter_async_context(Passenger(workers.url, trip_id))
            await passenger.expect("snapshot")
            counts = {
                node: (one["metrics"]["tracking_drivers"], one["metrics"]["tracking_watchers"])
                for node, one in (await workers.seen()).items()
            }
            return passenger if any(watchers and not drivers for drivers, watchers in counts.values()) else None

        passenger = None
        while passenger is None:
            passenger = await are_apart()
        for seq in (1, 2, 3):
            await driver.report(fix(seq))
            assert (await passenger.expect("position"))["longitude"] == fix(seq)["longitude"]


async def test_a_killed_hub_starts_again_and_the_other_goes_on(workers: Workers) -> None:
    before = await workers.joined()
    killed, other = workers.hubs()
    began = time.monotonic()
    killed.kill()
    answers = []

    async def ask() -> None:
        # Also who waits in the queue of the killed hub is answered, by the one that takes its place.
        answers.append(await _status(workers.port))

    await asyncio.gather(*(ask() for _ in range(20)))
    assert answers == ["200"] * 20
    after = await workers.joined()
    print(f"a killed hub was replaced after {time.monotonic() - began:.2f} s")
    assert len(set(before) & set(after)) == 1
    assert other.is_running() and other in workers.hubs()


async def test_a_killed_private_server_starts_again_on_its_port(workers: Workers) -> None:
    before = await workers.joined()
    workers.broker().kill()
    await until(lambda: workers.said("NATS server was ended by SIGKILL") == 1, "its end is noticed")
    assert set(await workers.joined()) == set(before)


async def test_hubs_are_replaced_by_turns_and_nothing_is_lost_or_refused(workers: Workers, own_database: str) -> None:
    before = await workers.joined()
    rng = random.Random(36)
    async with Api(workers.url) as api:
        places = [await api.under_way() for _ in range(6)]
    devices = [Device(workers.url, vehicle_id, rng, clock=DeviceClock(step=100)) for vehicle_id, _ in places]
    async with contextlib.AsyncExitStack() as stack:
        for device in devices:
            await stack.enter_async_context(device.running())
        await until(lambda: all(device.client.connected.is_set() for device in devices), "all are connected")
        statuses = await stack.enter_async_context(_coming_and_going(workers.port))
        reporting = asyncio.create_task(_report(devices))
        workers.supervisor.send_signal(signal.SIGHUP)
        await until(lambda: workers.said("all hubs are replaced") == 1, "all are replaced", 40)
        reporting.cancel()
        for device in devices:
            await device.drained()
    assert len(statuses) > 100 and set(statuses) == {"200"}
    assert not set(before) & set(await workers.joined())
    assert {code for device in devices for code in device.lost} == {1012}
    assert sum(len(device.lost) for device in devices) >= len(devices)
    assert await wrongs(own_database, [device.account for device in devices]) == []


async def test_a_successor_that_cannot_run_leaves_the_hubs_as_they_are(workers: Workers, own_database: str) -> None:
    before = await workers.joined()
    database = await asyncpg.connect(own_database)
    last = await database.fetchrow("SELECT number, name, checksum FROM schema_migrations ORDER BY number DESC LIMIT 1")
    assert last is not None
    await database.execute("DELETE FROM schema_migrations WHERE number = $1", last["number"])
    workers.supervisor.send_signal(signal.SIGHUP)
    await until(lambda: workers.said("hub 1 is not replaced: .* run `tracking migrate`") == 1, "the reason is told")
    await database.execute("INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)", *last)
    await database.close()
    assert set(await workers.joined()) == set(before)


async def test_a_successor_accepts_nobody_before_it_is_ready(workers: Workers) -> None:
    before = await workers.joined()
    workers.broker().suspend()
    try:
        hubs = workers.hubs()
        workers.supervisor.send_signal(signal.SIGHUP)
        await until(lambda: len(workers.hubs()) == 3, "a successor begins")
        successor = next(hub for hub in workers.hubs() if hub not in hubs)
        await until(lambda: workers.said(rf" {successor.pid}\] .*: not ready yet: the NATS server") == 1, "it is not ready")
        for _ in range(4):
            assert set(await workers.seen()) <= set(before)
        successor.kill()
        await until(lambda: workers.said("hub 1 is not replaced: its successor was ended by SIGKILL") == 1, "it is told")
    finally:
        workers.broker().resume()
    assert set(await workers.joined()) == set(before)


async def test_another_supervisor_does_not_share_the_port_by_mistake(workers: Workers) -> None:
    code, output = _run(workers.environment, "--workers", "2", "--port", str(workers.port))
    assert code == 1
    assert output.splitlines()[-1] == f"Error: cannot listen on 127.0.0.1:{workers.port}: Address already in use"


async def test_nothing_outlives_a_killed_supervisor(workers: Workers) -> None:
    await workers.joined()
    processes = [workers.broker(), *workers.hubs()]
    workers.kill()
    await until(lambda: not any(_is_alive(process) for process in processes), "all have ended")

    async def is_refused() -> bool:
        return (await _status(workers.port)).startswith("ConnectionRefusedError")

    # The last thread of a process that has ended may take a moment longer.
    await until(is_refused, "nobody listens")


@pytest.mark.parametrize("count", [1, 2])
async def test_a_signal_stops_all_in_order(database_url: str, tmp_path: Path, count: int) -> None:
    own = Workers(database_url, tmp_path / "log", count, drain_seconds="20")
    process = own.begin()
    try:
        await own.joined()
        children = [own.broker(), *own.hubs()]
        began = time.monotonic()
        process.send_signal(signal.SIGTERM if count == 1 else signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 20) == 0
        print(f"{count} hubs stopped within {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 5, "all drain, so none waits for others to take its clients"
        assert not any(_is_alive(child) for child in children)
        assert "Traceback" not in own.log.read_text()
        assert own.said("ERROR") == 0
    finally:
        own.kill()


def test_a_hub_ends_with_the_channel_to_its_supervisor(database_url: str, broker: Broker, tmp_path: Path) -> None:
    """As on systems whose kernel does not end it."""
    environment = Workers(database_url, tmp_path / "log", 1, nats_url=broker.url).environment
    ours, theirs = socket.socketpair()
    with ours, socket.create_server(("127.0.0.1", 0)) as listener:
        with theirs:
            inherited = Inherited(listener.fileno(), theirs.fileno(), successor=True)
            process = subprocess.Popen(
                [sys.executable, "-m", "tracking.cli", "serve", "--inherited", str(inherited)],
                cwd=ROOT,
                env=environment,
                pass_fds=inherited[:2],
                stderr=subprocess.DEVNULL,
            )
        try:
            ours.settimeout(30)
            assert ours.recv(100) == READY
            ours.close()
            assert process.wait(10) == 1
        finally:
            process.kill()
            process.wait(10)


def test_settings_that_no_hub_can_run_with_are_told_once(database_url: str, tmp_path: Path) -> None:
    environment = Workers(database_url, tmp_path / "log", 2, nats_url="nats://127.0.0.1:1", nats_ca="/none").environment
    code, output = _run(environment, "--workers", "2", "--port", "0")
    assert code == 1
    assert output.count("TRACKING_NATS_CA") == 1 and output.splitlines()[-1].startswith("Error: TRACKING_NATS_CA"), output
    environment["TRACKING_STOP_TIMEOUT"] = "-1"
    code, output = _run(environment, "--workers", "3", "--port", "0")
    assert code == 1
    assert output.splitlines()[-1].startswith("Error: TRACKING_STOP_TIMEOUT") and "process" not in output


def _run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tracking.cli", "serve", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


async def _status(port: int) -> str:
    """The status that a new connection is answered with, or what went wrong."""
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(writer):
                writer.write(HEALTH)
                return (await reader.readuntil(b"\r\n")).split()[1].decode()
    except (OSError, EOFError, TimeoutError) as error:
        return repr(error)


@contextlib.asynccontextmanager
async def _coming_and_going(port: int) -> AsyncIterator[list[str]]:
    """New connections all the time. Yields what each was answered."""
    found: list[str] = []

    async def come_and_go() -> None:
        while not over.is_set():
            found.append(await _status(port))
            await asyncio.sleep(0.02)  # The hubs need the processor more.

    over = asyncio.Event()
    tasks = [asyncio.create_task(come_and_go()) for _ in range(4)]
    yield found
    over.set()
    await asyncio.gather(*tasks)


async def _report(devices: list[Device]) -> None:
    while True:
        for device in devices:
            device.report()
        await asyncio.sleep(0.1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
