"""The homes of vehicles that are here: how they come here, and how they are lost.

    hello -> former home asked (200 ms) -> claim: one transaction for many -> what the former home knew, or the store

A home is lost in three ways. Another hub asks for it (`hand_over_answers`), the recorder's `move` finds another term, or the
homes are read anew. Then nothing of the vehicle is taken, shown or stored here any more.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Final, Protocol

import asyncpg

from tracking.cluster import hand_over
from tracking.cluster.claims import Claims, Known
from tracking.cluster.hand_over import State
from tracking.cluster.sliced_work import Slice
from tracking.errors import CloseCode, HomeLost, StoreUnavailable
from tracking.ingest.recorder import Recorder
from tracking.ingest.vehicles import Home, IngestVehicle, IngestVehicles, Session
from tracking.live.fleet import LiveVehicle
from tracking.live.hub import Hub
from tracking.live.recent import SPAN_MS
from tracking.metrics import HAND_OVERS, HOME_CLAIMS, HOMES, HOMES_LOST
from tracking.model import Clock, Position, Trip
from tracking.monitor.events import Emitted
from tracking.monitor.monitor import Monitor
from tracking.nodes.messages import HandOverAsk
from tracking.nodes.nodes import Nodes
from tracking.store import homes
from tracking.store.homes import Claimed
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 0.2
"""How long a claim waits for the former home."""
STOOD_STILL_MS: Final = 3_000
"""A hub whose event loop stood still for so long may be taken for dead by the others."""
LOOK_SECONDS: Final = 0.5
COUNTED_EVERY: Final = 10
"""Looks after which the homes are counted."""
AWAY_SECONDS: Final = 5.0
"""How often the homes are read anew while the broker is away, so that nobody can ask for them."""
FLOOR_MS: Final = 10_000
"""How far another hub's clock may be ahead. A vehicle's `server_time` stands still for no longer."""
AT_ONCE: Final = 1_000
"""Homes that are read in one query, and compared in one step of the event loop: some 2 ms."""


class Waiting(Protocol):
    """A driver's connection that may take nothing before the homes were read."""

    def go_on(self) -> None: ...


class Recent(Protocol):
    """Keeps the last minute of trips under way: `live.recent`. Vehicles are given by their numbers."""

    def handed_over(self, vehicle: int) -> bytes:
        """What is kept of the vehicle, for its new home. It is forgotten here."""
        ...

    def take_up(self, vehicle: int, handed_over: bytes) -> None:
        """Continues with what the former home handed over."""
        ...

    def begins_here(self, vehicle: int, instant: int) -> None:
        """From now on the vehicle's positions come to this hub. From `instant` on none came to another one."""
        ...

    def forget_vehicles(self, numbers: Iterable[int]) -> None:
        """These vehicles have another home now, or drove where this hub did not see it."""
        ...


class Homes:
    """`open_session` makes this hub the home. `run` keeps watch until it is cancelled."""

    def __init__(
        self,
        database: Database,
        ingest_vehicles: IngestVehicles,
        hub: Hub,
        recorder: Recorder,
        monitor: Monitor,
        nodes: Nodes,
        clock: Clock,
        forget: Callable[[set[int]], None],
    ) -> None:
        """`forget` drops what else is kept of vehicles, by their numbers, for work that only their home may do."""
        self._ingest_vehicles = ingest_vehicles
        self._hub = hub
        self._recorder = recorder
        self._monitor = monitor
        self._nodes = nodes
        self._clock = clock
        self._forget = forget
        self.recent: Recent | None = None
        self.revise: Callable[[Trip], None] = lambda _: None
        """Reads the line of a trip again, if it is watched here. The former home may have stored what was not shown here."""
        self.others_registered: Callable[[], bool] = lambda: True
        """Whether another hub is registered in the database. Asked while the broker is away."""
        self.loop_ran_at: float = inf
        """The instant (ms) at which the event loop was last known to run. `STOOD_STILL_MS` later nothing may be taken.

        Without a broker it lies in the future for ever: no other hub may run.
        """
        self._possibly_moved: set[int] = set()
        """Vehicles that may have driven elsewhere, though the store says that their home was here: a claim was broken off, or a
        hub that asked for them never came."""
        self._waiting: list[Waiting] = []
        self._reading: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._read_at = -inf
        self._claims = Claims(database, nodes.node.node)
        recorder.on_lost = self._refused
        if nodes.enabled:
            monitor.finds_events_of = lambda live: self.is_here(live.number)
        recorder.latest.term_of = monitor.events.term_of = self.term_of

    def term_of(self, vehicle: int) -> int | None:
        """The term of a vehicle, by its number, if its home is here."""
        known = self._ingest_vehicles.by_number.get(vehicle)
        return known.home.term if known is not None and known.home is not None else None

    def is_here(self, vehicle: int) -> bool:
        """Whether this hub is the home of the vehicle, by its number, as far as it knows."""
        return (known := self._ingest_vehicles.by_number.get(vehicle)) is not None and known.home is not None

    # --- claims -------------------------------------------------------------------------------------------------------

    async def open_session(self, vehicle: IngestVehicle, name: str) -> Session | None:
        """The vehicle's session of this name; None if the vehicle was removed. This hub is its home from now on.

        Raises `HomeLost` if another hub took it over meanwhile, and `StoreUnavailable`.
        """
        if vehicle.home is not None:
            if vehicle.home.lost:
                raise HomeLost("another hub has become this vehicle's home: come back")
            if (known := vehicle.sessions.get(name)) is not None:
                return known
        if vehicle.claiming is None:
            vehicle.claiming = asyncio.Lock()
        async with vehicle.claiming:
            if vehicle.home is None:
                session = await self._claim(vehicle, name)
            else:
                session = vehicle.sessions.get(name) or await self._open(vehicle, vehicle.home, name)
        if session is not None:
            if session.home.lost:
                raise HomeLost("another hub has become this vehicle's home: come back")
            for other in [s for s in vehicle.sessions.values() if s is not session and s.receiver is None]:
                if other.seen == other.handled and other.shown <= other.handled:
                    del vehicle.sessions[other.name]
        return session

    async def _open(self, vehicle: IngestVehicle, home: Home, name: str) -> Session | None:
        opened = await self._claims.open(vehicle.number, name, home.term)
        if opened is None:
            return None
        number, handled = opened
        if not number:
            await self._read(vehicle.number)
            raise HomeLost("another hub has become this vehicle's home: come back")
        return vehicle.sessions.setdefault(name, Session(number, name, handled, home))

    async def _claim(self, vehicle: IngestVehicle, name: str) -> Session | None:
        told = await self._ask(vehicle, name) if self._nodes.enabled else None
        was_here = vehicle.number not in self._possibly_moved
        self._possibly_moved.add(vehicle.number)
        claimed = await self._claims.claim(vehicle.number, name)
        if claimed is None:
            return None
        former, floor = claimed.former, 0
        known: Known | None = None
        if told is not None and not _fits(told, vehicle, name, claimed):
            HAND_OVERS.labels("unfit").inc()
            told = None
        was_here = was_here and former is not None and former.node == self._nodes.node.node
        if (told is None or told.alerts is None) and self._nodes.enabled and former is not None and not was_here:
            # It may have driven on another hub since it was loaded here. A home whose fleet was not loaded knows no alerts.
            known = await self._claims.known(vehicle.number)
        # From here on nothing waits: the home and what is known of the vehicle come into force together.
        home = vehicle.home = Home(vehicle.number, claimed.term)
        session = vehicle.sessions[name] = Session(claimed.session, name, claimed.handled, home)
        if told is not None:
            floor = told.server_time
            self._take_up(vehicle, told, known)
        elif known is not None:
            floor = known.last.server_time if known.last is not None else 0
            self._go_on_from(vehicle, known)
        elif self.recent is not None:
            # It had no home, or this one.
            self.recent.begins_here(vehicle.number, 0)
        self._possibly_moved.discard(vehicle.number)
        vehicle.floor = min(floor, self._clock() + FLOOR_MS)
        if former is not None and former.node != self._nodes.node.node:
            self._ingest_vehicles.taken_over(vehicle)
        HOME_CLAIMS.inc()
        return session

    async def _ask(self, vehicle: IngestVehicle, name: str) -> State | None:
        """What the former home tells, if it is alive and answers in time."""
        row = await self._claims.row(vehicle.number)
        if row is None or row.node == self._nodes.node.node or row.node not in self._nodes.peers:
            return None
        ask = HandOverAsk(0, vehicle.number, vehicle.vehicle_id, name)
        answer = await self._nodes.ask(row.node, ask, ASK_SECONDS)
        state = hand_over.decode(answer.state) if answer is not None and answer.state else None
        outcome = "timed_out" if answer is None else "empty" if not answer.state else "unread" if state is None else "taken_up"
        HAND_OVERS.labels(outcome).inc()
        return state

    # --- what is known of a vehicle that comes here -------------------------------------------------------------------

    def _take_up(self, vehicle: IngestVehicle, told: State, known: Known | None) -> None:
        hand_over.take_up(vehicle, told)
        live = self._hub.fleets.vehicles.get(vehicle.vehicle_id)
        if live is not None:
            self._hub.fleets.set_clock_skew(vehicle.vehicle_id, vehicle.clock.skew if vehicle.clock is not None else 0)
            newest = told.newest
            if newest is not None and newest.fix_time - live.clock_skew >= live.joined_at:
                live.feed.moved(live, newest)
            alerts = hand_over.alerts_of(told, live)
            if alerts is not None:
                self._monitor.go_on_with(live, alerts)
                self._monitor.judge_again(live, told.moves)
            elif known is not None:
                self._judge_again(live, known, told.moves)
            live.feed.note(live)  # The former home may not have told other hubs of its last position.
            for event in told.events:
                self._monitor.events.add(Emitted(live.feed, told.fleet_id, live, vehicle.number, event))
        if self.recent is not None and told.recent:
            self.recent.take_up(vehicle.number, told.recent)

    def _go_on_from(self, vehicle: IngestVehicle, known: Known) -> None:
        if vehicle.trip is not None:
            self.revise(vehicle.trip)
        if known.last is not None:
            vehicle.go_on_from(known.last)
        if self.recent is not None:
            self.recent.forget_vehicles((vehicle.number,))
            self.recent.begins_here(vehicle.number, self._alone_since(known))
        live = self._hub.fleets.vehicles.get(vehicle.vehicle_id)
        if live is None:
            return
        self._judge_again(live, known)

    def _judge_again(self, live: LiveVehicle, known: Known, others: Sequence[Position] = ()) -> None:
        # Its silence begins now: there was no hub to hear it.
        known.alerts.heard = self._clock()
        self._monitor.go_on_with(live, known.alerts)
        newest = known.moves[-1].fix_time if known.moves else 0
        self._monitor.judge_again(live, [*known.moves, *(move for move in others if move.fix_time > newest)])

    def _alone_since(self, known: Known) -> int:
        """The instant from which on no other hub took anything of the vehicle. What it did not store comes again."""
        now = self._clock()
        if known.last is None:
            return 0
        # A former home may have taken late fixes after the newest one. After a minute nobody asks for them.
        return known.last.server_time + 1 if now - known.last.server_time > SPAN_MS else now

    # --- losses -------------------------------------------------------------------------------------------------------

    def lose(self, home: Home, code: CloseCode, why: str) -> None:
        """Another hub has the home. Nothing of the vehicle is taken, shown or stored here any more, from this step on."""
        if home.lost:
            return
        home.lost = True
        HOMES_LOST.labels(why).inc()
        self._possibly_moved.add(home.vehicle)
        vehicle = self._ingest_vehicles.by_number.get(home.vehicle)
        if vehicle is None or vehicle.home is not home:
            self._recorder.queue.drop_lost()
            return
        self._recorder.drop(vehicle.sessions.values())
        driver = self._hub.drivers.get(vehicle.vehicle_id)
        if driver is not None and driver.number == vehicle.number:
            # A connection that has said nothing yet may be the one that took the home: it comes back.
            driver.close(code if driver.said is not None else CloseCode.GOING_DOWN)
        self._ingest_vehicles.forget(vehicle.vehicle_id)
        self._forget({vehicle.number})
        if self.recent is not None:
            self.recent.forget_vehicles((vehicle.number,))
        live = self._hub.fleets.vehicles.get(vehicle.vehicle_id)
        if live is not None:
            # No move of it may be left to be judged: it may come back at once, with another state.
            self._monitor.look_at(live)
            self._monitor.events.take_back(live)
            self._monitor.states.forget(live)
            self._monitor.elsewhere.left(live)
            self._hub.fleets.take_waiting(live)

    def _refused(self, lost: Mapping[Home, homes.Home | None]) -> None:
        for home, row in lost.items():
            self.lose(home, self._code(home, row), "term")

    def _code(self, home: Home, row: homes.Home | None) -> CloseCode:
        """How the driver's connection ends: 4409 if another device has replaced it, and 1012 in all other cases."""
        vehicle = self._ingest_vehicles.by_number.get(home.vehicle)
        driver = self._hub.drivers.get(vehicle.vehicle_id) if vehicle is not None else None
        if row is None or row.term <= home.term or driver is None or driver.said == row.session:
            return CloseCode.GOING_DOWN
        return CloseCode.REPLACED

    # --- standing still -----------------------------------------------------------------------------------------------

    def wait(self, waiting: Waiting) -> None:
        """Reads the homes anew, and calls `go_on` then. To be called when the event loop has stood still."""
        self._waiting.append(waiting)
        self._begin_reading()

    def _begin_reading(self) -> None:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_until_done(), name="reading the homes anew")

    async def _read_until_done(self) -> None:
        try:
            while True:
                began = self._clock()
                try:
                    await self.read_anew()
                except (StoreUnavailable, asyncpg.PostgresError) as error:
                    logger.warning("the event loop stood still, and the homes can't be read: %s", error)
                    await asyncio.sleep(LOOK_SECONDS)
                else:
                    if self._clock() - began < STOOD_STILL_MS:
                        break
        finally:
            self._reading = None
        self.loop_ran_at = self._clock()
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.go_on()

    async def read_anew(self) -> None:
        """Finds the homes that other hubs have taken. Raises `StoreUnavailable`."""
        mine = [vehicle.number for vehicle in self._ingest_vehicles.by_number.values() if vehicle.home is not None]
        for start in range(0, len(mine), AT_ONCE):
            await self._read(*mine[start : start + AT_ONCE])
        self._read_at = asyncio.get_running_loop().time()

    async def _read(self, *vehicles: int) -> None:
        asked = [known.home for number in vehicles if (known := self._ingest_vehicles.by_number.get(number)) and known.home]
        rows, part = await self._claims.rows([home.vehicle for home in asked]), Slice()
        for home in asked:
            row = rows.get(home.vehicle)
            if row is None or row.term != home.term:
                self.lose(home, self._code(home, row), "read")
                await part.rest()

    async def run(self) -> None:
        if self._nodes.enabled:
            self.loop_ran_at = self._clock()
        try:
            for count in itertools.count():
                if count % COUNTED_EVERY == 0:
                    HOMES.set(sum(vehicle.home is not None for vehicle in self._ingest_vehicles.by_number.values()))
                await asyncio.sleep(LOOK_SECONDS)
                if self._nodes.enabled:
                    self._look()
        finally:
            for task in (self._reading, self._checking):
                if task is not None:
                    task.cancel()

    def _look(self) -> None:
        now = self._clock()
        if not 0 <= now - self.loop_ran_at < STOOD_STILL_MS:
            self._begin_reading()
        elif self._reading is None:
            self.loop_ran_at = now
            since = asyncio.get_running_loop().time() - self._read_at
            if not self._nodes.connected and since >= AWAY_SECONDS and self.others_registered() and self._checking is None:
                self._checking = asyncio.create_task(self._check(), name="checking the homes without the broker")

    async def _check(self) -> None:
        """Reads the homes, if the database answers. Nothing waits for it: the live map needs neither broker nor database."""
        try:
            await self.read_anew()
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            logger.warning("the broker is away, and the homes can't be read: %s", error)
        finally:
            self._checking = None


def _fits(told: State, vehicle: IngestVehicle, name: str, claimed: Claimed) -> bool:
    """Whether nobody had the home between the hub that told this and us, and nothing was stored that it did not know."""
    if (told.vehicle, told.vehicle_id) != (vehicle.number, vehicle.vehicle_id):
        return False
    former = claimed.former
    if former is None or former.term != told.term or claimed.term != told.term + 1:
        return False
    return all(claimed.handled <= session.shown for session in told.sessions if session.name == name)
