"""The states of a vehicle, whose changes are events for dispatchers. No I/O, no clock of its own.

Each alert is told once, when it begins, and again only after it was over:

- `speeding`: faster than the lowest limit of the fleet and of the fences that it is in. A speed that the receiver measured
  counts at once. A speed between two positions is less certain. It counts if the next one is over the limit as well, and also
  the speed over both moves together: a jump out and back is the receiver's. It is over at 95 % of the limit.
- `idle`: `idle_after` seconds within `STANDING_RADIUS` metres of one place, or wandering around it.
- `off_route`: farther from its trip's route than `off_route_distance` and the accuracy, twice in a row, on the way to the
  drop-off.
- `signal_lost`: no position for `signal_lost_after` seconds by the hub's clock; `signal_back` with the next one.
- `dwell`: inside a fence for its `dwell_after` seconds.

A vehicle that stood for a minute *wanders* while its receiver strays. It strays at most `WANDER` metres, comes back within a
minute, and reports no speed of a moving vehicle. Meanwhile the vehicle crosses no fence, and no speed is computed.
"""

from collections.abc import Iterator, Mapping
from math import cos, inf, radians
from typing import Any, NamedTuple

import numpy as np
import shapely
from msgspec import UNSET
from shapely.geometry import LineString

from tracking.geo import METRES_PER_DEGREE, around, distance
from tracking.model import EventKind, Fleet, Position, Trip, TripStatus
from tracking.monitor.geofences import Fences

STANDING_RADIUS = 30.0
"""Metres that a receiver strays while its vehicle stands."""
STANDING_AFTER_MS = 60_000
WANDERING_RADIUS = 60.0
"""Metres from where it stands on the average that a receiver is mostly within, between houses: 3 sigma, where sigma is 20 m."""
WANDER = 200.0
"""Metres: the filters let through what strays some 100 m within a second, 140 m within five, and wanders besides
(`kinematics.NOISE`, `reach`)."""
AVERAGED = 60
"""The place where it stands is the mean of so many positions. More do not make it better."""
BACK_MS = 60_000
MOVING = 3.0
"""A reported speed in m/s with which a vehicle drives."""
SPEEDING_IS_OVER = 0.95
LATE_MS = 120_000
"""A position older than this on arrival is from a backlog, and its alerts are late. A device that sends once a minute stays
below it, and so does one that was in a tunnel."""
GAP_MS = 300_000
"""Past this, the straight line between two positions is not the way that the vehicle drove."""
_NO_SPEED_MS = 500
"""No speed can be computed between two fixes that are closer than this."""
_ON_THE_WAY = (TripStatus.ENROUTE_TO_DROPOFF, TripStatus.ARRIVED_AT_STOP)


class Stay:
    """A stay inside a fence since a fix time."""

    __slots__ = ("dwelt", "since")

    def __init__(self, since: int, dwelt: bool = False) -> None:
        self.since = since
        self.dwelt = dwelt


class Alert(NamedTuple):
    """What becomes an event of the position that showed it. `speed` and `limit` in m/s."""

    kind: EventKind
    geofence_id: str | None = None
    speed: float | None = None
    limit: float | None = None


class Route:
    """A trip's route on a plane that is true to scale at its middle latitude, in metres."""

    __slots__ = ("line", "middle", "narrow", "trip_id", "version")

    def __init__(self, trip: Trip) -> None:
        assert trip.route is not None
        self.trip_id = trip.trip_id
        self.version = trip.version
        places = np.array([point[:2] for point in trip.route["coordinates"]], dtype=float)
        # Across the antimeridian it continues past 180 degrees.
        places[:, 0] = np.unwrap(places[:, 0], period=360.0)
        self.middle = float(places[:, 0].min() + places[:, 0].max()) / 2
        self.narrow = cos(radians(float(places[:, 1].mean()))) * METRES_PER_DEGREE
        self.line = LineString(places * (self.narrow, METRES_PER_DEGREE))
        shapely.prepare(self.line)

    def place(self, position: Position) -> tuple[float, float]:
        """The place of a position on that plane, shifted by full turns to be nearest to the route."""
        longitude = position.longitude + 360.0 * round((self.middle - position.longitude) / 360.0)
        return longitude * self.narrow, position.latitude * METRES_PER_DEGREE


class AlertState:
    """What is remembered of one vehicle from position to position."""

    __slots__ = (
        "anchor",
        "at_anchor",
        "averaged",
        "due",
        "dwell_at",
        "fast_from",
        "heard",
        "idle",
        "inside",
        "off",
        "off_route",
        "over_limit",
        "previous",
        "replay",
        "route",
        "silent",
        "speeding",
    )

    def __init__(self) -> None:
        self.previous: Position | None = None
        self.heard: int | None = None
        """When its last position came, by the hub's clock."""
        self.silent = False
        """Whether a `signal_lost` was told, and no `signal_back` yet."""
        self.due = 0
        """The second in which its silence is checked; 0: no check is scheduled."""
        self.inside: dict[str, Stay] = {}
        self.dwell_at = 0.0
        """The instant before which no stay is long enough to be told."""
        self.speeding = False
        self.over_limit = 0
        self.fast_from: Position | None = None
        """The last position before those in a row that are over the limit."""
        self.anchor: tuple[float, float, int] | None = None
        """The place where it stands, and the fix time since when."""
        self.at_anchor = 0
        """The fix time at which it was there last."""
        self.averaged = 0
        self.idle = False
        self.off = 0
        self.off_route = False
        self.route: Route | None = None
        self.replay: Any = None
        """`monitor.replay.Replay`, if moves are judged again that a former home may have judged."""

    def of_another_fleet(self) -> "AlertState":
        """The state for a fleet that the vehicle moves to: when it was heard of, and nothing about its places."""
        fresh = AlertState()
        fresh.heard, fresh.silent, fresh.due = self.heard, self.silent, self.due
        return fresh

    # --- one position after the other -----------------------------------------------------------------------------------

    def limit(self, fleet: Fleet, fences: Fences) -> float | None:
        """The speed limit in force at its place, in m/s."""
        if not (self.inside and fences.limit_speed):
            return None if fleet.speed_limit is UNSET else fleet.speed_limit
        limits = [] if fleet.speed_limit is UNSET else [fleet.speed_limit]
        for geofence_id in self.inside:
            fence = fences.by_id.get(geofence_id)
            if fence is not None and fence.speed_limit is not None:
                limits.append(fence.speed_limit)
        return min(limits) if limits else None

    def judge_speed(self, position: Position, limit: float | None) -> Alert | None:
        if limit is None:
            self.speeding, self.over_limit = False, 0
            return None
        speed = position.speed
        measured = speed is not None
        if speed is None:
            speed = None if self.wanders(position) else self._speed_to(position, self.previous)
            if speed is None:
                return None
        if speed <= limit:
            self.over_limit = 0
            if speed <= limit * SPEEDING_IS_OVER:
                self.speeding = False
            return None
        self.over_limit += 1
        if self.over_limit == 1:
            self.fast_from = self.previous
        if self.speeding:
            return None
        if not measured:
            if self.over_limit < 2:
                return None
            net = self._speed_to(position, self.fast_from)
            if net is not None and net <= limit:
                self.over_limit, self.fast_from = 1, self.previous
                return None
        self.speeding = True
        return Alert(EventKind.SPEEDING, speed=speed, limit=limit)

    @staticmethod
    def _speed_to(position: Position, before: Position | None) -> float | None:
        if before is None or not _NO_SPEED_MS <= position.fix_time - before.fix_time <= GAP_MS:
            return None
        metres = distance(before.latitude, before.longitude, position.latitude, position.longitude)
        return metres * 1000 / (position.fix_time - before.fix_time)

    def judge_standing(self, position: Position, idle_after: float) -> Alert | None:
        anchor = self.anchor
        if anchor is not None:
            stood = self.at_anchor - anchor[2] >= STANDING_AFTER_MS
            near = WANDERING_RADIUS if stood else STANDING_RADIUS
            if self._away(position, anchor, near) <= near * near:
                self.at_anchor = position.fix_time
                if self.averaged < AVERAGED:
                    self._average(position, anchor)
            elif not self.wanders(position):
                anchor = None
        if anchor is None:
            self.anchor = position.latitude, position.longitude, position.fix_time
            self.at_anchor = position.fix_time
            self.averaged = 1
            self.idle = False
            return None
        if not self.idle and position.fix_time - anchor[2] >= idle_after * 1000:
            self.idle = True
            return Alert(EventKind.IDLE)
        return None

    def wanders(self, position: Position) -> bool:
        """Whether it stands where it stood, while the receiver strays."""
        anchor = self.anchor
        return (
            anchor is not None
            and self.at_anchor - anchor[2] >= STANDING_AFTER_MS
            and position.fix_time - self.at_anchor <= BACK_MS
            and (position.speed is None or position.speed < MOVING)
            and self._away(position, anchor, WANDER) <= WANDER * WANDER
        )

    def _average(self, position: Position, anchor: tuple[float, float, int]) -> None:
        self.averaged += 1
        latitude, longitude, since = anchor
        east = around(position.longitude - longitude)
        self.anchor = latitude + (position.latitude - latitude) / self.averaged, longitude + east / self.averaged, since

    @staticmethod
    def _away(position: Position, anchor: tuple[float, float, int], near: float) -> float:
        """The square of the distance in metres, on a plane, which is exact enough and fast. Past `near` it may be too small."""
        north = (position.latitude - anchor[0]) * METRES_PER_DEGREE
        if not -near <= north <= near:
            return north * north
        east = around(position.longitude - anchor[1]) * METRES_PER_DEGREE * cos(radians(anchor[0]))
        return north * north + east * east

    def stands(self, fix_time: int) -> bool:
        """Whether it has been in one place for a minute."""
        return self.anchor is not None and fix_time - self.anchor[2] >= STANDING_AFTER_MS

    def route_of(self, trip: Trip | None) -> Route | None:
        """The route that it should be on now."""
        if trip is None or trip.route is None or trip.status not in _ON_THE_WAY:
            self.off, self.off_route, self.route = 0, False, None
            return None
        if self.route is None or self.route.trip_id != trip.trip_id or self.route.version != trip.version:
            self.route = Route(trip)
        return self.route

    def judge_route(self, is_on: bool) -> Alert | None:
        if is_on:
            self.off, self.off_route = 0, False
            return None
        self.off += 1
        if self.off_route or self.off < 2:
            return None
        self.off_route = True
        return Alert(EventKind.OFF_ROUTE)

    def change_fences(self, changes: Iterator[tuple[str, bool]], fix_time: int) -> Iterator[Alert]:
        """Notes each fence that was entered (True) or left."""
        for geofence_id, inside in changes:
            if inside:
                self.inside[geofence_id] = Stay(fix_time)
                self.dwell_at = 0.0
                yield Alert(EventKind.ENTER, geofence_id)
            else:
                self.inside.pop(geofence_id, None)
                yield Alert(EventKind.EXIT, geofence_id)

    def dwelling(self, instant: int, fleet: Fleet, fences: Fences) -> Iterator[Alert]:
        """The fences in which it has stayed long enough now, each told once."""
        self.dwell_at = inf
        for geofence_id, stay in self.inside.items():
            fence = fences.by_id.get(geofence_id)
            if stay.dwelt or fence is None:
                continue
            due = stay.since + 1000 * (fence.dwell_after if fence.dwell_after is not None else fleet.dwell_after)
            if instant >= due:
                stay.dwelt = True
                yield Alert(EventKind.DWELL, geofence_id)
            else:
                self.dwell_at = min(self.dwell_at, due)


def are_on_route(asked: Mapping[int, tuple[Route, Position, float]]) -> dict[int, bool]:
    """For each key, whether the position is within so many metres of the route, plus its accuracy."""
    if not asked:
        return {}
    lines: Any = np.array([route.line for route, _, _ in asked.values()], dtype=object)
    most = [metres + min(position.accuracy or 0.0, metres) for _, position, metres in asked.values()]
    places: Any = shapely.points([route.place(position) for route, position, _ in asked.values()])
    near: Any = shapely.dwithin(lines, places, np.array(most))  # type: ignore[call-overload]
    return dict(zip(asked, near.tolist(), strict=True))
