"""The filters of a fix: every reason to reject one, every reason to doubt one. Pure: no I/O, no clock but the one given.

A rejected fix is thrown away (and acknowledged); a suspect one is stored with its flags and never moves the marker; a late one
that is clean enters the track. `REJECTIONS` and `SUSPICIONS` are the two lists, in the order of their reports.

Only time and place reject. An optional value that can't be true (`drop_untrue`), or a speed that the receiver's own places
contradict (`overstated`), becomes unknown in the fix itself: whoever reads it afterwards sees what is believed, and no more.

Instants are ms since 1970-01-01 UTC, durations ms, lengths m, speeds m/s, coordinates WGS 84 degrees. Thresholds come from
what vehicles and receivers can do; the tests measure them on real traces.
"""

from bisect import bisect_right
from collections.abc import Callable
from math import cos, radians, sqrt
from typing import Final

from msgspec import UNSET

from tracking.errors import ErrorCode
from tracking.geo import EARTH_RADIUS, METRES_PER_DEGREE, around, distance
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
LOWEST: Final = -1_000.0
HIGHEST: Final = 20_000.0
"""Altitudes in metres that a receiver on the ground or in an airliner may report: the Dead Sea's shore lies at -430, and a bad
fix is some hundred metres off."""
PULL: Final = 4.0
"""What a road vehicle does for a few seconds, m/s², along its way or across it: full braking is twice that, and rare."""
STRAIGHT: Final = 0.8
"""The chord of what was driven is at least this share of it, over seconds: a turn at `PULL` bends no way more."""
EXCESS: Final = 30.0
"""Metres that reported speeds may claim beyond what the places show: a receiver that smooths its places lags 1 to 2 s."""
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
STRAY: Final = 250.0
"""What a receiver strays, in latitude or in longitude, from where its vehicle stands: past that it is somewhere else."""
LEFT: Final = 40_000
"""After so many ms past that a vehicle has left its home; a receiver is back sooner."""
STOOD: Final = 90_000
"""A vehicle that did not leave its home for so many ms stands; a queue moves on within it."""
HOLD_MOST: Final = 120_000
"""Jumps must go on for as long as the vehicle stood past `STOOD` to outweigh its anchor, for so many ms at the most. A receiver
that takes a mast or a reflection for its place does so for seconds, up to a minute."""
DRIVEN_FIXES: Final = 5
DRIVEN: Final = 200.0
"""Jumps that drive end the anchor sooner: so many agree, and lie so many metres from the first of them, nearly in line
(`STRAIGHT`). That is how one looks that comes out of a tunnel, in which its receiver held its place. What a mast or a
reflection gives does not drive on."""

NEARBY: Final = NOISE / (2 * METRES_PER_DEGREE)
"""Degrees of latitude and of longitude, half of `NOISE` at most, within which a place is in reach whatever was driven."""

RECENT: Final = 8
"""Clean positions kept to judge late ones by."""

_METRES: Final = radians(1.0) * EARTH_RADIUS
_STRAY: Final = STRAY / _METRES
_NEVER: Final = -(2**62)


class Motion:
    """What the filters remember of one vehicle, over all its sessions.

    The *anchor* is the newest clean position; its *rival* the jumps since, the last of which becomes the anchor once they
    outweigh it. *Home* is where it was when it came there: it is left by straying farther than `STRAY` for `LEFT`.
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
        self.claimed = -1.0
        """The speed that the anchor's fix reported, believed or not; below 0 where it reported none."""
        self.excess = 0.0
        """Metres that the reported speeds claim beyond what the places show."""
        self.home_time = _NEVER
        """When the vehicle came to its home."""
        self.home_newest = _NEVER
        """When it was there last."""
        self.home_latitude = 0.0
        self.home_longitude = 0.0
        self.rival: Rival | None = None
        """There is one only while the last fixes are jumps."""
        self.session = -1
        self.session_newest = _NEVER
        self.sessions: dict[int, int] | None = None
        """Newest fix time of other sessions, where there were any."""
        self.recent: list[tuple[int, float, float]] = []

    def seed(self, latitude: float, longitude: float, fix_time: int, speed: float | None = None) -> None:
        """Begin with a position that was clean before the hub's restart. It may be days old: reach grows with time."""
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

    def move(self, fix: Fix, claim: float) -> None:
        """A clean fix newer than the anchor becomes the anchor. `claim` is the speed that it reported, below 0 for none.

        Its speed becomes unknown where those reported add up to more than the places show: a vehicle that goes at least the
        lesser of two speeds at both ends of a step drives so far in it, less what it may brake and bend (`PULL`, `STRAIGHT`).
        """
        time = fix.fix_time
        latitude = fix.latitude
        longitude = fix.longitude
        speed = fix.speed
        reported = speed is not UNSET
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
                excess = self.excess
                if excess or (claim > measured and self.claimed > measured):
                    least = claim if claim < self.claimed else self.claimed
                    excess += (STRAIGHT * least - measured - 0.25 * PULL * seconds) * seconds
                    self.excess = excess = min(max(excess, 0.0), 2 * EXCESS)
                    if excess > EXCESS and reported and STRAIGHT * claim > measured:
                        fix.speed = UNSET
                        reported = False
                if not reported:
                    assumed = self.support == 1 or self.speed == UNKNOWN_SPEED
                    weight = 1.0 if assumed else seconds / (seconds + SMOOTHING)
                    self.speed += weight * ((measured if measured < FASTEST else FASTEST) - self.speed)
                self.base_time = time
                self.base_latitude = latitude
                self.base_longitude = longitude
            elif reported and self.excess > EXCESS:
                fix.speed = UNSET
                reported = False
            if (
                -_STRAY < latitude - self.home_latitude < _STRAY
                and -_STRAY < around(longitude - self.home_longitude) * self.cosine < _STRAY
            ):
                self.home_newest = time
            elif time - self.home_newest >= LEFT:
                self.home_time = self.home_newest = time
                self.home_latitude = latitude
                self.home_longitude = longitude
        else:
            self.since = self.base_time = self.home_time = self.home_newest = time
            self.base_latitude = self.home_latitude = latitude
            self.base_longitude = self.home_longitude = longitude
            self.driven = False
            self.excess = 0.0
        if reported:
            self.speed = speed  # type: ignore[assignment]
        self.claimed = claim
        self.latitude = latitude
        self.longitude = longitude
        self.cosine = cos(radians(latitude))
        self.time = time
        accuracy = fix.accuracy
        self.accuracy = 0.0 if accuracy is UNSET else accuracy
        if self.support < ROOTED:
            self.support += 1
        self.rival = None
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

    @property
    def hold(self) -> int:
        """How long jumps must go on to outweigh the anchor, in ms; 0 where few fixes support it, or the vehicle drives."""
        stood = self.time - self.home_time
        if stood < STOOD or self.support < ROOTED:
            return 0
        return min(stood - STOOD, HOLD_MOST)

    def reconsider(self, fix: Fix, needed: int, claim: float) -> bool:
        """A jump becomes the anchor where `needed` in a row, itself counted, agree and outweigh it; says whether it did."""
        rival = self.rival
        if rival is None:
            rival = self.rival = Rival(self.speed, fix.fix_time)
        rival.add(fix)
        returned = self._returned(fix)
        hold = 0 if returned else self.hold
        outweighs = (
            (rival.agreeing >= needed and fix.fix_time - rival.begin >= hold)
            or (rival.jumps >= max(GIVE_UP, needed) and fix.fix_time - rival.first >= hold)
            or (rival.agreeing >= needed and rival.drives())
        )
        if not outweighs:
            return False
        if self.support < AGREEING:
            # An anchor that hardly anything agreed with was wrong, and so is what led to it.
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
        """Whether the receiver of a vehicle that stands strayed, and gives its home again."""
        if not self.hold:
            return False
        away = distance(self.home_latitude, self.home_longitude, fix.latitude, fix.longitude)
        return away <= NOISE and away < distance(self.home_latitude, self.home_longitude, self.latitude, self.longitude)


class Rival:
    """Jumps in a row. Those at the end that agree with each other lie along a `way`, in metres, from where they `begin`."""

    __slots__ = (
        "agreeing",
        "begin",
        "begin_latitude",
        "begin_longitude",
        "first",
        "jumps",
        "latitude",
        "longest",
        "longitude",
        "speed",
        "time",
        "way",
    )
    begin: int
    begin_latitude: float
    begin_longitude: float
    latitude: float
    longest: float
    longitude: float
    time: int
    way: float

    def __init__(self, speed: float, first: int) -> None:
        self.first = first
        self.jumps = 0
        self.agreeing = 0
        self.speed = max(speed, UNKNOWN_SPEED)
        self.time = self.begin = 0
        self.latitude = self.begin_latitude = 0.0
        self.longitude = self.begin_longitude = 0.0
        self.way = self.longest = 0.0

    def add(self, fix: Fix) -> None:
        """Takes the next one, which agrees with the last where that is in its reach."""
        reported = fix.speed
        speed = self.speed if reported is UNSET else reported
        agrees = False
        if self.jumps:
            seconds = abs(fix.fix_time - self.time) * 0.001
            apart = distance(self.latitude, self.longitude, fix.latitude, fix.longitude)
            agrees = apart <= NOISE + reach(self.speed if reported is UNSET else max(self.speed, speed), seconds)
            if reported is UNSET:
                speed = min(apart / (seconds + GRAIN), FASTEST)
        if agrees:
            self.agreeing += 1
            self.way += apart
            self.longest = max(self.longest, apart)
        else:
            self.agreeing = 1
            self.begin = fix.fix_time
            self.begin_latitude = fix.latitude
            self.begin_longitude = fix.longitude
            self.way = self.longest = 0.0
        self.jumps += 1
        self.time = fix.fix_time
        self.latitude = fix.latitude
        self.longitude = fix.longitude
        self.speed = speed

    def drives(self) -> bool:
        """Those that agree lie along a way, as a vehicle's do, and not around one place, or two."""
        if self.agreeing < DRIVEN_FIXES or self.way < DRIVEN or 2 * self.longest > self.way:
            return False
        away = distance(self.begin_latitude, self.begin_longitude, self.latitude, self.longitude)
        return away >= DRIVEN and away >= STRAIGHT * self.way


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
    """A place that is none, or that the receiver itself calls void by a negative accuracy. NaN is in no range."""
    if not -90.0 <= fix.latitude <= 90.0:
        detail = f"`latitude` must be -90 to 90 degrees; got {fix.latitude}"
        return f"{detail}: are latitude and longitude exchanged?" if -90.0 <= fix.longitude <= 90.0 else detail
    if not -180.0 <= fix.longitude <= 180.0:
        return f"`longitude` must be -180 to 180 degrees; got {fix.longitude}"
    accuracy = fix.accuracy
    if accuracy is not UNSET and not accuracy >= 0.0:
        return f"`accuracy` must be 0 metres or more; got {accuracy}: leave it out where it is not known"
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
    accuracy = fix.accuracy
    if (
        -90.0 <= fix.latitude <= 90.0
        and -180.0 <= fix.longitude <= 180.0
        and now - TOO_OLD <= fix.fix_time <= now + CLOCK_SKEW
        and (accuracy is UNSET or accuracy >= 0.0)
    ):
        return None  # as nearly all, without a call for each reason
    for code, predicate in REJECTIONS:
        detail = predicate(fix, now)
        if detail is not None:
            return code, detail
    return None


# --- what is not believed -------------------------------------------------------------------------------------------


def drop_untrue(fix: Fix) -> tuple[str, ...]:
    """Makes unknown each optional value that can't be true, as if it had been left out; returns the fields, mostly none.

    Devices report -1 for "not known" (iOS: speed, course, battery), and what was never set. NaN is in no range. An accuracy
    has no upper end: a huge one says by itself that the place is worth nothing, and `inaccurate` takes it at its word.
    """
    dropped: tuple[str, ...] = ()
    speed = fix.speed
    if speed is not UNSET and not 0.0 <= speed <= FASTEST:
        fix.speed = UNSET
        dropped += ("speed",)
    bearing = fix.bearing
    if bearing is not UNSET and not 0.0 <= bearing <= 360.0:
        fix.bearing = UNSET
        dropped += ("bearing",)
    altitude = fix.altitude
    if altitude is not UNSET and not LOWEST <= altitude <= HIGHEST:
        fix.altitude = UNSET
        dropped += ("altitude",)
    battery = fix.battery
    if battery is not UNSET and not 0.0 <= battery <= 1.0:
        fix.battery = UNSET
        dropped += ("battery",)
    return dropped


def overstated(fix: Fix, motion: Motion) -> bool:
    """Whether the fix reports a speed that the receiver's own places contradict.

    It may be as fast as it was, or as the places measure since the fix before, and `PULL` faster for each second since; above
    `TOP_SPEED` nothing is believed that was not seen before or measured, nor above `UNKNOWN_SPEED` from the first fix of all,
    which has no place beside it. A speed that is too low is no contradiction: a place that moves while the receiver reports
    standstill is what wanders. What claims too much for long, by less than this, is found by `Motion.move`.
    """
    speed = fix.speed
    assert speed is not UNSET
    if not motion.support:
        return not speed <= UNKNOWN_SPEED
    time = fix.fix_time
    if time <= motion.time:
        return not speed <= _credible(fix, motion.recent)
    seconds = (time - motion.time) * 0.001
    pull = PULL * (seconds + GRAIN)
    repeated = fix.latitude == motion.latitude and fix.longitude == motion.longitude
    # What is only assumed, so that the vehicle is not out of reach, says nothing for a speed. (Against a place that does not
    # move it is `frozen` that speaks.)
    known = motion.speed if motion.driven or repeated or motion.speed == motion.claimed else 0.0
    if speed <= known + pull and (speed <= TOP_SPEED or speed <= known):
        # Frozen for longer than a receiver is, it stands.
        return speed >= MOVING and repeated and time > motion.time + FREEZE
    if not speed <= FASTEST:
        return True
    apart = distance(motion.latitude, motion.longitude, fix.latitude, fix.longitude)
    measured = apart / (seconds if seconds > GRAIN else GRAIN)
    known = max(known, measured)
    return not speed <= min(known + pull, max(TOP_SPEED, 1.25 * known))


def _credible(fix: Fix, recent: list[tuple[int, float, float]]) -> float:
    """The same bound for a fix that is not the newest: by the clean positions before and after it."""
    time = fix.fix_time
    index = bisect_right(recent, time, key=_time_of)
    measured = UNKNOWN_SPEED if not recent else 0.0
    least = 0.0 if not recent else TOP_SPEED
    for neighbour in recent[max(index - 1, 0) : index + 1]:
        seconds = abs(time - neighbour[0]) * 0.001
        apart = distance(neighbour[1], neighbour[2], fix.latitude, fix.longitude)
        measured = max(measured, apart / max(seconds, GRAIN))
        least = min(least, seconds)
    return min(measured + PULL * (least + GRAIN), max(TOP_SPEED, 1.25 * measured), FASTEST)


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
    """Farther than the vehicle can have come from its neighbours in time, or not back after others that were."""
    if not motion.support:
        return False
    return _out_of_reach(fix.latitude, fix.longitude, fix, motion) or (motion.rival is not None and _still_away(fix, motion))


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
    newest clean one. Call it once for each fix, in the order of a session's `seq`; it updates `motion`, and makes the fix's
    speed unknown where it is not believed."""
    if session != motion.session:
        motion.enter(session)
    claim = -1.0
    speed = fix.speed
    if speed is not UNSET:
        claim = speed if speed <= FASTEST else FASTEST
        # Most are about as fast as the one before, a moment before: that is looked at here, and the rest there.
        if not (
            speed <= motion.speed + PULL
            and speed <= TOP_SPEED
            and motion.time < fix.fix_time <= motion.time + FREEZE
            and motion.driven
        ) and overstated(fix, motion):
            fix.speed = UNSET
    time = fix.fix_time
    if motion.time < time >= motion.session_newest and motion.rival is None and motion.support:
        latitude = fix.latitude
        longitude = fix.longitude
        north = latitude - motion.latitude
        east = longitude - motion.longitude
        accuracy = fix.accuracy
        if (
            -NEARBY < north < NEARBY
            and -NEARBY < east < NEARBY
            and (north or east)
            and (accuracy is UNSET or accuracy <= INACCURATE)
            and not (-NULL_ISLAND <= latitude <= NULL_ISLAND and -NULL_ISLAND <= longitude <= NULL_ISLAND)
        ):
            # Most go on from the one before: none of the reasons below can hold, and each would be a call.
            motion.session_newest = time
            motion.move(fix, claim)
            return (), True
    suspicions: tuple[Suspicion, ...] = ()
    for suspicion, predicate in SUSPICIONS:
        if predicate(fix, motion, now):
            suspicions += (suspicion,)
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
        if motion.reconsider(fix, needed, claim):
            return (), True
        return suspicions, False
    motion.move(fix, claim)
    return suspicions, True


def _still_away(fix: Fix, motion: Motion) -> bool:
    """After jumps of a vehicle that stood: not near its anchor, though in reach by now. What could not be driven to does not
    come nearer by waiting there: nothing is believed but a return, as if it had been at its anchor at the last jump."""
    rival = motion.rival
    if rival is None or fix.fix_time <= motion.time or not motion.hold:
        return False
    apart = distance(motion.latitude, motion.longitude, fix.latitude, fix.longitude)
    return apart > NOISE + motion.accuracy + reach(motion.speed, abs(fix.fix_time - rival.time) * 0.001)


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
    if reported is not UNSET and speed < reported:
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
    if reported is not UNSET and speed < reported:
        speed = reported
    accuracy = fix.accuracy
    noise = NOISE if accuracy is UNSET else NOISE + min(accuracy, INACCURATE)
    for neighbour in (before, after):
        if neighbour is not None and distance(neighbour[1], neighbour[2], latitude, longitude) > noise + reach(
            speed, abs(time - neighbour[0]) * 0.001
        ):
            return True
    return False
