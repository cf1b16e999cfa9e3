"""The screens that look at one fleet: its grid of cells, what each screen is shown, and a tick that tells each what changed."""

from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

from tracking.live.clusters import MAX_SINGLE, clusters_of, is_too_full
from tracking.live.grid import Area, Cell, Pyramid, area_of, cell_name, column_of, row_of, shared_parts
from tracking.live.packing import packed, snapshots, updates
from tracking.live.shown_vehicle import FleetCell, FleetSlices, FleetViewport, ShownVehicle
from tracking.live.viewport import Slices
from tracking.metrics import FLEET_DELIVERIES, SKIPPED
from tracking.protocol.codec import encode, frame
from tracking.protocol.dispatcher import Clusters

MAX_NAMED_CELLS = 1_024
"""A snapshot names up to so many new cells, occupied or not. A larger snapshot names only occupied cells."""
MAX_SKIPPED = 50
"""Areas that a screen passed without being shown them. Past this number it is sent everything again."""
PART = 300
"""Vehicles and cells that are shown before the time is checked: about a millisecond."""
LOOK_COST = 10
"""What a look costs of an allowance, besides the vehicles and clusters that are sent."""

_Look: TypeAlias = tuple[Area, float]
"""Where a screen looks, and its zoom."""


class FleetScreens:
    """All of it is synchronous. What takes long is done in parts (`ticking`, `recounting`, `Viewport.coming`).

    Between two parts everything is in order. `vehicles` are the fleet's, kept up to date by its feed.
    """

    def __init__(self, vehicles: Collection[ShownVehicle], slices: FleetSlices | None = None) -> None:
        self._vehicles = vehicles
        self._slices = slices or Slices()
        self.cells: dict[tuple[int, int], FleetCell] = {}
        self.dirty: set[FleetCell] = set()
        """Cells with changes since the last tick, that some screen shows."""
        self._telling: set[FleetCell] = set()
        """Cells whose viewers are being told in this tick."""
        self._viewports: set[FleetViewport] = set()
        self._waiting: dict[FleetViewport, None] = {}
        """Viewports that wait for something other than a cell's change, the one that waits longest in front."""
        self._looked: set[FleetViewport] = set()
        """Viewports that were shown another part of the map since the last tick."""
        self._pyramid = Pyramid()

    # --- vehicles -----------------------------------------------------------------------------------------------------

    def change_cell(self, vehicle: ShownVehicle, latitude: float, longitude: float) -> None:
        """The vehicle is at this place now, in another cell or on the map for the first time."""
        key = column_of(longitude), row_of(latitude)
        new = self.cells.get(key)
        if new is None:
            new = self.cells[key] = Cell(*key)
        if not new.vehicles:
            # Screens are registered at occupied cells only. This one is occupied from now on.
            for viewport in self._viewports:
                if not viewport.clustered and viewport.area is not None and viewport.area.touches(*key):
                    viewport.cells.add(new)
                    new.viewers.add(viewport)
        old = vehicle.cell
        if old is not new:
            self._take_out(vehicle)
            if old is not None and old.viewers:
                old.gone.add(vehicle)
                self.dirty.add(old)
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
            self.dirty.add(new)

    def _take_out(self, vehicle: ShownVehicle) -> None:
        cell, vehicle.cell = vehicle.cell, None
        if cell is None:
            return
        self._pyramid.remove(cell.column, cell.row, vehicle.counted_at)
        cell.vehicles.discard(vehicle)
        cell.described.discard(vehicle)
        cell.moved.pop(vehicle, None)
        if not cell.vehicles and not cell.viewers:
            del self.cells[cell.column, cell.row]

    def leave(self, vehicle: ShownVehicle) -> None:
        """Takes the vehicle off the map."""
        cell = vehicle.cell
        if cell is None:
            return
        self._take_out(vehicle)
        vehicle.encoded = None
        # Viewports that show it: at its cell, at a cell that it left since the last tick, and those that lag behind.
        viewers = set(cell.viewers)
        for left in (*self.dirty, *self._telling):
            if vehicle in left.gone:
                left.gone.discard(vehicle)
                viewers |= left.viewers
        for viewport in self._viewports:
            if vehicle in viewport.missed or vehicle in viewport.missed_descriptions:
                viewport.missed.discard(vehicle)
                viewport.missed_descriptions.discard(vehicle)
                viewers.add(viewport)
        for viewport in viewers:
            # The rows collected in this tick may still name the vehicle.
            self._send(viewport)
            viewport.left.append(vehicle.vehicle.vehicle_id)
            self._waiting[viewport] = None

    # --- what a screen is shown ---------------------------------------------------------------------------------------

    def look(self, viewport: FleetViewport, bounds: tuple[float, float, float, float], zoom: float) -> None:
        """The screen shows another part of the map, and is sent what is new to it.

        If it moves many times within a tick, faster than its reader reads, or past its allowance, only the first and the newest
        part are shown.
        """
        self._viewports.add(viewport)
        if viewport.wanted is not None:
            viewport.skipped.append(area_of(*viewport.wanted[0]))
            # A slow reader may gather many.
            del viewport.skipped[: len(viewport.skipped) - MAX_SKIPPED - 1]
        viewport.wanted = bounds, zoom
        self._look(viewport)

    def _look(self, viewport: FleetViewport, *, has_time: bool = False) -> None:
        """Shows what is wanted, now or later."""
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
        """Shows the rest of where the screen looks, as far as its reader and the time allow."""
        if viewport.coming is not None:
            for _ in viewport.coming:
                if viewport.queue.blocked:
                    # The rest is shown later, in its state then.
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
                self.dirty.discard(cell)
                self._telling.discard(cell)
                if not cell.vehicles:
                    del self.cells[cell.column, cell.row]

    def _show_vehicles(self, viewport: FleetViewport, before: Sequence[Area]) -> None:
        """Sends all vehicles outside the areas of `before`, which the screen passed. Without any, sends all vehicles."""
        self._send(viewport)
        viewport.clustered = False
        viewport.coming = self._showing(viewport, before)
        self.go_on(viewport)

    def _showing(self, viewport: FleetViewport, before: Sequence[Area]) -> Iterator[None]:
        """Registers the screen at its cells and sends the vehicles in them, a part at a time.

        A cell that gets its first vehicle meanwhile registers the screen by itself.
        """
        area = viewport.area
        assert area is not None
        parts = shared_parts(before)

        def is_known(column: int, row: int) -> bool:
            return any(part.holds(column, row) for part in parts)

        # It stays registered at empty cells that it touches: vehicles that left them are still to be reported.
        self._unregister(viewport, {cell for cell in viewport.cells if not area.touches(cell.column, cell.row)})
        # Empty cells are named as well: a client may hold vehicles in them from an earlier look.
        name_all = area.size <= MAX_NAMED_CELLS
        names = [cell_name(*key) for key in area.places() if not is_known(*key)] if name_all else []
        vehicles: list[ShownVehicle] = []
        weight, sent = 0, False
        for column, row, _ in self._pyramid.cells(area):
            cell = self.cells[column, row]
            weight += 1
            if cell not in viewport.cells or not is_known(column, row):
                viewport.cells.add(cell)
                cell.viewers.add(viewport)
                vehicles += cell.vehicles
                weight += len(cell.vehicles)
                if not name_all and cell.vehicles:
                    names.append(cell.name)
            if weight >= PART:
                # One cell may hold all vehicles.
                for begin in range(0, len(vehicles) or 1, PART):
                    # A vehicle that left meanwhile is sent from its new cell.
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

    def _send_vehicles(self, viewport: FleetViewport, names: list[str], vehicles: list[ShownVehicle]) -> None:
        viewport.allowance.spend(len(vehicles) + len(names) // 10)
        for message in snapshots(names, (vehicle.encoded_state() for vehicle in vehicles)):
            viewport.queue.push(message)

    # --- clusters -----------------------------------------------------------------------------------------------------

    def _is_too_full(self, area: Area) -> bool:
        return len(self._vehicles) > MAX_SINGLE and is_too_full(self._pyramid, self.cells, area)

    def _show_clusters(self, viewport: FleetViewport, known: "dict[_Look, bytes] | None" = None) -> None:
        """`known` are clusters that other screens were shown in this step."""
        self._send(viewport)
        viewport.coming = None
        self._unregister(viewport, set(viewport.cells))
        viewport.missed.clear()
        viewport.missed_descriptions.clear()
        assert viewport.area is not None
        known = {} if known is None else known
        clusters = known.get((viewport.area, viewport.zoom))
        if clusters is None:
            found = clusters_of(self._pyramid, viewport.area, viewport.zoom)
            clusters = known[viewport.area, viewport.zoom] = frame(Clusters(found))
            viewport.allowance.spend(len(found))
        if viewport.clustered and clusters == viewport.clusters:
            return
        viewport.clustered = True
        viewport.clusters = clusters
        viewport.queue.push(clusters)

    def recount(self) -> None:
        """All of `recounting` at once."""
        for _ in self.recounting():
            pass

    def recounting(self) -> Iterator[None]:
        """To be iterated every second: switches viewports between vehicles and clusters, and updates clusters.

        Other tasks may run between two steps.
        """
        if len(self._vehicles) <= MAX_SINGLE and not any(viewport.clustered for viewport in self._viewports):
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
        """To be iterated every 250 ms: sends each viewport what changed in its cells.

        Other tasks may run between two steps.
        """
        touched, self._waiting = self._waiting, {}
        self._looked.clear()
        if self.dirty:
            self._telling, self.dirty = self.dirty, set()
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
                # A viewport that shows the new cell is told from there.
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
        """Sends the rows, descriptions and ids that were collected for it."""
        if viewport.rows or viewport.descriptions or viewport.left:
            viewport.queue.push(b"".join(updates(viewport.rows, viewport.descriptions, viewport.left)))
            viewport.rows, viewport.descriptions, viewport.left = [], [], []
