"""One fleet, live: its vehicles, its dispatchers, and the screens that show it.

A position costs a look at its vehicle's cell, and nothing more if no screen shows that cell. If one does, the position is
encoded once. At a tick a viewport gets what its cells noted, joined into one message, by one write.
"""

from tracking.live.reader_queue import ReaderQueue
from tracking.live.screens import FleetScreens
from tracking.live.shown_vehicle import FleetSlices, ShownVehicle
from tracking.model import Fleet, Position, Vehicle
from tracking.protocol.codec import encode


class LiveVehicle(ShownVehicle):
    """A vehicle as its fleet knows it."""

    __slots__ = ("as_of", "feed", "joined_at", "newest_elsewhere", "number", "waits_from")

    def __init__(self, vehicle: Vehicle, feed: "FleetFeed") -> None:
        super().__init__(vehicle)
        self.feed = feed
        self.number = 0
        """The store's number of it; 0 if that is not known."""
        self.as_of = 0
        """The last change of the log that this knows of."""
        self.joined_at = 0
        """The instant at which it joined this fleet. The fleet must not see positions from before."""
        self.newest_elsewhere = 0
        """The newest fix time that another hub told. If the vehicle comes here, older fixes may come again."""
        self.waits_from: int | None = None
        """The fix time of its first move that waits, or waited, until its fleet is loaded."""


class FleetFeed:
    """The live state of one fleet. All of it is synchronous, so nothing falls between a snapshot and what follows it."""

    def __init__(self, fleet: Fleet, slices: FleetSlices | None = None) -> None:
        self.fleet = fleet
        self.as_of = 0
        """The last change of the log that `fleet` knows of."""
        self.loaded = False
        """Whether all of the fleet is known. Until then its moves wait (`waiting`, in order) to be judged."""
        self.waiting: list[tuple[LiveVehicle, Position]] = []
        self.used_at = 0
        """When somebody was last known to look at it or to drive for it."""
        self.vehicles: set[LiveVehicle] = set()
        self.queues: set[ReaderQueue] = set()
        """Those of the dispatchers, with a viewport or without."""
        self.screens = FleetScreens(self.vehicles, slices)
        self.noted: set[LiveVehicle] | None = None
        """Vehicles that changed since other hubs were told. None while no other hub wants the fleet. `cluster` sets it."""

    # --- vehicles -----------------------------------------------------------------------------------------------------

    def moved(self, vehicle: LiveVehicle, position: Position) -> None:
        """Takes a position that moves the vehicle's marker."""
        vehicle.position = position
        vehicle.encoded = None
        cell = vehicle.cell
        latitude, longitude = position.latitude, position.longitude
        if cell is None or not (cell.south <= latitude < cell.north and cell.west <= longitude < cell.east):
            self.screens.change_cell(vehicle, latitude, longitude)
        elif cell.viewers:
            # It is encoded now, while it is in the processor's cache.
            cell.moved[vehicle] = encode(vehicle.row())
            self.screens.dirty.add(cell)

    def restate(self, vehicle: LiveVehicle) -> None:
        """To be called when its trip, its name or its status changed."""
        vehicle.status = vehicle.judge_status()
        vehicle.encoded = None
        self.note(vehicle)
        cell = vehicle.cell
        if cell is not None and cell.viewers:
            cell.described.add(vehicle)
            self.screens.dirty.add(cell)

    def note(self, vehicle: LiveVehicle) -> None:
        """Other hubs that want the fleet are told of the vehicle's state."""
        if self.noted is not None:
            self.noted.add(vehicle)

    def leave(self, vehicle: LiveVehicle) -> None:
        """Takes the vehicle off the map."""
        self.screens.leave(vehicle)

    # --- dispatchers --------------------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """Sends a ready frame to every dispatcher. It is never dropped."""
        for queue in self.queues:
            queue.push(data)

    def mention(self, data: bytes) -> None:
        """Sends a ready frame to every dispatcher whose queue is not blocked."""
        for queue in self.queues:
            if not queue.blocked:
                queue.push(data)
