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

    __slots__ = ("answers", "begun_at", "fills", "home", "number", "settled", "since", "trip_id", "waiting")

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
        self.settled = asyncio.Event()
        """Set when all have answered."""
        self.home = asyncio.Event()
        """Set when the home of the trip's vehicle has answered, or all have."""
        if not self.waiting:
            self.settled.set()
            self.home.set()

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
        if not ask.settled.is_set() and left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ask.settled.wait(), left)
        for _ in range(STEPS_AFTER):
            if ask.settled.is_set():
                break
            await asyncio.sleep(0)
        return ask.settled.is_set()

    async def wait_for_home(self, ask: Ask) -> bool:
        """Waits for the answer of the home, `HOME_SECONDS` at most. Returns whether it, or all peers, have answered."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ask.home.wait(), HOME_SECONDS)
        return ask.home.is_set()

    def open(self, peer: str, answer: TripAnswer) -> Ask | None:
        """The question that is answered; None if it is not known, or no longer."""
        ask = self._open.get(answer.ask)
        return ask if ask is not None and peer in ask.waiting and answer.trip_id == ask.trip_id else None

    def heard(self, ask: Ask, peer: str, answer: TripAnswer) -> None:
        """Notes a part of an answer, after its positions were kept."""
        ask.answers[peer] = msgspec.structs.replace(answer, uncommitted=[], recent=[])
        if not answer.more:
            if answer.home:
                ask.home.set()
            self._answered(ask, peer)

    def gone(self, peer: str) -> None:
        """Nothing more is expected of the peer."""
        for ask in list(self._open.values()):
            if peer in ask.waiting:
                self._answered(ask, peer)

    def _answered(self, ask: Ask, peer: str) -> None:
        ask.waiting.discard(peer)
        if not ask.waiting:
            del self._open[ask.number]
            ask.settled.set()
            ask.home.set()

    def _expire(self) -> None:
        due = asyncio.get_running_loop().time() - EXPIRED_SECONDS
        while self._open:
            number, ask = next(iter(self._open.items()))
            if ask.begun_at > due:
                return
            del self._open[number]
