"""One fleet, live: its vehicles in grid cells, the viewports that look at them, and a tick that tells each what changed.

A position costs a look at its vehicle's cell, and nothing more where no screen shows that cell; where one does it is encoded,
once. At a tick a viewport gets what its cells noted joined into one message, by one write.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from msgspec import UNSET, UnsetType

from tracking.hub.alerts import Watched
from tracking.hub.grid import ZOOM, Area, Cell, Pyramid, area_of, cell_name, column_of, row_of
from tracking.hub.outbox import Outbox
from tracking.metrics import FLEET_DELIVERIES, SKIPPED
from tracking.model import Fleet, Position, Trip, Vehicle, VehicleStatus
from tracking.protocol import (
    MAX_FRAME_BYTES,
    Clusters,
    FleetRow,
    VehicleDescription,
    VehicleState,
    encode,
    frame,
    framed,
)

MOST_SINGLE = 2_000
"""Vehicles that a viewport may hold before it gets clusters in their place."""
MOST_NAMED_CELLS = 1_024
"""New cells that a snapshot names whether or not something is in them; beyond that it names those that hold vehicles."""
MOST_SKIPPED = 50
"""Areas that a screen came through unshown, past which all that it shows is sent anew."""
MOST_CLUSTERS = 400
"""Clusters in one viewport, about."""
CLUSTER_STEPS = 1
"""Zoom levels by which a cluster's tile is smaller than a tile of the screen's zoom: half of 256 pixels."""
_ROOM = MAX_FRAME_BYTES - 1024


class LiveVehicle:
    """A vehicle as its fleet knows it. `cell` is None while it is not on the map: no position, or silent for too long."""

    __slots__ = (
        "cell",
        "clock_skew",
        "counted_at",
        "feed",
        "joined_at",
        "lost",
        "position",
        "standing",
        "status",
        "trip",
        "vehicle",
        "watched",
    )

    def __init__(self, vehicle: Vehicle, feed: "FleetFeed") -> None:
        self.vehicle = vehicle
        self.feed = feed
        self.joined_at = 0
        """The instant since when it is in this fleet: positions from before are not this fleet's to see."""
        self.trip: Trip | None = None
        """the trip its driver is to see: the one under way, or the next"""
        self.position: Position | None = None
        self.cell: FleetCell | None = None
        self.clock_skew = 0
        """ms by which its device's clock is ahead (negative: behind), where it is known to be wrong"""
        self.counted_at = 0.0, 0.0
        """where it came into its cell"""
        self.lost = False
        """nobody knows where it is now: it is silent, or what it sends is old"""
        self.standing = False
        self.status = self.judge_status()
        self.watched = Watched()

    def judge_status(self) -> VehicleStatus:
        if self.lost or self.position is None:
            return VehicleStatus.LOST
        if self.trip is None:
            return VehicleStatus.AVAILABLE
        return VehicleStatus.STOPPED if self.standing and self.trip.status.under_way else VehicleStatus.ON_TRIP

    def row(self) -> FleetRow:
        position = self.position
        assert position is not None
        return (
            self.vehicle.vehicle_id,
            position.latitude,
            position.longitude,
            position.bearing,
            position.speed,
            position.fix_time,
        )

    def state(self) -> VehicleState:
        position, vehicle = self.position, self.vehicle
        assert position is not None
        return VehicleState(
            vehicle.vehicle_id,
            vehicle.name,
            vehicle.kind,
            vehicle.plate,
            position.latitude,
            position.longitude,
            position.fix_time,
            self.status,
            UNSET if self.trip is None else self.trip.trip_id,
            UNSET if position.bearing is None else position.bearing,
            UNSET if position.speed is None else position.speed,
            UNSET if position.accuracy is None else position.accuracy,
            UNSET if position.battery is None else position.battery,
            self.skew_seconds(),
        )

    def description(self) -> VehicleDescription:
        vehicle = self.vehicle
        return VehicleDescription(
            vehicle.vehicle_id,
            vehicle.name,
            vehicle.kind,
            vehicle.plate,
            self.status,
            UNSET if self.trip is None else self.trip.trip_id,
            self.skew_seconds(),
        )

    def skew_seconds(self) -> int | UnsetType:
        """`clock_skew` as dispatchers see it."""
        return round(self.clock_skew / 1000) if self.clock_skew else UNSET

    def age_of(self, position: Position) -> int:
        """How old (ms) one of its positions was when it came, after what is known of its clock."""
        return position.server_time - position.fix_time + self.clock_skew


class Viewport:
    """One screen. While its reader is slow it notes which vehicles changed, and gets the newest of each when there is room."""

    __slots__ = (
        "area",
        "cells",
        "clustered",
        "clusters",
        "descriptions",
        "left",
        "missed",
        "missed_descriptions",
        "outbox",
        "rows",
        "skipped",
        "wanted",
        "zoom",
    )

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.area: Area | None = None
        self.zoom = 0.0
        self.wanted: tuple[tuple[float, float, float, float], float] | None = None
        """Bounds and zoom that are still to be shown."""
        self.skipped: list[Area] = []
        """where it was meanwhile, unshown: what did not lie there its client has forgotten"""
        self.cells: set[FleetCell] = set()
        self.clustered = False
        self.clusters = b""
        """as they were sent last"""
        self.rows: list[bytes] = []
        self.descriptions: list[bytes] = []
        self.left: list[str] = []
        self.missed: set[LiveVehicle] = set()
        self.missed_descriptions: set[LiveVehicle] = set()

    @property
    def holds_back(self) -> bool:
        return bool(self.missed or self.missed_descriptions or self.left)


FleetCell: TypeAlias = Cell[LiveVehicle, Viewport]


class FleetFeed:
    """The live state of one fleet. All of it is synchronous, so that a snapshot and what follows can't miss each other."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.vehicles: set[LiveVehicle] = set()
        self.outboxes: set[Outbox] = set()
        """of the dispatchers, with a viewport or without"""
        self._cells: dict[tuple[int, int], FleetCell] = {}
        self._dirty: set[FleetCell] = set()
        self._viewports: set[Viewport] = set()
        self._waiting: set[Viewport] = set()
        """viewports with something to be told that no cell's change brings"""
        self._looked: set[Viewport] = set()
        """viewports that were shown another part of the map since the last tick"""
        self._pyramid = Pyramid()

    # --- vehicles -----------------------------------------------------------------------------------------------------

    def moved(self, vehicle: LiveVehicle, position: Position) -> None:
        """A position that moves the vehicle's marker."""
        vehicle.position = position
        cell = vehicle.cell
        latitude, longitude = position.latitude, position.longitude
        if cell is None or not (cell.south <= latitude < cell.north and cell.west <= longitude < cell.east):
            self._change_cell(vehicle, latitude, longitude)
        elif cell.viewers:
            # Now, while all of it is at hand: at the next tick it would have to be fetched from memory again.
            cell.moved[vehicle] = encode(vehicle.row())
            self._dirty.add(cell)

    def _change_cell(self, vehicle: LiveVehicle, latitude: float, longitude: float) -> None:
        key = column_of(longitude), row_of(latitude)
        new = self._cells.get(key)
        if new is None:
            new = self._cells[key] = Cell(*key)
        if not new.vehicles:
            # A screen is registered at the cells that hold something.
            for viewport in self._viewports:
                if not viewport.clustered and viewport.area is not None and viewport.area.touches(*key):
                    viewport.cells.add(new)
                    new.viewers.add(viewport)
        old = vehicle.cell
        if old is not new:
            self._take_out(vehicle)
            if old is not None and old.viewers:
                old.gone.add(vehicle)
                self._dirty.add(old)
            new.vehicles.add(vehicle)
            vehicle.cell = new
            vehicle.counted_at = latitude, longitude
            self._pyramid.add(*key, vehicle.counted_at)
            if old is None:
                vehicle.status = vehicle.judge_status()
            if new.viewers:
                new.described.add(vehicle)
        if new.viewers:
            new.gone.discard(vehicle)
            new.moved[vehicle] = encode(vehicle.row())
            self._dirty.add(new)

    def _take_out(self, vehicle: LiveVehicle) -> None:
        cell, vehicle.cell = vehicle.cell, None
        if cell is None:
            return
        self._pyramid.remove(cell.column, cell.row, vehicle.counted_at)
        cell.vehicles.discard(vehicle)
        cell.described.discard(vehicle)
        cell.moved.pop(vehicle, None)
        if not cell.vehicles and not cell.viewers:
            del self._cells[cell.column, cell.row]

    def restate(self, vehicle: LiveVehicle) -> None:
        """Its trip, its name or what it is doing is another now."""
        vehicle.status = vehicle.judge_status()
        cell = vehicle.cell
        if cell is not None and cell.viewers:
            cell.described.add(vehicle)
            self._dirty.add(cell)

    def leave(self, vehicle: LiveVehicle) -> None:
        """It is no longer on the map."""
        cell = vehicle.cell
        if cell is None:
            return
        self._take_out(vehicle)
        # Whoever sees it: where it is, where it was and has not been seen to go from, and who is behind with it.
        viewers = set(cell.viewers)
        for left in self._dirty:
            if vehicle in left.gone:
                left.gone.discard(vehicle)
                viewers |= left.viewers
        for viewport in self._viewports:
            if vehicle in viewport.missed or vehicle in viewport.missed_descriptions:
                viewport.missed.discard(vehicle)
                viewport.missed_descriptions.discard(vehicle)
                viewers.add(viewport)
        for viewport in viewers:
            viewport.left.append(vehicle.vehicle.vehicle_id)
            self._waiting.add(viewport)

    # --- dispatchers --------------------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """A ready frame to every dispatcher, never dropped."""
        for outbox in self.outboxes:
            outbox.push(data)

    def mention(self, data: bytes) -> None:
        """A ready frame to every dispatcher who reads as fast as he is written to."""
        for outbox in self.outboxes:
            if not outbox.blocked:
                outbox.push(data)

    def look(self, viewport: Viewport, bounds: tuple[float, float, float, float], zoom: float) -> None:
        """The screen shows another part of the map, and is sent what is new to it.

        Of a screen that moves many times within a tick, or faster than its reader reads, the first and the newest count.
        """
        self._viewports.add(viewport)
        if viewport in self._looked or viewport.outbox.blocked or viewport.holds_back:
            if viewport.wanted is not None:
                viewport.skipped.append(area_of(*viewport.wanted[0]))
                # While its reader is slow there may be many.
                del viewport.skipped[: len(viewport.skipped) - MOST_SKIPPED - 1]
            viewport.wanted = bounds, zoom
            self._waiting.add(viewport)
            return
        self._looked.add(viewport)
        viewport.wanted = None
        before, viewport.area, viewport.zoom = viewport.area, area_of(*bounds), zoom
        passed, viewport.skipped = viewport.skipped, []
        if self._is_too_full(viewport.area):
            self._show_clusters(viewport)
        elif before is None or viewport.clustered or len(passed) > MOST_SKIPPED:
            self._show_vehicles(viewport, ())
        else:
            self._show_vehicles(viewport, (before, *passed))

    def forget(self, viewport: Viewport) -> None:
        self._viewports.discard(viewport)
        self._waiting.discard(viewport)
        self._unregister(viewport, set(viewport.cells))

    def _unregister(self, viewport: Viewport, cells: set[FleetCell]) -> None:
        viewport.cells -= cells
        for cell in cells:
            cell.viewers.discard(viewport)
            if not cell.viewers:
                cell.moved.clear()
                cell.gone.clear()
                cell.described.clear()
                self._dirty.discard(cell)
                if not cell.vehicles:
                    del self._cells[cell.column, cell.row]

    def _show_vehicles(self, viewport: Viewport, before: Sequence[Area]) -> None:
        """Sends what did not lie in every area of `before`, where the screen came from; without any, all that it shows."""
        area = viewport.area
        assert area is not None

        def is_known(column: int, row: int) -> bool:
            return bool(before) and all(one.touches(column, row) for one in before)

        viewport.clustered = False
        cells = {self._cells[column, row] for column, row, _ in self._pyramid.cells(area)}
        # Not those that are empty now: whoever went from there is still to be seen to go.
        self._unregister(viewport, {cell for cell in viewport.cells if not area.touches(cell.column, cell.row)})
        fresh = {cell for cell in cells if cell not in viewport.cells or not is_known(cell.column, cell.row)}
        viewport.cells |= fresh
        for cell in fresh:
            cell.viewers.add(viewport)
        names: list[str]
        if area.size <= MOST_NAMED_CELLS:
            # Named although they are empty: a client may hold vehicles of them from an earlier look.
            names = [cell_name(*key) for key in area.places() if not is_known(*key)]
        else:
            names = [cell.name for cell in fresh if cell.vehicles]
        vehicles = [vehicle for cell in fresh for vehicle in cell.vehicles]
        messages = _snapshots(names, vehicles)
        for sent, message in messages:
            viewport.outbox.push(message)
            if viewport.outbox.blocked:
                # The rest in its time, as it will be then.
                viewport.missed.update(vehicles[sent:])
                viewport.missed_descriptions.update(vehicles[sent:])
                self._waiting.add(viewport)
                break

    # --- clusters -----------------------------------------------------------------------------------------------------

    def _is_too_full(self, area: Area) -> bool:
        if len(self.vehicles) <= MOST_SINGLE:
            return False
        # More than what its tiles hold it can't; most screens are done with that.
        if sum(tile.count for tile in self._pyramid.tiles(area, _level_of(area, ZOOM))) <= MOST_SINGLE:
            return False
        held = 0
        for column, row, count in self._pyramid.counted(area):
            if count is not None:
                held += count
            else:
                # A cell at the edge reaches beyond the screen: what counts is what the screen holds.
                places = [vehicle.position for vehicle in self._cells[column, row].vehicles]
                held += sum(area.shows(place.latitude, place.longitude) for place in places if place is not None)
            if held > MOST_SINGLE:
                return True
        return False

    def _show_clusters(self, viewport: Viewport) -> None:
        self._unregister(viewport, set(viewport.cells))
        viewport.missed.clear()
        viewport.missed_descriptions.clear()
        assert viewport.area is not None
        clusters = frame(Clusters(self._clusters(viewport.area, viewport.zoom)))
        if viewport.clustered and clusters == viewport.clusters:
            return
        viewport.clustered = True
        viewport.clusters = clusters
        viewport.outbox.push(clusters)

    def _clusters(self, area: Area, zoom: float) -> list[tuple[float, float, int]]:
        """Vehicles counted by tiles of half the screen's, each shown about the middle of the vehicles in it.

        No tile is smaller than a cell: more than `MOST_SINGLE` vehicles on a screen of one cell are one cluster.
        """
        return [
            (round(tile.latitudes / tile.count, 6), round(tile.longitudes / tile.count, 6), tile.count)
            for tile in self._pyramid.tiles(area, _level_of(area, min(ZOOM, int(zoom) + CLUSTER_STEPS)))
        ]

    def recount(self) -> None:
        """To be called every second: whether a viewport holds too many vehicles, or no longer; clusters as they are now."""
        if len(self.vehicles) <= MOST_SINGLE and not any(viewport.clustered for viewport in self._viewports):
            return
        for viewport in list(self._viewports):
            if viewport.area is None or viewport.outbox.blocked:
                continue
            if not viewport.clustered and sum(len(cell.vehicles) for cell in viewport.cells) <= MOST_SINGLE:
                continue
            if self._is_too_full(viewport.area):
                self._show_clusters(viewport)
            elif viewport.clustered:
                self._show_vehicles(viewport, ())

    # --- the tick -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """To be called every 250 ms: tells each viewport what changed in the cells that it touches."""
        touched, self._waiting = self._waiting, set()
        self._looked.clear()
        if self._dirty:
            dirty, self._dirty = self._dirty, set()
            for cell in dirty:
                self._tell_viewers(cell, touched)
        for viewport in touched:
            self._flush(viewport)

    def _tell_viewers(self, cell: FleetCell, touched: set[Viewport]) -> None:
        rows = list(_packed(cell.moved.values()))
        descriptions = list(_packed(encode(vehicle.description()) for vehicle in cell.described))
        count = len(cell.moved)
        for viewport in cell.viewers:
            touched.add(viewport)
            if viewport.outbox.blocked or viewport.missed:
                SKIPPED.value += len(viewport.missed & cell.moved.keys())
                viewport.missed |= cell.moved.keys()
                viewport.missed_descriptions |= cell.described
            else:
                viewport.rows += rows
                viewport.descriptions += descriptions
                FLEET_DELIVERIES.value += count
        for vehicle in cell.gone:
            row = encode(vehicle.row())
            for viewport in cell.viewers:
                # Whoever sees where it went is told from there.
                if vehicle.cell is None or viewport not in vehicle.cell.viewers:
                    if viewport.outbox.blocked or viewport.missed:
                        viewport.missed.add(vehicle)
                    else:
                        viewport.rows.append(row)
        cell.moved.clear()
        cell.gone.clear()
        cell.described.clear()

    def _flush(self, viewport: Viewport) -> None:
        if viewport.outbox.blocked:
            self._waiting.add(viewport)
            return
        if viewport.missed or viewport.missed_descriptions:
            viewport.rows += _packed(encode(vehicle.row()) for vehicle in viewport.missed)
            viewport.descriptions += _packed(encode(vehicle.description()) for vehicle in viewport.missed_descriptions)
            viewport.missed.clear()
            viewport.missed_descriptions.clear()
        if viewport.rows or viewport.descriptions or viewport.left:
            viewport.outbox.push(b"".join(_updates(viewport.rows, viewport.descriptions, viewport.left)))
            viewport.rows, viewport.descriptions, viewport.left = [], [], []
        if viewport.wanted is not None:
            self.look(viewport, *viewport.wanted)


def _level_of(area: Area, deepest: int) -> int:
    """The deepest zoom at which an area has no more than about `MOST_CLUSTERS` tiles."""
    level = deepest
    while level > 0 and area.size / 4 ** (ZOOM - level) > MOST_CLUSTERS:
        level -= 1
    return level


def _packed(pieces: Iterable[bytes], room: int = _ROOM) -> Iterator[bytes]:
    """JSON values with commas between them, as many together as fit into a message."""
    part: list[bytes] = []
    size = 0
    for piece in pieces:
        if part and size + len(piece) >= room:
            yield b",".join(part)
            part, size = [], 0
        part.append(piece)
        size += len(piece) + 1
    if part:
        yield b",".join(part)


def _snapshots(names: Sequence[str], vehicles: Sequence[LiveVehicle]) -> Iterator[tuple[int, bytes]]:
    """`fleet_snapshot` messages as ready frames, each with how many of the vehicles are sent with it; one at least."""
    cells = encode(names)
    part: list[bytes] = []
    size = len(cells)
    for number, vehicle in enumerate(vehicles):
        state = encode(vehicle.state())
        if part and size + len(state) >= _ROOM:
            yield number, framed(b'{"type":"fleet_snapshot","cells":%b,"vehicles":[%b]}' % (cells, b",".join(part)))
            cells, part, size = b"[]", [], 2
        part.append(state)
        size += len(state) + 1
    yield len(vehicles), framed(b'{"type":"fleet_snapshot","cells":%b,"vehicles":[%b]}' % (cells, b",".join(part)))


def _updates(rows: list[bytes], descriptions: list[bytes], left: list[str]) -> Iterable[bytes]:
    """`fleet` messages as ready frames, none longer than a frame may be, put together from pieces that are JSON already."""
    # Who left before the tick may be back with it; and nobody is shown before it has a name.
    for ids in _packed(encode(vehicle_id) for vehicle_id in left):
        yield framed(b'{"type":"fleet","positions":[],"left":[%b]}' % ids)
    for described in _packed(descriptions):
        yield framed(b'{"type":"fleet","positions":[],"vehicles":[%b]}' % described)
    for moved in _packed(rows):
        yield framed(b'{"type":"fleet","positions":[%b]}' % moved)
