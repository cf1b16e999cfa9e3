import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from driver_sim.outbox import MemoryOutbox, Outbox
from driver_sim.roads import RoadGraph
from driver_sim.store import SqliteStore
from tests.driver_sim.hub import ScriptedHub
from tracking.model import Fix


@pytest.fixture
async def hub() -> AsyncIterator[ScriptedHub]:
    async with ScriptedHub() as running:
        yield running


@pytest.fixture(scope="session")
def roads() -> RoadGraph:
    return RoadGraph.load()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "outbox.sqlite", group_delay=0.0)
    yield opened
    opened.close()


@pytest.fixture(params=["memory", "sqlite"])
def outbox(request: pytest.FixtureRequest) -> Outbox:
    """Each kind of outbox in turn. All must pass the same tests."""
    if request.param == "memory":
        return MemoryOutbox()
    store: SqliteStore = request.getfixturevalue("store")
    return store.outbox("car-1")


def fix(number: int = 0) -> Fix:
    return Fix(0, 1_700_000_000_000 + number * 1000, 47.1 + number * 1e-5, 9.5)


def settle(outbox: Outbox) -> None:
    """Wait until everything put so far is kept."""
    kept = threading.Event()
    outbox.notify(kept.set)
    while outbox.kept_seq < outbox.last_seq:
        assert kept.wait(10.0), "the writer never said that the fixes are on disk"
        kept.clear()
    outbox.notify(None)


def no_backoff(attempt: int) -> float:
    return 0.0
