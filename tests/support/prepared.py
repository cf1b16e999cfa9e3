"""Clusters that begin with a migrated, empty database: it is made once in a run, and each cluster copies its files."""

import asyncio
import fcntl
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import pytest

from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

TEMPLATE = "template_tracking"
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
"""Names this run, the same in all its workers."""


def _prepared(base: Path) -> Cluster:
    return Cluster(base / "prepared", settings={"fsync": "off"})


def run_directory(factory: pytest.TempPathFactory) -> Path:
    """The temporary directory that all workers of a run share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def cluster(
    factory: pytest.TempPathFactory, name: str, *, settings: Mapping[str, str] | None = None, die_with_parent: bool = False
) -> Cluster:
    """A cluster that runs, with the database `TEMPLATE`; the arguments are those of `Cluster`."""
    base = run_directory(factory)
    prepared = _prepared(base)
    made = Cluster(factory.mktemp(name) / "pg", settings=settings, die_with_parent=die_with_parent)
    with (base / "prepared.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = prepared.directory / "ready"
        if not ready.exists() or ready.read_text() != RUN:
            _clear(prepared)
            prepared.start()
            prepared.create_database(TEMPLATE)
            asyncio.run(_fill(prepared.url(TEMPLATE)))
            prepared.stop()
            ready.write_text(RUN)
    _clear(made)
    subprocess.run(["cp", "-a", prepared.directory, made.directory], check=True)
    made.start()
    return made


async def _fill(url: str) -> None:
    await migrate(url)
    connection = await asyncpg.connect(url)
    # Half of the bytes, which are copied for each test, are descriptions of coordinate systems that nothing uses.
    await connection.execute("DELETE FROM spatial_ref_sys WHERE srid <> 4326")
    await connection.execute("VACUUM FULL spatial_ref_sys")
    await connection.close()


def _clear(cluster: Cluster) -> None:
    """Deletes what an earlier run left that was killed."""
    if cluster.directory.exists():
        cluster.kill()
        cluster.remove()


def remove(factory: pytest.TempPathFactory) -> None:
    """Deletes what the run has prepared."""
    _prepared(run_directory(factory)).remove()
