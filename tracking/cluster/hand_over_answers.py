"""The former home's part of a hand-over: it answers a hub that is about to be the home of a vehicle.

It takes nothing more of the vehicle, and commits what waits for it. Then it tells what it knows, and forgets the vehicle. What
is not committed in time goes with the answer as verdicts: the device sends these fixes again, and they are not judged twice.
"""

import asyncio
import contextlib
from typing import Final

from tracking.cluster import hand_over
from tracking.cluster.hand_over import Live
from tracking.cluster.homes import Homes
from tracking.errors import CloseCode, StoreUnavailable
from tracking.ingest.recorder import Recorder
from tracking.ingest.vehicles import IngestVehicle, IngestVehicles
from tracking.live.hub import Hub
from tracking.metrics import HAND_OVERS
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.nodes.messages import MAX_BYTES, HandOver, HandOverAsk
from tracking.nodes.nodes import Nodes

COMMIT_SECONDS: Final = 0.12
"""How long the answer waits for a commit. The asker waits for 200 ms in all."""
MOST_BYTES: Final = MAX_BYTES - 4096
"""Of a state that is sent. A larger one is left out, and the store is enough."""


class HandOverAnswers:
    """Answers the asks of other hubs."""

    def __init__(
        self,
        ingest_vehicles: IngestVehicles,
        hub: Hub,
        recorder: Recorder,
        monitor: Monitor,
        homes: Homes,
        nodes: Nodes,
        clock: Clock,
    ) -> None:
        self._ingest_vehicles = ingest_vehicles
        self._hub = hub
        self._recorder = recorder
        self._monitor = monitor
        self._homes = homes
        self._nodes = nodes
        self._clock = clock
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """by the number of the vehicle"""
        nodes.listen(HandOverAsk, self._asked)

    def _asked(self, peer: str, ask: HandOverAsk) -> None:
        vehicle = self._ingest_vehicles.by_number.get(ask.vehicle)
        if vehicle is None or vehicle.home is None or vehicle.vehicle_id != ask.vehicle_id or ask.vehicle in self._tasks:
            self._nodes.tell(peer, HandOver(ask.ask, ask.vehicle))
            return
        driver = self._hub.drivers.get(vehicle.vehicle_id)
        if driver is not None and driver.number == vehicle.number:
            # Nothing more is read from it. A device that comes back by itself would take the home from another one.
            driver.close(CloseCode.GOING_DOWN if driver.said in (None, ask.session) else CloseCode.REPLACED)
        task = self._tasks[ask.vehicle] = asyncio.create_task(self._leave(peer, ask, vehicle), name="handing a vehicle over")
        task.add_done_callback(lambda _: self._tasks.pop(ask.vehicle, None))

    async def _leave(self, peer: str, ask: HandOverAsk, vehicle: IngestVehicle) -> None:
        await self._commit(vehicle)
        state = b""
        home = vehicle.home
        if home is not None and not home.lost:
            state = self._state_of(vehicle)
            self._homes.lose(home, CloseCode.GOING_DOWN, "handed_over")
            HAND_OVERS.labels("answered").inc()
        self._nodes.tell(peer, HandOver(ask.ask, ask.vehicle, state))

    async def _commit(self, vehicle: IngestVehicle) -> None:
        waiting = [session for session in vehicle.sessions.values() if session.seen > session.handled]
        if not waiting:
            return
        self._recorder.queue.hurry()
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(COMMIT_SECONDS):
                for session in waiting:
                    await self._recorder.handled(session, session.seen)

    def _state_of(self, vehicle: IngestVehicle) -> bytes:
        queue, recent = self._recorder.queue, self._homes.recent
        live = self._hub.fleets.vehicles.get(vehicle.vehicle_id)
        if live is not None:
            # Its moves until now are judged, so that no event is told twice or by nobody.
            self._monitor.look_at(live)
        known = Live(
            live,
            self._monitor.states.get(live) if live is not None else None,
            self._monitor.events.take_back(live) if live is not None else [],
            recent.handed_over(vehicle.number) if recent is not None else b"",
            self._hub.fleets.take_waiting(live) if live is not None else [],
        )
        state = hand_over.state_of(vehicle, (*queue.group, *queue.waiting), known, self._clock())
        for _ in range(2):
            data = hand_over.encode(state)
            if len(data) <= MOST_BYTES:
                return data
            state.recent = b""
        return b""
