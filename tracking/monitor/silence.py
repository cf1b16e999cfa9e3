"""Silences of vehicles whose fleet is not in memory: nobody drives for it or looks at it, as after a restart.

A sweep over the store finds them. Of the fleets in memory the monitor tells.
"""

import asyncio
import logging

import asyncpg

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.geo import unpack_point
from tracking.live.fleets import Fleets
from tracking.metrics import EVENTS
from tracking.model import Clock, Event, EventKind
from tracking.monitor.events import Events
from tracking.monitor.monitor import old_after
from tracking.store import events, silences
from tracking.store.pool import Database
from tracking.store.silences import Quiet

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
NEXT_SECONDS = 1.0
"""Between two sweeps where there is more than one tells of."""
MOST = 500
"""Silences that one sweep tells of."""
ANEW_MS = 600_000
"""So often all are asked for, and not only those who may have fallen silent since the last sweep: a fleet's threshold may be
lower now, or a vehicle another fleet's."""
PAUSE_MS = 30_000
"""Past this between two sweeps the clock was set, or this process stood still."""


class Silences:
    """`run` sweeps until it is cancelled. `gone_after` (s) is how long a vehicle may be silent before nothing is told of it.

    A vehicle is silent for too long where it could have been heard of for so long: by a hub that was there, and could read the
    store for those who came.
    """

    def __init__(self, database: Database, fleets: Fleets, to_tell: Events, clock: Clock, *, gone_after: float) -> None:
        self._database = database
        self._fleets = fleets
        self._events = to_tell
        self._clock = clock
        self._gone_after_ms = int(gone_after * 1000)
        self._could_hear_since: int | None = None
        self._swept = 0
        self._asked: tuple[int, float] | None = None
        """When all that were silent had been found, and for how long they could have been heard by then."""
        self._asked_anew = 0
        self.sweeping = asyncio.Lock()
        """Held until what a sweep found is stored: a fleet that is loaded after that finds it there."""

    async def run(self) -> None:
        while True:
            more = False
            try:
                more = await self.sweep()
            except StoreWentBack:
                # Another memory takes over.
                await asyncio.Event().wait()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                self._could_hear_since = None
                logger.warning("who is silent can't be asked now, trying again: %s", error)
            except Exception:
                logger.exception("a fault of ours: silences of fleets that are not in memory were not told")
            await asyncio.sleep(NEXT_SECONDS if more else SWEEP_SECONDS)

    async def sweep(self) -> bool:
        """Tells of those who have been silent for too long; whether there may be more. Raises `StoreUnavailable`."""
        now = self._clock()
        if self._could_hear_since is None or not 0 <= now - self._swept < PAUSE_MS:
            self._could_hear_since = now
            self._asked = None
        if now - self._asked_anew >= ANEW_MS or now < self._asked_anew:
            self._asked = None
        self._swept = now
        if self._asked is None:
            self._asked_anew = now
        longest = (now - self._could_hear_since) / 1000
        async with self.sweeping:
            async with self._database.connection() as connection:
                found = await silences.quiet(
                    connection,
                    now,
                    longest=longest,
                    since=now - self._gone_after_ms,
                    besides=list(self._fleets.held),
                    limit=MOST,
                    asked=self._asked,
                )
            if found:
                await self._tell(found, now)
        if len(found) < MOST:
            self._asked = now, longest
        return len(found) == MOST

    async def _tell(self, found: list[Quiet], now: int) -> None:
        async with self._database.transaction() as connection:
            ids = await events.reserve(connection, len(found), after=self._events.last_event)
            self._events.numbered(ids[-1])
            stored = await events.insert(
                connection,
                [one.fleet_id for one in found],
                [one.vehicle for one in found],
                [_event(number, one, now) for number, one in zip(ids, found, strict=True)],
                newly_silent=True,
            )
        EVENTS.labels(EventKind.SIGNAL_LOST.value).inc(len(stored))
        self._events.on_stored()


def _event(number: int, quiet: Quiet, now: int) -> Event:
    longitude, latitude = unpack_point(quiet.point)
    late = quiet.server_time - quiet.fix_time > old_after(quiet.signal_lost_after)
    return Event(
        event_id=number,
        kind=EventKind.SIGNAL_LOST,
        vehicle_id=quiet.vehicle_id,
        server_time=now,
        fix_time=quiet.fix_time,
        latitude=latitude,
        longitude=longitude,
        trip_id=quiet.position_trip_id if late else quiet.trip_id,
        late=late,
    )
