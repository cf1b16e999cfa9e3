"""The composition root: settings in, an ASGI application out."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator

import asyncpg
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tracking.api import (
    events,
    fleet_vehicles,
    fleets,
    geofences,
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
from tracking.auth import Auth
from tracking.config import Settings, require_database, require_key
from tracking.errors import Refusal, StoreUnavailable
from tracking.metrics import FLEET_TICK_SECONDS
from tracking.model import Clock, system_clock
from tracking.service import Service, assemble
from tracking.sockets.dispatcher import dispatcher_endpoint
from tracking.sockets.driver import driver_endpoint
from tracking.sockets.passenger import passenger_endpoint
from tracking.store import shares as share_store
from tracking.store.positions import DAY_MS

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
"""How long a hub that goes down tries to store what it has taken. What it can't is on the devices, unacknowledged."""
PATIENCE_SECONDS = 3.0
"""How long a start waits for the database before it goes on without."""
DAYS_AHEAD = 3
HOUSEKEEPING_SECONDS = 3600.0
FLEET_TICK = 0.25
"""Seconds."""
TICKS_OF_RECOUNT = 4


def create_app(settings: Settings, *, clock: Clock = system_clock) -> Starlette:
    """The hub as an ASGI application. Raises `ConfigError` where it can't be served with these settings."""
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
                        *tracks.routes,
                        *history.routes,
                        *shares.routes,
                        *vehicles.routes,
                        *trips.routes,
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
        middleware=[Middleware(_Below, prefix=settings.prefix)] if settings.prefix else [],
        lifespan=_lifespan,
    )
    # A redirect would send them to whatever the request's Host says.
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class _Below:
    """Takes the public address's path off a request's, where the proxy left it on."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            # Nobody below asks for `raw_path`.
            scope = {**scope, "path": path[len(self._prefix) :] or "/"}
        await self._app(scope, receive, send)


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    service: Service = app.state.service
    databases = (service.database, service.recording, service.exports, service.housekeeping)
    for database in databases:
        await database.open()
    with contextlib.suppress(StoreUnavailable, TimeoutError):
        # At once, so that the first who knocks is let in; while the database is away, the task below goes on asking.
        await asyncio.wait_for(_read_revoked(service), PATIENCE_SECONDS)
    tasks = [
        asyncio.create_task(work, name=name)
        for name, work in {
            "recorder": service.recorder.run(),
            "latest positions": service.latest.run(),
            "revisions": service.revisions.run(),
            "history": service.history.run(),
            "tick": _tick(service),
            "fleet tick": _fleet_tick(service),
            "watch": service.watch.run(),
            "events": service.watch.deliver(),
            "revoked tokens": _learn_revoked(service),
            "partitions": _make_partitions(service),
        }.items()
    ]
    for task in tasks:
        task.add_done_callback(_go_down_with)
    try:
        yield
    finally:
        try:
            await asyncio.wait_for(service.recorder.flush(), FLUSH_SECONDS)
        except TimeoutError:
            logger.warning("going down with fixes not stored; they were not acknowledged, so their devices keep them")
        else:
            with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
                await service.latest.flush()
            try:
                await asyncio.wait_for(service.watch.flush(), FLUSH_SECONDS)
            except TimeoutError:
                logger.warning("going down with events not stored: they are lost")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for database in databases:
            await database.close()


def _go_down_with(task: asyncio.Task[None]) -> None:
    """A hub without its recorder would take fixes and never acknowledge one: better none, and started anew."""
    if not task.cancelled() and task.exception() is not None:
        logger.critical("the %s failed, so the hub goes down", task.get_name(), exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


async def _tick(service: Service) -> None:
    while True:
        await asyncio.sleep(service.settings.tick_interval)
        service.hub.tick()


async def _fleet_tick(service: Service) -> None:
    """By the loop's clock, so that work between two ticks does not put the next one off."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    count = 0
    while True:
        due = max(due + FLEET_TICK, loop.time())
        await asyncio.sleep(due - loop.time())
        count += 1
        began = time.thread_time()
        service.hub.fleets.tick()
        if count % TICKS_OF_RECOUNT == 0:
            service.hub.fleets.recount()
        FLEET_TICK_SECONDS.observe(time.thread_time() - began)


async def _learn_revoked(service: Service) -> None:
    """Reads the revoked tokens as soon as the database answers."""
    await _until_stored(_read_revoked, service)


async def _read_revoked(service: Service) -> None:
    async with service.database.connection() as connection:
        stored = await share_store.revoked_tokens(connection)
    # Read only now: what was revoked in the meantime is in it, and may not be in what we read.
    service.auth.revoked = (service.auth.revoked or set()) | stored


async def _make_partitions(service: Service) -> None:
    """Makes the partitions of the days to come, at start and then every hour."""

    async def ahead(service: Service) -> None:
        today = service.clock() // DAY_MS
        await service.recorder.make_partitions(set(range(today - 1, today + DAYS_AHEAD + 1)))

    while True:
        await _until_stored(ahead, service)
        await asyncio.sleep(HOUSEKEEPING_SECONDS)


async def _until_stored(work: http.ServiceWork, service: Service) -> None:
    while True:
        try:
            await work(service)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
            await asyncio.sleep(1)
        else:
            return
