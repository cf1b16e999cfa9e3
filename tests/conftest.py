"""One private PostgreSQL for the whole run, one hub that most tests share, and fresh ones for those that break things."""

import functools
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from tests.support import machine, prepared
from tests.support.broker import Broker
from tests.support.clients import Api
from tests.support.hub_process import HubProcess
from tests.support.hubs_behind_proxy import HubsBehindProxy
from tracking.demo.postgres import Cluster

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# A machine that is busy with other things must not fail a test for being slow.
settings.register_profile("tracking", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tracking")


LONGEST = (
    "driver_sim/test_bench.py",
    "browser/test_fleet_page.py",
    "trust/test_exports.py",
    "browser/test_trip_page.py",
    "trust/test_looks.py",
    "changes/test_fuzz.py",
    "trust/test_flood.py",
    "faults/test_changes_followed.py",
    "trust/test_matrix.py",
    "faults/test_database_away.py",
    "monitor/test_geofences.py",
    "faults/test_changes_unanswered.py",
    "demo/test_supervisor.py",
    "browser/test_fleet_page_trips.py",
    "faults/test_wire.py",
    "driver_sim/test_drive.py",
    "sockets/test_clocks.py",
    "test_what_has_gone.py",
    "trust/test_caps.py",
    "browser/test_sub_path.py",
    "trust/test_real_fleets.py",
)
"""Files that take longest. Workers begin with them, so that none is left alone with one at the end."""


ONE_HUB = "one_hub(reason): the test asks a single hub, so it is skipped where tests share several"
ALSO_TWO_HUBS = "also_two_hubs: tests of the shared hub run twice, with one hub and with two behind a load balancer"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hubs", type=int, default=1, help="how many hubs, behind a load balancer, tests have in place of one; 1 by default"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.get_closest_marker("also_two_hubs")
    if marked and "hub" in metafunc.fixturenames and metafunc.config.getoption("hubs") == 1:
        alone = metafunc.definition.get_closest_marker("one_hub")
        metafunc.parametrize("hub", [1] if alone else [1, 2], ids=lambda count: f"hubs={count}", indirect=True, scope="session")


def pytest_runtest_setup(item: pytest.Item) -> None:
    alone = item.get_closest_marker("one_hub")
    if alone and item.config.getoption("hubs") > 1:
        pytest.skip(f"one hub: {alone.args[0]}")


def pytest_configure(config: pytest.Config) -> None:
    for line in (ONE_HUB, ALSO_TWO_HUBS):
        config.addinivalue_line("markers", line)
    # pytest-xdist would begin with the files that have most tests.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = {f"tests/{name}": number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _machine(item.config).shared():
        return (yield)


@functools.cache
def _machine(config: pytest.Config) -> machine.Machine:
    return machine.share_with_workers(prepared.run_directory(config._tmp_path_factory))  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        prepared.remove(session.config._tmp_path_factory)  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> None:
    """Settings of whoever runs the tests are not the tests' settings."""
    for name in [name for name in os.environ if name.startswith("TRACKING_")]:
        del os.environ[name]


CARELESS = {"fsync": "off", "full_page_writes": "off"}
"""No test kills this PostgreSQL. The tests in `faults` that kill one use a cluster with durable commits."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = prepared.cluster(tmp_path_factory, "postgres", settings=CARELESS, die_with_parent=True)
    yield cluster
    cluster.kill()  # its files go: nothing needs to be written to them
    cluster.remove()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """The name of a migrated, empty database, to copy."""
    return prepared.TEMPLATE


@pytest.fixture(scope="session")
async def administrator(cluster: Cluster) -> AsyncIterator[Connection]:
    """A connection that makes and drops databases: programs of PostgreSQL would have to start for each."""
    connection = await asyncpg.connect(cluster.url("postgres"))
    yield connection
    await connection.close()


@pytest.fixture
async def database_url(
    cluster: Cluster, template: str, administrator: Connection, request: pytest.FixtureRequest
) -> AsyncIterator[str]:
    """A fresh migrated database for one test."""
    name = f"test_{abs(hash(request.node.nodeid)):x}"
    await administrator.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield cluster.url(name)
    await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The NATS server that tests share. Hubs of different databases do not hear each other. Who stops it makes another."""
    broker = Broker(tmp_path_factory.mktemp("broker") / "log").start()
    yield broker
    broker.kill()


MakeHub = Callable[..., HubProcess]
"""Makes one hub, or several behind a load balancer; they are not started."""


@pytest.fixture(scope="session")
def make_hub(request: pytest.FixtureRequest) -> MakeHub:
    """With the arguments of `HubProcess`, and `count`: how many hubs. By default it is what `--hubs` says."""
    default: int = request.config.getoption("hubs")

    def make(database_url: str, log: Path, count: int = default, /, **settings: str) -> HubProcess:
        if count == 1:
            return HubProcess(database_url, log, None, **settings)
        return HubsBehindProxy(count, request.getfixturevalue("broker"), database_url, log, **settings)

    return make


@pytest.fixture(scope="session")
def shared_hubs(
    make_hub: MakeHub, cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[int], HubProcess]]:
    """The hub that tests share, and the hubs behind a load balancer that they share; by their number."""
    default: int = request.config.getoption("hubs")
    made: dict[int, HubProcess] = {}

    def shared(count: int) -> HubProcess:
        if count not in made:
            database = "shared" if count == default else f"shared_{count}"
            cluster.create_database(database, template)
            log = tmp_path_factory.mktemp("hub") / "log"
            made[count] = make_hub(cluster.url(database), log, count).start()
        return made[count]

    yield shared
    for process in made.values():
        process.stop()


@pytest.fixture(scope="session")
def hub(shared_hubs: Callable[[int], HubProcess], request: pytest.FixtureRequest) -> HubProcess:
    """The hub that tests share; each test makes fleets and vehicles of its own."""
    return shared_hubs(getattr(request, "param", request.config.getoption("hubs")))


@pytest.fixture
async def api(hub: HubProcess) -> AsyncIterator[Api]:
    async with Api(hub.url) as api:
        yield api


@pytest.fixture
def own_hub(make_hub: MakeHub, database_url: str, tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    """Makes a hub of the test's own, with settings of its own, on a database of its own."""
    made: list[HubProcess] = []

    def make(**settings: str) -> HubProcess:
        process = make_hub(database_url, tmp_path / f"hub-{len(made)}.log", **settings).start()
        made.append(process)
        return process

    yield make
    for process in made:
        process.kill()
