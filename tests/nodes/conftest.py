"""Hubs in this process beat and look more often, so that tests wait for less time."""

import pytest

from tracking.nodes import nodes, registry


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(registry, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(registry, "BEAT_SECONDS", 0.2)
