"""A pooler in front of the database is refused with the reason if it shares server connections, and used if not."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from tests.support.clients import Api
from tests.support.hub_process import ROOT, HubProcess
from tests.support.pooler import Pooler
from tracking.demo.postgres import Cluster
from tracking.errors import ConfigError, StoreUnavailable
from tracking.store import migrations
from tracking.store.pool import Database

Poolers = Callable[[str], Pooler]


@pytest.fixture
def name(database_url: str) -> str:
    """The pooler of the test's database."""
    found: str = database_url.partition("?")[0].rpartition("/")[2]
    return found


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_one_that_shares_server_connections_is_refused(cluster: Cluster, name: str, tmp_path: Path, mode: str) -> None:
    with Pooler(cluster, tmp_path, mode) as pooler:
        for use in (migrations.check, migrations.migrate):
            with pytest.raises(ConfigError, match="pool_mode = session"):
                await use(pooler.url(name))
        database = Database(pooler.url(name))
        await database.open()
        with pytest.raises(StoreUnavailable, match="pool_mode = session"):
            async with database.connection():
                pass
        await database.close()


async def test_it_is_found_out_among_other_clients(cluster: Cluster, name: str, tmp_path: Path) -> None:
    with Pooler(cluster, tmp_path, "transaction") as pooler:
        async with AsyncExitStack() as stack:
            others = [await asyncpg.connect(pooler.url(name)) for _ in range(4)]
            for other in others:
                stack.push_async_callback(other.close)
                await other.execute("BEGIN")
            for other in others[:2]:
                await other.execute("COMMIT")
            with pytest.raises(ConfigError, match="pool_mode = session"):
                await migrations.check(pooler.url(name))


def test_a_hub_does_not_start_behind_it_and_says_why(cluster: Cluster, name: str, tmp_path: Path) -> None:
    with Pooler(cluster, tmp_path, "transaction") as pooler:
        environment = HubProcess(pooler.url(name), tmp_path / "log").environment
        command = [sys.executable, "-m", "tracking.cli", "serve", "--port", "0"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "pool_mode = session" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_one_that_leaves_a_connection_to_its_client_is_used(cluster: Cluster, name: str, tmp_path: Path) -> None:
    with Pooler(cluster, tmp_path, "session") as pooler:
        hub = HubProcess(pooler.url(name), tmp_path / "log").start()
        try:
            async with Api(hub.url) as api:
                await api.under_way()
        finally:
            hub.stop()
