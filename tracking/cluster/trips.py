"""Trips across hubs: what is accepted here goes to the hubs whose readers want it, and what peers accept is shown to ours.

The hub that serves a reader decides by its own state what it shows: the trip's status, its vehicle, and what is newer than what
it showed before.
"""

import asyncio
from collections.abc import Iterable, Sequence

from tracking.cluster.answers import POSITIONS_AT_ONCE, Answers
from tracking.cluster.asks import Ask, Asks
from tracking.cluster.gaps import Gaps
from tracking.cluster.gradually import Gradually
from tracking.cluster.interest import Interest
from tracking.cluster.uncommitted import UncommittedPositions
from tracking.history.revisions import Revisions
from tracking.ingest.vehicles import IngestVehicles
from tracking.live.hub import Hub
from tracking.live.recent import RecentPositions
from tracking.live.trips import TripFeed
from tracking.model import Clock, Position, Trip
from tracking.nodes.messages import LateFixes, Refiled, TripAnswer, Want
from tracking.nodes.nodes import Nodes

SWEEP_SECONDS = 30.0
LATE_MS = 50_000
"""A late fix that is committed so long after its arrival may soon leave the recent positions, before its revision is sent."""
TOLD_MS = 20_000
"""How long it may take at most until all readers have been told of a change of the line."""
MOST_REMOVED = 10_000
TIMES_AT_ONCE = 10_000
"""Fix times in one notice: 90 KB."""
BACK_SECONDS = 5.0
"""When the broker is back, each hub that lives has been heard after this time."""


class TripsAcrossHubs:
    """What `Hub.trip_exchange` needs: see `live.hub.TripExchange`. It observes peers, and hears what they tell of trips."""

    def __init__(
        self,
        nodes: Nodes,
        hub: Hub,
        uncommitted: UncommittedPositions,
        ingest_vehicles: IngestVehicles,
        revisions: Revisions,
        clock: Clock,
    ) -> None:
        """What peers accept of trips wanted here goes to `uncommitted`."""
        self.nodes = nodes
        self.hub = hub
        self._ingest_vehicles = ingest_vehicles
        self._revisions = revisions
        self.clock = clock
        self.recent = RecentPositions()
        """What this hub accepted itself."""
        self.uncommitted = uncommitted.of_peers
        self.interest = Interest(nodes)
        self.asks = Asks(nodes)
        self.answers = Answers(hub, uncommitted.queue, ingest_vehicles, self.recent)
        self._gaps = Gaps(nodes, self.interest, self.asks, clock)
        self._asked: dict[str, Ask] = {}
        """What was asked last about a trip that is wanted."""
        self._joining: dict[str, int] = {}
        """Readers that ask about a trip before it has a feed."""
        self._sources: dict[str, str] = {}
        """The peer that the last position of a trip came from."""
        self._unshown: set[str] = set()
        """Trips that do not show their vehicle, and whose line changed meanwhile."""
        self._removed: dict[int, None] = {}
        """Numbers of vehicles that were removed. A peer may not know of it yet."""
        self._returning: Gradually[tuple[str, Want]] = Gradually(lambda asked: self._answer(*asked))
        answers: Gradually[tuple[str, Want]] = Gradually(lambda asked: self._answer(*asked, with_trip=False))
        self.interest.on_asked = self._asked_now
        self.interest.on_asked_again = lambda peer, want: answers.add((peer, want))
        # A hub that comes or goes may watch thousands of trips.
        self.interest.on_watched = Gradually(self._watched_elsewhere).add
        nodes.listen_positions(self._positions)
        nodes.listen(TripAnswer, self._answered)
        nodes.listen(LateFixes, self._late)
        nodes.listen(Refiled, self._refiled)
        nodes.observe(self)

    async def run(self) -> None:
        """Forgets what is old, until it is cancelled. The change log must be followed already."""
        self.hub.posted.begin(self.clock())
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.recent.sweep(self.clock())
            self.uncommitted.sweep(self.clock())

    # --- what this hub accepts, for peers -----------------------------------------------------------------------------

    def accepted(self, position: Position) -> None:
        trip_id = position.trip_id
        if trip_id is None or position.suspect:
            return
        self.recent.keep(position)
        if position.live:
            peers = self.interest.theirs.get(trip_id)
            if peers is not None:
                self.nodes.forward(position, peers)

    def committed_late(self, late: Sequence[Position]) -> None:
        """These positions came too late to move the marker, and are committed now."""
        spans: dict[str, LateFixes] = {}
        now = self.clock()
        for position in late:
            trip_id = position.trip_id
            if trip_id is None or position.trip is None:
                continue
            if now - position.server_time > LATE_MS:
                self.recent.incomplete_before(trip_id, now + TOLD_MS)
            if trip_id in self.interest.theirs:
                span = spans.get(trip_id)
                if span is None:
                    span = spans[trip_id] = LateFixes(trip_id, position.trip, position.fix_time, position.fix_time)
                span.from_, span.to = min(span.from_, position.fix_time), max(span.to, position.fix_time)
        for trip_id, span in spans.items():
            for peer in self.interest.theirs[trip_id]:
                self.nodes.tell(peer, span)

    def refiled(self, trip_id: str, trip: int, vehicle_id: str, lost: Sequence[int], got: Sequence[Position]) -> None:
        """Positions turned out to belong to the trip, or not. Those in `got` may not be committed."""
        self.recent.take_out(trip_id, vehicle_id, lost)
        for position in got:
            if not position.suspect:
                self.recent.keep(position)
        self.recent.incomplete_before(trip_id, self.clock() + TOLD_MS)
        times, positions = list(lost), list(got)
        parts = [
            Refiled(trip_id, trip, vehicle_id, times[at : at + TIMES_AT_ONCE]) for at in range(0, len(times), TIMES_AT_ONCE)
        ]
        for at in range(0, len(positions), POSITIONS_AT_ONCE):
            parts.append(Refiled(trip_id, trip, vehicle_id, [], positions[at : at + POSITIONS_AT_ONCE]))
        for peer in self.interest.theirs.get(trip_id, ()):
            for part in parts:
                self.nodes.tell(peer, part)

    def corrected(self, trip_id: str, trip: int, from_: int, to: int) -> None:
        """Committed positions between two fix times belong to the trip after all."""
        self.recent.incomplete_before(trip_id, self.clock() + TOLD_MS)
        for peer in self.interest.theirs.get(trip_id, ()):
            self.nodes.tell(peer, LateFixes(trip_id, trip, from_, to))

    def watches(self, trip_id: str) -> bool:
        return self.interest.watches(trip_id)

    def _watched_elsewhere(self, vehicle_id: str) -> None:
        vehicle, driver = self._ingest_vehicles.get(vehicle_id), self.hub.drivers.get(vehicle_id)
        if vehicle is not None and driver is not None:
            driver.ask_interval(self.hub.interval_for(vehicle.trip))

    def _asked_now(self, peer: str, want: Want) -> None:
        if want.since:
            # Readers return by the thousand, and each answer takes a fifth of a millisecond.
            self._returning.add((peer, want))
        else:
            self._answer(peer, want)

    def _answer(self, peer: str, want: Want, *, with_trip: bool = True) -> None:
        for part in self.answers.to(want, with_trip=with_trip):
            self.nodes.tell(peer, part)

    # --- what our readers want ----------------------------------------------------------------------------------------

    def begun(self, feed: TripFeed) -> None:
        trip_id = feed.trip.trip_id
        if trip_id in self._asked:
            # A reader has asked already.
            self.interest.set_watched(trip_id, bool(feed.queues), feed.vehicle_id)
        else:
            self.ask(trip_id, 0, feed.vehicle_id)

    def ended(self, trip_id: str) -> None:
        if trip_id not in self._joining:
            self._unwant(trip_id)

    def watched(self, feed: TripFeed) -> None:
        """Somebody reads the trip, or the last reader has left."""
        self.interest.set_watched(feed.trip.trip_id, bool(feed.queues), feed.vehicle_id)

    def ask(self, trip_id: str, since: int, vehicle_id: str = "") -> Ask:
        """Wants the trip from now on, and asks all peers for what they have of it. `since` as in `Want`."""
        ask = self._asked[trip_id] = self.asks.begin(trip_id, since, self.nodes.peers)
        known = self.interest.ours.get(trip_id)
        watched = known.watched if known is not None else False
        self.interest.want(Want(trip_id, watched, ask.number, since, vehicle_id or (known.vehicle_id if known else "")))
        return ask

    def joining(self, trip_id: str) -> None:
        """A reader is about to ask about a trip, which may have no feed. Call `joined` in the end."""
        self._joining[trip_id] = self._joining.get(trip_id, 0) + 1

    def joined(self, trip_id: str) -> None:
        left = self._joining.pop(trip_id) - 1
        if left:
            self._joining[trip_id] = left
        elif trip_id not in self.hub.feeds:
            self._unwant(trip_id)

    async def ready(self, feed: TripFeed) -> None:
        """Waits until peers have told what they did not commit, a fifth of a second at most.

        It returns at once if the vehicle's driver is connected here. To be called before the line is read from the store. If it
        were read first, a fix could be committed after the reading began and before the answer, and be in neither.
        """
        ask = self._asked.get(feed.trip.trip_id)
        if ask is None or feed.vehicle_id in self.hub.drivers or not feed.showing:
            return
        await self.asks.wait(ask)

    def _unwant(self, trip_id: str) -> None:
        self._asked.pop(trip_id, None)
        self.interest.unwant(trip_id)
        self.uncommitted.forget_trip(trip_id)
        self._sources.pop(trip_id, None)
        self._unshown.discard(trip_id)

    # --- what peers accept, for our readers ---------------------------------------------------------------------------

    def _positions(self, peer: str, positions: list[Position]) -> None:
        feeds, ours, removed = self.hub.feeds, self.interest.ours, self._removed
        for position in positions:
            trip_id = position.trip_id
            if trip_id not in ours or position.suspect or position.vehicle in removed:
                continue
            assert trip_id is not None
            self._sources[trip_id] = peer
            feed = feeds.get(trip_id)
            if feed is None or not feed.showing:
                # It is shown as soon as the trip shows its vehicle.
                self.uncommitted.keep(position)
            else:
                self.show(feed, position)

    def show(self, feed: TripFeed, position: Position) -> None:
        """Shows a live position that another hub accepted. The trip shows its vehicle."""
        if position.vehicle_id == feed.vehicle_id and position.fix_time > feed.newest:
            self.uncommitted.keep(position)
            feed.newest_elsewhere = position.fix_time
            feed.publish_position(position)
        elif (position.vehicle_id, position.fix_time) not in self._known(feed.trip.trip_id):
            # It belongs to the line, but it is older than the marker, or of another vehicle than the trip has now.
            self.uncommitted.keep(position)
            self._revisions.late_one(position)

    def begins_to_show(self, trip: Trip) -> None:
        """A watched trip shows its vehicle, or another one, from now on. What came before was not shown."""
        feed = self.hub.feeds.get(trip.trip_id)
        if feed is None:
            return
        positions = [one for one in self.uncommitted.of(trip.trip_id).positions if one.vehicle_id == feed.vehicle_id]
        newest = max((one for one in positions if one.live), key=lambda one: one.fix_time, default=None)
        if newest is not None and newest.fix_time > feed.newest:
            feed.newest_elsewhere = newest.fix_time
            feed.publish_position(newest)
        if len(positions) > 1 or trip.trip_id in self._unshown:
            self._unshown.discard(trip.trip_id)
            self._revisions.revise_all(feed.trip)

    def _answered(self, peer: str, answer: TripAnswer) -> None:
        ask = self.asks.open(peer, answer)
        if ask is None or answer.trip_id not in self.interest.ours:
            return
        feed = self.hub.feeds.get(answer.trip_id)
        if ask.fills and feed is not None and peer not in ask.answers and not 0 < answer.recent_from <= ask.since:
            self._read_again_if_from(peer, feed, answer)
        known = self._known(answer.trip_id)
        fresh: dict[tuple[str, int], Position] = {}
        for position in (*answer.recent, *answer.uncommitted):
            key = position.vehicle_id, position.fix_time
            if self._belongs(answer.trip_id, position) and key not in known and key not in fresh:
                fresh[key] = position
                self.uncommitted.keep(position)
        self.asks.heard(ask, peer, answer)
        self._gaps.heard(peer)
        # Who is still joining takes them into the snapshot. Others may have left, and resume.
        if feed is not None and feed.showing and (feed.queues or feed.offset or ask.fills or ask.is_late):
            self._fill(feed, fresh.values())

    def _fill(self, feed: TripFeed, positions: Iterable[Position]) -> None:
        """Shows those that are newer than what is shown, in order. The part of the line that has the others is sent again."""
        for position in sorted(positions, key=lambda one: one.fix_time):
            if position.live and position.vehicle_id == feed.vehicle_id and position.fix_time > feed.newest:
                feed.newest_elsewhere = position.fix_time
                feed.publish_position(position)
            elif position.vehicle_id != feed.vehicle_id or position.fix_time != feed.newest:
                self._revisions.late_one(position)

    def _read_again_if_from(self, peer: str, feed: TripFeed, answer: TripAnswer) -> None:
        """The peer does not have all that was missed. If positions of the trip came from it, the whole line is read.

        The marker may be past what the store has.
        """
        if answer.home or answer.recent_from or self._sources.get(answer.trip_id) == peer:
            self.uncommitted.forget_trip(feed.trip.trip_id)
            self._revisions.revise_all(feed.trip, taken_out=feed.newest or None)

    def _late(self, peer: str, late: LateFixes) -> None:
        feed = self.hub.feeds.get(late.trip_id)
        if feed is not None and feed.showing:
            self._revisions.revise(late.trip_id, feed.trip.number, late.from_, late.to, taken_out=late.taken_out)
        elif feed is not None:
            self._unshown.add(late.trip_id)

    def _refiled(self, peer: str, refiled: Refiled) -> None:
        trip_id, vehicle_id, lost = refiled.trip_id, refiled.vehicle_id, refiled.lost
        if trip_id not in self.interest.ours:
            return
        self.uncommitted.take_out(trip_id, vehicle_id, lost)
        feed = self.hub.feeds.get(trip_id)
        got = [position for position in refiled.got if self._belongs(trip_id, position)]
        if feed is not None:
            feed.take_out(vehicle_id, lost)
            feed.put_in(vehicle_id, [position.fix_time for position in got])
            if lost and feed.showing:
                self._revisions.revise(trip_id, feed.trip.number, min(lost), max(lost), taken_out=max(lost))
        for position in got:
            self.uncommitted.keep(position)
        if feed is not None and feed.showing and got:
            # As at its home: the newest is the vehicle's place, and the others are a part of the line.
            newest = max(got, key=lambda one: one.fix_time)
            self._fill(feed, [newest])
            for position in got:
                if position is not newest:
                    self._revisions.late_one(position)

    def _belongs(self, trip_id: str, position: Position) -> bool:
        return position.trip_id == trip_id and not position.suspect and position.vehicle not in self._removed

    def _known(self, trip_id: str) -> set[tuple[str, int]]:
        """What was shown lately, or is in the snapshots of all who join."""
        return self.uncommitted.keys(trip_id) | self.recent.keys(trip_id)

    # --- peers that come and go ---------------------------------------------------------------------------------------

    def missed(self, peer: str) -> None:
        self._gaps.missed(peer)

    def gone(self, peer: str) -> None:
        self._gaps.gone(peer)
        self.interest.gone(peer)
        # While the broker is away, nobody knows who is dead.
        if self.nodes.connected:
            self._read_what_dead_hubs_had()

    def connection_changed(self, connected: bool) -> None:
        if connected:
            asyncio.get_running_loop().call_later(BACK_SECONDS, self._read_what_dead_hubs_had)
        else:
            self._gaps.cut_off()

    def _read_what_dead_hubs_had(self) -> None:
        """A hub that died may have committed what it did not send. The lines of the trips that it fed are read again."""
        if not self.nodes.connected:
            return
        for trip_id in [trip_id for trip_id, source in self._sources.items() if source not in self.nodes.peers]:
            del self._sources[trip_id]
            feed = self.hub.feeds.get(trip_id)
            if feed is not None:
                self._revisions.revise_all(feed.trip)

    def trip_gone(self, trip_id: str) -> None:
        """The trip was removed."""
        self.recent.forget_trip(trip_id)
        self.uncommitted.forget_trip(trip_id)

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed. Nothing of them is shown any more."""
        numbers = list(vehicles)
        self.recent.forget_vehicles(numbers)
        self.uncommitted.forget_vehicles(numbers)
        for number in numbers:
            self._removed[number] = None
        while len(self._removed) > MOST_REMOVED:
            del self._removed[next(iter(self._removed))]
