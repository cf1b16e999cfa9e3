"""A vehicle as dispatchers are shown it, and how it is written into messages."""

from typing import TypeAlias

from msgspec import UNSET, UnsetType

from tracking.live.grid import Cell
from tracking.live.viewport import Slices, Viewport
from tracking.model import Position, Trip, Vehicle, VehicleStatus
from tracking.protocol.codec import encode
from tracking.protocol.dispatcher import FleetRow, VehicleDescription, VehicleState


class ShownVehicle:
    """`cell` is None while the vehicle is not on the map: it has no position, or was silent for too long."""

    __slots__ = ("cell", "clock_skew", "counted_at", "encoded", "lost", "position", "standing", "status", "trip", "vehicle")

    def __init__(self, vehicle: Vehicle) -> None:
        self.vehicle = vehicle
        self.trip: Trip | None = None
        """The trip that its driver is to see: the one under way, or the next."""
        self.position: Position | None = None
        self.cell: FleetCell | None = None
        self.clock_skew = 0
        """By how many ms its device's clock is ahead (negative: behind); 0 if the clock is not known to be wrong."""
        self.encoded: bytes | None = None
        """Its `state` as JSON, from when a screen was sent it until something in it changes."""
        self.counted_at = 0.0, 0.0
        """Its place when it came into its cell."""
        self.lost = False
        """Its place is not known now: it is silent, or its positions are old on arrival."""
        self.standing = False
        self.status = self.judge_status()

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
        """How old (ms) one of its positions was on arrival, corrected by `clock_skew`."""
        return position.server_time - position.fix_time + self.clock_skew


FleetViewport: TypeAlias = Viewport[ShownVehicle]
FleetCell: TypeAlias = Cell[ShownVehicle, FleetViewport]
FleetSlices: TypeAlias = Slices[ShownVehicle]
