"""The memory of a hub's process."""

import contextlib
from collections.abc import Iterator

import psutil

from tests.support.hub_process import HubProcess

MIB = 1024 * 1024


@contextlib.contextmanager
def growing_less_than(hub: HubProcess, limit: int) -> Iterator[None]:
    before = _memory(hub)
    yield
    grown = _memory(hub) - before
    assert grown < limit, f"grown by {grown / MIB:.2f} MiB"


def _memory(hub: HubProcess) -> int:
    """Bytes that only the hub uses, or that several hubs use together."""
    assert hub.processes
    return sum(psutil.Process(process.pid).memory_full_info().uss for process in hub.processes)
