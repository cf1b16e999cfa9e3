"""The simulation of several arrangements, and its result as Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from driver_sim.scale.assumptions import Assumptions, sources
from driver_sim.scale.broker_outage import Outage, broker_outage
from driver_sim.scale.hub_load import COMFORTABLE, HubLoad, hub_load, hubs_needed
from driver_sim.scale.population import Arrangement, Array, Population, populate
from driver_sim.scale.reconnects import Crowd, Recovery, come_back
from driver_sim.scale.rolling import BALANCERS, Rolled, roll
from driver_sim.scale.traffic import Traffic, traffic

LEAST_FREE = 0.02
"""Share of a core that faults are simulated with where nothing is left. The result is not shown then."""


USED_OF_FREE = 0.8
"""Of what a core has left, for clients that come."""
OVERLOADED = "-"
"""Shown for a fault of an arrangement whose hubs cannot keep up without one."""


@dataclass(frozen=True)
class Simulated:
    """One arrangement. `cells` such installations exist side by side, and one of them was simulated."""

    arrangement: Arrangement
    cells: int
    vehicles: int
    fleets: int
    dispatchers: int
    database_rows: float
    database_skew: float
    hub_skew: float
    load: Traffic
    busiest: HubLoad
    killed: Recovery
    limited: Recovery
    """the same as `killed`, behind a proxy that limits how many sockets open"""
    lost_host: Recovery
    outage: Outage
    rolled: dict[str, Rolled]


def simulate(assumed: Assumptions, arrangement: Arrangement, vehicles: int, seed: int, cells: int = 1) -> Simulated:
    """The same seed gives the same result. Of several `cells`, one with its part of the vehicles is simulated."""
    random = np.random.default_rng(seed)
    vehicles = vehicles // cells
    population = populate(assumed, arrangement, vehicles, random)
    load = traffic(assumed, arrangement, population)
    busiest = hub_load(assumed, arrangement, population, load)
    free = max(1 - busiest.total, LEAST_FREE)
    outage = broker_outage(assumed, arrangement, population, free, random)
    crowd = _crowd(assumed, arrangement, population, free)
    clients = busiest.connections * arrangement.hubs
    return Simulated(
        arrangement=arrangement,
        cells=cells,
        vehicles=vehicles,
        fleets=len(population.sizes),
        dispatchers=population.dispatchers,
        database_rows=float(load.database_rows.max()),
        database_skew=_skew(load.database_rows),
        hub_skew=_skew(load.hub_fixes),
        load=load,
        busiest=busiest,
        killed=come_back(assumed, crowd(0.0), seed),
        limited=come_back(assumed, crowd(0.0, assumed.openings_a_second), seed),
        # Clients notice by the answers to pings, or by silence.
        lost_host=come_back(assumed, crowd(20.0), seed),
        outage=outage,
        rolled={name: roll(assumed, arrangement.hubs, clients, balancer) for name, balancer in BALANCERS.items()},
    )


def report(assumed: Assumptions, simulated: Sequence[Simulated], seed: int) -> str:
    """Markdown."""
    names = [each.arrangement.name for each in simulated]
    lines = [f"{sum(each.cells * each.vehicles for each in simulated) // len(simulated):,} vehicles, seed {seed}.", ""]
    for title, rows in (
        ("Load", _load_rows(assumed, simulated)),
        ("CPU of the busiest hub, % of one core", _cpu_rows(simulated)),
        ("A hub dies", _death_rows(simulated)),
        ("The broker dies", _outage_rows(simulated)),
        ("All hubs are replaced by turns", _roll_rows(assumed, simulated)),
    ):
        lines += [f"| {title} | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    lines += [f"**{each.arrangement.name}**: {breaks_first(assumed, each)}" for each in simulated]
    return "\n".join(lines)


def assumptions_table(assumed: Assumptions) -> str:
    origin = sources()
    rows = [f"| `{each.name}` | {getattr(assumed, each.name)} | {origin[each.name]} |" for each in fields(assumed)]
    return "\n".join(["| assumption | value | source |", "| --- | --- | --- |", *rows])


def breaks_first(assumed: Assumptions, each: Simulated) -> str:
    """A sentence: the limit that is exceeded most, or the one that is nearest."""
    limits = {
        "the core of a hub": each.busiest.total / COMFORTABLE,
        "rows of a database": each.database_rows / assumed.database_rows,
        "fixes of a hub": float(each.load.hub_fixes.max()) / assumed.hub_rows,
        "positions that a link keeps": each.load.link_most_fleet / assumed.link_positions,
    }
    name, share = max(limits.items(), key=lambda item: item[1])
    cause = max(each.busiest.cpu.items(), key=lambda item: item[1])[0]
    verb = "is exceeded first" if share > 1 else "is reached first"
    return f"{name} {verb}, with {share * 100:.0f} % of what it should take. Most of a hub's CPU goes to: {cause}."


def _load_rows(assumed: Assumptions, simulated: Sequence[Simulated]) -> list[list[str]]:
    def row(title: str, value: Callable[[Simulated], str]) -> list[str]:
        return [title, *(value(each) for each in simulated)]

    return [
        row("installations, each by itself", lambda s: f"{s.cells}"),
        row("hubs and databases of one", lambda s: f"{s.arrangement.hubs}, {s.arrangement.databases}"),
        row("vehicles, fleets, dispatchers of one", lambda s: f"{s.vehicles:,}, {s.fleets:,}, {s.dispatchers:,}"),
        row("fixes a second: all; busiest hub", lambda s: f"{s.load.hub_fixes.sum():,.0f}; {s.load.hub_fixes.max():,.0f}"),
        row("most by mean: hubs, databases", lambda s: f"{s.hub_skew:.3f}, {s.database_skew:.3f}"),
        row("rows a second of the busiest database", lambda s: f"{s.database_rows:,.0f}"),
        row("of it, TB a day: tables and index, WAL", lambda s: _disk(assumed, s.database_rows)),
        row("hubs that get one position for dispatchers", lambda s: f"{s.load.fleet_copies:.2f}"),
        row("most positions of a link in 100 ms, for dispatchers", lambda s: f"{s.load.link_most_fleet:,}"),
        row("messages a second: positions, notices", lambda s: f"{s.load.packets:,.0f}, {s.load.notices:,.0f}"),
        row("positions for passengers in a packet: mean, most", _packet),
        row("empty flushes of a link", lambda s: f"{s.load.empty_share * 100:.1f} %"),
        row("broker: share of a core", lambda s: f"{s.load.messages * assumed.broker_message_us / 1e6:.2f}"),
        row("broker: MB a second in", lambda s: f"{_broker_mb(assumed, s):,.0f}"),
        row("a hub: connections, memory", lambda s: f"{s.busiest.connections:,}, {s.busiest.memory_gb:.1f} GB"),
    ]


def _cpu_rows(simulated: Sequence[Simulated]) -> list[list[str]]:
    causes = simulated[0].busiest.cpu
    rows = [[cause, *(f"{each.busiest.cpu[cause] * 100:.0f}" for each in simulated)] for cause in causes]
    rows.append(["**all**", *(f"**{each.busiest.total * 100:.0f}**" for each in simulated)])
    needed = [_needed(each) for each in simulated]
    rows.append([f"hubs of all installations, so that each uses {COMFORTABLE * 100:.0f} %", *needed])
    return rows


def _needed(simulated: Simulated) -> str:
    hubs = hubs_needed(simulated.busiest, simulated.arrangement.hubs)
    return f"{simulated.cells * hubs:,}" if hubs else "no number is enough"


def _death_rows(simulated: Sequence[Simulated]) -> list[list[str]]:
    cases: dict[str, Callable[[Simulated], Recovery]] = {
        "process killed": lambda s: s.killed,
        "process killed, the proxy limits openings": lambda s: s.limited,
        "host gone, noticed within 20 s": lambda s: s.lost_host,
    }

    def row(title: str, figure: Callable[[Simulated], str]) -> list[str]:
        return [title, *(figure(each) if each.busiest.is_possible else OVERLOADED for each in simulated)]

    rows = [row("clients that come to one hub", lambda s: f"{s.killed.clients:,}")]
    for title, choose in cases.items():
        shown = [choose(each) if each.busiest.is_possible else None for each in simulated]
        rows.append([f"{title}: 50, 99, 100 % are back after", *map(_times, shown)])
        rows.append([f"{title}: longest queue of a hub; refused; given up", *map(_trouble, shown)])
    return rows


def _times(recovery: Recovery | None) -> str:
    return OVERLOADED if recovery is None else ", ".join(_seconds(recovery.within(share)) for share in (0.5, 0.99, 1.0))


def _trouble(recovery: Recovery | None) -> str:
    if recovery is None:
        return OVERLOADED
    return f"{recovery.longest_queue:,}; {recovery.refused:,}; {recovery.gave_up:,}"


def _outage_rows(simulated: Sequence[Simulated]) -> list[list[str]]:
    def row(title: str, figure: Callable[[Outage], str]) -> list[str]:
        return [title, *(figure(each.outage) if each.busiest.is_possible else OVERLOADED for each in simulated)]

    return [
        row("trips that one hub reads from the store", lambda outage: f"{outage.fed_trips:,}"),
        row("seconds between two readings", lambda outage: f"{outage.every:.1f}"),
        row("busiest database, % of a core", lambda outage: f"{outage.database_share * 100:.0f}"),
        row("reading in a hub, % of a core", lambda outage: f"{outage.hub_share * 100:.0f}"),
        row("a position is late by: p50, p99", lambda outage: _late(outage.late)),
        row("questions when it is back", lambda outage: f"{outage.questions:,}"),
        row("answers to one hub, MB", lambda outage: f"{outage.answer_mb:,.0f}"),
        row("all lines are sent again after", lambda outage: _seconds(outage.lines)),
    ]


def _roll_rows(assumed: Assumptions, simulated: Sequence[Simulated]) -> list[list[str]]:
    rows = [["minutes", *(f"{next(iter(each.rolled.values())).seconds / 60:.1f}" for each in simulated)]]
    for name in BALANCERS:
        rolled = [each.rolled[name] for each in simulated]
        rows.append([f"{name}: moves of a client; fullest by mean", *(f"{r.moves:.2f}; {r.fullest:.2f}" for r in rolled)])
        rows.append([f"{name}: most arrivals a second of a hub", *(f"{r.arrivals:,.0f}" for r in rolled)])
        rows.append([f"{name}: even again after the last one", *(_seconds(r.even_after) for r in rolled)])
        rows.append([f"{name}: drain that a hub can take", *(_drain(assumed, each, name) for each in simulated)])
    return rows


def _drain(assumed: Assumptions, simulated: Simulated, balancer: str) -> str:
    """The seconds over which a hub must send its clients away, so that no other hub gets more than it can take."""
    if not simulated.busiest.is_possible:
        return OVERLOADED
    drivers = simulated.vehicles / simulated.arrangement.hubs
    share = drivers / simulated.busiest.connections
    cost = (share * assumed.driver_connect_ms + (1 - share) * assumed.passenger_connect_ms) / 1000
    takes = (1 - simulated.busiest.total) * USED_OF_FREE / cost
    return f"{max(assumed.drain_seconds * simulated.rolled[balancer].arrivals / takes, 1):.0f} s"


def _crowd(assumed: Assumptions, arrangement: Arrangement, population: Population, free: float) -> Callable[..., Crowd]:
    """Clients of the hub that holds most, as they come to one of the others."""
    others = arrangement.hubs - 1
    dead = int(np.argmax(np.bincount(population.hub_of, minlength=arrangement.hubs)))
    drivers = int(np.count_nonzero(population.hub_of == dead))
    passengers = int(np.count_nonzero(population.watcher_hub == dead))
    homeless = float(np.mean(population.hub_of[population.watched[population.watcher_hub == dead]] == dead))

    def crowd(noticed: float, openings: float = float("inf")) -> Crowd:
        return Crowd(
            drivers=-(-drivers // others),
            passengers=-(-passengers // others),
            free=free,
            claims_a_second=assumed.claims_a_second * arrangement.databases / others,
            stored_snapshots=homeless,
            noticed=noticed,
            openings_a_second=openings,
            snapshots_a_second=1000 / assumed.snapshot_database_ms * arrangement.databases / others,
        )

    return crowd


def _skew(values: Array) -> float:
    return float(values.max() / values.mean())


def _disk(assumed: Assumptions, rows: float) -> str:
    return ", ".join(f"{rows * size * 86_400 / 1e12:.2f}" for size in (assumed.row_table_bytes, assumed.row_wal_bytes))


def _packet(simulated: Simulated) -> str:
    return f"{simulated.load.packet_positions:.1f}, {simulated.load.most_positions}"


def _broker_mb(assumed: Assumptions, simulated: Simulated) -> float:
    positions = float(simulated.load.hub_sent.sum() + simulated.load.hub_fleet_sent.sum())
    return positions * assumed.position_bytes / 1e6


def _late(late: Array) -> str:
    return ", ".join(f"{value:.1f} s" for value in np.percentile(late, (50, 99)))


def _seconds(seconds: float) -> str:
    if seconds == float("inf"):
        return "never"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
