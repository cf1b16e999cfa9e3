"""The private cluster, with a real PostgreSQL. Each test breaks something that the cluster must survive."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import psutil
import pytest

from tracking.demo import binaries, postgres
from tracking.demo.binaries import Binaries, find_binaries
from tracking.demo.postgres import LONGEST_SOCKET_PATH, Cluster
from tracking.demo.processes import processes_in, wait_until
from tracking.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FAST = {"fsync": "off"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


def _open_directory() -> Iterator[Path]:
    """Like tmp_path, but the user `postgres` may pass. pytest's own directories are closed to it when root runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="cluster-"))
    path.chmod(0o711)
    yield path
    for left in path.rglob("postmaster.pid"):
        Cluster(left.parent.parent).kill()
    shutil.rmtree(path)


directory = pytest.fixture(_open_directory, name="directory")
shared_directory = pytest.fixture(_open_directory, scope="module", name="shared_directory")


@pytest.fixture(scope="module")
def shared_cluster(shared_directory: Path) -> Iterator[Cluster]:
    cluster = Cluster(shared_directory / "pg", settings=FAST)
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A running cluster. Creating one takes seconds, so tests share it, and an earlier test may have killed it."""
    shared_cluster.start()
    return shared_cluster


async def ask(cluster: Cluster, question: str, database: str = "postgres") -> object:
    connection = await asyncpg.connect(cluster.url(database))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_it_listens_on_its_socket_alone_and_leaves_nothing_running(cluster: Cluster) -> None:
    assert await ask(cluster, "SHOW listen_addresses") == ""
    assert await ask(cluster, "SHOW server_encoding") == "UTF8"
    assert await ask(cluster, "SHOW synchronous_commit") == "on"
    assert processes_in(cluster.data)
    cluster.stop()
    assert not processes_in(cluster.data)
    with pytest.raises(OSError):
        await ask(cluster, "SELECT 1")


async def test_it_has_postgis(cluster: Cluster) -> None:
    assert cluster.create_database("maps")
    await ask(cluster, "CREATE EXTENSION postgis", "maps")
    assert await ask(cluster, "SELECT ST_Distance('POINT(0 0)'::geometry, 'POINT(3 4)'::geometry)", "maps") == 5


def test_nobody_else_can_open_its_directories(cluster: Cluster) -> None:
    for path in (cluster.directory, cluster.data, cluster.socket_directory):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert cluster.log_file.stat().st_mode & 0o777 == 0o600


def test_a_terminals_ctrl_c_does_not_reach_it(cluster: Cluster) -> None:
    for pid in processes_in(cluster.data):
        assert os.getsid(pid) != os.getsid(0)


async def test_what_was_committed_is_there_after_a_kill(cluster: Cluster) -> None:
    await ask(cluster, "CREATE TABLE kept AS SELECT 41 + 1 AS answer")
    cluster.kill()
    assert not processes_in(cluster.data)
    cluster.start()
    assert await ask(cluster, "SELECT answer FROM kept") == 42


async def test_it_starts_after_its_postmaster_alone_was_killed(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.url("postgres"))  # a child that must notice its postmaster's death
    postmaster = int((cluster.data / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    # It dies a moment later. Until then it counts as a running server.
    assert wait_until(lambda: psutil.Process(postmaster).status() == psutil.STATUS_ZOMBIE, 10)
    cluster.start()
    assert cluster.started
    assert await ask(cluster, "SELECT 1") == 1
    connection.terminate()


async def test_a_pid_file_with_another_processs_number_is_no_running_server(cluster: Cluster) -> None:
    pid_file = cluster.data / "postmaster.pid"
    lines = pid_file.read_text().split("\n")
    cluster.stop()
    owner = cluster.data.stat()
    with subprocess.Popen(["sleep", "60"], user=owner.st_uid, group=owner.st_gid) as stranger:
        try:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
            os.chown(pid_file, owner.st_uid, owner.st_gid)
            cluster.start()
            assert cluster.started
            assert await ask(cluster, "SELECT 1") == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_a_second_start_uses_the_running_one_and_leaves_it_running(cluster: Cluster) -> None:
    before = (cluster.data / "postmaster.pid").read_text()
    second = Cluster(cluster.directory)
    second.start()
    assert cluster.started and not second.started
    second.stop()
    with pytest.raises(ConfigError, match="in use"):
        second.remove()
    assert (cluster.data / "postmaster.pid").read_text() == before
    assert await ask(cluster, "SELECT 1") == 1


def test_of_two_that_start_at_once_one_makes_the_cluster(directory: Path) -> None:
    both = [Cluster(directory / "pg", settings=FAST) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(Cluster.start, both))
    try:
        assert sorted(cluster.started for cluster in both) == [False, True]
    finally:
        for cluster in both:
            cluster.stop()


@pytest.mark.parametrize("name", ["x" * 120, "a clone, with spaces"])
async def test_a_path_no_socket_can_have_gets_a_short_directory_of_its_own(directory: Path, name: str) -> None:
    cluster = Cluster(directory / name / "pg", settings=FAST)
    cluster.start()
    try:
        assert cluster.directory == directory / name / "pg"
        assert cluster.socket_directory.parent == Path(tempfile.gettempdir())
        assert len(str(cluster.socket_directory / ".s.PGSQL.5432")) <= LONGEST_SOCKET_PATH
        assert cluster.socket_directory.stat().st_mode & 0o777 == 0o700
        assert Cluster(directory / name / "pg").url() == cluster.url()
        assert await ask(cluster, "SELECT 1") == 1
    finally:
        cluster.remove()
    assert not cluster.socket_directory.exists()


def test_a_socket_directory_that_is_not_ours_is_refused(directory: Path) -> None:
    cluster = Cluster(directory / ("x" * 120) / "pg")
    (directory / "elsewhere").mkdir()
    cluster.socket_directory.symlink_to(directory / "elsewhere")
    try:
        with pytest.raises(ConfigError, match="belongs to another user"):
            cluster.start()
    finally:
        cluster.socket_directory.unlink()


@needs_root
async def test_data_goes_where_the_postgres_user_can_reach_it_and_says_so(directory: Path) -> None:
    (directory / "closed").mkdir(mode=0o700)
    cluster = Cluster(directory / "closed" / "pg", settings=FAST)
    assert cluster.note is not None and str(cluster.directory) in cluster.note
    cluster.start()
    try:
        assert cluster.directory.is_relative_to(postgres.SYSTEM_DIRECTORY)
        assert await ask(cluster, "SELECT 1") == 1
        assert Cluster(directory / "closed" / "pg").directory == cluster.directory
    finally:
        cluster.remove()
    assert not cluster.directory.exists()


@needs_root
def test_it_does_not_run_as_root(cluster: Cluster) -> None:
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in processes_in(cluster.data)}.isdisjoint({0})


def test_it_stops_when_the_process_that_asked_for_that_is_killed(directory: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child of its parent's death")
    program = """
        import sys
        from tracking.demo.postgres import Cluster
        cluster = Cluster(sys.argv[1], settings={"fsync": "off"}, die_with_parent=True)
        cluster.start()
        print("ready", flush=True)
        sys.stdin.read()
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(directory / "pg")]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        data = Cluster(directory / "pg").data
        assert processes_in(data)
        process.kill()
        assert wait_until(lambda: not processes_in(data), 10.0)


async def test_databases_are_made_from_templates_and_dropped_from_under_their_users(cluster: Cluster) -> None:
    assert cluster.create_database("pattern")
    assert not cluster.create_database("pattern")
    await ask(cluster, "CREATE TABLE things AS SELECT 7 AS number", "pattern")
    cluster.create_database("copy", template="pattern")
    assert await ask(cluster, "SELECT number FROM things", "copy") == 7

    user = await asyncpg.connect(cluster.url("copy"))
    cluster.drop_database("copy")
    cluster.drop_database("copy")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await ask(cluster, "SELECT 1", "copy")
    user.terminate()
    with pytest.raises(ConfigError, match='template database "copy" does not exist'):
        cluster.create_database("other", template="copy")


def test_a_server_that_does_not_start_says_why(cluster: Cluster) -> None:
    cluster.stop()
    with pytest.raises(ConfigError, match="shared_buffers"):
        Cluster(cluster.directory, settings={"shared_buffers": "plenty"}).start()
    assert not processes_in(cluster.data)


async def test_settings_of_another_postgresql_in_the_environment_do_not_matter(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGDATA": "/nowhere", "PGOPTIONS": "-c no=1"}.items():
        monkeypatch.setenv(name, value)
    assert cluster.create_database("plain")
    assert await ask(cluster, "SELECT current_database()", "plain") == "plain"


def test_what_is_missing_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    here = find_binaries()
    with pytest.raises(ConfigError, match=r"PostgreSQL 7 with PostGIS is missing .*version \d+.*make install"):
        find_binaries(7)
    monkeypatch.setattr(binaries, "_has_postgis", lambda directory, major: False)
    with pytest.raises(ConfigError, match="without PostGIS"):
        find_binaries()
    monkeypatch.setattr(binaries, "_bin_directories", lambda: iter(()))
    with pytest.raises(ConfigError, match=r"found none .*make install.*TRACKING_DATABASE_URL"):
        find_binaries()
    assert isinstance(here, Binaries) and Path(here["initdb"]).is_file()
