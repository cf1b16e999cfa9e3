"""The life of a service: its pools and tasks, from the opening to the end."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterable
from itertools import chain
from typing import Any

import asyncpg

from tracking import lag
from tracking.api import http
from tracking.auth import expiry_in
from tracking.errors import StoreUnavailable
from tracking.live.hub import BEATS, STEPS
from tracking.live.viewport import SLICE_SECONDS
from tracking.metrics import FLEET_TICK_SECONDS
from tracking.service import Service
from tracking.store import shares as share_store
from tracking.store.days import DAY_MS
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

LATEST_SECONDS = 3.0
"""How long a hub that stops tries to write the latest positions. They could also be read from the stored ones."""
END_SECONDS = 2.0
"""How long its tasks may take to end, and then its pools."""
CANCEL_SECONDS = 1.0
"""How long a cancelled step may take to end."""
RECORDER, EVENTS, AUDIT, NODES = "recorder", "events", "audit", "nodes"
"""Tasks that the shutdown waits for."""
HEARTBEAT = "heartbeat of the change log"
PATIENCE_SECONDS = 3.0
"""How long a start waits for the database before it continues without it."""
DAYS_AHEAD = 3
HOUSEKEEPING_SECONDS = 3600.0
RETRY_SECONDS = 1.0
FLEET_TICK = 0.25
"""Seconds."""
TICKS_OF_RECOUNT = 4
failed: set[str] = set()
"""Tasks that failed in this process. It goes down at once."""
CHECK_SECONDS = 1.0
"""How long it may take to notice a database that went back while nothing is written."""


class Life:
    """A service with its tasks, from the opening of its pools to their closing."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def _databases(self) -> tuple[Database, ...]:
        service = self.service
        return (
            service.database,
            service.recording,
            service.exports,
            service.following,
            service.housekeeping,
            service.summing,
        )

    async def begin(self) -> None:
        service = self.service
        for database in self._databases:
            await database.open()
        if service.auth.revoked is None:
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                # Read before serving, so that the first client is not refused. If the database is away, a task tries again.
                await asyncio.wait_for(_read_revoked(service), PATIENCE_SECONDS)
        self._tasks = {
            name: asyncio.create_task(work, name=name)
            for name, work in {
                RECORDER: service.recorder.run(),
                "follower": service.follower.run(),
                "notifications": service.follower.listen(),
                "upkeep of the change log": service.change_upkeep.run(),
                HEARTBEAT: service.follower.beat(service.leases.job(HEARTBEAT)),
                "latest positions": service.latest.run(),
                "revisions": service.revisions.run(),
                "refiling": service.refiling.run(),
                "homes": service.homes.run(),
                "cut off": service.safeguards.cut_off.run(),
                "feed from the store": service.safeguards.store_feed.run(),
                "erasures by other hubs": service.safeguards.remote_erasures.run(),
                "vehicles of other hubs": service.safeguards.remote_vehicles.run(),
                "shedding": service.safeguards.shedding.run(),
                "summaries": service.summaries.run(),
                "erasures": service.erasures.run(),
                "retention": service.retention.run(),
                "sums": service.sums.run(),
                "beat": _beat(service),
                "lag": lag.measure(service.settings.lag_interval),
                "fleet tick": _fleet_tick(service),
                "monitor": service.monitor.run(),
                "fleets": service.loader.run(),
                "silences": service.silences.run(),
                EVENTS: service.events.deliver(),
                AUDIT: service.audit.run(),
                "revoked tokens": _learn_revoked(service),
                "housekeeping": _keep_house(service),
                "marks": _check_marks(service),
                NODES: service.nodes.run(),
                "trips across hubs": _across_hubs(service),
                "fleets across hubs": _fleets_across_hubs(service),
            }.items()
        }
        for task in self._tasks.values():
            task.add_done_callback(go_down_with)

    async def end(self) -> None:
        """Stores what was accepted, as far as possible. Every step is tried, even if another failed.

        It takes at most the setting `stop_timeout`, `LATEST_SECONDS` and four times `END_SECONDS`, and a second more for each.
        By then nobody is connected.
        """
        service = self.service
        seconds = service.settings.stop_timeout
        await asyncio.gather(
            # What is not stored was not acknowledged, so the devices still have it.
            _step("storing the fixes", seconds, service.recorder.flush(), by=self._tasks.get(RECORDER)),
            # These exist only here.
            _step("storing the events", seconds, service.monitor.flush(), by=self._tasks.get(EVENTS)),
        )
        seconds = min(seconds, LATEST_SECONDS)
        await asyncio.gather(
            _step("writing the latest positions", seconds, service.latest.flush()),
            # The ends of watches. Without them the next hub only knows that they ended before it started.
            _step("writing the audit", seconds, service.audit.flush(), by=self._tasks.get(AUDIT)),
        )
        if service.nodes.enabled:
            await _step("giving up the jobs", END_SECONDS, service.leases.release())
            await _step("leaving the other hubs", END_SECONDS, service.nodes.leave(), by=self._tasks.get(NODES))
        await self._stop()

    async def give_up(self) -> None:
        """Stores nothing: what is in memory belongs to another database. Devices send again what was not acknowledged."""
        self.service.change_feed.close()
        await _step("sending everybody away", END_SECONDS, self.service.hub.send_all_away())
        await self._stop()

    async def _stop(self) -> None:
        self.service.recorder.give_up(StoreUnavailable("the hub goes down, and what waits is not stored: send it again"))
        for task in self._tasks.values():
            task.cancel()
        await _step("ending the tasks", END_SECONDS, _ended(self._tasks.values()))
        await asyncio.gather(*(_step("closing a pool", END_SECONDS, database.close()) for database in self._databases))


async def _step(name: str, seconds: float, work: Coroutine[Any, Any, None], *, by: asyncio.Task[None] | None = None) -> None:
    """Carries out one step of the shutdown and logs how it ended. Raises nothing, and returns when the time is over.

    `by` is the task that does what `work` waits for. If it has ended, there is nothing to wait for.
    """
    began = time.monotonic()
    task = asyncio.create_task(work, name=name)
    awaited = {task} if by is None else {task, by}
    await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        # Its cleanup may hang as well.
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        why = f"the task {by.get_name()} has ended" if by is not None and by.done() else f"it takes more than {seconds:g} s"
        logger.warning("going down: gave up %s: %s", name, why)
    elif task.cancelled():
        logger.warning("going down: %s was cancelled", name)
    elif (error := task.exception()) is not None:
        known = isinstance(error, StoreUnavailable | asyncpg.PostgresError)
        logger.warning("going down: %s failed: %s", name, error, exc_info=None if known else error)
    else:
        logger.info("going down: %s took %.2f s", name, time.monotonic() - began)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


def go_down_with(task: asyncio.Task[None]) -> None:
    """Ends the hub if a task fails. Without its recorder, for example, it would accept fixes and never acknowledge them."""
    if not task.cancelled() and task.exception() is not None:
        failed.add(task.get_name())
        logger.critical("the %s failed, so the hub goes down", task.get_name(), exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


async def _beat(service: Service) -> None:
    while True:
        await asyncio.sleep(service.settings.tick_interval / (BEATS * STEPS))
        service.hub.beat()
        service.lines.let_go()


async def _fleet_tick(service: Service) -> None:
    """Ticks by the loop's clock, so that work between two ticks does not delay the next one."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    count = 0
    while True:
        due = max(due + FLEET_TICK, loop.time())
        await asyncio.sleep(due - loop.time())
        count += 1
        fleets, spent, began, slice_began = service.hub.fleets, 0.0, time.thread_time(), time.perf_counter()
        for _ in chain(fleets.ticking(), fleets.recounting() if count % TICKS_OF_RECOUNT == 0 else ()):
            if time.perf_counter() - slice_began > SLICE_SECONDS:
                spent += time.thread_time() - began
                await asyncio.sleep(0)
                began, slice_began = time.thread_time(), time.perf_counter()
        FLEET_TICK_SECONDS.observe(spent + time.thread_time() - began)


async def _learn_revoked(service: Service) -> None:
    """Reads the revoked tokens as soon as the database answers."""
    await _until_stored(_read_revoked, service)


async def _read_revoked(service: Service) -> None:
    # The change log tells what is revoked from now on.
    await service.follower.begin()
    async with service.database.transaction() as connection:
        if service.auth.revoked:
            # A database that went back must not admit revoked tokens again.
            lost = {jti: expiry_in(jti) for jti in service.auth.revoked}
            await share_store.revoke_tokens(connection, lost, service.clock())
        stored = await share_store.revoked_tokens(connection)
    service.auth.know_revoked(stored)


async def _across_hubs(service: Service) -> None:
    if service.across_hubs is None:
        return

    async def follow(service: Service) -> None:
        await service.follower.begin()

    await _until_stored(follow, service)
    await service.across_hubs.trips.run()


async def _fleets_across_hubs(service: Service) -> None:
    if service.safeguards.fleets is not None:
        await service.safeguards.fleets.run()


async def _keep_house(service: Service) -> None:
    """Makes the partitions of the next days, at start and every hour. Every hour it also removes what is no longer used."""

    async def ahead(service: Service) -> None:
        today = service.clock() // DAY_MS
        await service.recorder.make_partitions(set(range(today - 1, today + DAYS_AHEAD + 1)))

    while True:
        await _until_stored(ahead, service)
        # At start there is nothing to remove. The audit must not write before it has ended what the previous hub left open.
        await asyncio.sleep(HOUSEKEEPING_SECONDS)
        await let_go(service)


async def let_go(service: Service) -> None:
    """Removes vehicles without a connection and past days from memory, and writes what waits for the audit."""
    service.ingest_vehicles.let_go(service.hub.drivers)
    service.recorder.forget_partitions()
    if service.settings.retention_days:
        service.hub.fleets.forget_places_before((service.clock() // DAY_MS - service.settings.retention_days) * DAY_MS)
    with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
        await service.audit.write()
        await _forget_revoked(service)


async def _forget_revoked(service: Service) -> None:
    """Forgets revoked tokens that the store does not have any more: another hub may have removed them.

    So a revoked token is not counted for ever, and not written back to a database that went back. Raises `StoreUnavailable`.
    """
    known = set(service.auth.revoked or ())
    async with service.database.transaction() as connection:
        stored = await share_store.revoked_tokens(connection)
    # What was revoked meanwhile is not in `known`.
    service.auth.forget(known - stored)


async def _check_marks(service: Service) -> None:
    """Notices a database that went back while nothing is written. `_lifespan` waits for that."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
            await service.database.check_marks()


async def _until_stored(work: http.ServiceWork, service: Service) -> None:
    while True:
        try:
            await work(service)
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            # The hub must not end for any of these errors.
            logger.warning("%s; trying again", error)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return
