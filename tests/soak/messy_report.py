"""What a run of the messy stream found, as data and as text."""

import statistics
from collections import Counter
from typing import Any

from tests.soak.legs import Leg, fix_key
from tests.support.clients import Api, Message
from tests.support.ledger import wrongs
from tests.support.messy import CLEAN, Score, Truth, Verdict
from tracking.geo import distance

NEAR = 200.0
"""Metres. A passenger notices a larger error. PROTOCOL sets no such limit."""


async def judge(legs: list[Leg], api: Api, database_url: str) -> tuple[dict[str, Any], str]:
    """The result as data, and as text for a person."""
    score = Score()
    far: list[dict[str, Any]] = []
    stored = outside = 0
    for leg in legs:
        rows = {int(row["seq"]): row for row in await api.track(f"/vehicles/{leg.vehicle_id}/track", suspect="true")}
        stored += len(rows)
        outside += _score_stored(score, leg, rows)
        far += _score_shown(score, leg)
    broken = await wrongs(database_url, [leg.account for leg in legs])
    for leg in legs:
        broken += _broken(leg)
    watched = [leg.watcher for leg in legs if leg.watcher is not None]
    result: dict[str, Any] = {
        "legs": len(legs),
        "watched": len(watched),
        "messages": sum(leg.messages for leg in legs),
        "resends": sum(leg.messages - len(leg.first) for leg in legs),
        "sent": sum(len(leg.first) for leg in legs),
        "acknowledged": sum(seq <= leg.account.acknowledged for leg in legs for seq in leg.account.sent),
        "stored": stored,
        "rejected": dict(Counter(code for leg in legs for code in leg.codes.values())),
        "stored_without_trip": outside,
        "shown": len(score.off),
        "shown_near": score.share_near(NEAR),
        "shown_far": far,
        "lines_equal": sum(leg.watcher is not None and leg.line_differs is None for leg in legs),
        "revisions": sum(watcher.revisions for watcher in watched),
        "taken_for": {fault: {"messages": score.messages[fault], **score.taken[fault]} for fault in score.messages},
        "missed": {fault: score.missed(fault) for fault in score.messages if fault != "ok"},
        "doubted_without_fault": score.share_doubted,
        **_latencies(legs),
        "broken": broken,
    }
    return result, _text(result, score)


def _score_stored(score: Score, leg: Leg, rows: dict[int, dict[str, str]]) -> int:
    """Score what each fix was taken for. Returns how many are stored without their trip."""
    outside = 0
    for number, due in leg.first.items():
        row = rows.get(number)
        if number in leg.codes:
            code = leg.codes[number]
            taken: tuple[str, ...] = ("malformed" if code in ("bad_field", "bad_type") else code,)
        elif row is not None:
            taken = tuple(row["suspect"].split(";")) if row["suspect"] else CLEAN
            outside += not row["trip_id"] and due.arrival.truth.fault != "bad_clock"
        else:
            continue
        score.add(due.arrival, Verdict(taken, live=False))
    return outside


def _score_shown(score: Score, leg: Leg) -> list[dict[str, Any]]:
    """Score the positions that the passenger saw. Returns those that are far from the truth."""
    far = []
    for position, _ in leg.shown:
        truth = _truth(leg, position)
        if truth is None:
            leg.errors.append(f"shown, but never sent: {position}")
            continue
        score.show(position["latitude"], position["longitude"], truth)
        off = distance(position["latitude"], position["longitude"], truth.latitude, truth.longitude)
        if off > NEAR:
            far.append({"leg": leg.name, "fault": truth.fault, "metres": round(off)})
    return far


def _broken(leg: Leg) -> list[str]:
    """What must not happen, apart from what the database shows."""
    # Some devices have clocks that run ahead. The hub tells them so.
    broken = [error for error in leg.errors if not error.startswith("clock_skew")]
    unacknowledged = sum(seq > leg.account.acknowledged for seq in leg.account.sent)
    if unacknowledged:
        broken.append(f"{unacknowledged} fixes never acknowledged")
    if leg.watcher is not None:
        broken += leg.watcher.breaks
        if leg.watcher.snapshots != 1:
            broken.append(f"{leg.watcher.snapshots} snapshots, on a connection that was never cut")
    if leg.line_differs is not None:
        broken.append(leg.line_differs)
    return [f"{leg.name}: {line}" for line in broken]


def _latencies(legs: list[Leg]) -> dict[str, dict[str, float]]:
    to_passenger = [
        came - leg.sent_at[seq] for leg in legs for p, came in leg.shown if (seq := leg.seqs.get(fix_key(p))) is not None
    ]
    to_ack = [leg.acknowledged_at[seq] - leg.sent_at[seq] for leg in legs for seq in leg.sent_at if seq in leg.acknowledged_at]
    return {"to_passenger_ms": _percentiles(to_passenger), "to_ack_ms": _percentiles(to_ack)}


def _text(result: dict[str, Any], score: Score) -> str:
    rejected = ", ".join(f"{count} {code}" for code, count in sorted(result["rejected"].items())) or "none"
    broken: list[str] = result["broken"]
    far = Counter(entry["fault"] for entry in result["shown_far"])
    return "\n".join(
        [
            f"{result['legs']} legs, {result['watched']} watched, {result['messages']} messages of which"
            f" {result['resends']} were resends",
            f"fixes sent {result['sent']}, acknowledged {result['acknowledged']}, stored {result['stored']},"
            f" rejected {sum(result['rejected'].values())} ({rejected});"
            f" stored outside their trip {result['stored_without_trip']}",
            "nothing acknowledged missing, nothing twice"
            if not broken
            else f"BROKEN, {len(broken)} times:\n  " + "\n  ".join(broken[:40]),
            f"lines on passengers' maps as stored: {result['lines_equal']} of {result['watched']},"
            f" {result['revisions']} revisions on the way",
            "",
            "What each fault was taken for (a fix with two flags counts under both):",
            str(score),
            f"shown farther off, by fault: {', '.join(f'{c} {f}' for f, c in far.most_common()) or 'none'}",
            f"fixes without fault that were doubted: {result['doubted_without_fault']:.2%}",
            "",
            f"{'latency, ms':<24}{'median':>8}{'95 %':>8}{'99 %':>8}{'most':>8}",
            *(
                f"{name:<24}" + "".join(f"{value:>8.1f}" for value in result[key].values())
                for name, key in (("device -> passenger", "to_passenger_ms"), ("report -> ack", "to_ack_ms"))
            ),
        ]
    )


def _truth(leg: Leg, position: Message) -> Truth | None:
    seq = leg.seqs.get(fix_key(position))
    return leg.first[seq].arrival.truth if seq is not None else None


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return dict.fromkeys(("p50", "p95", "p99", "most"), 0.0)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    values = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": max(seconds)}
    return {name: round(value * 1000, 2) for name, value in values.items()}
