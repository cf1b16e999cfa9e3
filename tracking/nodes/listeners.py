"""Who is told what other hubs say: listeners to notices and positions, and observers of peers."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from tracking.metrics import NODE_IGNORED
from tracking.model import Position
from tracking.nodes import messages
from tracking.nodes.messages import Notice

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=Notice)

MISSED_SECONDS = 1.0
"""The least time between two calls of `Observer.missed` for a peer. To repeat everything is much work."""
LOG_SECONDS = 10.0


class Observer(Protocol):
    """Who must know that peers come, go or were not understood."""

    def missed(self, peer: str) -> None:
        """The peer is new, or messages were lost: from it, or to it. What was told to it or asked of it must be repeated."""
        ...

    def gone(self, peer: str) -> None:
        """The peer is dead, or has stopped. It wants nothing any more."""
        ...

    def connection_changed(self, connected: bool) -> None:
        """The broker was lost, or is back."""
        ...


class Listeners:
    """Calls all who listen. A fault in one of them is logged, and costs the others nothing. `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._notices: defaultdict[type[Any], list[Callable[[str, Any], None]]] = defaultdict(list)
        self._positions: list[Callable[[str, list[Position]], None]] = []
        self._observers: list[Observer] = []
        self._missed_at: dict[str, float] = {}
        self._missed_again: dict[str, asyncio.TimerHandle] = {}
        self._logged_at = float("-inf")

    def listen(self, kind: type[N], heard: Callable[[str, N], None]) -> None:
        self._notices[kind].append(heard)

    def listen_positions(self, heard: Callable[[str, list[Position]], None]) -> None:
        self._positions.append(heard)

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def positions(self, sender: str, positions: list[Position]) -> None:
        for heard in self._positions:
            self._call(heard, sender, positions)

    def notice(self, sender: str, raw: msgspec.Raw) -> None:
        """Ignores and counts a notice of a kind that this version does not know."""
        try:
            notice = messages.decode_notice(raw)
        except msgspec.ValidationError:
            NODE_IGNORED.labels("kind").value += 1
        except messages.UNREADABLE:
            NODE_IGNORED.labels("broken").value += 1
        else:
            for heard in self._notices.get(type(notice), ()):
                self._call(heard, sender, notice)

    def connection_changed(self, connected: bool) -> None:
        for observer in self._observers:
            self._call(observer.connection_changed, connected)

    def missed(self, peer: str) -> None:
        """Tells observers, at once or when a second has passed since the last time."""
        if peer in self._missed_again:
            return
        wait = self._missed_at.get(peer, float("-inf")) + MISSED_SECONDS - self._now()
        if wait > 0:
            self._missed_again[peer] = asyncio.get_running_loop().call_later(wait, self._miss, peer)
        else:
            self._miss(peer)

    def gone(self, peer: str) -> None:
        self._missed_at.pop(peer, None)
        timer = self._missed_again.pop(peer, None)
        if timer is not None:
            timer.cancel()
        for observer in self._observers:
            self._call(observer.gone, peer)

    def close(self) -> None:
        """Calls nobody from now on."""
        for timer in self._missed_again.values():
            timer.cancel()

    def _miss(self, peer: str) -> None:
        self._missed_again.pop(peer, None)
        self._missed_at[peer] = self._now()
        for observer in self._observers:
            self._call(observer.missed, peer)

    def _call(self, heard: Callable[..., None], *arguments: object) -> None:
        try:
            heard(*arguments)
        except Exception:
            NODE_IGNORED.labels("failed").value += 1
            if self._now() - self._logged_at > LOG_SECONDS:
                self._logged_at = self._now()
                logger.exception("could not handle what another hub told")
