"""The filters of a fix: every reason to reject one, every reason to doubt one. Pure: no I/O, no clock but the one given.

A rejected fix is thrown away (and acknowledged); a suspect one is stored with its flags and never moves the marker; a late one
that is clean enters the track. `REJECTIONS` and `SUSPICIONS` are the two lists, in the order of their reports.

Instants are ms since 1970-01-01 UTC, durations ms, lengths m, speeds m/s, coordinates WGS 84 degrees. Thresholds come from
what vehicles and receivers can do; the tests measure them on real traces.
"""

from bisect import bisect_right
from collections.abc import Callable
from math import cos, radians, sqrt
from typing import Final

from msgspec import UNSET

from tracking.errors import ErrorCode
from tracking.geo import EARTH_RADIUS, around, distance
from tracking.model import Fix, Suspicion

CLOCK_SKEW: Final = 60_000
"""How far ahead of the hub a fix may be; phones run fast (PROTOCOL: `clock_skew`)."""
TOO_OLD: Final = 7 * 24 * 3_600_000
"""The oldest fix taken (PROTOCOL: `too_old`)."""

NULL_ISLAND: Final = 0.01
"""Degrees around (0, 0), about 1.1 km, that mean "no position"; the nearest land is 570 km off."""
INACCURATE: Final = 200.0
"""Above this reported radius (68 % on Android) a fix comes from a cell tower rather than from a satellite."""
CLOCK_BACK: Final = 600_000
"""Steps back within a session up to this one are late delivery. A session is sent in order, so it is generous."""

NOISE: Final = 100.0
"""What two honest fixes of a standing vehicle may lie apart: 3 sigma between street canyons, where sigma is about 20 m each."""
ACCELERATION: Final = 2.0
"""What a road vehicle keeps up over a whole interval, m/s²: 0 to 100 km/h in 14 s. More lasts a few seconds only."""
TOP_SPEED: Final = 50.0
"""180 km/h: nothing on a road averages more, unless it reports so, or was seen going that fast."""
FASTEST: Final = 150.0
"""The highest reported speed that is believed: above every train in service (French record, 2007: 160)."""
UNKNOWN_SPEED: Final = 25.0
"""What a vehicle of which one position is known is assumed to drive."""
GRAIN: Final = 1.0
"""Seconds: many receivers round their times to whole ones, so every interval may be that much longer."""
SMOOTHING: Final = 5.0
"""Seconds over which the measured speed is smoothed: one step is as much noise as motion where fixes are dense."""

MOVING: Final = 3.0
"""Speed at which a vehicle is not just creeping."""
STANDSTILL: Final = 3.0
"""Metres a vehicle must have driven before the same coordinates again are strange: they are rounded, often to one metre."""
FREEZE: Final = 180_000
"""After so long at the same coordinates the vehicle stands, whatever was thought."""
CREEP: Final = 1.0
"""Slower than this from fix to fix, a position wanders rather than drives."""
RESTLESS_MOST: Final = 8
"""Many receivers repeat themselves whenever they stand (in Hof's and Munich's traces 20 to 27 % of all fixes, in Porto's 1 %).
A repeat is strange only from one that is not known to do so: each wandering at a standstill earns 1, each repeat costs 1, at
most this many either way."""
RESTLESS_FIRST: Final = 4
"""What a receiver not known yet is thought to be worth. Doubting a repeat of one that holds still costs little: the marker is
where it would be shown. Showing a frozen one as the truth costs hundreds of metres. On the messy stream 4 in place of 0 catches
53 % of the frozen fixes instead of 15 %, and doubts 0.1 % more of the good ones."""

AGREEING: Final = 3
"""So many jumps in a row that agree with each other are where the vehicle is now: it was towed, or the anchor was wrong."""
GIVE_UP: Final = 6
"""So many jumps in a row, agreeing or not, end the anchor."""
ROOTED: Final = 20
"""Agreeing fixes after which more support counts no more. An anchor holds against its mirror image until it is outnumbered."""

RECENT: Final = 8
"""Clean positions kept to judge late ones by."""

_METRES: Final = radians(1.0) * EARTH_RADIUS
_NEVER: Final = -(2**62)


class Motion:
    """What the filters remember of one vehicle, over all its sessions.

    The *anchor* is the newest clean position; the *candidate* the last jump, which becomes the anchor once others agree.
    `recent` holds `(fix_time, latitude, longitude)` of clean positions, oldest first.
    """

    __slots__ = (
        "accuracy",
        "agreeing",
        "base_latitude",
        "base_longitude",
        "base_time",
        "candidate_latitude",
        "candidate_longitude",
        "candidate_speed",
        "candidate_time",
        "cosine",
        "driven",
        "jumps",
        "latitude",
        "longitude",
        "recent",
        "restless",
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
        """Speed is measured from a position at least `GRAIN` before: over less, it would be noise divided by nothing."""
        self.base_latitude = 0.0
        self.base_longitude = 0.0
        self.since = _NEVER
        """When the anchor's coordinates were first reported."""
        self.support = 0
        """Fixes that agreed with the anchor, at most `ROOTED`; 0: there is no anchor."""
        self.driven = False
        """Whether the vehicle was seen to change its place: until then its speed is an assumption."""
        self.restless = RESTLESS_FIRST
        """Wanderings at a standstill less repeats, at most `RESTLESS_MOST` either way."""
        self.agreeing = 0
        self.jumps = 0
        self.candidate_latitude = 0.0
        self.candidate_longitude = 0.0
        self.candidate_time = _NEVER
        self.candidate_speed = UNKNOWN_SPEED
        self.session = -1
        self.session_newest = _NEVER
        self.sessions: dict[int, int] | None = None
        """Newest fix time of other sessions, where there were any."""
        self.recent: list[tuple[int, float, float]] = []

    def seed(self, latitude: float, longitude: float, fix_time: int, speed: float | None = None) -> None:
        """Begin with a position that was clean before the hub's restart. It may be days old: reach grows with time."""
        if fix_time <= self.time:
            return
        self.time = self.since = self.base_time = fix_time
        self.latitude = self.base_latitude = latitude
        self.longitude = self.base_longitude = longitude
        self.cosine = cos(radians(latitude))
        self.accuracy = 0.0
        self.speed = UNKNOWN_SPEED if speed is None or speed > FASTEST else speed
        self.support = AGREEING
        self.recent = [(fix_time, latitude, longitude)]

    def enter(self, session: int) -> None:
        """Turn to another session, remembering up to three."""
        others = self.sessions
        if others is None:
            others = self.sessions = {}
        if self.session != -1:
            others[self.session] = self.session_newest
        self.session = session
        self.session_newest = others.pop(session, _NEVER)
        if len(others) > 3:
            del others[next(iter(others))]

    def move(self, fix: Fix) -> None:
        """A clean fix newer than the anchor becomes the anchor."""
        time = fix.fix_time
        latitude = fix.latitude
        longitude = fix.longitude
        speed = fix.speed
        reported = speed is not UNSET and speed <= FASTEST
        if self.support:
            repeated = latitude == self.latitude and longitude == self.longitude
            if not repeated:
                self.since = time
            elif self.restless > -RESTLESS_MOST:
                self.restless -= 1
            seconds = (time - self.base_time) * 0.001
            if seconds >= GRAIN:
                dy = latitude - self.base_latitude
                dx = around(longitude - self.base_longitude) * self.cosine
                measured = sqrt(dx * dx + dy * dy) * _METRES / seconds
                if measured < CREEP and not repeated and self.restless < RESTLESS_MOST:
                    self.restless += 1
                if not repeated:
                    self.driven = True
                if not reported:
                    weight = 1.0 if self.support == 1 else seconds / (seconds + SMOOTHING)
                    self.speed += weight * ((measured if measured < FASTEST else FASTEST) - self.speed)
                self.base_time = time
                self.base_latitude = latitude
                self.base_longitude = longitude
        else:
            self.since = self.base_time = time
            self.base_latitude = latitude
            self.base_longitude = longitude
            self.driven = False
        if reported:
            self.speed = speed  # type: ignore[assignment]
        self.latitude = latitude
        self.longitude = longitude
        self.cosine = cos(radians(latitude))
        self.time = time
        accuracy = fix.accuracy
        self.accuracy = 0.0 if accuracy is UNSET else accuracy
        if self.support < ROOTED:
            self.support += 1
        self.agreeing = self.jumps = 0
        recent = self.recent
        recent.append((time, latitude, longitude))
        if len(recent) > RECENT:
            del recent[0]

    def fill(self, fix: Fix) -> None:
        """A clean fix that came late takes its place in time, so that the next late one is judged by it."""
        recent = self.recent
        recent.insert(bisect_right(recent, fix.fix_time, key=_time_of), (fix.fix_time, fix.latitude, fix.longitude))
        if len(recent) > RECENT:
            del recent[0]

    def reconsider(self, fix: Fix, needed: int) -> bool:
        """A jump that `needed` in a row agree on, itself counted, becomes the anchor; says whether it did."""
        seconds = abs(fix.fix_time - self.candidate_time) * 0.001
        apart = distance(self.candidate_latitude, self.candidate_longitude, fix.latitude, fix.longitude)
        reported = fix.speed
        if reported is not UNSET and reported <= FASTEST:
            speed = reported
            allowed = reach(max(self.candidate_speed, speed), seconds)
        else:
            speed = min(apart / (seconds + GRAIN), FASTEST) if self.jumps else max(self.speed, UNKNOWN_SPEED)
            allowed = reach(self.candidate_speed, seconds)
        self.agreeing = self.agreeing + 1 if self.jumps and apart <= NOISE + allowed else 1
        self.jumps += 1
        self.candidate_time = fix.fix_time
        self.candidate_latitude = fix.latitude
        self.candidate_longitude = fix.longitude
        self.candidate_speed = speed
        if self.agreeing < needed and self.jumps < max(GIVE_UP, needed):
            return False
        if self.support < AGREEING:
            # An anchor that hardly anything agreed with was wrong, and so is what led to it.
            self.recent.clear()
        support = self.agreeing
        self.support = 0
        self.move(fix)
        self.support = support
        self.speed = speed
        return True


def _time_of(position: tuple[int, float, float]) -> int:
    return position[0]


def reach(speed: float, seconds: float) -> float:
    """How far a vehicle gets that drove `speed`, accelerating."""
    seconds += GRAIN
    average = speed + 0.5 * ACCELERATION * seconds
    if average > TOP_SPEED:
        average = max(TOP_SPEED, 1.25 * speed)
    return average * seconds


# --- why a fix is rejected ------------------------------------------------------------------------------------------


def out_of_range(fix: Fix, now: int) -> str | None:
    """A value that its unit does not have. NaN is in no range."""
    if not -90.0 <= fix.latitude <= 90.0:
        detail = f"`latitude` must be -90 to 90 degrees; got {fix.latitude}"
        return f"{detail}: are latitude and longitude exchanged?" if -90.0 <= fix.longitude <= 90.0 else detail
    if not -180.0 <= fix.longitude <= 180.0:
        return f"`longitude` must be -180 to 180 degrees; got {fix.longitude}"
    accuracy = fix.accuracy
    if accuracy is not UNSET and not accuracy >= 0.0:
        return f"`accuracy` must be 0 metres or more; got {accuracy}: leave it out where it is not known"
    speed = fix.speed
    if speed is not UNSET and not speed >= 0.0:
        return f"`speed` must be 0 m/s or more; got {speed}: leave it out where it is not known"
    bearing = fix.bearing
    if bearing is not UNSET and not 0.0 <= bearing <= 360.0:
        return f"`bearing` must be 0 to 360 degrees clockwise from north; got {bearing}: leave it out where it is not known"
    battery = fix.battery
    if battery is not UNSET and not 0.0 <= battery <= 1.0:
        return f"`battery` must be 0 to 1, where 1 is full; got {battery}"
    return None


def clock_skew(fix: Fix, now: int) -> str | None:
    """Ahead of the hub's clock by more than a phone that runs fast."""
    ahead = fix.fix_time - now
    if ahead > CLOCK_SKEW:
        return f"`fix_time` is {ahead} ms ahead of the hub's clock, at most {CLOCK_SKEW} are taken: set the device's clock"
    return None


def too_old(fix: Fix, now: int) -> str | None:
    """Older than the hub keeps a place for."""
    age = now - fix.fix_time
    if age > TOO_OLD:
        return f"`fix_time` is {age} ms old, at most {TOO_OLD} (7 days) are taken; it must be ms since 1970-01-01 UTC"
    return None


REJECTIONS: tuple[tuple[ErrorCode, Callable[[Fix, int], str | None]], ...] = (
    (ErrorCode.OUT_OF_RANGE, out_of_range),
    (ErrorCode.CLOCK_SKEW, clock_skew),
    (ErrorCode.TOO_OLD, too_old),
)


def reject(fix: Fix, now: int) -> tuple[ErrorCode, str] | None:
    """The first reason to throw the fix away, with a detail for who sent it, or None."""
    for code, predicate in REJECTIONS:
        detail = predicate(fix, now)
        if detail is not None:
            return code, detail
    return None


# --- why a fix is doubted -------------------------------------------------------------------------------------------


def null_island(fix: Fix, motion: Motion, now: int) -> bool:
    """At (0, 0), which receivers and apps report for "unknown"."""
    return -NULL_ISLAND <= fix.latitude <= NULL_ISLAND and -NULL_ISLAND <= fix.longitude <= NULL_ISLAND


def swapped(fix: Fix, motion: Motion, now: int) -> bool:
    """Latitude and longitude exchanged: as it stands it is out of reach, exchanged it is not."""
    if not motion.support or -NULL_ISLAND < fix.latitude - motion.latitude < NULL_ISLAND:
        return False
    return _out_of_reach(fix.latitude, fix.longitude, fix, motion) and not _out_of_reach(
        fix.longitude, fix.latitude, fix, motion
    )


def clock_back(fix: Fix, motion: Motion, now: int) -> bool:
    """Back within the session by more than late delivery explains. It ends when the clock is right again, at the latest
    when the session is: a time known to be wrong has no place in a track."""
    return fix.fix_time < motion.session_newest - CLOCK_BACK


def inaccurate(fix: Fix, motion: Motion, now: int) -> bool:
    """By its own account."""
    accuracy = fix.accuracy
    return accuracy is not UNSET and accuracy > INACCURATE


def frozen(fix: Fix, motion: Motion, now: int) -> bool:
    """The very same coordinates again, though the vehicle drives: by its reported speed, or by its last measured one."""
    if fix.longitude != motion.longitude or fix.latitude != motion.latitude or not motion.support:
        return False
    time = fix.fix_time
    if not motion.time < time <= motion.time + FREEZE:
        return False
    reported = fix.speed
    if reported is not UNSET:
        return reported >= MOVING and reported * (time - motion.time) >= STANDSTILL * 1000.0
    speed = motion.speed
    return motion.driven and motion.restless > 0 and speed >= MOVING and speed * (time - motion.since) >= STANDSTILL * 1000.0


def jump(fix: Fix, motion: Motion, now: int) -> bool:
    """Farther than the vehicle can have come from its neighbours in time."""
    return motion.support > 0 and _out_of_reach(fix.latitude, fix.longitude, fix, motion)


SUSPICIONS: tuple[tuple[Suspicion, Callable[[Fix, Motion, int], bool]], ...] = (
    (Suspicion.NULL_ISLAND, null_island),
    (Suspicion.SWAPPED, swapped),
    (Suspicion.CLOCK_BACK, clock_back),
    (Suspicion.INACCURATE, inaccurate),
    (Suspicion.FROZEN, frozen),
    (Suspicion.JUMP, jump),
)

_JUMPED = (Suspicion.JUMP,)
_FROZEN = (Suspicion.FROZEN,)
_MIRRORED = (Suspicion.SWAPPED, Suspicion.JUMP)


def judge(fix: Fix, motion: Motion, session: int, now: int) -> tuple[tuple[Suspicion, ...], bool]:
    """Every reason to doubt a fix that was not rejected, and whether it moves the marker: clean, and not older than the
    newest clean one. Call it once for each fix, in the order of a session's `seq`; it updates `motion`."""
    if session != motion.session:
        motion.enter(session)
    suspicions: tuple[Suspicion, ...] = ()
    for suspicion, predicate in SUSPICIONS:
        if predicate(fix, motion, now):
            suspicions += (suspicion,)
    time = fix.fix_time
    if time > motion.session_newest:
        motion.session_newest = time
    if time <= motion.time:
        if not suspicions:
            motion.fill(fix)
            # Not older: of two fixes at the same instant the one sent last is what the device knows now.
            if time == motion.time:
                motion.latitude = fix.latitude
                motion.longitude = fix.longitude
                return (), True
        return suspicions, False
    if suspicions:
        if suspicions == _JUMPED:
            needed = min(motion.support + 1, AGREEING)
        elif suspicions == _MIRRORED:
            # No vehicle drives to the mirror image of where it is; only an anchor that was itself exchanged explains it.
            needed = motion.support + 1
        else:
            if suspicions == _FROZEN and fix.speed is UNSET:
                motion.restless -= 1
            return suspicions, False
        if motion.reconsider(fix, needed):
            return (), True
        return suspicions, False
    motion.move(fix)
    return suspicions, True


def _out_of_reach(latitude: float, longitude: float, fix: Fix, motion: Motion) -> bool:
    time = fix.fix_time
    if time <= motion.time:
        return _out_of_place(latitude, longitude, fix, motion)
    dy = latitude - motion.latitude
    dx = around(longitude - motion.longitude) * motion.cosine
    square = (dx * dx + dy * dy) * (_METRES * _METRES)
    if square <= NOISE * NOISE:
        return False
    speed = motion.speed
    reported = fix.speed
    if reported is not UNSET and speed < reported <= FASTEST:
        speed = reported
    allowed = NOISE + motion.accuracy + reach(speed, (time - motion.time) * 0.001)
    accuracy = fix.accuracy
    if accuracy is not UNSET:
        allowed += min(accuracy, INACCURATE)
    # The flat formula overstates long ways, so the great circle has the last word.
    return square > allowed * allowed and distance(motion.latitude, motion.longitude, latitude, longitude) > allowed


def _out_of_place(latitude: float, longitude: float, fix: Fix, motion: Motion) -> bool:
    """`_out_of_reach` for a fix that is not the newest: from the clean positions before and after it."""
    recent = motion.recent
    time = fix.fix_time
    index = bisect_right(recent, time, key=_time_of)
    before = recent[index - 1] if index else None
    after = recent[index] if index < len(recent) else None
    speed = UNKNOWN_SPEED
    if before is not None and after is not None:
        speed = distance(before[1], before[2], after[1], after[2]) / ((after[0] - before[0]) * 0.001 + GRAIN)
    reported = fix.speed
    if reported is not UNSET and speed < reported <= FASTEST:
        speed = reported
    accuracy = fix.accuracy
    noise = NOISE if accuracy is UNSET else NOISE + min(accuracy, INACCURATE)
    for neighbour in (before, after):
        if neighbour is not None and distance(neighbour[1], neighbour[2], latitude, longitude) > noise + reach(
            speed, abs(time - neighbour[0]) * 0.001
        ):
            return True
    return False
