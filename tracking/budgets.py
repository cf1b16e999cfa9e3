"""Budgets: how much of one kind each holder of a token may ask of the hub, so that nobody starves the others.

    budgets.writes.spend(principal.jti, principal.role)      # raises `Refusal` (`rate_limited`) where it is spent

Each budget is a setting, written `count/seconds`: so many at once, and as many again in that time. A token of role `service`
has `SERVICE_SHARE` times as much: it stands for an integrator's backend, with all its users behind it.
"""

from dataclasses import dataclass

from tracking.auth import Role
from tracking.bucket import Bucket
from tracking.config import Rate, Settings
from tracking.errors import ErrorCode, Refusal
from tracking.metrics import BUDGETS_SPENT
from tracking.model import Clock

SERVICE_SHARE = 20
"""How many times as much a token of role `service` may ask."""
HELD_RETRY_AFTER = 1.0
"""Seconds told to who has too much held at once: nobody knows when the rest of it comes."""


ANSWERS_HELD = 64 * 2**20
"""Bytes of large answers that one token may leave unread at once: the longest list on four screens."""


class Budget:
    """One kind of work, with a bucket for each holder that asked for it lately: holders that are gone leave nothing."""

    def __init__(self, name: str, what: str, rate: Rate, clock: Clock, whose: str = "token") -> None:
        """`what` is what is spent, in the plural, `whose` it is: both stand in the error. `name` labels the metric."""
        self._what = what
        self._whose = whose
        self._rate = rate
        self._clock = clock
        self._spent = BUDGETS_SPENT.labels(name)
        self._buckets: dict[str, Bucket] = {}
        self._former: dict[str, Bucket] = {}
        self._turned = clock()

    def spend(self, holder: str, role: Role | None = None, amount: int = 1) -> None:
        """Takes so much of the holder's budget.

        Raises `Refusal` (`rate_limited`) with the seconds to wait where there is not so much left; then nothing is taken.
        """
        now = self._clock()
        bucket = self._bucket(holder, _share(role), now)
        if not bucket.take(now, amount):
            self._spent.inc()
            wait = bucket.wait(amount)
            raise Refusal(
                ErrorCode.RATE_LIMITED,
                f"this {self._whose}'s budget of {self._what} is spent ({self._rate}): try again in {wait:.1f} s",
                retry_after=wait,
            )

    def has_room(self, holder: str, role: Role | None = None) -> bool:
        """Whether the holder owes nothing: see `owe`."""
        now = self._clock()
        return self._bucket(holder, _share(role), now).take(now, 0)

    def owe(self, holder: str, role: Role | None, amount: int) -> None:
        """Takes what was spent, however much: for work whose cost is known when it is done. Ask `has_room` before."""
        now = self._clock()
        self._bucket(holder, _share(role), now).owe(now, amount)

    def _bucket(self, holder: str, share: int, now: int) -> Bucket:
        # Who asks for nothing while a bucket fills twice has a full one, which need not be kept.
        if not 0 <= now - self._turned < self._rate.seconds * 1000:
            self._former, self._buckets = self._buckets, {}
            self._turned = now
        bucket = self._buckets.get(holder)
        if bucket is None:
            bucket = self._former.pop(holder, None) or Bucket(self._rate.per_second * share, self._rate.at_once * share, now)
            self._buckets[holder] = bucket
        return bucket


class Held:
    """What is held in memory for each holder at this moment: no more than its budget has at once."""

    def __init__(self, what: str, most: int) -> None:
        """`what` is what is held, in the plural: it stands in the error."""
        self._what = what
        self._most = most
        self._held: dict[str, int] = {}

    def take(self, holder: str, role: Role | None, amount: int) -> None:
        """Raises `Refusal` (`rate_limited`) where that is too much together; then nothing is taken."""
        held = self._held.get(holder, 0) + amount
        most = self._most * _share(role)
        if held > most:
            detail = f"{most} {self._what} of this token are held at once: let others come to their end first"
            raise Refusal(ErrorCode.RATE_LIMITED, detail, retry_after=HELD_RETRY_AFTER)
        self._held[holder] = held

    def give_back(self, holder: str, amount: int) -> None:
        left = self._held.get(holder, 0) - amount
        if left > 0:
            self._held[holder] = left
        else:
            self._held.pop(holder, None)


def _share(role: Role | None) -> int:
    return SERVICE_SHARE if role is Role.SERVICE else 1


@dataclass(frozen=True, slots=True)
class Budgets:
    """Every budget of the hub."""

    writes: Budget
    """HTTP requests, and steps of trips over sockets, that may change something"""
    backlogs: Budget
    """fixes past what a vehicle may report as they happen; the holder is the vehicle"""
    messages: Budget
    """messages within trips; the holder is the share, or else the token"""
    connects: Budget
    """sockets that are opened"""
    frames: Budget
    """what dispatchers' screens say on their sockets"""
    looks: Budget
    """vehicles and clusters that dispatchers' screens are sent because they look elsewhere"""
    searches: Budget
    """searches for vehicles, by text or by place"""
    bytes: Budget
    """bodies of such requests, and what is stored of them where that is more"""
    bodies: Held
    """bytes of bodies that have not come to their end"""
    answers: Held
    """bytes of large answers that their readers have not read"""
    shares: Budget
    """share links, but for those that a backend makes"""
    sessions: Budget
    """sessions that are not in memory, for each vehicle, whatever its tokens are"""
    downloads: Budget
    """tracks, whatever their length"""
    sums: Budget
    """days of vehicles that are summed up for who asks"""


def assemble_budgets(settings: Settings, clock: Clock) -> Budgets:
    return Budgets(
        writes=Budget("writes", "writing requests", settings.budget_writes, clock),
        backlogs=Budget("backlogs", "fixes", settings.budget_backlog, clock, "vehicle"),
        messages=Budget("messages", "messages", settings.budget_messages, clock),
        connects=Budget("connects", "connections", settings.budget_connects, clock),
        frames=Budget("frames", "frames", settings.budget_frames, clock),
        looks=Budget("looks", "vehicles to look at", settings.budget_looks, clock),
        searches=Budget("searches", "searches", settings.budget_searches, clock),
        bytes=Budget("bytes", "bytes in bodies", settings.budget_bytes, clock),
        bodies=Held("bytes of bodies", settings.budget_bytes.at_once),
        answers=Held("bytes of answers", ANSWERS_HELD),
        shares=Budget("shares", "shares", settings.budget_shares, clock),
        sessions=Budget("sessions", "new sessions of its vehicle", settings.budget_sessions, clock),
        downloads=Budget("downloads", "downloads", settings.budget_downloads, clock),
        sums=Budget("sums", "days to be summed up", settings.budget_sums, clock),
    )
