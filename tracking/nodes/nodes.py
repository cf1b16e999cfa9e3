"""This hub among the others: beats, peers, and links to them."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from tracking.model import Position
from tracking.nodes.messages import HandOver, HandOverAsk, Notice
from tracking.nodes.node import Node, Peer

N = TypeVar("N", bound=Notice)


class Observer(Protocol):
    """Who must know that peers come, go or were not understood."""

    def missed(self, peer: str) -> None:
        """The peer is new, or messages from it were lost. What was asked of it must be asked again."""
        ...

    def gone(self, peer: str) -> None:
        """The peer is dead, or went down. What it wanted counts no more."""
        ...

    def connection_changed(self, connected: bool) -> None:
        """The broker was lost, or is back."""
        ...


class Nodes:
    """Sends to peers, and passes on what they tell. `run` does the work until it is cancelled."""

    node: Node
    peers: Mapping[str, Peer]
    """those that are alive, by boot id"""

    @property
    def enabled(self) -> bool:
        """Whether a broker is set. Without one this hub is alone, and nothing here does anything."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        raise NotImplementedError

    def listen(self, kind: type[N], heard: Callable[[str, N], None]) -> None:
        """`heard` is called with the boot id of the sender and each notice of this kind."""
        raise NotImplementedError

    def listen_positions(self, heard: Callable[[str, list[Position]], None]) -> None:
        raise NotImplementedError

    def observe(self, observer: Observer) -> None:
        raise NotImplementedError

    def tell(self, peer: str, notice: Notice) -> None:
        """Sends a notice in the next step of the event loop, together with all others for the peer."""
        raise NotImplementedError

    def tell_all(self, notice: Notice) -> None:
        raise NotImplementedError

    def forward(self, position: Position, peers: Collection[str]) -> None:
        """Sends a position with all others of the next 25 ms. If a link is full, only the newest of each vehicle is kept."""
        raise NotImplementedError

    async def ask(self, peer: str, notice: HandOverAsk, seconds: float) -> HandOver | None:
        """The peer's answer; None if none came in time. Sets `notice.ask`."""
        raise NotImplementedError

    def next_ask(self) -> int:
        """A number for `Want.ask`, which this hub never used before."""
        raise NotImplementedError

    async def run(self) -> Any:
        raise NotImplementedError
