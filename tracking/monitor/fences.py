"""The geofences in force, by fleet: which they are, whose turn it is to change them, and how they are listed."""

import asyncio
import logging
from collections.abc import Sequence
from weakref import WeakValueDictionary

from tracking.monitor.geofences import Fence, Fences
from tracking.protocol.dispatcher import GeofenceNews
from tracking.protocol.fit import geofence_news
from tracking.protocol.http import feature_collection
from tracking.store import geofences

logger = logging.getLogger(__name__)

MAX_LISTINGS = 20
"""Fleets whose geofences are kept as they are sent: at most some 20 MB each."""
_NO_FENCES = Fences()


class FencesInForce:
    """Those of the fleets in memory."""

    def __init__(self) -> None:
        self.by_fleet: dict[str, Fences] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """of changes of a fleet's geofences, and of its loading"""
        self._listings: dict[str, asyncio.Task[bytes]] = {}
        """Of the fleets that were asked for last, until one of their fences changes."""

    def turn(self, fleet_id: str) -> asyncio.Lock:
        """Held by who loads the fleet or lets it go, so that a geofence which changes meanwhile is read after it."""
        return self._turns.setdefault(fleet_id, asyncio.Lock())

    def take_up(self, fleet_id: str, fences: Fences) -> None:
        """The fleet has these, all of them."""
        self.by_fleet[fleet_id] = fences
        self._listings.pop(fleet_id, None)

    def forget(self, fleet_id: str) -> None:
        """The fleet is held no more."""
        self.by_fleet.pop(fleet_id, None)
        self._listings.pop(fleet_id, None)

    def of(self, fleet_id: str) -> Fences:
        """The fleet's, to be read only."""
        return self.by_fleet.get(fleet_id, _NO_FENCES)

    def put(self, fence: Fence) -> None:
        """The geofence is new, or another now."""
        fleet_id = fence.geofence.fleet_id
        self.by_fleet.setdefault(fleet_id, Fences()).put(fence)
        self._listings.pop(fleet_id, None)

    def remove(self, fleet_id: str, geofence_id: str) -> None:
        self.by_fleet.setdefault(fleet_id, Fences()).remove(geofence_id)
        self._listings.pop(fleet_id, None)

    def knows(self, fleet_id: str, geofence_id: str) -> bool:
        """Whether it is in force."""
        fences = self.by_fleet.get(fleet_id)
        return fences is not None and geofence_id in fences.by_id

    async def listing(self, fleet_id: str) -> bytes:
        """The fleet's as JSON, a FeatureCollection in the order of their ids."""
        listing = self._listings.pop(fleet_id, None)
        if listing is None:
            by_id = self.of(fleet_id).by_id
            found = [by_id[geofence_id].geofence for geofence_id in sorted(by_id)]
            listing = asyncio.create_task(asyncio.to_thread(feature_collection, found))
        self._listings[fleet_id] = listing
        if len(self._listings) > MAX_LISTINGS:
            del self._listings[next(iter(self._listings))]
        return await asyncio.shield(listing)


def made(row: geofences.Row) -> tuple[Fence, GeofenceNews]:
    geofence = geofences.geofence_of(row)
    return Fence(geofence), geofence_news(geofence)


def built(rows: Sequence[geofences.Row]) -> Fences:
    """A fleet's fences, of its rows: a second of arithmetic, at worst."""
    fences = Fences()
    for row in rows:
        try:
            fences.put(Fence(geofences.geofence_of(row)), build=False)
        except Exception:
            note_broken(row)
    fences.build()
    return fences


def note_broken(row: geofences.Row) -> None:
    # One that another version stored must not take its fleet with it.
    logger.exception("geofence %s of fleet %s is not in force: it can't be read", row["geofence_id"], row["fleet_id"])
