"""A rolling restart: a hub that stops sends its clients to other hubs, some at a time, before it ends.

    SIGTERM -> `/readyz` 503, beat -> nobody new -> 1012 in slices -> asks that come late -> all that remain at once

While another hub lives, its drivers say hello there, and this hub hands their homes over. Alone nothing of this happens. Before
each slice it is asked again whether another hub is alive that does not drain as well.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Protocol

from tracking import life
from tracking.errors import CloseCode
from tracking.live.change_readers import Reader
from tracking.live.links import Link
from tracking.metrics import DRAINING
from tracking.service import Service

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.15
"""Between two slices. What was taken before the pause is committed in it, so that its ack comes before the close."""
STEP_SECONDS = 0.002
"""Of the event loop, before others have their turn."""
NOTICE_SECONDS = 5.0
"""How long a hub with a socket of its own goes on to accept, so that a proxy can see `/readyz`."""
LATE_SECONDS = 2.0
"""After the last slice: how long a client may take to come back elsewhere, where its hub asks this one."""
LEAST_A_SECOND = 20.0
"""Clients that are closed at the least. Few clients need no long drain."""


class Door(Protocol):
    """Where clients come in."""

    @property
    def shared(self) -> bool:
        """Whether another process holds the same listening sockets, and goes on to listen."""
        ...

    async def last_answers(self) -> None:
        """From now on each HTTP connection ends with its answer, which says so."""
        ...

    async def close(self, seconds: float) -> None:
        """Accepts nobody from now on. For `seconds` it waits for those who are coming in."""
        ...


class Drain:
    """`run` sends the clients away. `service` returns the present service: a new one is built if the database went back."""

    def __init__(self, service: Callable[[], Service], rng: random.Random | None = None) -> None:
        self._service = service
        self._rng = rng or random.Random()
        self._at_once = False
        self._has_begun = False
        self.is_over = False
        DRAINING.set(0)

    def end_now(self) -> None:
        """Closes what remains at once. May be called by a signal handler, also before `run`."""
        self._at_once = True

    async def run(self, door: Door) -> None:
        """Returns when all clients were sent away, or as soon as there is no hub to send them to."""
        seconds = self._service().settings.drain_seconds
        try:
            if seconds and self._may_go_on():
                await self._drain(door, seconds)
        except Exception:
            # What is not stored yet must be stored all the same.
            logger.exception("an error: the clients that remain are closed at once")
        finally:
            self.is_over = True

    async def _drain(self, door: Door, seconds: float) -> None:
        ends = time.monotonic() + seconds
        logger.info("%d clients are sent to other hubs, over %g s at most", self._service().hub.links.count, seconds)
        DRAINING.set(1)
        self._has_begun = True
        self._mark()
        await door.last_answers()
        # A socket that stays open elsewhere has no queue to be lost, and whoever directs clients to it need not notice.
        if not door.shared:
            await self._wait(min(NOTICE_SECONDS, seconds / 4))
        if self._may_go_on():
            await door.close(min(0.5, seconds / 8))
        late = min(LATE_SECONDS, seconds / 10)
        if await self._close_in_slices(max(0.0, ends - late - time.monotonic())):
            await self._wait(late)
        logger.info("the drain is over: %d clients remain", self._service().hub.links.count)

    async def _wait(self, seconds: float) -> None:
        pauses = math.ceil(seconds / PAUSE_SECONDS)
        for _ in range(pauses):
            if not self._may_go_on():
                return
            await asyncio.sleep(seconds / pauses)

    async def _close_in_slices(self, seconds: float) -> int:
        """How many there were."""
        service = self._service()
        waiting: list[Link | Reader] = [*service.hub.links.all(), *service.change_feed.readers.all()]
        count = len(waiting)
        seconds = min(seconds, count / LEAST_A_SECOND)
        began = time.monotonic()
        while waiting and self._may_go_on():
            self._service().recorder.queue.hurry()
            await asyncio.sleep(PAUSE_SECONDS)
            share = 1.0 if seconds <= 0 else min(1.0, (time.monotonic() - began) / seconds)
            await self._close_some(waiting, count - math.ceil(count * share))
        return count

    async def _close_some(self, waiting: list[Link | Reader], remaining: int) -> None:
        """Closes any of them until so many remain: drivers and readers mixed, in no order."""
        until = time.perf_counter() + STEP_SECONDS
        while len(waiting) > remaining:
            at = self._rng.randrange(len(waiting))
            waiting[at], waiting[-1] = waiting[-1], waiting[at]
            one = waiting.pop()
            if isinstance(one, Reader):
                one.end("stop")
            else:
                one.close(CloseCode.GOING_DOWN)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + STEP_SECONDS

    def _may_go_on(self) -> bool:
        """Whether there is a hub to send clients to, and time for it. Marks a service that was built meanwhile."""
        if self._at_once or life.failed:
            return False
        if self._has_begun:
            self._mark()
        service = self._service()
        nodes = service.nodes
        if nodes.connected:
            return any(not peer.draining for peer in nodes.peers.values())
        # Without the broker nobody knows whether they drain as well.
        return nodes.enabled and service.registry.others_alive() > 0

    def _mark(self) -> None:
        service = self._service()
        service.hub.draining = True
        service.change_feed.readers.admit_no_more()
        if not service.nodes.draining:
            service.nodes.draining = True
            service.nodes.beat_soon()
