"""The positions of the last minute of each trip, packed, for readers that come from another hub."""

import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import isnan, nan
from typing import NamedTuple

import msgspec

from tracking.model import Position

SPAN_MS = 60_000
"""How long positions are kept at least."""
SLACK_MS = 15_000
"""How much longer some are kept, so that not every position removes one."""
MOST = 512
"""Positions of one trip. A backlog brings more: then the oldest are dropped."""
MOST_VEHICLES = 50_000
"""Vehicles of which it is remembered since when they come here."""
FORGOTTEN_MS = 180_000
"""A trip without a position for so long is forgotten. A parked vehicle reports every minute."""

NEVER = 2**62
"""An instant after all others."""

_RECORD = struct.Struct("<4qHB7d")
"""Fix time, server time, session, seq; which vehicle, whether it moved the marker; then the floats. NaN: a missing value."""
_pack = _RECORD.pack
_SIZE = _RECORD.size
_Stays = Callable[[Position], bool]
_KEY = struct.Struct(f"<q24xH{_SIZE - 34}x")
"""Of a record: its fix time, and which vehicle."""


class Recent(NamedTuple):
    """`positions` in the order of their arrival. They are all that arrived from the instant `complete_from` on."""

    positions: list[Position]
    complete_from: int


class _HandedOver(msgspec.Struct, array_like=True):
    """A trip's recent positions on their way to another hub."""

    trip_id: str
    complete_from: int
    positions: list[Position]


class _Trip:
    """The records of one trip."""

    __slots__ = ("complete_from", "newest_at", "oldest_at", "records", "vehicles")

    def __init__(self, complete_from: int) -> None:
        self.records = bytearray()
        self.vehicles: list[tuple[int, str, int | None]] = []
        """The vehicles that drove the trip: number, id, and the trip's number. Records refer to their index."""
        self.complete_from = complete_from
        self.oldest_at = self.newest_at = complete_from

    def index_of(self, position: Position) -> int:
        number = position.vehicle
        for index, vehicle in enumerate(self.vehicles):
            if vehicle[0] == number:
                return index
        self.vehicles.append((number, position.vehicle_id, position.trip))
        return len(self.vehicles) - 1

    def positions(self, trip_id: str) -> Iterator[Position]:
        for fix_time, server_time, session, seq, vehicle, live, *floats in _RECORD.iter_unpack(bytes(self.records)):
            latitude, longitude, accuracy, altitude, speed, bearing, battery = floats
            number, vehicle_id, trip = self.vehicles[vehicle]
            yield Position(
                number, vehicle_id, session, seq, fix_time, server_time, latitude, longitude,
                _or_none(accuracy), _or_none(altitude), _or_none(speed), _or_none(bearing), _or_none(battery),
                trip, trip_id, (), bool(live),
            )  # fmt: skip

    def drop_first(self, count: int) -> None:
        """Drops the oldest records, but never the last one."""
        count = min(count, len(self.records) // _SIZE - 1)
        if count <= 0:
            return
        self.complete_from = max(self.complete_from, self._arrived(count - 1) + 1)
        del self.records[: count * _SIZE]
        self.oldest_at = self._arrived(0)

    def drop_before(self, instant: int) -> None:
        count = 0
        while count < len(self.records) // _SIZE and self._arrived(count) < instant:
            count += 1
        self.drop_first(count)

    def _arrived(self, index: int) -> int:
        instant: int = struct.unpack_from("<q", self.records, index * _SIZE + 8)[0]
        return instant


class RecentPositions:
    """Keeps plausible positions by trip: for `SPAN_MS` at least, up to `MOST` of a trip, and always a trip's last one."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._trips: dict[str, _Trip] = {}
        self._of_vehicle: dict[int, set[str]] = {}
        self._here_from: dict[int, int] = {}
        """By vehicle: the instant from which on all its positions came to this hub."""

    def __contains__(self, trip_id: str) -> bool:
        """Whether a position of the trip is kept."""
        trip = self._trips.get(trip_id)
        return trip is not None and bool(trip.records)

    def __len__(self) -> int:
        return len(self._trips)

    def keep(self, position: Position) -> None:
        """Takes a position that has a trip and no flag."""
        trip_id = position.trip_id
        assert trip_id is not None
        trip = self._trips.get(trip_id)
        if trip is None:
            trip = self._trips[trip_id] = _Trip(self._complete_from(position))
        if not trip.records:
            trip.oldest_at = position.server_time
        index = 0
        if not trip.vehicles or trip.vehicles[0][0] != position.vehicle:
            index = trip.index_of(position)
            self._of_vehicle.setdefault(position.vehicle, set()).add(trip_id)
        accuracy, altitude, speed = position.accuracy, position.altitude, position.speed
        bearing, battery = position.bearing, position.battery
        trip.newest_at = server_time = position.server_time
        trip.records += _pack(
            position.fix_time,
            server_time,
            position.session,
            position.seq,
            index,
            position.live,
            position.latitude,
            position.longitude,
            nan if accuracy is None else accuracy,
            nan if altitude is None else altitude,
            nan if speed is None else speed,
            nan if bearing is None else bearing,
            nan if battery is None else battery,
        )
        if server_time - trip.oldest_at > SPAN_MS + SLACK_MS:
            trip.drop_before(server_time - SPAN_MS)
        if len(trip.records) > self._most * _SIZE:
            trip.drop_first(self._most // 4)

    def of(self, trip_id: str) -> Recent:
        """The trip's positions; of an unknown trip none, complete from never on."""
        trip = self._trips.get(trip_id)
        return (
            Recent([], NEVER) if trip is None or not trip.records else Recent(list(trip.positions(trip_id)), trip.complete_from)
        )

    def keys(self, trip_id: str) -> set[tuple[str, int]]:
        """Of the trip's positions: `(vehicle_id, fix_time)`."""
        trip = self._trips.get(trip_id)
        if trip is None:
            return set()
        names = [vehicle_id for _, vehicle_id, _ in trip.vehicles]
        return {(names[vehicle], fix_time) for fix_time, vehicle in _KEY.iter_unpack(trip.records)}

    def vehicles_of(self, trip_id: str) -> list[int]:
        """The numbers of the vehicles whose positions are kept for the trip."""
        trip = self._trips.get(trip_id)
        return [] if trip is None else [number for number, _, _ in trip.vehicles]

    def incomplete_before(self, trip_id: str, instant: int) -> None:
        """Something of the trip changed that these positions do not show."""
        trip = self._trips.get(trip_id)
        if trip is None:
            trip = self._trips[trip_id] = _Trip(instant)
        trip.complete_from = max(trip.complete_from, instant)

    def take_out(self, trip_id: str, vehicle_id: str, fix_times: Iterable[int]) -> None:
        """These positions turned out not to belong to the trip."""
        gone = {(vehicle_id, fix_time) for fix_time in fix_times}
        self._keep_only(trip_id, lambda position: (position.vehicle_id, position.fix_time) not in gone)

    def forget_trip(self, trip_id: str) -> None:
        trip = self._trips.pop(trip_id, None)
        for number in () if trip is None else [number for number, _, _ in trip.vehicles]:
            self._leave(number, trip_id)

    def forget_vehicles(self, numbers: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed, or have another home now."""
        for number in numbers:
            self._here_from.pop(number, None)
            for trip_id in self._of_vehicle.pop(number, ()):
                self._keep_only(trip_id, partial(_is_of_another, number))

    def begins_here(self, vehicle: int, instant: int) -> None:
        """From now on the vehicle's positions come to this hub. From `instant` on none came to another one."""
        self._here_from.pop(vehicle, None)
        self._here_from[vehicle] = instant
        if len(self._here_from) > MOST_VEHICLES:
            del self._here_from[next(iter(self._here_from))]

    def _complete_from(self, first: Position) -> int:
        """For a trip of which this is the first position. Those that were forgotten are older than `SPAN_MS`."""
        here_from = self._here_from.get(first.vehicle, first.server_time)
        return min(first.server_time, max(here_from, first.server_time - SPAN_MS))

    def sweep(self, now: int) -> None:
        """Forgets trips without a position for a while. To be called every minute or so."""
        for trip_id in [trip_id for trip_id, trip in self._trips.items() if now - trip.newest_at > FORGOTTEN_MS]:
            self.forget_trip(trip_id)

    # --- to another hub -----------------------------------------------------------------------------------------------

    def handed_over(self, vehicle: int) -> bytes:
        """What is kept of the vehicle, for its new home. It is forgotten here."""
        parts = []
        for trip_id in self._of_vehicle.get(vehicle, ()):
            positions, complete_from = self.of(trip_id)
            mine = [position for position in positions if position.vehicle == vehicle]
            parts.append(_HandedOver(trip_id, complete_from, mine))
        self.forget_vehicles([vehicle])
        return msgspec.msgpack.encode(parts) if parts else b""

    def take_up(self, vehicle: int, handed_over: bytes) -> None:
        """Continues with what the former home handed over. What was kept here from before is forgotten.

        Without it, or if it can't be read, the vehicle's positions are complete from its next one on.
        """
        self.forget_vehicles([vehicle])
        try:
            parts = _handed_over.decode(handed_over) if handed_over else []
        except msgspec.DecodeError:
            return
        for part in parts:
            for position in part.positions:
                if position.trip_id == part.trip_id and position.vehicle == vehicle:
                    self.keep(position)
            trip = self._trips.get(part.trip_id)
            if trip is not None and part.positions and trip.complete_from <= part.positions[0].server_time:
                trip.complete_from = part.complete_from

    def _keep_only(self, trip_id: str, stays: _Stays) -> None:
        trip = self._trips.get(trip_id)
        if trip is None:
            return
        left = [position for position in trip.positions(trip_id) if stays(position)]
        complete_from = trip.complete_from
        self.forget_trip(trip_id)
        for position in left:
            self.keep(position)
        if left:
            self._trips[trip_id].complete_from = complete_from

    def _leave(self, vehicle: int, trip_id: str) -> None:
        trips = self._of_vehicle.get(vehicle)
        if trips is not None:
            trips.discard(trip_id)
            if not trips:
                del self._of_vehicle[vehicle]


_handed_over = msgspec.msgpack.Decoder(list[_HandedOver])


def _is_of_another(vehicle: int, position: Position) -> bool:
    return position.vehicle != vehicle


def _or_none(value: float) -> float | None:
    return None if isnan(value) else value
