"""The composition root: settings in, an ASGI application out."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tracking.api import (
    audit,
    changes,
    events,
    fleet_vehicles,
    fleets,
    geofences,
    headers,
    health,
    history,
    http,
    pages,
    shares,
    tokens,
    tracks,
    trips,
    vehicles,
)
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.config import Settings, require_database, require_key
from tracking.errors import Refusal, StoreUnavailable, StoreWentBack
from tracking.keys import Key
from tracking.life import Life, go_down_with
from tracking.metrics import WENT_BACK
from tracking.model import Clock, system_clock
from tracking.sockets.connection import start
from tracking.sockets.dispatcher import dispatcher_endpoint
from tracking.sockets.driver import driver_endpoint
from tracking.sockets.passenger import passenger_endpoint

logger = logging.getLogger(__name__)

BETWEEN_LIVES_SECONDS = 1.0
"""The least time between two services. If two databases answer by turns, clients are sent away no more often than this."""


def create_app(settings: Settings, *, clock: Clock = system_clock) -> Starlette:
    """The hub as an ASGI application. Raises `ConfigError` if these settings do not allow it."""
    require_key(settings)
    service = assemble(settings, require_database(settings), Auth(settings, clock), clock)
    app = Starlette(
        routes=[
            WebSocketRoute("/v1/driver", driver_endpoint),
            WebSocketRoute("/v1/trips/{trip_id}/live", passenger_endpoint),
            WebSocketRoute("/v1/fleets/{fleet_id}/live", dispatcher_endpoint),
            Mount(
                "/v1",
                app=Router(
                    [
                        *tokens.routes,
                        *fleets.routes,
                        *fleet_vehicles.routes,
                        *geofences.routes,
                        *events.routes,
                        *changes.routes,
                        *tracks.routes,
                        *history.routes,
                        *shares.routes,
                        *vehicles.routes,
                        *trips.routes,
                        *audit.routes,
                    ],
                    redirect_slashes=False,
                ),
            ),
            *health.routes,
            *pages.routes,
        ],
        exception_handlers={
            Refusal: http.on_refusal,
            StoreUnavailable: http.on_store_unavailable,
            HTTPException: http.on_http_exception,
            Exception: http.on_fault,
        },
        middleware=[
            Middleware(headers.Headers, settings=settings),
            *([Middleware(_Below, prefix=settings.prefix)] if settings.prefix else []),
        ],
        lifespan=_lifespan,
    )
    # A redirect would lead to the host that the request's `Host` header names.
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class _Below:
    """Removes the path of the public address from a request's path, if the proxy left it there."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            # `raw_path` stays, because nothing below reads it.
            scope = {**scope, "path": path[len(self._prefix) :] or "/"}
        await self._app(scope, receive, send)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    life = Life(app.state.service)
    await life.begin()

    async def begin_anew_whenever_the_store_went_back() -> None:
        nonlocal life
        while True:
            old = life
            await old.service.marks.went_back.wait()
            WENT_BACK.inc()
            old.service.recorder.give_up(StoreWentBack("the store went back, and what waits is not stored: send it again"))
            logger.critical("the database lacks what this hub saw committed: all clients are sent away, all is read again")
            known = old.service
            url = require_database(known.settings)
            known.nodes.silence()
            last_event, registry = known.events.last_event, known.registry
            life = Life(assemble(known.settings, url, known.auth, known.clock, last_event=last_event, registry=registry))
            await life.begin()
            app.state.service = life.service
            await old.give_up()
            # What clients did remains true, whichever database it was to be written to.
            life.service.audit.take_over(known.audit)
            await asyncio.sleep(BETWEEN_LIVES_SECONDS)

    tasks = [asyncio.create_task(begin_anew_whenever_the_store_went_back(), name="renewal")]
    keys = life.service.auth.keys
    if keys is not None:

        def refuse(removed: Collection[Key]) -> None:
            life.service.change_feed.refuse(removed)
            start(life.service.hub.links.refuse(removed))

        keys.on_removed = refuse
        tasks.append(asyncio.create_task(keys.run(), name="keys"))
    for task in tasks:
        task.add_done_callback(go_down_with)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await life.end()
