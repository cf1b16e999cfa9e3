"""A hub dies. Its clients come back to the others with their own pauses, and wait there for a hub and a database."""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from driver_sim.backoff import full_jitter
from driver_sim.scale.assumptions import Assumptions
from driver_sim.scale.population import Array

Attempt = tuple[float, int, int, int]
"""When, the client's number, its kind (0 a driver, 1 a passenger), and which attempt it is."""
LONGEST = 600.0
"""Simulated seconds after which those who are not back are given up."""


@dataclass(frozen=True)
class Crowd:
    """Clients that come to one hub. `free` is the share of its core that is left for them.

    `claims_a_second` is this hub's share of what its databases can do. `noticed` is within how many seconds clients notice.
    """

    drivers: int
    passengers: int
    free: float
    claims_a_second: float
    stored_snapshots: float = 0.0
    """share of passengers whose line has to be read from the store, because its vehicle was on the dead hub"""
    noticed: float = 0.0
    snapshots_a_second: float = 1_000.0
    openings_a_second: float = float("inf")
    """A proxy refuses sockets above this rate at once."""


@dataclass
class Recovery:
    """How they came back. Times are seconds since the hub died; a share that never came back within the time is infinity."""

    clients: int
    back: Array
    longest_queue: int
    """of a hub, with those who have given up and are not found out yet"""
    gave_up: int
    """attempts that ended after the answer's time limit; their clients came again"""
    refused: int
    """attempts that the proxy refused at once"""
    wasted: float
    """seconds of CPU for clients that had given up"""

    def within(self, share: float) -> float:
        """Seconds until this share of all clients is back."""
        needed = int(np.ceil(share * self.clients))
        return float(np.sort(self.back)[needed - 1]) if needed <= len(self.back) else float("inf")


@dataclass
class _Server:
    """One core that serves in the order of arrival."""

    free_at: float = 0.0
    ends: deque[float] = field(default_factory=deque)
    longest: int = 0

    def waiting(self, now: float) -> int:
        while self.ends and self.ends[0] <= now:
            self.ends.popleft()
        self.longest = max(self.longest, len(self.ends) + 1)
        return len(self.ends)

    def work(self, start: float, seconds: float) -> float:
        self.free_at = start + seconds
        self.ends.append(self.free_at)
        return self.free_at


@dataclass
class _Allowance:
    """So many a second, and so many at once."""

    rate: float
    most: float
    left: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.most

    def take(self, now: float) -> bool:
        if self.rate == float("inf"):
            return True
        self.left = min(self.most, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def page_backoff(rng: random.Random) -> Callable[[int], float]:
    """The pages' pause (`web/shared/connection.js`): a quarter to all of a ceiling that doubles from 1 s to 30 s."""
    return lambda attempt: min(30.0, 2.0 ** min(attempt, 32)) * (0.25 + 0.75 * rng.random())


def _first_attempts(crowd: Crowd, pauses: Sequence[Callable[[int], float]], rng: random.Random) -> list[Attempt]:
    kinds = [0] * crowd.drivers + [1] * crowd.passengers
    attempts = [(rng.random() * crowd.noticed + pauses[kind](0), number, kind, 0) for number, kind in enumerate(kinds)]
    heapq.heapify(attempts)
    return attempts


def come_back(assumed: Assumptions, crowd: Crowd, seed: int) -> Recovery:
    """Every client's attempts, one event after the other."""
    rng = random.Random(seed)
    pauses = (full_jitter(rng=rng), page_backoff(rng))
    work = tuple(ms / 1000 / max(crowd.free, 1e-3) for ms in (assumed.driver_connect_ms, assumed.passenger_connect_ms))
    hub, claims, snapshots = _Server(), _Server(), _Server()
    events = _first_attempts(crowd, pauses, rng)
    back: list[float] = []
    gave_up, refused, wasted = 0, 0, 0.0
    opening = _Allowance(crowd.openings_a_second, assumed.openings_at_once)
    while events:
        now, number, kind, attempt = heapq.heappop(events)
        if now > LONGEST:
            break
        if not opening.take(now):
            refused += 1
            heapq.heappush(events, (now + pauses[kind](attempt + 1), number, kind, attempt + 1))
            continue
        hub.waiting(now)
        start = max(now, hub.free_at)
        limit = now + assumed.answer_timeout
        if start > limit:
            spent = work[kind] * assumed.abandoned_share
            hub.work(start, spent)
            wasted += spent * crowd.free
            done = float("inf")
        else:
            done = hub.work(start, work[kind])
            if kind == 0:
                dead_home = assumed.hand_over_wait if now < assumed.dead_after else 0.0
                done = claims.work(max(done + dead_home, claims.free_at), 1 / crowd.claims_a_second)
            elif rng.random() < crowd.stored_snapshots:
                done = snapshots.work(max(done, snapshots.free_at), 1 / crowd.snapshots_a_second)
            wasted += work[kind] * crowd.free if done > limit else 0.0
        if done <= limit:
            back.append(done)
        else:
            gave_up += 1
            heapq.heappush(events, (limit + pauses[kind](attempt + 1), number, kind, attempt + 1))
    return Recovery(crowd.drivers + crowd.passengers, np.array(back), hub.longest, gave_up, refused, wasted)
