"""`tracking serve --workers` as a process, its hubs and its NATS server."""

import contextlib
import re
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.clients import Api
from tests.support.devices import until
from tests.support.hub_process import HubProcess, Process, run_module
from tests.support.metrics import metrics


class Workers(HubProcess):
    """`count` hubs on one port. `begin` starts their supervisor."""

    def __init__(self, database_url: str, log: Path, count: int, /, **settings: str) -> None:
        super().__init__(database_url, log, None, **settings)
        self.count = count

    def _launch(self) -> Process:
        # Not by a fork: what the supervisor imports, and what its hubs inherit, is tested too.
        arguments = ["serve", "--port", str(self.port), "--workers", str(self.count)]
        return run_module("tracking.cli", arguments, self.environment, self.log)

    @property
    def supervisor(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def hubs(self) -> list[psutil.Process]:
        """The processes of its hubs, the oldest first."""
        return [child for child in self._children() if "--inherited" in child.cmdline()]

    def broker(self) -> psutil.Process:
        return next(child for child in self._children() if Path(child.cmdline()[0]).name == "nats-server")

    def _children(self) -> list[psutil.Process]:
        children = [child for child in self.supervisor.children() if child.status() != psutil.STATUS_ZOMBIE]
        return sorted(children, key=lambda child: (child.create_time(), child.pid))

    def said(self, pattern: str) -> int:
        """How often the log has it."""
        return len(re.findall(pattern, self.log.read_text(errors="replace")))

    async def seen(self) -> dict[str, dict[str, Any]]:
        """Of each hub that a new connection reached, by its boot id: what `/readyz` says (`ready`), and its metrics."""
        found: dict[str, dict[str, Any]] = {}
        for _ in range(64):
            async with Api(self.url) as api:
                ready = (await api.http.get(f"{self.url}/readyz")).json()
                if ready["nodes"]["node"] not in found:
                    # The client keeps its connection, so the same hub answers.
                    found[ready["nodes"]["node"]] = {"ready": ready, "metrics": await metrics(api)}
            if len(found) == self.count:
                break
        return found

    async def joined(self) -> dict[str, dict[str, Any]]:
        """Waits until all hubs serve and hear each other. Returns what `seen` does."""
        found: dict[str, dict[str, Any]] = {}

        async def all_are_there() -> bool:
            with contextlib.suppress(httpx.TransportError):
                found.clear()
                found.update(await self.seen())
            nodes = set(found)
            return len(nodes) == self.count and all(
                set(one["ready"]["nodes"]["peers"]) == nodes - {node} and one["ready"]["degraded"] == []
                for node, one in found.items()
            )

        await until(all_are_there, f"all hubs serve; see {self.log}", 40)
        return found
