"""What the filters remember of a vehicle: its last clean position, its speed, and where it has stood.

Instants are ms since 1970-01-01 UTC, durations ms, lengths m, speeds m/s, coordinates WGS 84 degrees.
"""

from bisect import bisect_right
from math import cos, radians, sqrt
from typing import Final

from msgspec import UNSET

from tracking.geo import METRES_PER_DEGREE, around, distance
from tracking.ingest.jumps import AGREEING, Rival
from tracking.ingest.kinematics import FASTEST, GRAIN, MOVING, NOISE, PULL, STRAIGHT, UNKNOWN_SPEED
from tracking.model import Fix

EXCESS: Final = 30.0
"""Metres that reported speeds may claim beyond what the positions show. A receiver that smooths them lags by 1 to 2 s."""
SMOOTHING: Final = 5.0
"""Seconds over which the measured speed is smoothed. If fixes are dense, one step is as much noise as motion."""
CREEP: Final = 1.0
"""At a lower speed from fix to fix, a position wanders and does not drive."""
MAX_RESTLESS: Final = 8
"""The limit of `Motion.restless`, either way.

Many receivers repeat themselves whenever they stand: 20 to 27 % of all fixes in the traces of Hof and Munich, 1 % in Porto's.
A repeat is strange only from a receiver that does not usually do so. Each wandering at a standstill counts 1, each repeat -1.
"""
RESTLESS_FIRST: Final = 4
"""`Motion.restless` of a receiver that is not known yet.

Doubting a repeat of a receiver that holds still costs little, because the marker is there already. Believing a frozen one
costs hundreds of metres. On the messy stream, 4 catches 53 % of the frozen fixes and 0 catches 15 %. It doubts 0.1 % more of
the good fixes.
"""
ROOTED: Final = 20
"""The most agreeing fixes that support an anchor. An anchor holds against its mirror image until it is outnumbered."""
STRAY: Final = 250.0
"""How far a receiver strays, in latitude or in longitude, from where its vehicle stands. Farther away it is elsewhere."""
LEFT: Final = 40_000
"""After this time beyond `STRAY` a vehicle has left its home. A receiver that strays returns sooner."""
STOOD: Final = 90_000
"""A vehicle that has not left its home for this time stands. A queue in traffic moves on within it."""
MAX_HOLD: Final = 120_000
"""The longest time that jumps must go on to outweigh the anchor of a vehicle that stands.

The time is how long the vehicle has stood beyond `STOOD`. A receiver takes a cell tower or a reflection for its position for
seconds, and at most for a minute.
"""
RECENT: Final = 8
"""How many clean positions are kept to judge late ones by."""

_STRAY_DEGREES: Final = STRAY / METRES_PER_DEGREE
_NEVER: Final = -(2**62)


class Motion:
    """What the filters remember of one vehicle, over all its sessions.

    The *anchor* is the newest clean position. The *rival* is the jumps since then; once they outweigh the anchor, the last
    one replaces it. *Home* is where the vehicle was when it arrived there; it leaves by straying beyond `STRAY` for `LEFT`.
    `recent` holds `(fix_time, latitude, longitude)` of clean positions, oldest first.
    """

    __slots__ = (
        "accuracy",
        "base_latitude",
        "base_longitude",
        "base_time",
        "claimed",
        "cosine",
        "driven",
        "excess",
        "home_latitude",
        "home_longitude",
        "home_newest",
        "home_time",
        "latitude",
        "longitude",
        "recent",
        "restless",
        "rival",
        "session",
        "session_newest",
        "sessions",
        "since",
        "speed",
        "support",
        "time",
    )

    def __init__(self) -> None:
        self.time = _NEVER
        self.latitude = 0.0
        self.longitude = 0.0
        self.cosine = 1.0
        self.accuracy = 0.0
        self.speed = UNKNOWN_SPEED
        self.base_time = _NEVER
        """Speed is measured from a position at least `GRAIN` earlier. Over a shorter time noise would dominate."""
        self.base_latitude = 0.0
        self.base_longitude = 0.0
        self.since = _NEVER
        """When the anchor's coordinates were first reported."""
        self.support = 0
        """The number of fixes that agreed with the anchor, at most `ROOTED`. 0: there is no anchor."""
        self.driven = False
        """Whether the vehicle has been seen to change its place. Until then its speed is an assumption."""
        self.restless = RESTLESS_FIRST
        """Wanderings at a standstill minus repeats, at most `MAX_RESTLESS` either way."""
        self.claimed = -1.0
        """The speed that the anchor's fix reported, believed or not; below 0 if it reported none."""
        self.excess = 0.0
        """Metres that the reported speeds claim beyond what the positions show."""
        self.home_time = _NEVER
        """When the vehicle arrived at its home."""
        self.home_newest = _NEVER
        """When the vehicle was last at its home."""
        self.home_latitude = 0.0
        self.home_longitude = 0.0
        self.rival: Rival | None = None
        """Set only while the last fixes are jumps."""
        self.session = -1
        self.session_newest = _NEVER
        self.sessions: dict[int, int] | None = None
        """The newest fix time of other sessions, if there are any."""
        self.recent: list[tuple[int, float, float]] = []

    def seed(self, latitude: float, longitude: float, fix_time: int, speed: float | None = None) -> None:
        """Starts with a position that was clean before the hub's restart. It may be days old, because reach grows with time."""
        if fix_time <= self.time:
            return
        self.time = self.since = self.base_time = self.home_time = self.home_newest = fix_time
        self.latitude = self.base_latitude = self.home_latitude = latitude
        self.longitude = self.base_longitude = self.home_longitude = longitude
        self.cosine = cos(radians(latitude))
        self.accuracy = 0.0
        if speed is None or speed > FASTEST:
            self.speed, self.claimed = UNKNOWN_SPEED, -1.0
        else:
            self.speed = self.claimed = speed
        self.support = AGREEING
        self.recent = [(fix_time, latitude, longitude)]

    def enter(self, session: int) -> None:
        """Switches to another session. Up to three others are remembered."""
        others = self.sessions
        if others is None:
            others = self.sessions = {}
        if self.session != -1:
            others[self.session] = self.session_newest
        self.session = session
        self.session_newest = others.pop(session, _NEVER)
        if len(others) > 3:
            del others[next(iter(others))]

    def move(self, fix: Fix, claim: float) -> None:
        """Makes a clean fix that is newer than the anchor the anchor. `claim` is the speed that it reported, below 0 for none.

        The fix's speed becomes unknown if reported speeds add up to more than the positions show. See `_overclaims`.
        """
        time = fix.fix_time
        latitude, longitude = fix.latitude, fix.longitude
        speed = fix.speed
        reported = speed is not UNSET
        if not self.support:
            self._start(time, latitude, longitude)
        else:
            repeated = latitude == self.latitude and longitude == self.longitude
            if not repeated:
                self.since = time
            elif self.restless > -MAX_RESTLESS:
                self.restless -= 1
            seconds = (time - self.base_time) * 0.001
            if seconds >= GRAIN:
                dy = latitude - self.base_latitude
                dx = around(longitude - self.base_longitude) * self.cosine
                measured = sqrt(dx * dx + dy * dy) * METRES_PER_DEGREE / seconds
                if not repeated:
                    self.driven = True
                    if measured < CREEP and self.restless < MAX_RESTLESS:
                        self.restless += 1
                if self.excess or (claim > measured and self.claimed > measured):
                    reported = not self._overclaims(claim, measured, seconds) and reported
                if not reported:
                    assumed = self.support == 1 or self.speed == UNKNOWN_SPEED
                    weight = 1.0 if assumed else seconds / (seconds + SMOOTHING)
                    self.speed += weight * ((measured if measured < FASTEST else FASTEST) - self.speed)
                self.base_time = time
                self.base_latitude, self.base_longitude = latitude, longitude
            elif self.excess > EXCESS:
                reported = False
            if (
                -_STRAY_DEGREES < latitude - self.home_latitude < _STRAY_DEGREES
                and -_STRAY_DEGREES < around(longitude - self.home_longitude) * self.cosine < _STRAY_DEGREES
            ):
                self.home_newest = time
            elif time - self.home_newest >= LEFT:
                self._settle(time, latitude, longitude)
        if reported:
            self.speed = speed  # type: ignore[assignment]
        elif speed is not UNSET:
            fix.speed = UNSET
        self.claimed = claim
        self.time = time
        self.latitude, self.longitude = latitude, longitude
        self.cosine = cos(radians(latitude))
        accuracy = fix.accuracy
        self.accuracy = 0.0 if accuracy is UNSET else accuracy
        if self.support < ROOTED:
            self.support += 1
        self.rival = None
        recent = self.recent
        recent.append((time, latitude, longitude))
        if len(recent) > RECENT:
            del recent[0]

    def _start(self, time: int, latitude: float, longitude: float) -> None:
        """Forgets the anchor before."""
        self.since = self.base_time = time
        self.base_latitude, self.base_longitude = latitude, longitude
        self._settle(time, latitude, longitude)
        self.driven = False
        self.excess = 0.0

    def _settle(self, time: int, latitude: float, longitude: float) -> None:
        self.home_time = self.home_newest = time
        self.home_latitude, self.home_longitude = latitude, longitude

    def _overclaims(self, claim: float, measured: float, seconds: float) -> bool:
        """Adds a step to `excess`. Returns whether reported speeds claim too much by now, and so does this one.

        In a step a vehicle drives at least at the lower of the speeds at its two ends, less what it may brake and bend
        (`PULL`, `STRAIGHT`). Positions that show less contradict these speeds.
        """
        least = claim if claim < self.claimed else self.claimed
        excess = self.excess + (STRAIGHT * least - measured - 0.25 * PULL * seconds) * seconds
        if excess < 0.0:
            excess = 0.0
        elif excess > 2 * EXCESS:
            excess = 2 * EXCESS
        self.excess = excess
        return excess > EXCESS and STRAIGHT * claim > measured

    def fill(self, fix: Fix) -> None:
        """Adds a clean fix that came late, at its place in time, so that the next late one is judged by it."""
        recent = self.recent
        recent.insert(bisect_right(recent, fix.fix_time, key=time_of), (fix.fix_time, fix.latitude, fix.longitude))
        if len(recent) > RECENT:
            del recent[0]

    @property
    def hold(self) -> int:
        """How long jumps must go on to outweigh the anchor, in ms; 0 if few fixes support it, or if the vehicle drives."""
        stood = self.time - self.home_time
        if stood < STOOD or self.support < ROOTED:
            return 0
        return min(stood - STOOD, MAX_HOLD)

    def reconsider(self, fix: Fix, needed: int, claim: float) -> bool:
        """Adds a jump. It becomes the anchor if `needed` in a row agree and outweigh the anchor. Returns whether it did."""
        rival = self.rival
        if rival is None:
            rival = self.rival = Rival(self.speed, fix.fix_time)
        rival.add(fix)
        returned = self._returned(fix)
        if not rival.outweighs(needed, 0 if returned else self.hold):
            return False
        if self.support < AGREEING:
            # Hardly any fix agreed with this anchor: it was wrong, and so are the positions before it.
            self.recent.clear()
        stood = self.support, self.home_time, self.home_latitude, self.home_longitude
        self.support = 0
        self.move(fix, claim)
        self.support = min(rival.agreeing, ROOTED)
        self.speed = rival.speed
        if returned:
            self.support, self.home_time, self.home_latitude, self.home_longitude = stood
        return True

    def _returned(self, fix: Fix) -> bool:
        """Whether the receiver of a standing vehicle strayed, and now reports a place near home again."""
        # A vehicle that drove to its anchor has left its home, and is not shown there again for a few old fixes.
        if not self.hold or self.speed >= MOVING:
            return False
        away = distance(self.home_latitude, self.home_longitude, fix.latitude, fix.longitude)
        return away <= NOISE and away < distance(self.home_latitude, self.home_longitude, self.latitude, self.longitude)


def time_of(position: tuple[int, float, float]) -> int:
    """The time of an item of `Motion.recent`."""
    return position[0]
