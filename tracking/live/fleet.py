"""One fleet, live: its vehicles in grid cells, the viewports that look at them, and a tick that tells each what changed.

A position costs a look at its vehicle's cell, and nothing more where no screen shows that cell; where one does it is encoded,
once. At a tick a viewport gets what its cells noted joined into one message, by one write.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from msgspec import UNSET, UnsetType

from tracking.live.grid import ZOOM, Area, Cell, Pyramid, area_of, cell_name, column_of, row_of, shared_parts
from tracking.live.packing import packed, snapshots, updates
from tracking.live.reader_queue import ReaderQueue
from tracking.live.viewport import Slices, Viewport
from tracking.metrics import FLEET_DELIVERIES, SKIPPED
from tracking.model import Fleet, Position, Trip, Vehicle, VehicleStatus
from tracking.protocol.codec import encode, frame
from tracking.protocol.dispatcher import Clusters, FleetRow, VehicleDescription, VehicleState

MAX_SINGLE = 2_000
"""Vehicles that a viewport may hold before it gets clusters in their place."""
MAX_NAMED_CELLS = 1_024
"""New cells that a snapshot names whether or not something is in them; beyond that it names those that hold vehicles."""
MAX_SKIPPED = 50
"""Areas that a screen came through unshown, past which all that it shows is sent anew."""
PART = 300
"""Vehicles and cells that are shown before it is asked whether there is time for more: about a millisecond."""
LOOK_COST = 10
"""What a look costs of an allowance besides the vehicles and clusters that are sent for it."""
MAX_CLUSTERS = 400
"""Clusters in one viewport, about."""
CLUSTER_STEPS = 1
"""Zoom levels by which a cluster's tile is smaller than a tile of the screen's zoom: half of 256 pixels."""


class LiveVehicle:
    """A vehicle as its fleet knows it. `cell` is None while it is not on the map: no position, or silent for too long."""

    __slots__ = (
        "as_of",
        "cell",
        "clock_skew",
        "counted_at",
        "encoded",
        "feed",
        "joined_at",
        "lost",
        "number",
        "position",
        "standing",
        "status",
        "trip",
        "vehicle",
        "waits_from",
    )

    def __init__(self, vehicle: Vehicle, feed: "FleetFeed") -> None:
        self.vehicle = vehicle
        self.feed = feed
        self.number = 0
        """the store's, where it is known"""
        self.as_of = 0
        """the last change of the log that this knows of"""
        self.joined_at = 0
        """The instant since when it is in this fleet: positions from before are not this fleet's to see."""
        self.trip: Trip | None = None
        """the trip its driver is to see: the one under way, or the next"""
        self.position: Position | None = None
        self.cell: FleetCell | None = None
        self.clock_skew = 0
        """ms by which its device's clock is ahead (negative: behind), where it is known to be wrong"""
        self.encoded: bytes | None = None
        """its `state` as JSON, from when a screen was sent it until something of it is another"""
        self.counted_at = 0.0, 0.0
        """where it came into its cell"""
        self.lost = False
        """nobody knows where it is now: it is silent, or what it sends is old"""
        self.standing = False
        self.status = self.judge_status()
        self.waits_from: int | None = None
        """the fix time of its first move that waits, or waited, until its fleet is loaded"""

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

    def encoded_state(self) -> bytes:
        if self.encoded is None:
            self.encoded = encode(self.state())
        return self.encoded

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


FleetViewport: TypeAlias = Viewport[LiveVehicle]
FleetCell: TypeAlias = Cell[LiveVehicle, FleetViewport]
FleetSlices: TypeAlias = Slices[LiveVehicle]


class FleetFeed:
    """The live state of one fleet. All of it is synchronous, so that a snapshot and what follows can't miss each other.

    What takes long is done in parts (`ticking`, `recounting`, `Viewport.coming`); whatever comes between two of them finds
    all in order.
    """

    def __init__(self, fleet: Fleet, slices: FleetSlices | None = None) -> None:
        self.fleet = fleet
        self.as_of = 0
        """the last change of the log that `fleet` knows of"""
        self.loaded = False
        """Whether all of the fleet is known: until then its moves wait (`waiting`, in order) to be judged."""
        self.waiting: list[tuple[LiveVehicle, Position]] = []
        self.used_at = 0
        """when somebody last looked at it or drove for it, as far as that was noted"""
        self._slices = slices or Slices()
        self.vehicles: set[LiveVehicle] = set()
        self.queues: set[ReaderQueue] = set()
        """of the dispatchers, with a viewport or without"""
        self._cells: dict[tuple[int, int], FleetCell] = {}
        self._dirty: set[FleetCell] = set()
        self._telling: set[FleetCell] = set()
        """those whose viewers are being told in this tick"""
        self._viewports: set[FleetViewport] = set()
        self._waiting: dict[FleetViewport, None] = {}
        """viewports with something to be told that no cell's change brings: who waits longest in front"""
        self._looked: set[FleetViewport] = set()
        """viewports that were shown another part of the map since the last tick"""
        self._pyramid = Pyramid()

    # --- vehicles -----------------------------------------------------------------------------------------------------

    def moved(self, vehicle: LiveVehicle, position: Position) -> None:
        """A position that moves the vehicle's marker."""
        vehicle.position = position
        vehicle.encoded = None
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
                vehicle.encoded = None
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
        vehicle.encoded = None
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
        vehicle.encoded = None
        # Whoever sees it: where it is, where it was and has not been seen to go from, and who is behind with it.
        viewers = set(cell.viewers)
        for left in (*self._dirty, *self._telling):
            if vehicle in left.gone:
                left.gone.discard(vehicle)
                viewers |= left.viewers
        for viewport in self._viewports:
            if vehicle in viewport.missed or vehicle in viewport.missed_descriptions:
                viewport.missed.discard(vehicle)
                viewport.missed_descriptions.discard(vehicle)
                viewers.add(viewport)
        for viewport in viewers:
            # What this tick has for it may be of the vehicle still.
            self._send(viewport)
            viewport.left.append(vehicle.vehicle.vehicle_id)
            self._waiting[viewport] = None

    # --- dispatchers --------------------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """A ready frame to every dispatcher, never dropped."""
        for queue in self.queues:
            queue.push(data)

    def mention(self, data: bytes) -> None:
        """A ready frame to every dispatcher who reads as fast as he is written to."""
        for queue in self.queues:
            if not queue.blocked:
                queue.push(data)

    def look(self, viewport: FleetViewport, bounds: tuple[float, float, float, float], zoom: float) -> None:
        """The screen shows another part of the map, and is sent what is new to it.

        Of a screen that moves many times within a tick, faster than its reader reads, or past its allowance, the first and the
        newest count.
        """
        self._viewports.add(viewport)
        if viewport.wanted is not None:
            viewport.skipped.append(area_of(*viewport.wanted[0]))
            # While its reader is slow there may be many.
            del viewport.skipped[: len(viewport.skipped) - MAX_SKIPPED - 1]
        viewport.wanted = bounds, zoom
        self._look(viewport)

    def _look(self, viewport: FleetViewport, *, has_time: bool = False) -> None:
        """Shows what is wanted, now or in its time."""
        if viewport in self._looked or viewport.queue.blocked or viewport.holds_back or not viewport.allowance.has_room():
            self._waiting[viewport] = None
        elif not (has_time or self._slices.has_time()):
            self._slices.wait(viewport, self)
        elif viewport.wanted is not None:
            self._show(viewport, *viewport.wanted)

    def _show(self, viewport: FleetViewport, bounds: tuple[float, float, float, float], zoom: float) -> None:
        self._looked.add(viewport)
        viewport.wanted = None
        viewport.allowance.spend(LOOK_COST)
        before, viewport.area, viewport.zoom = viewport.area, area_of(*bounds), zoom
        passed, viewport.skipped = viewport.skipped, []
        if self._is_too_full(viewport.area):
            self._show_clusters(viewport)
        elif before is None or viewport.clustered or len(passed) > MAX_SKIPPED:
            self._show_vehicles(viewport, ())
        else:
            self._show_vehicles(viewport, (before, *passed))

    def go_on(self, viewport: FleetViewport) -> None:
        """Shows what is still to be shown of where the screen looks, as far as its reader and the time allow."""
        if viewport.coming is not None:
            for _ in viewport.coming:
                if viewport.queue.blocked:
                    # The rest in its time, as it will be then.
                    self._waiting[viewport] = None
                    return
                if not self._slices.has_time():
                    self._slices.wait(viewport, self)
                    return
            viewport.coming = None
        if viewport.wanted is not None:
            self._look(viewport, has_time=True)

    def forget(self, viewport: FleetViewport) -> None:
        self._viewports.discard(viewport)
        self._waiting.pop(viewport, None)
        self._looked.discard(viewport)
        self._slices.forget(viewport)
        viewport.coming = None
        self._unregister(viewport, set(viewport.cells))

    def _unregister(self, viewport: FleetViewport, cells: set[FleetCell]) -> None:
        viewport.cells -= cells
        for cell in cells:
            cell.viewers.discard(viewport)
            if not cell.viewers:
                cell.moved.clear()
                cell.gone.clear()
                cell.described.clear()
                self._dirty.discard(cell)
                self._telling.discard(cell)
                if not cell.vehicles:
                    del self._cells[cell.column, cell.row]

    def _show_vehicles(self, viewport: FleetViewport, before: Sequence[Area]) -> None:
        """Sends what did not lie in every area of `before`, where the screen came from; without any, all that it shows."""
        self._send(viewport)
        viewport.clustered = False
        viewport.coming = self._showing(viewport, before)
        self.go_on(viewport)

    def _showing(self, viewport: FleetViewport, before: Sequence[Area]) -> Iterator[None]:
        """Registers the screen at its cells and sends what lies in them, a part at a time.

        A cell that gets its first vehicle meanwhile has the screen among its viewers from the beginning.
        """
        area = viewport.area
        assert area is not None
        parts = shared_parts(before)

        def is_known(column: int, row: int) -> bool:
            return any(part.holds(column, row) for part in parts)

        # Not those that are empty now: whoever went from there is still to be seen to go.
        self._unregister(viewport, {cell for cell in viewport.cells if not area.touches(cell.column, cell.row)})
        # Named although they are empty: a client may hold vehicles of them from an earlier look.
        name_all = area.size <= MAX_NAMED_CELLS
        names = [cell_name(*key) for key in area.places() if not is_known(*key)] if name_all else []
        vehicles: list[LiveVehicle] = []
        weight, sent = 0, False
        for column, row, _ in self._pyramid.cells(area):
            cell = self._cells[column, row]
            weight += 1
            if cell not in viewport.cells or not is_known(column, row):
                viewport.cells.add(cell)
                cell.viewers.add(viewport)
                vehicles += cell.vehicles
                weight += len(cell.vehicles)
                if not name_all and cell.vehicles:
                    names.append(cell.name)
            if weight >= PART:
                # One cell may hold all of them.
                for begin in range(0, len(vehicles) or 1, PART):
                    # Who went from there meanwhile is told of where it is now.
                    part = [
                        one for one in vehicles[begin : begin + PART] if one.cell is not None and viewport in one.cell.viewers
                    ]
                    self._send_vehicles(viewport, names if begin == 0 else [], part)
                    sent = True
                    yield
                names, vehicles, weight = [], [], 0
        if names or vehicles or not sent:
            self._send_vehicles(viewport, names, vehicles)
            yield

    def _send_vehicles(self, viewport: FleetViewport, names: list[str], vehicles: list[LiveVehicle]) -> None:
        viewport.allowance.spend(len(vehicles) + len(names) // 10)
        for message in snapshots(names, (vehicle.encoded_state() for vehicle in vehicles)):
            viewport.queue.push(message)

    # --- clusters -----------------------------------------------------------------------------------------------------

    def _is_too_full(self, area: Area) -> bool:
        if len(self.vehicles) <= MAX_SINGLE:
            return False
        # More than what its tiles hold it can't; most screens are done with that.
        if sum(tile.count for tile in self._pyramid.tiles(area, _level_of(area, ZOOM))) <= MAX_SINGLE:
            return False
        held = 0
        for column, row, count in self._pyramid.counted(area):
            if count is not None:
                held += count
            else:
                # A cell at the edge reaches beyond the screen: what counts is what the screen holds.
                places = [vehicle.position for vehicle in self._cells[column, row].vehicles]
                held += sum(area.shows(place.latitude, place.longitude) for place in places if place is not None)
            if held > MAX_SINGLE:
                return True
        return False

    def _show_clusters(self, viewport: FleetViewport, known: "dict[_Look, bytes] | None" = None) -> None:
        """`known` are clusters that others were shown in the same moment."""
        self._send(viewport)
        viewport.coming = None
        self._unregister(viewport, set(viewport.cells))
        viewport.missed.clear()
        viewport.missed_descriptions.clear()
        assert viewport.area is not None
        known = {} if known is None else known
        clusters = known.get((viewport.area, viewport.zoom))
        if clusters is None:
            found = self._clusters(viewport.area, viewport.zoom)
            clusters = known[viewport.area, viewport.zoom] = frame(Clusters(found))
            viewport.allowance.spend(len(found))
        if viewport.clustered and clusters == viewport.clusters:
            return
        viewport.clustered = True
        viewport.clusters = clusters
        viewport.queue.push(clusters)

    def _clusters(self, area: Area, zoom: float) -> list[tuple[float, float, int]]:
        """Vehicles counted by tiles of half the screen's, each shown about the middle of the vehicles in it.

        No tile is smaller than a cell: more than `MAX_SINGLE` vehicles on a screen of one cell are one cluster.
        """
        return [
            (round(tile.latitudes / tile.count, 6), round(tile.longitudes / tile.count, 6), tile.count)
            for tile in self._pyramid.tiles(area, _level_of(area, min(ZOOM, int(zoom) + CLUSTER_STEPS)))
        ]

    def recount(self) -> None:
        """All of `recounting` at once."""
        for _ in self.recounting():
            pass

    def recounting(self) -> Iterator[None]:
        """To be gone through every second: whether a viewport holds too many vehicles, or no longer; clusters as they are now.

        Between two steps others may have their turn.
        """
        if len(self.vehicles) <= MAX_SINGLE and not any(viewport.clustered for viewport in self._viewports):
            return
        judged: dict[Area, bool] = {}
        clusters: dict[_Look, bytes] = {}
        for viewport in list(self._viewports):
            if viewport not in self._viewports or viewport.area is None or viewport.queue.blocked or viewport.coming:
                continue
            if not viewport.clustered and sum(len(cell.vehicles) for cell in viewport.cells) <= MAX_SINGLE:
                continue
            too_full = judged.get(viewport.area)
            if too_full is None:
                too_full = judged[viewport.area] = self._is_too_full(viewport.area)
            if too_full:
                self._show_clusters(viewport, clusters)
            elif viewport.clustered:
                self._show_vehicles(viewport, ())
            yield

    # --- the tick -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """All of `ticking` at once."""
        for _ in self.ticking():
            pass

    def ticking(self) -> Iterator[None]:
        """To be gone through every 250 ms: tells each viewport what changed in the cells that it touches.

        Between two steps others may have their turn.
        """
        touched, self._waiting = self._waiting, {}
        self._looked.clear()
        if self._dirty:
            self._telling, self._dirty = self._dirty, set()
            while self._telling:
                self._tell_viewers(self._telling.pop(), touched)
                yield
        for viewport in touched:
            if viewport in self._viewports:
                self._flush(viewport)
                yield

    def _tell_viewers(self, cell: FleetCell, touched: dict[FleetViewport, None]) -> None:
        rows = list(packed(cell.moved.values()))
        descriptions = list(packed(encode(vehicle.description()) for vehicle in cell.described))
        count = len(cell.moved)
        for viewport in cell.viewers:
            touched[viewport] = None
            if viewport.queue.blocked or viewport.missed:
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
                    if viewport.queue.blocked or viewport.missed:
                        viewport.missed.add(vehicle)
                    else:
                        viewport.rows.append(row)
        cell.moved.clear()
        cell.gone.clear()
        cell.described.clear()

    def _flush(self, viewport: FleetViewport) -> None:
        if viewport.queue.blocked:
            self._waiting[viewport] = None
            return
        if viewport.missed or viewport.missed_descriptions:
            viewport.rows += packed(encode(vehicle.row()) for vehicle in viewport.missed)
            viewport.descriptions += packed(encode(vehicle.description()) for vehicle in viewport.missed_descriptions)
            viewport.missed.clear()
            viewport.missed_descriptions.clear()
        self._send(viewport)
        self.go_on(viewport)

    def _send(self, viewport: FleetViewport) -> None:
        """Sends what the tick has for it so far."""
        if viewport.rows or viewport.descriptions or viewport.left:
            viewport.queue.push(b"".join(updates(viewport.rows, viewport.descriptions, viewport.left)))
            viewport.rows, viewport.descriptions, viewport.left = [], [], []


_Look: TypeAlias = tuple[Area, float]
"""Where a screen looks, and its zoom."""


def _level_of(area: Area, deepest: int) -> int:
    """The deepest zoom at which an area has no more than about `MAX_CLUSTERS` tiles."""
    level = deepest
    while level > 0 and area.size / 4 ** (ZOOM - level) > MAX_CLUSTERS:
        level -= 1
    return level
