"""The messy stream through a real hub, over real sockets, in real time, with a passenger watching each vehicle.

    python -m tests.soak messy --minutes 15 --seed 1 --json soak.json

Starts a database and a hub of its own and removes them at the end. Exits with 1 where the invariant was broken: something
acknowledged is missing or stored twice, a passenger's numbering broke, or a line on a passenger's map is not the stored one.
"""

import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click
import websockets
from tqdm import tqdm

from tests.support.clients import Api, Driver, Message, now_ms
from tests.support.hub_process import HubProcess
from tests.support.ledger import Account, stored_line, wrongs
from tests.support.messy import CLEAN, DATA, Arrival, Score, Truth, Verdict, read_stream
from tests.support.watcher import Point, Watcher
from tracking.demo.postgres import Cluster
from tracking.geo import distance
from tracking.store.migrations import migrate

NEAR = 200.0
"""Metres; PROTOCOL knows no such limit, the passenger's eye does."""
TOGETHER = 0.05
"""Messages of a leg that arrive within so many seconds of each other go as one batch, as a device sends its backlog."""
EARLY = 2.0
"""Seconds that a passenger looks before the first fix."""
LINGER = 5.0
"""Seconds that a device stays connected after its last fix."""
PATIENCE = 30.0
"""Seconds to wait for the last acks, and for a line to be as it is stored."""


class Due(NamedTuple):
    """A message and when to send it: seconds after the begin; its fix time likewise, in ms."""

    at: float
    fix_time: int
    arrival: Arrival


@dataclass
class Leg:
    """One vehicle on one trip, as its device and its passenger knew it."""

    name: str
    dues: list[Due]
    vehicle_id: str = ""
    trip_id: str = ""
    account: Account = field(default_factory=lambda: Account("", ""))
    first: dict[int, Due] = field(default_factory=dict)
    """What was sent under each seq the first time, and when."""
    sent_at: dict[int, float] = field(default_factory=dict)
    seqs: dict[tuple[int, float, float], int] = field(default_factory=dict)
    """By fix time and place, as a passenger sees a fix."""
    acknowledged_at: dict[int, float] = field(default_factory=dict)
    codes: dict[int, str] = field(default_factory=dict)
    """Rejected seqs."""
    messages: int = 0
    errors: list[str] = field(default_factory=list)
    shown: list[tuple[Message, float]] = field(default_factory=list)
    watcher: Watcher | None = None
    line_differs: str | None = None


def plan(arrivals: Iterable[Arrival], *, minutes: float, seed: int, speed: float, as_recorded: bool) -> list[Leg]:
    """The legs and the times of their messages; nothing is due after `minutes`.

    As recorded, the first minutes of a night hold a dozen legs. Else each leg begins at a seeded moment of its own from which
    it fits into the time, so that all legs run side by side; their own timing stays as recorded.
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


class Soak:
    """One run. `legs` are played against the hub at `url`, and judged against the database."""

    def __init__(self, url: str, database_url: str, legs: list[Leg], watched: set[str]) -> None:
        self._url = url
        self._database_url = database_url
        self._legs = legs
        self._watched = watched
        self._begin = 0.0
        self._begin_ms = 0
        self._asking = asyncio.Semaphore(4)

    async def run(self, api: Api) -> None:
        fleet_id = await api.fleet()
        for leg in tqdm(self._legs, desc="trips", unit=" trips", mininterval=5.0):
            leg.vehicle_id = await api.vehicle(fleet_id)
            trip = await api.trip(fleet_id, leg.vehicle_id)
            leg.trip_id = trip["trip_id"]
            await api.advance(leg.trip_id, "enroute_to_pickup")
        # Every trip is under way before its first fix was taken, however late that one arrives.
        earliest = min(d.fix_time for leg in self._legs for d in leg.dues if d.arrival.truth.fault != "bad_clock")
        lead = max(5.0, 1.0 - earliest / 1000)
        self._begin = time.monotonic() + lead
        self._begin_ms = now_ms() + int(lead * 1000)
        total = sum(len(leg.dues) for leg in self._legs)
        with tqdm(total=total, desc="messages", unit=" messages", mininterval=5.0) as bar:
            async with asyncio.TaskGroup() as tasks:
                for leg in self._legs:
                    tasks.create_task(self._play(leg, bar))

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._begin + at - time.monotonic()))

    async def _play(self, leg: Leg, bar: "tqdm[Any]") -> None:
        await self._until(leg.dues[0].at - EARLY)
        async with self._watching(leg):
            await self._until(leg.dues[0].at)
            try:
                async with Driver(self._url, leg.vehicle_id) as driver:
                    leg.account = Account(leg.vehicle_id, driver.session)
                    reading = asyncio.create_task(self._read(leg, driver))
                    try:
                        await self._drive(leg, driver, bar)
                        await _true(lambda: leg.account.acknowledged >= max(leg.account.sent), PATIENCE)
                        await asyncio.sleep(LINGER)
                    finally:
                        reading.cancel()
                        await asyncio.gather(reading, return_exceptions=True)
            except (OSError, TimeoutError, websockets.WebSocketException) as error:
                leg.errors.append(f"the line was lost: {error or type(error).__name__}")
            await self._compare(leg)

    @contextlib.asynccontextmanager
    async def _watching(self, leg: Leg) -> AsyncIterator[None]:
        if leg.name not in self._watched:
            yield
            return
        leg.watcher = Watcher(self._url, leg.trip_id, on_position=lambda message, came: leg.shown.append((message, came)))
        watching = asyncio.create_task(leg.watcher.run())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _drive(self, leg: Leg, driver: Driver, bar: "tqdm[Any]") -> None:
        for group in _groups(leg.dues):
            await self._until(group[0].at)
            now = time.monotonic()
            for due in group:
                seq = due.arrival.seq
                leg.account.sent.add(seq)
                leg.first.setdefault(seq, due)
                leg.sent_at.setdefault(seq, now)
            leg.messages += len(group)
            fixes = [self._fix(due) for due in group]
            for fix in fixes:
                if "latitude" in fix:
                    leg.seqs.setdefault(_key(fix), fix["seq"])
            await driver.report(*fixes)
            bar.update(len(group))

    def _fix(self, due: Due) -> Message:
        arrival = due.arrival
        fix: Message = {"seq": arrival.seq, "fix_time": self._begin_ms + due.fix_time}
        if arrival.latitude is not None:
            fix["latitude"] = arrival.latitude
        if arrival.longitude is not None:
            fix["longitude"] = arrival.longitude
        return fix

    async def _read(self, leg: Leg, driver: Driver) -> None:
        while True:
            message = json.loads(await driver.connection.recv())
            came = time.monotonic()
            if message["type"] == "error":
                leg.errors.append(f"{message['code']}: {message['detail']}")
            elif message["type"] == "ack":
                for rejected in message.get("rejected", []):
                    leg.codes[rejected["seq"]] = rejected["code"]
                    leg.account.refused.add(rejected["seq"])
                for seq in range(leg.account.acknowledged + 1, message["seq"] + 1):
                    leg.acknowledged_at[seq] = came
                leg.account.acknowledged = max(leg.account.acknowledged, message["seq"])

    async def _compare(self, leg: Leg) -> None:
        """Is the line that the passenger sees, late fixes and all, the one that is stored?"""
        watcher = leg.watcher
        if watcher is None:
            return
        deadline = time.monotonic() + PATIENCE
        while (stored := await self._stored(leg)) != watcher.line.points:
            if time.monotonic() > deadline:
                seen, kept = set(watcher.line.points), set(stored)
                leg.line_differs = f"{len(seen - kept)} points only on the map, {len(kept - seen)} only stored"
                return
            await asyncio.sleep(0.2)

    async def _stored(self, leg: Leg) -> list[Point]:
        async with self._asking:
            return await stored_line(self._database_url, leg.trip_id)


async def _true(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def _groups(dues: Sequence[Due]) -> Iterator[list[Due]]:
    group: list[Due] = []
    for due in dues:
        if group and due.at - group[-1].at > TOGETHER:
            yield group
            group = []
        group.append(due)
    if group:
        yield group


# --- what came of it ------------------------------------------------------------------------------------------------


async def judge(legs: list[Leg], api: Api, database_url: str) -> tuple[dict[str, Any], str]:
    """The result as data, and as text for a person."""
    score = Score()
    far: list[dict[str, Any]] = []
    stored = outside = 0
    for leg in legs:
        rows = {int(row["seq"]): row for row in await api.track(f"/vehicles/{leg.vehicle_id}/track", suspect="true")}
        stored += len(rows)
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
        for position, _ in leg.shown:
            truth = _truth(leg, position)
            if truth is None:
                leg.errors.append(f"shown, but never sent: {position}")
                continue
            score.show(position["latitude"], position["longitude"], truth)
            off = distance(position["latitude"], position["longitude"], truth.latitude, truth.longitude)
            if off > NEAR:
                far.append({"leg": leg.name, "fault": truth.fault, "metres": round(off)})
    broken = await wrongs(database_url, [leg.account for leg in legs])
    for leg in legs:
        # The device is told when its clock runs ahead; some do.
        broken += [f"{leg.name}: {error}" for error in leg.errors if not error.startswith("clock_skew")]
        unacknowledged = sum(seq > leg.account.acknowledged for seq in leg.account.sent)
        if unacknowledged:
            broken.append(f"{leg.name}: {unacknowledged} fixes never acknowledged")
        if leg.watcher is not None:
            broken += [f"{leg.name}: {line}" for line in leg.watcher.breaks]
            if leg.watcher.snapshots != 1:
                broken.append(f"{leg.name}: {leg.watcher.snapshots} snapshots, on a line that nobody cut")
        if leg.line_differs is not None:
            broken.append(f"{leg.name}: {leg.line_differs}")
    to_passenger = [
        came - leg.sent_at[seq] for leg in legs for p, came in leg.shown if (seq := leg.seqs.get(_key(p))) is not None
    ]
    to_ack = [leg.acknowledged_at[seq] - leg.sent_at[seq] for leg in legs for seq in leg.sent_at if seq in leg.acknowledged_at]
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
        "to_passenger_ms": _percentiles(to_passenger),
        "to_ack_ms": _percentiles(to_ack),
        "broken": broken,
    }
    return result, _told(result, score)


def _told(result: dict[str, Any], score: Score) -> str:
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
    seq = leg.seqs.get(_key(position))
    return leg.first[seq].arrival.truth if seq is not None else None


def _key(fix: Message) -> tuple[int, float, float]:
    return fix["fix_time"], fix["latitude"], fix["longitude"]


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return dict.fromkeys(("p50", "p95", "p99", "most"), 0.0)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    values = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": max(seconds)}
    return {name: round(value * 1000, 2) for name, value in values.items()}


async def soak(cluster: Cluster, directory: Path, legs: list[Leg], watched: set[str]) -> tuple[dict[str, Any], str]:
    cluster.create_database("soak")
    database_url = cluster.url("soak")
    await migrate(database_url)
    hub = await asyncio.to_thread(HubProcess(database_url, directory / "hub.log").start)
    try:
        async with Api(hub.url) as api:
            await Soak(hub.url, database_url, legs, watched).run(api)
            result, told = await judge(legs, api, database_url)
    finally:
        await asyncio.to_thread(hub.stop)
    log = hub.log.read_text(errors="replace").splitlines()
    complaints = [line for line in log if " ERROR " in line or " WARNING " in line]
    result["hub_complaints"] = complaints[:50]
    if complaints:
        told += f"\n\nthe hub's log complains {len(complaints)} times, first: {complaints[0]}"
    return result, told


@click.command()
@click.option("--minutes", default=15.0, show_default=True, type=click.FloatRange(min=0.1), help="How much of the stream.")
@click.option("--seed", default=1, show_default=True, help="Decides when each leg begins, and who is watched.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    help="Above 1 the vehicles drive so much faster: a quick look at the machinery, no test of the filters.",
)
@click.option("--as-recorded", is_flag=True, help="Legs one after the other as they were, not side by side.")
@click.option("--watch", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Share of legs with a passenger.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here as well.")
def messy(minutes: float, seed: int, speed: float, as_recorded: bool, watch: float, json_file: Path | None) -> None:
    """Play the messy stream through a real hub in real time, and judge what came of it."""
    if not (DATA / "messy_stream_dev.csv.gz").exists():
        click.echo("skipped: the shared data (../shared/data/messy_stream_dev.csv.gz) is not here")
        return
    legs = plan(read_stream(0), minutes=minutes, seed=seed, speed=speed, as_recorded=as_recorded)
    watched = {leg.name for leg in legs if random.Random(f"{seed} {leg.name}").random() < watch}
    messages = sum(len(leg.dues) for leg in legs)
    click.echo(f"seed {seed}: {messages} messages of {len(legs)} legs in {minutes:g} minutes at speed {speed:g}")
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            result, told = asyncio.run(soak(cluster, Path(temporary), legs, watched))
        finally:
            cluster.remove()
    click.echo(told)
    if json_file is not None:
        settings = {"minutes": minutes, "seed": seed, "speed": speed, "as_recorded": as_recorded, "watch": watch}
        json_file.write_text(json.dumps({"settings": settings, **result}, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if result["broken"] else 0)
