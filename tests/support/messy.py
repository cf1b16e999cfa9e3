"""The messy stream: real tracks as a hub would receive them over a bad link, with the truth for each message.

Reading (`read_stream`), filtering (`play`) and scoring (`Score`) are independent. A run over real sockets uses the first and
the last. `README.md` beside the files describes them.
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
from tracking.ingest.filters import judge
from tracking.ingest.motion import Motion
from tracking.ingest.rejections import reject
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
"""The columns of the table. A fix with several flags counts under each."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The label of a message. `raw_speed` is in m/s since the source's fix before it. Above 50 the source itself is wrong."""

    fault: str
    delivery: str
    resend: bool
    raw_speed: float
    latitude: float
    longitude: float
    time: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message: when it arrived, its leg, and the fix. Each leg is one vehicle, trip and session.

    `seq` counts the session's arrivals from 1. A resend has the number of the first. `latitude` and `longitude` are None if the
    message leaves them out.
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
        """None if the message is malformed. The decoder refuses it before any filter."""
        if self.latitude is None or self.longitude is None:
            return None
        return Fix(self.seq, self.fix_time, self.latitude, self.longitude)


def data(name: str) -> Path:
    """A file of the shared data. Skips the test with a reason if it is absent."""
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
    """The arrivals in order, with their labels. All times are shifted so that the first arrives at `start`."""
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
    """What a message was taken for (`clean` if nothing), and whether it moved the marker."""

    taken_for: tuple[str, ...]
    live: bool


CLEAN = ("clean",)


def play(arrivals: Iterable[Arrival]) -> Iterator[tuple[Arrival, Verdict]]:
    """Run every message except repeats through the filters, as the hub does."""
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
    """Counts what each fault was taken for, and how far the shown positions were from the truth.

    Call `add` once for each message that is not a repeat. In a run over sockets call `show` for what a passenger received,
    because `Verdict.live` is then unknown.
    """

    def __init__(self) -> None:
        self.messages: Counter[str] = Counter()
        self.caught: Counter[str] = Counter()
        self.taken: dict[str, Counter[str]] = defaultdict(Counter)
        self.off: list[float] = []
        """Metres from the truth, for each shown position."""

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
        """Count a position that a passenger saw. `truth` is that of its message."""
        self.off.append(distance(latitude, longitude, truth.latitude, truth.longitude))

    def missed(self, fault: str) -> int:
        return self.messages[fault] - self.caught[fault]

    def share_caught(self, fault: str) -> float:
        """1 if there was nothing to catch."""
        return self.caught[fault] / self.messages[fault] if self.messages[fault] else 1.0

    @property
    def share_doubted(self) -> float:
        """The share of faultless messages that were not taken for clean."""
        return self.caught["ok"] / self.messages["ok"] if self.messages["ok"] else 0.0

    def share_near(self, metres: float = 200.0) -> float:
        """The share of shown positions within `metres` of the truth."""
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
