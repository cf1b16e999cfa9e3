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
from starlette.routing import Mount, Router, WebSocketRoute

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
from tracking.metrics import FLEET_TICK_SECONDS, WENT_BACK
from tracking.model import Clock, system_clock
from tracking.service import Service, assemble
from tracking.sockets.dispatcher import dispatcher_endpoint
from tracking.sockets.driver import driver_endpoint
from tracking.sockets.passenger import passenger_endpoint
from tracking.store import shares as share_store
from tracking.store.pool import Database
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
CHECK_SECONDS = 1.0
"""How long it may take until a store that went back is noticed where nothing is written."""
BETWEEN_LIVES_SECONDS = 1.0
"""Where two databases answer by turns, everybody is sent away by no more than this."""


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
        lifespan=_lifespan,
    )
    # A redirect would send them to whatever the request's Host says.
    app.router.redirect_slashes = False
    app.state.service = service
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    life = _Life(app.state.service)
    await life.begin()

    async def begin_anew_whenever_the_store_went_back() -> None:
        nonlocal life
        while True:
            old = life
            await old.service.marks.went_back.wait()
            WENT_BACK.inc()
            logger.critical("the database lacks what this hub saw committed: everybody is sent away, and all is read anew")
            known = old.service
            url = require_database(known.settings)
            life = _Life(assemble(known.settings, url, known.auth, known.clock, last_event=known.watch.last_event))
            await life.begin()
            app.state.service = life.service
            await old.give_up()
            await asyncio.sleep(BETWEEN_LIVES_SECONDS)

    renewal = asyncio.create_task(begin_anew_whenever_the_store_went_back(), name="renewal")
    renewal.add_done_callback(_go_down_with)
    try:
        yield
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await life.end()


class _Life:
    """A service with the tasks that keep it going, from the opening of its pools to their closing."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def _databases(self) -> tuple[Database, ...]:
        service = self.service
        return service.database, service.recording, service.exports, service.housekeeping

    async def begin(self) -> None:
        service = self.service
        for database in self._databases:
            await database.open()
        if service.auth.revoked is None:
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                # At once, so that the first who knocks is let in; while the database is away, the task below goes on asking.
                await asyncio.wait_for(_read_revoked(service), PATIENCE_SECONDS)
        self._tasks = [
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
                "marks": _check_marks(service),
            }.items()
        ]
        for task in self._tasks:
            task.add_done_callback(_go_down_with)

    async def end(self) -> None:
        """Stores what is taken, as far as it can be stored."""
        service = self.service
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
        await self._stop()

    async def give_up(self) -> None:
        """Stores nothing: what is in memory is of another store. What was not acknowledged the devices send again."""
        await self.service.hub.send_all_away()
        await self._stop()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for database in self._databases:
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
    async with service.database.transaction() as connection:
        if service.auth.revoked:
            # A store that went back must not let those in again who were sent out.
            await share_store.revoke_tokens(connection, service.auth.revoked, service.clock())
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


async def _check_marks(service: Service) -> None:
    """Notices a store that went back though nothing is to be written. `_lifespan` waits for that."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
            await service.database.check_marks()


async def _until_stored(work: http.ServiceWork, service: Service) -> None:
    while True:
        try:
            await work(service)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
            await asyncio.sleep(1)
        else:
            return
