"""The messy stream: real tracks as a hub would receive them over a bad link, with the truth beside each message.

Reading (`read_stream`), driving (`play`) and scoring (`Score`) know nothing of each other's insides, so that a run over real
sockets can keep the first and the last. What the files hold: `README.md` beside them.
"""

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tracking.geo import distance
from tracking.ingest.filters import Motion, judge, reject
from tracking.model import Fix, Suspicion

DATA = Path(__file__).parents[2].parent / "shared/data"

TAKEN_FOR = (
    "malformed",
    "out_of_range",
    "clock_skew",
    "too_old",
    *Suspicion,
    "clean",
)
"""The columns of the table; a fix with several flags counts under each."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a message's label says. `raw_speed` m/s from the source's fix before it: above 50 the source itself is wrong."""

    fault: str
    delivery: str
    resend: bool
    raw_speed: float
    latitude: float
    longitude: float
    time: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message: when it came, whose it is, and the fix. One vehicle, trip and session for each leg.

    `seq` counts the session's arrivals from 1; a resend carries the number of the first. `latitude` and `longitude` are None
    where the message leaves them out.
    """

    message: int
    now: int
    leg: str
    session: int
    seq: int
    repeat: bool
    fix_time: int
    latitude: float | None
    longitude: float | None
    truth: Truth

    def fix(self) -> Fix | None:
        """None where the message is malformed: the decoder refuses it, no filter sees it."""
        if self.latitude is None or self.longitude is None:
            return None
        return Fix(self.seq, self.fix_time, self.latitude, self.longitude)


def data(name: str) -> Path:
    """A file of the shared data; skips the test, saying why, where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the shared data (../shared/data/{name}) is not here")
    return path


def instant(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _degrees(text: str) -> float | None:
    return float(text) if text else None


def read_stream(start: int, name: str = "messy_stream_dev") -> Iterator[Arrival]:
    """The arrivals in their order, joined with their labels, all clocks shifted so that the first arrives at `start`."""
    stream, labels = data(f"{name}.csv.gz"), data(f"{name}_labels.csv.gz")
    shift: int | None = None
    sessions: dict[str, int] = {}
    numbers: dict[str, dict[str, int]] = defaultdict(dict)
    for row, label in zip(_rows(stream), _rows(labels), strict=True):
        assert row["msg"] == label["msg"], "the labels belong to another stream"
        received = instant(row["recv_ts"])
        if shift is None:
            shift = start - received
        leg = label["leg_id"]
        seen = numbers[leg]
        repeat = row["seq"] in seen
        yield Arrival(
            message=int(row["msg"]),
            now=received + shift,
            leg=leg,
            session=sessions.setdefault(leg, len(sessions) + 1),
            seq=seen.setdefault(row["seq"], len(seen) + 1),
            repeat=repeat,
            fix_time=instant(row["ts"]) + shift,
            latitude=_degrees(row["lat"]),
            longitude=_degrees(row["lon"]),
            truth=Truth(
                fault=label["fault"],
                delivery=label["delivery"],
                resend=label["resend"] == "1",
                raw_speed=float(label["raw_speed_ms"] or 0.0),
                latitude=float(label["true_lat"]),
                longitude=float(label["true_lon"]),
                time=instant(label["true_ts"]) + shift,
            ),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message: the words it was taken for (`clean` where none), and whether it moved the marker."""

    taken_for: tuple[str, ...]
    live: bool


CLEAN = ("clean",)


def play(arrivals: Iterable[Arrival]) -> Iterator[tuple[Arrival, Verdict]]:
    """Every message but the repeats through the filters, as the hub would."""
    motions: dict[str, Motion] = {}
    for arrival in arrivals:
        if arrival.repeat:
            continue
        fix = arrival.fix()
        if fix is None:
            yield arrival, Verdict(("malformed",), False)
            continue
        rejection = reject(fix, arrival.now)
        if rejection is not None:
            yield arrival, Verdict((rejection[0].value,), False)
            continue
        motion = motions.setdefault(arrival.leg, Motion())
        suspicions, live = judge(fix, motion, arrival.session, arrival.now)
        yield arrival, Verdict(tuple(suspicions) or CLEAN, live)


class Score:
    """Tallies what each fault was taken for, and how far the positions shown were from the truth.

    Feed it each message that was not a repeat once, with `add`; over sockets, `show` what a passenger received instead of
    trusting `Verdict.live`.
    """

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.caught: Counter[str] = Counter()
        self.taken: dict[str, Counter[str]] = defaultdict(Counter)
        self.off: list[float] = []
        """Metres from the truth, of each position shown."""

    def add(self, arrival: Arrival, verdict: Verdict) -> None:
        fault = arrival.truth.fault
        self.messages[fault] += 1
        if verdict.taken_for != CLEAN:
            self.caught[fault] += 1
        for word in verdict.taken_for:
            self.taken[fault][word] += 1
        if verdict.live:
            assert arrival.latitude is not None and arrival.longitude is not None
            self.show(arrival.latitude, arrival.longitude, arrival.truth)

    def show(self, latitude: float, longitude: float, truth: Truth) -> None:
        """A position that a passenger saw, and the truth of its message."""
        self.off.append(distance(latitude, longitude, truth.latitude, truth.longitude))

    def missed(self, fault: str) -> int:
        return self.messages[fault] - self.caught[fault]

    def share_caught(self, fault: str) -> float:
        """1 where there was nothing to catch."""
        return self.caught[fault] / self.messages[fault] if self.messages[fault] else 1.0

    @property
    def share_doubted(self) -> float:
        """Of the messages without fault, those not taken for clean."""
        return self.caught["ok"] / self.messages["ok"] if self.messages["ok"] else 0.0

    def share_near(self, metres: float = 200.0) -> float:
        """Of the positions shown, those within `metres` of the truth."""
        return sum(off <= metres for off in self.off) / len(self.off) if self.off else 1.0

    def __str__(self) -> str:
        columns = [word for word in TAKEN_FOR if any(taken[word] for taken in self.taken.values())]
        lines = [f"{'fault':<12}{'messages':>9}{'caught':>8}" + "".join(f"{word:>14}" for word in columns)]
        for fault in sorted(self.messages, key=lambda fault: -self.messages[fault]):
            taken = self.taken[fault]
            cells = "".join(f"{taken[word] or '.':>14}" for word in columns)
            lines.append(f"{fault:<12}{self.messages[fault]:>9}{self.share_caught(fault):>8.1%}" + cells)
        lines.append(f"shown {len(self.off)}, within 200 m of the truth {self.share_near():.3%}")
        return "\n".join(lines)


def score(arrivals: Iterable[Arrival]) -> Score:
    result = Score()
    for arrival, verdict in play(arrivals):
        result.add(arrival, verdict)
    return result
