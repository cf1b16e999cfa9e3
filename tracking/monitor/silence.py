"""Silences of vehicles whose fleet is not in memory, because nobody drives for it or looks at it, as after a restart.

A sweep over the store finds them. For fleets in memory, `last_heard` does this.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

import asyncpg

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.geo import unpack_point
from tracking.live.fleets import Fleets
from tracking.metrics import EVENTS
from tracking.model import Clock, Event, EventKind
from tracking.monitor.alerts import old_after
from tracking.monitor.events import Events
from tracking.store import events, silences
from tracking.store.pool import Database
from tracking.store.silences import Quiet

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
NEXT_SECONDS = 1.0
"""Between two sweeps if one was not enough."""
MOST = 500
"""Silences in one sweep."""
ANEW_MS = 600_000
"""How often a sweep looks at all vehicles, not only at those that may have fallen silent since the last sweep. A fleet's
threshold may have fallen, or a vehicle may have changed its fleet."""
PAUSE_MS = 30_000
"""A longer time between two sweeps means that the clock was set, or that this process stood still."""


class Silences:
    """`run` sweeps until it is cancelled. `gone_after` (s) is how long a vehicle may be silent before nothing is told of it.

    A silence counts only while the vehicle could have been heard: a hub ran, and could read the store for a driver who came.
    """

    def __init__(
        self,
        database: Database,
        fleets: Fleets,
        to_tell: Events,
        clock: Clock,
        *,
        gone_after: float,
        others: Callable[[], Collection[str]] = lambda: (),
        is_here: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """`others` returns the boot ids of other live hubs; nothing if this one is alone. `is_here` tells whether this hub
        knows that it is the home of a vehicle, by its number.

        With several hubs, a vehicle's home tells of its silence. A sweep tells of vehicles that have no live home, or that this
        hub does not know any more, also in fleets that are in memory.
        """
        self._others = others
        self._is_here = is_here
        self._known_others: frozenset[str] = frozenset()
        self._database = database
        self._fleets = fleets
        self._events = to_tell
        self._clock = clock
        self._gone_after_ms = int(gone_after * 1000)
        self._could_hear_since: int | None = None
        self._swept = 0
        self._asked: tuple[int, float] | None = None
        """When a sweep last found all silent vehicles, and for how long vehicles could have been heard by then."""
        self._asked_anew = 0
        self.sweeping = asyncio.Lock()
        """Held until the silences of a sweep are stored, so that a fleet that is loaded afterwards finds them."""

    async def run(self) -> None:
        while True:
            more = False
            try:
                more = await self.sweep()
            except StoreWentBack:
                # Another service takes over.
                await asyncio.Event().wait()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                self._could_hear_since = None
                logger.warning("can't look for silent vehicles now, trying again: %s", error)
            except Exception:
                logger.exception("an error: silences of fleets that are not in memory were not told")
            await asyncio.sleep(NEXT_SECONDS if more else SWEEP_SECONDS)

    async def sweep(self) -> bool:
        """Tells of vehicles that have been silent for too long; whether there may be more. Raises `StoreUnavailable`."""
        now, others = self._clock(), frozenset(self._others())
        if self._known_others - others or bool(others) is not bool(self._known_others):
            # Other vehicles are left out from now on: nobody may have told of those of a hub that is gone.
            self._asked = None
        self._known_others = others
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
            found, skipped = await self._find(now, longest, others), []
            while others and found and (ours := [one.vehicle for one in found if self._looks_after(one.vehicle)]):
                if len(ours) < len(found) or len(found) < MOST:
                    found = [one for one in found if one.vehicle not in ours]
                    break
                skipped += ours
                found = await self._find(now, longest, others, skipped)
            if found:
                await self._tell(found, now)
        if len(found) < MOST:
            self._asked = now, longest
        return len(found) == MOST

    async def _find(self, now: int, longest: float, others: Collection[str], skipped: Sequence[int] = ()) -> list[Quiet]:
        async with self._database.connection() as connection:
            return await silences.quiet(
                connection,
                now,
                longest=longest,
                since=now - self._gone_after_ms,
                besides=[] if others else list(self._fleets.held),
                homes=list(others),
                limit=MOST,
                asked=self._asked,
                skipped=skipped,
            )

    def _looks_after(self, number: int) -> bool:
        """Whether the vehicle's home is here and its fleet in memory: then `last_heard` tells of it."""
        vehicle = self._fleets.by_number.get(number)
        return vehicle is not None and self._is_here(number) and self._fleets.holds(vehicle.feed.fleet.fleet_id)

    async def _tell(self, found: list[Quiet], now: int) -> None:
        async with self._database.transaction() as connection:
            ids = await events.reserve(connection, len(found), after=self._events.last_event)
            self._events.numbered(ids[-1])
            stored = await events.insert(
                connection,
                [one.fleet_id for one in found],
                [one.vehicle for one in found],
                [_event(number, one, now) for number, one in zip(ids, found, strict=True)],
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
