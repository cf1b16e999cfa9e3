"""Readers that return from another hub: what they lack is in the memory of hubs, so the database is not asked."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tracking.auth import Principal, TripField, may_know_trip, may_see
from tracking.cluster.answers import recent_since
from tracking.cluster.asks import Ask
from tracking.cluster.trips import TripsAcrossHubs
from tracking.errors import StoreUnavailable
from tracking.live.reader_queue import ReaderQueue
from tracking.live.recent import NEVER, SPAN_MS
from tracking.live.trips import TripFeed
from tracking.model import Trip
from tracking.nodes.messages import TripAnswer
from tracking.protocol.passenger import PastMessage
from tracking.store import messages as message_store
from tracking.store.gathered import Gathered
from tracking.store.pool import Database

OVERLAP_MS = 5_000
"""Readers are sent again what arrived so long before. Clocks of hubs differ, and messages between hubs may be late."""
AHEAD_MS = 5_000
"""A `since` farther in the future is not one of ours."""
MOST_MESSAGES = 50
TRIES = 3
"""Messages may be posted while they are read."""


class Resumed(NamedTuple):
    """The feed that the reader joined. `asked_store`: its messages were read from the database."""

    feed: TripFeed
    asked_store: bool


class Resuming:
    """Serves readers with `since`, if hubs know all that came after it."""

    def __init__(self, trips: TripsAcrossHubs, database: Database) -> None:
        self._trips = trips
        self._hub = trips.hub
        self._clock = trips.clock
        self._messages: Gathered[tuple[int, int], list[PastMessage]] = Gathered(lambda wanted: _read(database, wanted))

    async def resume(self, principal: Principal, trip_id: str, since: int, queue: ReaderQueue) -> Resumed | None:
        """Writes a snapshot with `since` and registers the reader; None if something is not covered.

        None also means that the trip is not this principal's, or over, or does not show its vehicle. The reader is then served
        as one without `since`.
        """
        now = self._clock()
        if not now - SPAN_MS < since < now + AHEAD_MS:
            return None
        self._trips.joining(trip_id)
        try:
            with self._hub.erased() as erased:
                return await self._resume(principal, trip_id, since, queue, erased)
        except StoreUnavailable:
            return None
        finally:
            self._trips.joined(trip_id)

    async def _resume(
        self, principal: Principal, trip_id: str, since: int, queue: ReaderQueue, erased: Collection[str]
    ) -> Resumed | None:
        lacking_from = since - OVERLAP_MS
        ask: Ask | None = None
        if not self._trips.answers.complete_since(trip_id, lacking_from):
            ask = self._trips.ask(trip_id, lacking_from)
            if not await self._trips.asks.wait_for_home(ask):
                return None
            if any(peer.draining for peer in self._trips.nodes.peers.values()):
                # One of them may know what the home does not know yet.
                await self._trips.asks.wait(ask)
        messages: list[PastMessage] = []
        asked_at: int | None = None
        for _ in range(TRIES):
            # From here to the registration nothing is awaited, unless messages must be read.
            known = self._known(trip_id, lacking_from, ask)
            if known is None or erased or not _may_follow(principal, known[0]):
                return None
            posted_at = self._posted_at(trip_id, lacking_from, ask)
            if posted_at is None or posted_at == asked_at:
                feed = self._hub.feed(*known)
                self._begin(feed, since, queue, messages)
                return Resumed(feed, asked_at is not None)
            asked_at = posted_at
            messages = await self._messages.get((known[0].number, lacking_from)) or []
        return None

    def _known(self, trip_id: str, lacking_from: int, ask: Ask | None) -> tuple[Trip, int] | None:
        """The trip, and the change that it is as of. None if it is not known here as it is now, or something is not covered."""
        answers = self._trips.answers
        known = answers.trip(trip_id)
        if ask is None:
            return known if answers.complete_since(trip_id, lacking_from) else None
        tellers = self._tellers(trip_id, ask)
        if not tellers or not all(0 < teller.recent_from <= lacking_from for teller in tellers):
            return None
        told = [(answer.trip, answer.as_of) for answer in tellers if answer.trip is not None]
        if known is None:
            known = max(told, key=lambda one: one[1], default=None)
        if known is None or not self._is_current(*known):
            return None
        # A vehicle that the trip has had for a moment has not told its hub of all of it.
        return known if all(trip.vehicle_number == known[0].vehicle_number for trip, _ in told) else None

    def _tellers(self, trip_id: str, ask: Ask) -> list[TripAnswer]:
        """The answers that know everything of the trip; none if nobody can say that it does."""
        homes = [answer for answer in ask.answers.values() if answer.home]
        if homes and not self._trips.answers.is_home(trip_id) and all(home.recent_from for home in homes):
            return homes
        # A hub that drains has closed the driver, who has said hello to no other hub yet. Nobody else has heard of the trip.
        if not ask.is_settled or trip_id in self._trips.recent:
            return []
        peers, known = self._trips.nodes.peers, {peer: answer for peer, answer in ask.answers.items() if answer.recent_from}
        return list(known.values()) if all(peer in peers and peers[peer].draining for peer in known) else []

    def _is_current(self, trip: Trip, as_of: int) -> bool:
        """Whether no change of the trip or its vehicle, which comes with it, was applied here after that one."""
        if trip.vehicle is None:
            return False
        applied = self._hub.applied()
        return all(self._hub.changed.last(one, applied) <= as_of for one in (trip.trip_id, trip.vehicle.vehicle_id))

    def _posted_at(self, trip_id: str, lacking_from: int, ask: Ask | None) -> int | None:
        """When a message was last posted that the reader may lack; None if there is none."""
        posted_at = self._hub.posted.last(trip_id, NEVER)
        if posted_at < lacking_from:
            return None
        if self._hub.posted.knows(trip_id) or ask is None:
            return posted_at
        # This hub began to follow the log after that instant. Another one may have followed it longer.
        return None if any(0 < answer.quiet_from < lacking_from for answer in ask.answers.values()) else posted_at

    def _begin(self, feed: TripFeed, since: int, queue: ReaderQueue, messages: Sequence[PastMessage]) -> None:
        trip_id, lacking_from = feed.trip.trip_id, since - OVERLAP_MS
        kept = [*self._trips.recent.of(trip_id).positions, *self._trips.uncommitted.of(trip_id).positions]
        belong = [one for one in kept if (one.vehicle_id, one.fix_time) not in feed.taken_out]
        of_vehicle = [one for one in belong if one.live and one.vehicle_id == feed.vehicle_id]
        newest = max(of_vehicle, key=lambda one: one.fix_time, default=None)
        lacking = recent_since(belong, lacking_from)
        feed.begin_since(queue, since, lacking, messages, self._clock(), newest=newest, lacking_from=lacking_from)


def _may_follow(principal: Principal, trip: Trip) -> bool:
    if not may_know_trip(principal, trip):
        return False
    return all(may_see(principal.role, field, trip.status) for field in (TripField.LIVE, TripField.POSITION))


async def _read(database: Database, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], list[PastMessage]]:
    async with database.connection() as connection:
        found = await message_store.posted_since(connection, wanted, MOST_MESSAGES)
    return {
        key: [PastMessage(message.text, message.sender, message.server_time) for message in messages]
        for key, messages in found.items()
    }
