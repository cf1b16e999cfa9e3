"""The grid of a fleet's vehicles: web mercator tiles at one zoom, and which of them a viewport touches. No I/O.

A cell knows its edges in degrees. Nearly all vehicles stay in their cell from one fix to the next, and four comparisons show
that.
"""

from collections.abc import Iterator, Sequence
from math import asinh, atan, degrees, floor, pi, radians, sinh, tan
from typing import Generic, NamedTuple, TypeVar

ZOOM = 14
"""The zoom of the cells. They are at most 2.4 km wide, 1.7 km in the middle of Europe. With smaller cells there is more to join
for each screen. With larger ones a screen is sent more than it shows."""
SIDE = 1 << ZOOM
MAX_LATITUDE = 85.0511287798066
"""The edge of web mercator. Places beyond it are in the outermost row."""

Vehicle = TypeVar("Vehicle")
Viewer = TypeVar("Viewer")


def column_of(longitude: float) -> int:
    """The column of cells at a longitude, from 0 at -180 degrees."""
    return min(SIDE - 1, max(0, floor((longitude + 180.0) / 360.0 * SIDE)))


def row_of(latitude: float) -> int:
    """The row of cells at a latitude, from 0 in the north."""
    latitude = min(MAX_LATITUDE, max(-MAX_LATITUDE, latitude))
    return min(SIDE - 1, max(0, floor((1.0 - asinh(tan(radians(latitude))) / pi) / 2.0 * SIDE)))


def _west_edge(column: int) -> float:
    return column / SIDE * 360.0 - 180.0


def _north_edge(row: int) -> float:
    return degrees(atan(sinh(pi * (1.0 - 2.0 * row / SIDE))))


class Rectangle(NamedTuple):
    """Cells from one column and row to another, all included."""

    left: int
    top: int
    right: int
    bottom: int

    def holds(self, column: int, row: int) -> bool:
        return self.left <= column <= self.right and self.top <= row <= self.bottom

    def shared(self, other: "Rectangle") -> "Rectangle":
        """The cells that lie in both."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        return Rectangle(left, top, min(self.right, other.right), min(self.bottom, other.bottom))

    @property
    def is_empty(self) -> bool:
        return self.right < self.left or self.bottom < self.top

    @property
    def size(self) -> int:
        return (self.right - self.left + 1) * (self.bottom - self.top + 1)


class Area(NamedTuple):
    """What a viewport shows: its bounds, longitudes in -180..180, and the cells that it touches, in two parts across the date
    line."""

    west: float
    south: float
    east: float
    north: float
    parts: tuple[Rectangle, ...]

    def touches(self, column: int, row: int) -> bool:
        return any(part.holds(column, row) for part in self.parts)

    def shows(self, latitude: float, longitude: float) -> bool:
        """Whether a place lies within the bounds themselves."""
        if not self.south <= latitude <= self.north:
            return False
        if self.west <= self.east:
            return self.west <= longitude <= self.east
        return longitude >= self.west or longitude <= self.east

    @property
    def size(self) -> int:
        """How many cells it touches, occupied or not."""
        return sum(part.size for part in self.parts)

    def places(self) -> Iterator[tuple[int, int]]:
        """Column and row of each of them."""
        for part in self.parts:
            for row in range(part.top, part.bottom + 1):
                for column in range(part.left, part.right + 1):
                    yield column, row


class Tile:
    """How many vehicles are in a tile, and the sums of their places when they came into their cells."""

    __slots__ = ("count", "latitudes", "longitudes")

    def __init__(self) -> None:
        self.count = 0
        self.latitudes = 0.0
        self.longitudes = 0.0


Place = tuple[float, float]
"""Latitude and longitude."""


class Pyramid:
    """The tiles of every zoom up to the cells' own.

    A vehicle that comes into a cell changes one tile in each zoom. So the vehicles on a screen of any size are counted by a few
    tiles.
    """

    def __init__(self) -> None:
        self._levels: list[dict[tuple[int, int], Tile]] = [{} for _ in range(ZOOM + 1)]

    def add(self, column: int, row: int, place: Place) -> None:
        for level, tiles in enumerate(self._levels):
            key = column >> (ZOOM - level), row >> (ZOOM - level)
            tile = tiles.get(key)
            if tile is None:
                tile = tiles[key] = Tile()
            tile.count += 1
            tile.latitudes += place[0]
            tile.longitudes += place[1]

    def remove(self, column: int, row: int, place: Place) -> None:
        """Reverses `add` with the same arguments."""
        for level, tiles in enumerate(self._levels):
            key = column >> (ZOOM - level), row >> (ZOOM - level)
            tile = tiles[key]
            if tile.count == 1:
                del tiles[key]
            else:
                tile.count -= 1
                tile.latitudes -= place[0]
                tile.longitudes -= place[1]

    def tiles(self, area: Area, level: int) -> list[Tile]:
        """The tiles of one zoom that an area touches and that hold vehicles."""
        tiles, shift = self._levels[level], ZOOM - level
        # Both sides of the date line may lie in one tile.
        found: dict[tuple[int, int], Tile] = {}
        for part in area.parts:
            left, top, right, bottom = (side >> shift for side in part)
            if (right - left + 1) * (bottom - top + 1) > len(tiles):
                found |= {(x, y): tile for (x, y), tile in tiles.items() if left <= x <= right and top <= y <= bottom}
            else:
                keys = ((x, y) for y in range(top, bottom + 1) for x in range(left, right + 1))
                found |= {key: tiles[key] for key in keys if key in tiles}
        return list(found.values())

    def cells(self, area: Area) -> Iterator[tuple[int, int, bool]]:
        """Column and row of the occupied cells that an area touches, and whether the cell lies inside it, off its edge."""
        for column, row, level, _, inside in self._descend(area, whole=False):
            assert level == ZOOM
            yield column, row, inside

    def counted(self, area: Area) -> Iterator[tuple[int, int, int | None]]:
        """The same in fewer steps: whole tiles off the edge with their count, and cells at the edge with None."""
        for column, row, _, tile, inside in self._descend(area, whole=True):
            yield column, row, tile.count if inside else None

    def _descend(self, area: Area, *, whole: bool) -> Iterator[tuple[int, int, int, Tile, bool]]:
        for part in area.parts:
            waiting = [(0, 0, 0)]
            while waiting:
                x, y, level = waiting.pop()
                tile = self._levels[level].get((x, y))
                if tile is None:
                    continue
                shift = ZOOM - level
                left, top = x << shift, y << shift
                right, bottom = left + (1 << shift) - 1, top + (1 << shift) - 1
                if right < part.left or left > part.right or bottom < part.top or top > part.bottom:
                    continue
                inside = part.left < left and right < part.right and part.top < top and bottom < part.bottom
                if level == ZOOM or (whole and inside):
                    yield x, y, level, tile, inside
                else:
                    waiting += [(2 * x + dx, 2 * y + dy, level + 1) for dx in (0, 1) for dy in (0, 1)]


def area_of(west: float, south: float, east: float, north: float) -> Area:
    """The area of bounds in degrees. They cross the date line if west > east, or if one of them lies beyond it."""
    if east - west >= 360.0:
        west, east = -180.0, 180.0
    else:
        west, east = _wrapped(west), _wrapped(east)
    top, bottom = row_of(north), row_of(south)
    left, right = column_of(west), column_of(east)
    if west <= east:
        parts: tuple[Rectangle, ...] = (Rectangle(left, top, right, bottom),)
    elif right >= left:  # all the way round, and ending in the cell where it began
        parts = (Rectangle(0, top, SIDE - 1, bottom),)
    else:
        parts = (Rectangle(left, top, SIDE - 1, bottom), Rectangle(0, top, right, bottom))
    return Area(west, south, east, north, parts)


def shared_parts(areas: Sequence[Area]) -> list[Rectangle]:
    """The cells that all areas touch. There are none without an area."""
    shared = list(areas[0].parts) if areas else []
    for area in areas[1:]:
        shared = [both for one in shared for other in area.parts if not (both := one.shared(other)).is_empty]
    return shared


def _wrapped(longitude: float) -> float:
    return longitude if -180.0 <= longitude <= 180.0 else (longitude + 180.0) % 360.0 - 180.0


class Cell(Generic[Vehicle, Viewer]):
    """One tile: its vehicles, its viewers, and what changed since the last tick. Changes are noted only for viewers."""

    __slots__ = ("column", "described", "east", "gone", "moved", "north", "row", "south", "vehicles", "viewers", "west")

    def __init__(self, column: int, row: int) -> None:
        self.column = column
        self.row = row
        # Places beyond the map's edge are in the outermost cells.
        self.west = _west_edge(column)
        self.east = _west_edge(column + 1) if column < SIDE - 1 else 180.0000001
        self.north = _north_edge(row) if row > 0 else 90.0000001
        self.south = _north_edge(row + 1) if row < SIDE - 1 else -90.0
        self.vehicles: set[Vehicle] = set()
        self.viewers: set[Viewer] = set()
        self.moved: dict[Vehicle, bytes] = {}
        """Vehicles in it with a new position, each with the encoded position."""
        self.gone: set[Vehicle] = set()
        """Vehicles whose newest position is in another cell."""
        self.described: set[Vehicle] = set()
        """Vehicles that came into it, or whose description changed."""

    @property
    def name(self) -> str:
        """`z/x/y`"""
        return cell_name(self.column, self.row)


def cell_name(column: int, row: int) -> str:
    return f"{ZOOM}/{column}/{row}"
