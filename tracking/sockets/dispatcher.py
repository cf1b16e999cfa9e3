"""`/v1/fleets/{fleet_id}/live`: a fleet, live: the vehicles of a dispatcher's viewport, and all events of the fleet."""

import asyncio

from starlette.websockets import WebSocket

from tracking.audit import Kind, Span
from tracking.auth import Principal, may_manage_fleet
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed
from tracking.live.fleet import FleetFeed
from tracking.live.shown_vehicle import FleetViewport
from tracking.live.viewport import Unlimited
from tracking.metrics import DISPATCHERS
from tracking.monitor.loader import WAIT_SECONDS
from tracking.protocol.dispatcher import decode_dispatcher
from tracking.protocol.shared import TextMessage
from tracking.service import Service
from tracking.sockets.connection import Connection, admit, not_yours


async def dispatcher_endpoint(websocket: WebSocket) -> None:
    service: Service = websocket.app.state.service
    principal = await admit(websocket, service)
    if principal is not None:
        await DispatcherConnection(websocket, service, principal, websocket.path_params["fleet_id"]).run()


class DispatcherConnection(Connection):
    """One dispatcher's screen."""

    __slots__ = ("_feed", "_fleet_id", "_turn", "_viewport", "_watch")

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal, fleet_id: str) -> None:
        super().__init__(websocket, service, principal)
        self._fleet_id = fleet_id
        self._feed: FleetFeed | None = None
        self._watch: Span | None = None
        self._viewport = FleetViewport(self.queue, self)

    async def opened(self) -> None:
        if not may_manage_fleet(self.principal, self._fleet_id):
            raise not_yours()
        try:
            feed = await asyncio.wait_for(self.service.loader.load(self._fleet_id), WAIT_SECONDS)
        except TimeoutError:
            raise SocketClosed(CloseCode.OVERLOADED) from None
        if feed is None:
            raise not_yours()
        self._feed = feed
        feed.queues.add(self.queue)
        self._turn = self.service.hub.dispatchers.join(self.queue)
        self._watch = self.service.audit.began(self.doer(), Kind.FLEET, self._fleet_id)
        DISPATCHERS.inc()

    def left(self) -> None:
        if self._feed is not None:
            self._feed.queues.discard(self.queue)
            self._turn.discard(self.queue)
            self._feed.screens.forget(self._viewport)
            DISPATCHERS.dec()
        # The viewport refers to this connection as its allowance. Such a circle would stay in memory.
        self._viewport.allowance = Unlimited()
        if self._watch is not None:
            self.service.audit.left(self._watch)

    def received(self, data: bytes) -> None:
        try:
            # A map that is dragged sends its viewport many times a second. Past this budget it is no dispatcher's page.
            self.service.budgets.frames.spend(self.principal.jti, self.principal.role)
        except Refusal:
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS) from None
        message = decode_dispatcher(data)
        if isinstance(message, TextMessage):
            self._post(message)
        elif self._feed is not None:
            self._feed.screens.look(self._viewport, message.bounds, message.zoom)

    def writable(self) -> None:
        super().writable()
        if self._feed is not None and self._viewport.coming is not None and not self.queue.blocked:
            self._feed.screens.go_on(self._viewport)

    # --- the budget of its viewport -----------------------------------------------------------------------------------

    def has_room(self) -> bool:
        return self.service.budgets.looks.has_room(self.principal.jti, self.principal.role)

    def spend(self, amount: int) -> None:
        self.service.budgets.looks.owe(self.principal.jti, self.principal.role, amount)

    def _post(self, message: TextMessage) -> None:
        async def post() -> None:
            if not isinstance(message.trip_id, str):
                raise Refusal(ErrorCode.BAD_FIELD, "`trip_id` is missing: say which trip you write to", field="trip_id")
            await self.service.messages.from_dispatcher(
                self.principal, self._fleet_id, message.trip_id, message.client_id, message.text
            )

        self.ask(lambda: self.answer(message.client_id, post))
