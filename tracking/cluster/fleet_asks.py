"""What this hub asked its peers about the fleets that it wants, and who has not answered yet."""

import asyncio
import contextlib
from collections.abc import Iterable

from tracking.nodes.messages import WantFleet
from tracking.nodes.nodes import Nodes

ASK_SECONDS = 0.2
"""How long somebody who begins to look waits for the answers of all peers."""
NOTICED_MS = 6_000
"""A gap is noticed within this time: after two beats, or when the peer is taken for dead."""
OVERLAP_MS = 5_000
"""How much more is asked for. Clocks of hubs differ."""
LATE_SECONDS = 1.0
"""Who has not answered after this time knows nothing of fleets, or its answers are lost."""


class _Ask:
    """The last ask of a peer about a fleet. `answered_at` is an instant; None: it has not answered."""

    __slots__ = ("answered_at", "begun_at", "number", "since")

    def __init__(self, number: int, since: int, begun_at: float) -> None:
        self.number = number
        self.since = since
        self.begun_at = begun_at
        self.answered_at: int | None = None


class FleetAsks:
    """Instants are by this hub's clock, which the caller reads."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._of_fleet: dict[str, dict[str, _Ask]] = {}
        """By fleet and peer."""
        self._answers: dict[str, asyncio.Event] = {}
        """By fleet that somebody waits for."""

    def begin(self, fleet_id: str, peers: Iterable[str]) -> int:
        """All is asked for. Returns the number of the ask."""
        number, now = self._nodes.next_ask(), asyncio.get_running_loop().time()
        self._of_fleet[fleet_id] = {peer: _Ask(number, 0, now) for peer in peers}
        return number

    def again(self, peer: str, fleet_ids: Iterable[str], now: int) -> list[WantFleet]:
        """Something of the peer was missed, or it is new. Asks about each fleet for what may be missing."""
        begun_at = asyncio.get_running_loop().time()
        wants = []
        for fleet_id in fleet_ids:
            asks = self._of_fleet.setdefault(fleet_id, {})
            last = asks.get(peer)
            since = max(1, now - NOTICED_MS - OVERLAP_MS) if last is not None else 0
            if last is not None and (last.answered_at is None or now - last.answered_at < NOTICED_MS):
                # A part of that answer may be missing, though its last part has come.
                since = min(since, last.since)
            ask = asks[peer] = _Ask(self._nodes.next_ask(), since, begun_at)
            wants.append(WantFleet(fleet_id, ask.number, since))
        return wants

    def answered(self, peer: str, fleet_id: str, number: int, now: int) -> None:
        ask = self._of_fleet.get(fleet_id, {}).get(peer)
        if ask is not None and ask.number == number:
            ask.answered_at = now
            self._notify(fleet_id)

    def gone(self, peer: str) -> None:
        """Nothing more is expected of the peer. Should it come back, it is asked for all."""
        for fleet_id, asks in self._of_fleet.items():
            if asks.pop(peer, None) is not None:
                self._notify(fleet_id)

    def forget(self, fleet_id: str) -> None:
        self._of_fleet.pop(fleet_id, None)
        self._notify(fleet_id)

    def is_settled(self, fleet_id: str) -> bool:
        """Whether all have answered."""
        return all(ask.answered_at is not None for ask in self._of_fleet.get(fleet_id, {}).values())

    def is_late(self) -> bool:
        """Whether a peer owes an answer for longer than it should take."""
        due = asyncio.get_running_loop().time() - LATE_SECONDS
        return any(ask.answered_at is None and ask.begun_at < due for asks in self._of_fleet.values() for ask in asks.values())

    async def wait(self, fleet_id: str) -> None:
        """Until all have answered, a fifth of a second from the ask at most."""
        loop = asyncio.get_running_loop()
        begun_at = min((ask.begun_at for ask in self._of_fleet.get(fleet_id, {}).values()), default=loop.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(begun_at + ASK_SECONDS):
                while not self.is_settled(fleet_id):
                    await self._answers.setdefault(fleet_id, asyncio.Event()).wait()

    def _notify(self, fleet_id: str) -> None:
        event = self._answers.pop(fleet_id, None)
        if event is not None:
            event.set()
