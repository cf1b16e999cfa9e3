"""The removal of rows that are old enough: events, messages, finished trips, links, sessions, revoked tokens, and summaries.
Positions are removed a day at a time by `summaries`.

One table says which rows are removed, and how: `store.retention.KINDS`. Rows are removed in batches. Each batch stores its
progress, so that the job continues after a restart. One hub does it. If several do, no two of them work on one batch.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

import asyncpg

from tracking.config import Settings
from tracking.errors import LeaseLost, StoreUnavailable
from tracking.metrics import RETENTION_REMOVED, RETENTION_SWEPT
from tracking.model import Clock
from tracking.store import retention
from tracking.store.days import DAY_MS
from tracking.store.jobs import Jobs, Ours, always
from tracking.store.pool import Connection, Database
from tracking.store.retention import KINDS, Kind

logger = logging.getLogger(__name__)

EVERY_MS = 3_600_000
LOOK_SECONDS = 60.0
"""How often kinds are checked. A job that failed is tried again at the next check."""

_HAVE_PLACES = ("event_retention_days", "trip_retention_days")


class Retention:
    """`run` works until it is cancelled. `let_go` has functions, by kind, that get the names of what was removed."""

    def __init__(
        self,
        jobs: Jobs,
        database: Database,
        settings: Settings,
        clock: Clock,
        *,
        let_go: Mapping[str, Callable[[set[str]], None]] | None = None,
        ours: Ours = always,
    ) -> None:
        """`ours`: whether this hub does it, if there are several. The others forget by `life.let_go` what this one removes."""
        self._jobs = jobs
        self._database = database
        self._settings = settings
        self._clock = clock
        self._let_go = let_go or {}
        self._ours = ours

    async def run(self) -> None:
        warn(self._settings)
        while True:
            try:
                if await self._ours():
                    await self.work()
            except LeaseLost as lost:
                logger.info("no old rows are removed here any more: %s", lost)
            except StoreUnavailable as error:
                logger.warning("no old rows are removed now, trying again: %s", error)
            except asyncpg.PostgresError:
                logger.exception("the database refuses to say what was removed; trying again")
            await asyncio.sleep(LOOK_SECONDS)

    async def work(self) -> None:
        """Removes all that is due by now, of the kinds that were not swept for an hour.

        Raises `LeaseLost` and `StoreUnavailable`.
        """
        async with self._database.connection() as connection:
            swept = await retention.swept(connection)
        for kind in KINDS:
            before = self._before(kind)
            last = swept.get(kind.name)
            # A clock that was set back must not stop it.
            if before is not None and (last is None or not 0 <= self._clock() - last < EVERY_MS):
                try:
                    await self._sweep(kind, before)
                except asyncpg.PostgresError:
                    # One kind that fails must stop neither the others nor the hub.
                    logger.exception("the database refuses to remove %s; trying again", kind.what)

    def _before(self, kind: Kind) -> int | None:
        """The instant before which rows are old enough; None: they are kept for ever."""
        if kind.setting is None:
            return self._clock() - int(kind.seconds * 1000)
        days: int = getattr(self._settings, kind.setting)
        # Whole UTC days, as for positions.
        return (self._clock() // DAY_MS - days) * DAY_MS if days else None

    async def _sweep(self, kind: Kind, before: int) -> None:
        removed = 0
        names: set[str] = set()
        through = False

        async def batch(connection: Connection, rows: int) -> int | None:
            nonlocal removed, through
            done = await retention.remove_next(connection, kind, before, rows, self._clock())
            if done is None:
                return None
            removed += done.rows
            names.update(done.names)
            through = not done.more
            return done.rows if done.more else None

        try:
            await self._jobs.run(f"remove {kind.what}", batch, self._ours)
        finally:
            RETENTION_REMOVED.labels(kind.name).inc(removed)
            if names and kind.name in self._let_go:
                self._let_go[kind.name](names)
            if removed:
                logger.info("removed %d %s%s", removed, kind.what, _why(kind, self._settings))
        if through:
            RETENTION_SWEPT.labels(kind.name).set(self._clock() / 1000)


def _why(kind: Kind, settings: Settings) -> str:
    return "" if kind.setting is None else f", kept for {getattr(settings, kind.setting)} days"


def warn(settings: Settings) -> None:
    """Logs a warning if positions are removed, but other rows with places are kept for ever."""
    kept = [f"TRACKING_{name.upper()}" for name in _HAVE_PLACES if not getattr(settings, name)]
    if settings.retention_days and kept:
        logger.warning(
            "positions are removed after %d days, but events and finished trips have places too and are kept for ever: set %s",
            settings.retention_days,
            " and ".join(kept),
        )
