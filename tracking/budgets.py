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


class Budget:
    """One kind of work, with a bucket for each holder that asked for it lately: holders that are gone leave nothing."""

    def __init__(self, name: str, what: str, rate: Rate, clock: Clock) -> None:
        """`what` is what is spent, in the plural: it stands in the error. `name` labels the metric."""
        self._what = what
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
        bucket = self._bucket(holder, SERVICE_SHARE if role is Role.SERVICE else 1, now)
        if not bucket.take(now, amount):
            self._spent.inc()
            wait = bucket.wait(amount)
            raise Refusal(
                ErrorCode.RATE_LIMITED,
                f"this token's budget of {self._what} is spent ({self._rate}): try again in {wait:.1f} s",
                retry_after=wait,
            )

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


@dataclass(frozen=True, slots=True)
class Budgets:
    """Every budget of the hub."""

    writes: Budget
    """HTTP requests that may change something"""
    downloads: Budget
    """tracks, whatever their length"""
    sums: Budget
    """days of vehicles that are summed up for who asks"""


def assemble_budgets(settings: Settings, clock: Clock) -> Budgets:
    return Budgets(
        writes=Budget("writes", "writing requests", settings.budget_writes, clock),
        downloads=Budget("downloads", "downloads", settings.budget_downloads, clock),
        sums=Budget("sums", "days to be summed up", settings.budget_sums, clock),
    )
