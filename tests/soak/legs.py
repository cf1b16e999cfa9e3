"""The messy stream cut into legs: one vehicle on one trip each, and when each of its messages is due."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.clients import Message
from tests.support.ledger import Account
from tests.support.messy import Arrival
from tests.support.watcher import Watcher

TOGETHER = 0.05
"""Seconds. Messages of a leg that are due this close together are sent as one batch, as a device sends its backlog."""


class Due(NamedTuple):
    """A message, when to send it (seconds after the start of the run), and its fix time (ms after the start)."""

    at: float
    fix_time: int
    arrival: Arrival


@dataclass
class Leg:
    """One vehicle on one trip, and what its device and its passenger observed."""

    name: str
    dues: list[Due]
    vehicle_id: str = ""
    trip_id: str = ""
    account: Account = field(default_factory=lambda: Account("", ""))
    first: dict[int, Due] = field(default_factory=dict)
    """The first message of each seq."""
    sent_at: dict[int, float] = field(default_factory=dict)
    seqs: dict[tuple[int, float, float], int] = field(default_factory=dict)
    """By `fix_key`: a passenger does not see the seq."""
    acknowledged_at: dict[int, float] = field(default_factory=dict)
    codes: dict[int, str] = field(default_factory=dict)
    """Rejected seqs."""
    messages: int = 0
    errors: list[str] = field(default_factory=list)
    shown: list[tuple[Message, float]] = field(default_factory=list)
    watcher: Watcher | None = None
    line_differs: str | None = None


def plan(arrivals: Iterable[Arrival], *, minutes: float, seed: int, speed: float, as_recorded: bool) -> list[Leg]:
    """The legs and the times of their messages. Nothing is due after `minutes`.

    `as_recorded` keeps the times of the recording: only a dozen legs begin in the first minutes of a night. Otherwise each leg
    begins at a random moment from which it fits into the time, so that all legs overlap. Within a leg the timing stays.
    """
    rng = random.Random(seed)
    by_leg: dict[str, list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        by_leg[arrival.leg].append(arrival)
    legs = []
    for name, its in by_leg.items():
        begin = its[0].now
        if as_recorded:
            offset = begin
        else:
            room = minutes * 60_000 * speed - (its[-1].now - begin)
            offset = int(rng.uniform(0.0, max(room, 0.0)))
        dues = [_due(arrival, offset - begin, speed) for arrival in its]
        if dues := [due for due in dues if due.at <= minutes * 60]:
            legs.append(Leg(name, dues))
    return legs


def _due(arrival: Arrival, shift: int, speed: float) -> Due:
    now = (arrival.now + shift) / speed
    late = arrival.now - arrival.fix_time
    if arrival.truth.fault != "bad_clock":
        late = int(late / speed)
    return Due(now / 1000, int(now) - late, arrival)


def batches(dues: Sequence[Due]) -> Iterator[list[Due]]:
    group: list[Due] = []
    for due in dues:
        if group and due.at - group[-1].at > TOGETHER:
            yield group
            group = []
        group.append(due)
    if group:
        yield group


def fix_key(fix: Message) -> tuple[int, float, float]:
    return fix["fix_time"], fix["latitude"], fix["longitude"]
