"""The simulation of many hubs: its counts against plain loops, its faults against what must follow."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver_sim.scale.assumptions import Assumptions, sources
from driver_sim.scale.broker_outage import broker_outage
from driver_sim.scale.hub_load import hub_load
from driver_sim.scale.population import Arrangement, Kind, Population, populate
from driver_sim.scale.reconnects import Crowd, come_back
from driver_sim.scale.report import report, simulate
from driver_sim.scale.rolling import BALANCERS, roll
from driver_sim.scale.traffic import pings, traffic
from tests.support.hub_process import ROOT

ASSUMED = Assumptions()
SMALL = Arrangement("small", 3, 2)


def people(arrangement: Arrangement = SMALL, vehicles: int = 3_000, seed: int = 1) -> Population:
    return populate(ASSUMED, arrangement, vehicles, np.random.default_rng(seed))


def test_each_assumption_has_a_source() -> None:
    assert all(sources().values())


@given(seed=st.integers(0, 100), hubs=st.integers(2, 64), vehicles=st.integers(1_000, 5_000))
@settings(max_examples=20, deadline=None)
def test_everybody_is_somewhere(seed: int, hubs: int, vehicles: int) -> None:
    population = people(Arrangement("any", hubs, 4), vehicles, seed)
    assert population.sizes.sum() == len(population.fleet_of) == vehicles
    assert population.sizes.max() <= ASSUMED.largest_fleet
    assert set(population.hub_of.tolist()) <= set(range(hubs))
    assert (population.kind[population.watched] == Kind.WATCHED).all()
    assert (population.phase < population.intervals(ASSUMED)).all()
    assert int(population.dispatcher_hubs.max()) < 2**hubs


def test_kinds_have_their_shares_and_the_scenario_its_rate() -> None:
    population = people(vehicles=200_000)
    shares = np.bincount(population.kind) / 200_000
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.01)
    assert (1 / population.intervals(ASSUMED)).sum() / 200_000 == pytest.approx(0.08, rel=0.01)


@pytest.mark.parametrize("together", [False, True])
def test_positions_between_hubs_are_those_that_a_loop_counts(together: bool) -> None:
    arrangement = Arrangement("small", 3, 2, dispatchers_together=together)
    population = people(arrangement)
    load = traffic(ASSUMED, arrangement, population)
    window = ASSUMED.watched_interval
    wanted = {(int(v), int(h)) for v, h in zip(population.watched, population.watcher_hub, strict=True)}
    sent = np.zeros(3)
    for vehicle, hub in wanted:
        if population.hub_of[vehicle] != hub:
            sent[population.hub_of[vehicle]] += 1 / window
    assert load.hub_sent == pytest.approx(sent)
    copies = 0
    for vehicle in np.flatnonzero(population.phase < window).tolist():
        hubs = int(population.dispatcher_hubs[population.fleet_of[vehicle]])
        copies += (hubs & ~(1 << int(population.hub_of[vehicle]))).bit_count()
    assert load.hub_fleet_sent.sum() == pytest.approx(copies / window)
    assert load.hub_fleet_sent.sum() == pytest.approx(load.hub_fleet_read.sum())
    if together:
        assert all(int(hubs).bit_count() <= 1 for hubs in population.dispatcher_hubs)


def test_a_driver_who_is_silent_for_60_s_gets_two_pings_at_20_and_none_at_90() -> None:
    population = people()
    parked = int(np.count_nonzero(population.kind == Kind.PARKED))
    assert pings(ASSUMED, SMALL, population) == pytest.approx(parked * 2 / 60)
    assert pings(ASSUMED, Arrangement("small", 3, 2, ping_interval=90), population) == 0


def test_the_cost_of_a_fix_is_the_measured_one_at_measured_rates_and_between_them_otherwise() -> None:
    for rate, cost in zip(ASSUMED.fixes_a_second, ASSUMED.fix_us, strict=True):
        assert ASSUMED.fix_cpu(rate) * 1e6 == pytest.approx(cost)
    assert ASSUMED.fix_us[-1] < ASSUMED.fix_cpu(20_000) * 1e6 < ASSUMED.fix_us[-2]


def test_all_come_back_and_sooner_if_more_is_left_for_them() -> None:
    def after(free: float, claims: float = 4_000) -> float:
        recovery = come_back(ASSUMED, Crowd(2_000, 300, free, claims), seed=1)
        assert len(recovery.back) == recovery.clients == 2_300 and recovery.gave_up == 0
        return recovery.within(1.0)

    alone = (2_000 * ASSUMED.driver_connect_ms + 300 * ASSUMED.passenger_connect_ms) / 1000
    assert alone / 0.5 <= after(0.5) < alone / 0.5 + 2 < after(0.2)
    assert after(0.9, claims=200) > 10 - 1, "the database limits it"


def test_a_hub_with_nothing_left_serves_those_who_have_gone_until_a_proxy_limits_openings() -> None:
    def crowd(openings: float) -> Crowd:
        return Crowd(6_000, 600, 0.03, 4_000, openings_a_second=openings)

    assumed = Assumptions(openings_at_once=200)
    overrun = come_back(assumed, crowd(math.inf), seed=1)
    limited = come_back(assumed, crowd(36.0), seed=1)
    assert overrun.within(0.99) == math.inf and overrun.gave_up > 10 * 6_600
    assert limited.within(1.0) < 6_600 / 36 * 2 and limited.gave_up == 0 and limited.refused


@pytest.mark.parametrize("balancer", BALANCERS.values(), ids=BALANCERS.keys())
@pytest.mark.parametrize("hubs", [2, 3, 40])
def test_a_roll_moves_each_client_at_least_once(balancer, hubs: int) -> None:  # type: ignore[no-untyped-def]
    shares = balancer(np.arange(hubs, dtype=float))
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all() and shares[0] == shares.max()
    rolled = roll(ASSUMED, hubs, 1_000 * hubs, balancer)
    assert rolled.moves >= 1 - 1e-6
    assert 1 <= rolled.fullest <= hubs + 1e-6
    assert rolled.seconds >= hubs * ASSUMED.drain_seconds


def test_without_shedding_round_robin_fills_the_last_hubs() -> None:
    rolled = roll(ASSUMED, 40, 40_000, BALANCERS["round robin"], sheds=False)
    # Each of the 39 turns before adds a 39th part of what a hub holds, to all others.
    assert rolled.fullest == pytest.approx((1 + 1 / 39) ** 39, rel=0.01)


def test_an_outage_of_the_broker_is_as_late_as_its_parts() -> None:
    population = people(vehicles=50_000)
    outage = broker_outage(ASSUMED, SMALL, population, 0.5, np.random.default_rng(1))
    elsewhere = np.count_nonzero(population.hub_of[population.watched] != population.watcher_hub)
    assert outage.fed_trips == round(elsewhere / 3)
    assert outage.every == ASSUMED.store_every
    assert outage.late.max() <= ASSUMED.commit_interval + 0.05 + outage.every + outage.fed_trips / 4_000 * 0.075 / 0.5 + 1e-9


def test_the_same_seed_gives_the_same_report() -> None:
    first, again, other = (report(ASSUMED, [simulate(ASSUMED, SMALL, 20_000, seed)], seed) for seed in (1, 1, 2))
    assert first == again != other


def test_the_load_of_a_hub_grows_with_its_vehicles() -> None:
    loads = []
    for vehicles in (50_000, 200_000):
        population = people(vehicles=vehicles)
        loads.append(hub_load(ASSUMED, SMALL, population, traffic(ASSUMED, SMALL, population)))
    few, many = loads
    assert few.total < many.total < 4 * few.total, "many fixes at once cost less each"
    assert few.memory_gb < many.memory_gb and many.connections == pytest.approx(4 * few.connections, rel=0.02)


def test_the_command_prints_tables() -> None:
    command = [sys.executable, "-m", "driver_sim", "simulate", "--vehicles", "100000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {"Load", "A hub dies", "The broker dies"} <= {
        line.split("|")[1].strip() for line in done.stdout.split("\n") if "|" in line
    }
