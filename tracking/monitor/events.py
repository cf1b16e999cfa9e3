"""Events wait here until they are stored. After COMMIT, the change log has them sent to the fleet's dispatchers."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import asyncpg
import msgspec
import tenacity

from tracking.errors import StoreUnavailable
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.metrics import EVENT_FAILURES, EVENTS
from tracking.model import Event
from tracking.protocol.codec import frame
from tracking.protocol.dispatcher import EventNews
from tracking.store import batch, events
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

MAX_GROUP = 250
"""Events in one transaction."""
SENT_LATE_MS = 3_600_000
"""Events from longer ago are listed, and sent to nobody."""
MAX_WAITING = 100_000
"""Events that may wait for the database. Past it the oldest are dropped, which is logged."""


_FAULTS_OF_EVENTS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""Errors of an event itself. After any other error the events are stored again."""


class Emitted(NamedTuple):
    feed: FleetFeed
    fleet_id: str
    vehicle: LiveVehicle
    number: int | None
    """The store's number of the vehicle, if it is known."""
    event: Event
    term: int | None = None
    """That of the vehicle's home, if it was here."""


def _is_passing(error: BaseException) -> bool:
    # The victim of a deadlock can try again, and a broken table may be repaired.
    return isinstance(error, StoreUnavailable | asyncpg.PostgresError) and not isinstance(error, _FAULTS_OF_EVENTS)


def _note_failure(state: tenacity.RetryCallState) -> None:
    EVENT_FAILURES.inc()
    if state.attempt_number == 1:
        error = state.outcome.exception() if state.outcome is not None else None
        logger.warning("events are not stored, trying again: %s", error)


_until_stored = batch.until_stored(_is_passing, _note_failure)


class Events:
    """`add` takes an event. `deliver` stores events until it is cancelled. `tell` sends a stored event."""

    def __init__(self, database: Database, fleets: Fleets, *, last_event: int = 0) -> None:
        self.last_event = last_event
        """The id of the last event that may have been sent. It is not used again, even if the database went back: a page that
        knows the first event would take the second one for it."""
        self._database = database
        self._fleets = fleets
        self._waiting: list[Emitted] = []
        self._group: list[Emitted] = []
        """The events that are being stored."""
        self._taken_back: set[int] = set()
        """Which of them, by `id`, were taken back before they had ids."""
        self._arrived = asyncio.Event()
        self._all_told = asyncio.Event()
        self.on_stored: Callable[[], None] = lambda: None
        """Called when events were committed, so that the change log is read."""
        self.term_of: Callable[[int], int | None] = lambda _: None
        """The term of a vehicle's home, if it is here. `cluster.homes` sets it."""

    def add(self, emitted: Emitted) -> None:
        """Takes an event of the vehicle's home, or of a hub that looks after vehicles without one."""
        self._waiting.append(emitted._replace(term=self.term_of(emitted.vehicle.number)))
        if len(self._waiting) > MAX_WAITING:
            logger.error("%d events wait for the database: the oldest one is given up", MAX_WAITING)
            del self._waiting[0]
        self._all_told.clear()
        self._arrived.set()

    async def flush(self) -> None:
        """Waits until all events are stored."""
        if not self._all_told.is_set():
            logger.info("events are still being stored")
            await self._all_told.wait()

    def busy(self) -> set[FleetFeed]:
        """The fleets with events that are still to be stored."""
        return {emitted.feed for emitted in chain(self._waiting, self._group)}

    def take_back(self, vehicle: LiveVehicle) -> list[Event]:
        """The events of a vehicle that are not known to be stored, in order. They are not stored here any more.

        Those that are being stored just now have their ids already, and may be stored here and again.
        """
        mine = [emitted.event for emitted in chain(self._group, self._waiting) if emitted.vehicle is vehicle]
        self._taken_back.update(id(e) for e in self._group if e.vehicle is vehicle and not e.event.event_id)
        self._waiting[:] = [emitted for emitted in self._waiting if emitted.vehicle is not vehicle]
        return mine

    def numbered(self, number: int) -> None:
        """An event with this id may have been sent."""
        self.last_event = max(self.last_event, number)

    def tell(self, fleet_id: str, event: Event) -> None:
        """Sends the event to the fleet's dispatchers. To be called after COMMIT."""
        feed = self._fleets.feeds.get(fleet_id)
        if feed is not None:
            self._push(feed, event)

    async def deliver(self) -> None:
        while True:
            if not self._waiting:
                self._all_told.set()
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                group = self._group = self._waiting[:MAX_GROUP]
                del self._waiting[:MAX_GROUP]
                numbered = await self._number(group)
                numbered = [one for one, before in zip(numbered, group, strict=True) if id(before) not in self._taken_back]
                self._taken_back.clear()
                self._group = numbered
                await batch.store("events", numbered, self._commit, _FAULTS_OF_EVENTS, self._give_up)
                self._group = []

    async def _give_up(self, emitted: Emitted, error: Exception) -> None:
        kind, vehicle_id = emitted.event.kind.value, emitted.event.vehicle_id
        logger.error("an event is given up: the database refuses the %s of vehicle %s: %s", kind, vehicle_id, error)

    @_until_stored.wraps
    async def _number(self, group: list[Emitted]) -> list[Emitted]:
        count = sum(not emitted.event.event_id for emitted in group)
        if not count:
            return group
        async with self._database.transaction() as connection:
            ids = await events.reserve(connection, count, after=self.last_event)
        self.numbered(ids[-1])
        numbers = iter(ids)
        return [
            # An event from a former home may have its id.
            emitted
            if emitted.event.event_id
            else emitted._replace(event=msgspec.structs.replace(emitted.event, event_id=next(numbers)))
            for emitted in group
        ]

    @_until_stored.wraps
    async def _commit(self, numbered: Sequence[Emitted]) -> None:
        # Events of a vehicle that was removed meanwhile are dropped. Another vehicle may have its id by now.
        group = [emitted for emitted in numbered if self._fleets.is_there(emitted.vehicle)]
        if not group:
            return
        async with self._database.transaction() as connection:
            stored = await events.insert(
                connection,
                [n.fleet_id for n in group],
                [n.number for n in group],
                [n.event for n in group],
                terms=[n.term for n in group],
            )
        for emitted in group:
            # The vehicle may have been removed during COMMIT.
            if emitted.event.event_id in stored and self._fleets.is_there(emitted.vehicle):
                EVENTS.labels(emitted.event.kind.value).inc()
        self.on_stored()

    def _push(self, feed: FleetFeed, event: Event) -> None:
        if not event.late:
            feed.broadcast(frame(EventNews.of(event)))
        elif event.fix_time is not None and event.server_time - event.fix_time <= SENT_LATE_MS:
            # After an hour's outage a fleet has very many late events. They must not end a slow reader; the list has them.
            feed.mention(frame(EventNews.of(event)))
