"""The geofences in force, by fleet: their changes one after the other, and how they are listed."""

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
"""Fleets whose encoded listing is kept: at most about 20 MB each."""
_NO_FENCES = Fences()


class FencesInForce:
    """The geofences of the fleets in memory."""

    def __init__(self) -> None:
        self.by_fleet: dict[str, Fences] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Locks for changes of a fleet's geofences, and for its loading."""
        self._listings: dict[str, asyncio.Task[bytes]] = {}
        """Listings of the fleets that were asked for last. A change of a geofence drops its fleet's."""

    def turn(self, fleet_id: str) -> asyncio.Lock:
        """Held while the fleet is loaded or dropped, so that a geofence that changes meanwhile is read afterwards."""
        return self._turns.setdefault(fleet_id, asyncio.Lock())

    def take_up(self, fleet_id: str, fences: Fences) -> None:
        """These are all geofences of the fleet."""
        self.by_fleet[fleet_id] = fences
        self._listings.pop(fleet_id, None)

    def forget(self, fleet_id: str) -> None:
        """The fleet is no longer in memory."""
        self.by_fleet.pop(fleet_id, None)
        self._listings.pop(fleet_id, None)

    def of(self, fleet_id: str) -> Fences:
        """The fleet's geofences. Must not be changed."""
        return self.by_fleet.get(fleet_id, _NO_FENCES)

    def put(self, fence: Fence) -> None:
        """The geofence is new, or was changed."""
        fleet_id = fence.geofence.fleet_id
        self.by_fleet.setdefault(fleet_id, Fences()).put(fence)
        self._listings.pop(fleet_id, None)

    def remove(self, fleet_id: str, geofence_id: str) -> None:
        self.by_fleet.setdefault(fleet_id, Fences()).remove(geofence_id)
        self._listings.pop(fleet_id, None)

    def knows(self, fleet_id: str, geofence_id: str) -> bool:
        """Whether the geofence is in force."""
        fences = self.by_fleet.get(fleet_id)
        return fences is not None and geofence_id in fences.by_id

    async def listing(self, fleet_id: str) -> bytes:
        """The fleet's geofences as a GeoJSON FeatureCollection, ordered by id."""
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
    """Builds a fleet's geofences from rows: at most a second of arithmetic."""
    fences = Fences()
    for row in rows:
        try:
            fences.put(Fence(geofences.geofence_of(row)), build=False)
        except Exception:
            note_broken(row)
    fences.build()
    return fences


def note_broken(row: geofences.Row) -> None:
    # Another version may have stored it. The fleet's other geofences must work all the same.
    logger.exception("geofence %s of fleet %s is not in force: it can't be read", row["geofence_id"], row["fleet_id"])
