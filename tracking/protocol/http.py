"""Trips, vehicles and geofences as HTTP answers show them. Sockets show them in the same way."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from tracking.model import Geofence, Place, Trip, TripStatus, Vehicle
from tracking.protocol.codec import encode


class VehicleView(Struct, frozen=True):
    """A vehicle as a trip shows it."""

    vehicle_id: str
    name: str
    kind: str
    plate: str

    @classmethod
    def of(cls, vehicle: Vehicle) -> "VehicleView":
        return cls(vehicle.vehicle_id, vehicle.name, vehicle.kind, vehicle.plate)


class TripView(Struct, omit_defaults=True, frozen=True):
    """A trip as HTTP and the sockets show it. `route` is a GeoJSON LineString."""

    trip_id: str
    fleet_id: str
    status: TripStatus
    version: int
    pickup: Place
    dropoff: Place
    stops: Sequence[Place]
    created_at: int
    vehicle: VehicleView | UnsetType = UNSET
    route: dict[str, Any] | UnsetType = UNSET

    @classmethod
    def of(cls, trip: Trip, *, show_vehicle: bool = True) -> "TripView":
        return cls(
            trip_id=trip.trip_id,
            fleet_id=trip.fleet_id,
            status=trip.status,
            version=trip.version,
            pickup=trip.pickup,
            dropoff=trip.dropoff,
            stops=trip.stops,
            created_at=trip.created_at,
            vehicle=VehicleView.of(trip.vehicle) if trip.vehicle is not None and show_vehicle else UNSET,
            route=trip.route if trip.route is not None else UNSET,
        )


class GeofenceView(Struct, tag_field="type", tag="Feature"):
    """A geofence as GeoJSON (RFC 7946), over HTTP and on the socket."""

    id: str
    geometry: dict[str, Any]
    properties: dict[str, Any]

    @classmethod
    def of(cls, geofence: Geofence) -> "GeofenceView":
        return cls(geofence.geofence_id, geofence.geometry, geofence.properties)


def feature_collection(geofences: Iterable[Geofence]) -> bytes:
    """Geofences as a GeoJSON FeatureCollection. They are encoded one by one, so that a thread doing so lets others run."""
    return b'{"type":"FeatureCollection","features":[%b]}' % b",".join(encode(GeofenceView.of(one)) for one in geofences)
