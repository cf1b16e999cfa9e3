"""Asks: what this hub asks its peers about a trip, and their answers."""

import asyncio
import contextlib
from collections.abc import Iterable

import msgspec

from tracking.nodes.messages import TripAnswer
from tracking.nodes.nodes import Nodes

ASK_SECONDS = 0.2
"""How long a joining waits for the answers of all peers."""
HOME_SECONDS = 2.0
"""How long a reader that returns waits for the home's answer. If thousands return at once, each hub is busy for a second."""
STEPS_AFTER = 3
"""Steps of the event loop that follow the wait. If the loop was late, the answers may have come meanwhile."""
EXPIRED_SECONDS = 10.0
"""A late answer counts for so long."""


class Ask:
    """One question about a trip. `fills`: it is asked because messages were missed, so the answer fills a gap."""

    __slots__ = ("_awaited", "answers", "begun_at", "fills", "has_home", "number", "since", "trip_id", "waiting")

    def __init__(self, number: int, trip_id: str, since: int, peers: Iterable[str], *, fills: bool) -> None:
        self.number = number
        self.trip_id = trip_id
        self.since = since
        self.fills = fills
        self.waiting = set(peers)
        """Peers that have not answered."""
        self.answers: dict[str, TripAnswer] = {}
        """By peer: its answer, without positions. They are kept elsewhere."""
        self.begun_at = asyncio.get_running_loop().time()
        self.has_home = not self.waiting
        """Whether the home of the trip's vehicle has answered, or all have."""
        self._awaited: asyncio.Event | None = None
        """Most are waited for by nobody."""

    @property
    def is_settled(self) -> bool:
        """Whether all have answered."""
        return not self.waiting

    async def settled(self) -> None:
        """Waits until all have answered."""
        while not self.is_settled:
            await self._next_answer()

    async def home(self) -> None:
        """Waits until `has_home`."""
        while not self.has_home:
            await self._next_answer()

    async def _next_answer(self) -> None:
        if self._awaited is None:
            self._awaited = asyncio.Event()
        await self._awaited.wait()

    def answered(self, peer: str, *, home: bool = False) -> None:
        """Nothing more is expected of this peer. `home`: it is the home of the trip's vehicle."""
        self.waiting.discard(peer)
        self.has_home = self.has_home or home or not self.waiting
        if self._awaited is not None:
            self._awaited.set()
            self._awaited = None

    @property
    def is_late(self) -> bool:
        """Whether nobody waits for its answers any more."""
        return asyncio.get_running_loop().time() - self.begun_at > ASK_SECONDS


class Asks:
    """The questions that are not answered yet."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._open: dict[int, Ask] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is expected."""
        return bool(self._open)

    def begin(self, trip_id: str, since: int, peers: Iterable[str], *, fills: bool = False) -> Ask:
        """Notes a question. The caller sends it with this number."""
        self._expire()
        ask = Ask(self._nodes.next_ask(), trip_id, since, peers, fills=fills)
        if ask.waiting:
            self._open[ask.number] = ask
        return ask

    async def wait(self, ask: Ask) -> bool:
        """Waits for the answers, `ASK_SECONDS` after it was asked at most. Returns whether all have answered."""
        left = ask.begun_at + ASK_SECONDS - asyncio.get_running_loop().time()
        if not ask.is_settled and left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ask.settled(), left)
        for _ in range(STEPS_AFTER):
            if ask.is_settled:
                break
            await asyncio.sleep(0)
        return ask.is_settled

    async def wait_for_home(self, ask: Ask) -> bool:
        """Waits for the answer of the home, `HOME_SECONDS` at most. Returns whether it, or all peers, have answered."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ask.home(), HOME_SECONDS)
        return ask.has_home

    def open(self, peer: str, answer: TripAnswer) -> Ask | None:
        """The question that is answered; None if it is not known, or no longer."""
        ask = self._open.get(answer.ask)
        return ask if ask is not None and peer in ask.waiting and answer.trip_id == ask.trip_id else None

    def heard(self, ask: Ask, peer: str, answer: TripAnswer) -> None:
        """Notes a part of an answer, after its positions were kept."""
        ask.answers[peer] = msgspec.structs.replace(answer, uncommitted=[], recent=[])
        if not answer.more:
            self._answered(ask, peer, home=answer.home)

    def gone(self, peer: str) -> None:
        """Nothing more is expected of the peer."""
        for ask in list(self._open.values()):
            if peer in ask.waiting:
                self._answered(ask, peer)

    def _answered(self, ask: Ask, peer: str, *, home: bool = False) -> None:
        ask.answered(peer, home=home)
        if ask.is_settled:
            del self._open[ask.number]

    def _expire(self) -> None:
        due = asyncio.get_running_loop().time() - EXPIRED_SECONDS
        while self._open:
            number, ask = next(iter(self._open.items()))
            if ask.begun_at > due:
                return
            del self._open[number]
