"""Budgets: how much of one kind each holder of a token may ask of the hub, so that no holder can block the others.

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
"""A `service` token may spend this many times as much."""
HELD_RETRY_AFTER = 1.0
"""The `retry_after` of a refusal when too much is held at once. Nobody knows when some of it is released."""


ANSWERS_HELD = 64 * 2**20
"""The bytes of large answers that one token may leave unread at once: the longest list on four screens."""


class Budget:
    """One kind of work, with a bucket for each holder that asked for it lately. Other holders take no memory."""

    def __init__(self, name: str, what: str, rate: Rate, clock: Clock, whose: str = "token") -> None:
        """`what` names the work in the plural, and `whose` the holder. Both appear in the error. `name` labels the metric."""
        self._what = what
        self._whose = whose
        self._rate = rate
        self._clock = clock
        self._spent = BUDGETS_SPENT.labels(name)
        self._buckets: dict[str, Bucket] = {}
        self._former: dict[str, Bucket] = {}
        self._turned = clock()

    def spend(self, holder: str, role: Role | None = None, amount: int = 1) -> None:
        """Take `amount` of the holder's budget.

        Raises `Refusal` (`rate_limited`) with the seconds to wait if less is left. Nothing is taken then.
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
        """Whether the holder's budget is not overdrawn: see `owe`."""
        now = self._clock()
        return self._bucket(holder, _share(role), now).take(now, 0)

    def owe(self, holder: str, role: Role | None, amount: int) -> None:
        """Take `amount` after the work, when its cost is known. The budget may be overdrawn. Ask `has_room` before the work."""
        now = self._clock()
        self._bucket(holder, _share(role), now).owe(now, amount)

    def _bucket(self, holder: str, share: int, now: int) -> Bucket:
        # A bucket that was not used for two of its periods is full, so it need not be kept.
        if not 0 <= now - self._turned < self._rate.seconds * 1000:
            self._former, self._buckets = self._buckets, {}
            self._turned = now
        bucket = self._buckets.get(holder)
        if bucket is None:
            bucket = self._former.pop(holder, None) or Bucket(self._rate.per_second * share, self._rate.at_once * share, now)
            self._buckets[holder] = bucket
        return bucket


class Held:
    """Memory that each holder uses at this moment. It may use as much as its budget allows at once."""

    def __init__(self, what: str, most: int) -> None:
        """`what` names what is held, in the plural. It appears in the error."""
        self._what = what
        self._most = most
        self._held: dict[str, int] = {}

    def take(self, holder: str, role: Role | None, amount: int) -> None:
        """Raises `Refusal` (`rate_limited`) if the holder would hold too much. Nothing is taken then."""
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
    """HTTP requests and trip steps on sockets that may change something"""
    backlogs: Budget
    """fixes above the rate of live fixes; the holder is the vehicle"""
    messages: Budget
    """messages within trips; the holder is the share, or the token if there is no share"""
    connects: Budget
    """sockets that are opened"""
    frames: Budget
    """frames that dispatchers' screens send"""
    looks: Budget
    """vehicles and clusters sent to dispatchers' screens after they move or zoom the map"""
    searches: Budget
    """searches for vehicles, by text or by place"""
    bytes: Budget
    """bytes of the bodies of such requests, or of what is stored of them if that is more"""
    bodies: Held
    """bytes of request bodies that are still arriving"""
    answers: Held
    """bytes of large answers that their readers have not read yet"""
    shares: Budget
    """share links made by dispatchers"""
    sessions: Budget
    """sessions that are not in memory; the holder is the vehicle, not the token"""
    downloads: Budget
    """tracks of any length"""
    sums: Budget
    """days of vehicles that are summed for a request"""


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
