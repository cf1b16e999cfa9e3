"""Vehicles counted by tiles, for screens that would hold too many of them."""

from collections.abc import Mapping

from tracking.live.grid import ZOOM, Area, Pyramid
from tracking.live.shown_vehicle import FleetCell

MAX_SINGLE = 2_000
"""Vehicles that a viewport may hold. A viewport with more is shown clusters."""
MAX_CLUSTERS = 400
"""Clusters in one viewport, about."""
CLUSTER_STEPS = 1
"""Zoom levels by which a cluster's tile is smaller than a tile of the screen's zoom: half of 256 pixels."""


def is_too_full(pyramid: Pyramid, cells: Mapping[tuple[int, int], FleetCell], area: Area) -> bool:
    """Whether an area holds too many vehicles to show each."""
    # The tiles give an upper bound, which is enough for most screens.
    if sum(tile.count for tile in pyramid.tiles(area, _level_of(area, ZOOM))) <= MAX_SINGLE:
        return False
    held = 0
    for column, row, count in pyramid.counted(area):
        if count is not None:
            held += count
        else:
            # A cell at the edge reaches beyond the screen. Only vehicles on the screen count.
            places = [vehicle.position for vehicle in cells[column, row].vehicles]
            held += sum(area.shows(place.latitude, place.longitude) for place in places if place is not None)
        if held > MAX_SINGLE:
            return True
    return False


def clusters_of(pyramid: Pyramid, area: Area, zoom: float) -> list[tuple[float, float, int]]:
    """Counts vehicles by tiles of half the size of the screen's. A cluster is placed at the middle of its vehicles, about.

    No tile is smaller than a cell, so more than `MAX_SINGLE` vehicles in one cell are one cluster.
    """
    return [
        (round(tile.latitudes / tile.count, 6), round(tile.longitudes / tile.count, 6), tile.count)
        for tile in pyramid.tiles(area, _level_of(area, min(ZOOM, int(zoom) + CLUSTER_STEPS)))
    ]


def _level_of(area: Area, deepest: int) -> int:
    """The deepest zoom at which an area has no more than about `MAX_CLUSTERS` tiles."""
    level = deepest
    while level > 0 and area.size / 4 ** (ZOOM - level) > MAX_CLUSTERS:
        level -= 1
    return level
