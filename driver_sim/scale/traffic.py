"""What hubs send each other: positions that readers want, positions of fleets, and messages about who wants what."""

from dataclasses import dataclass

import numpy as np

from driver_sim.scale.assumptions import Assumptions
from driver_sim.scale.population import Arrangement, Array, Kind, Population


@dataclass(frozen=True)
class Traffic:
    """Rates are a second, and of all hubs together unless a name says `hub`. Arrays have one entry a hub or a database."""

    hub_fixes: Array
    database_rows: Array
    hub_deliveries: Array
    hub_sent: Array
    """positions to other hubs, for readers"""
    hub_fleet_sent: Array
    hub_fleet_read: Array
    packets: float
    """messages with positions"""
    hub_packets: float
    """the same of one hub, sent; as many arrive"""
    empty_share: float
    """of all links and flushes: nothing to send"""
    packet_positions: float
    most_positions: int
    """in one link and flush"""
    notices: float
    """messages about who wants which trip"""
    fleet_copies: float
    """hubs that get a position because they have a dispatcher of the fleet"""
    link_most_fleet: int
    """positions of one link in one flush of the fleets"""

    @property
    def messages(self) -> float:
        return self.packets + self.notices


def traffic(assumed: Assumptions, arrangement: Arrangement, population: Population) -> Traffic:
    hubs = arrangement.hubs
    rate = 1 / population.intervals(assumed)
    window = assumed.watched_interval
    by_trips = _positions_for_readers(assumed, hubs, population)
    by_fleets = _positions_of_fleets(assumed, hubs, population, window)
    trip_packets = np.ceil(by_trips / assumed.packet_positions)
    fleet_packets = np.ceil(by_fleets / assumed.packet_positions)
    links = hubs * (hubs - 1)
    packets = float(trip_packets.sum() + fleet_packets.sum()) / window
    joins = len(population.watched) / assumed.watch_seconds
    fleet_sent, fleet_read = (by_fleets.sum(axis=(axis, 2)) / window for axis in (1, 0))
    fixes = float(rate.sum())
    return Traffic(
        hub_fixes=np.bincount(population.hub_of, rate, hubs),
        database_rows=np.bincount(population.database_of[population.fleet_of], rate, arrangement.databases),
        hub_deliveries=np.bincount(population.watcher_hub, minlength=hubs) / window,
        hub_sent=by_trips.sum(axis=(1, 2)) / window,
        hub_fleet_sent=fleet_sent,
        hub_fleet_read=fleet_read,
        packets=packets,
        hub_packets=packets / hubs,
        empty_share=1 - np.count_nonzero(by_trips) / (links * by_trips.shape[2]),
        packet_positions=float(by_trips.sum() / max(trip_packets.sum(), 1)),
        most_positions=int(by_trips.max()),
        # A hub that begins to read a trip tells and asks all others, each answers, and it tells when it ends.
        notices=joins * 3 * (hubs - 1),
        fleet_copies=float(by_fleets.sum()) / window / fixes,
        link_most_fleet=int(by_fleets.max()),
    )


def _positions_for_readers(assumed: Assumptions, hubs: int, population: Population) -> Array:
    """Positions of trips by (home, reader's hub, flush), over the time in which each watched vehicle reports once."""
    flushes = round(assumed.watched_interval / assumed.flush)
    # Two watchers of a trip on one hub get one copy.
    pairs = np.unique(population.watched.astype(np.int64) * hubs + population.watcher_hub)
    vehicle, reader = pairs // hubs, pairs % hubs
    home = population.hub_of[vehicle]
    crosses = home != reader
    flush = (population.phase[vehicle[crosses]] / assumed.flush).astype(np.int64) % flushes
    place = (home[crosses].astype(np.int64) * hubs + reader[crosses]) * flushes + flush
    return np.bincount(place, minlength=hubs * hubs * flushes).reshape(hubs, hubs, flushes)


def _positions_of_fleets(assumed: Assumptions, hubs: int, population: Population, window: float) -> Array:
    """Positions by (home, hub with a dispatcher, flush of the fleets), of all fixes within `window`."""
    flushes = round(window / assumed.fleet_flush)
    reports = np.flatnonzero(population.phase < window)
    home = population.hub_of[reports].astype(np.int64)
    flush = (population.phase[reports] / assumed.fleet_flush).astype(np.int64) % flushes
    wanted = population.dispatcher_hubs[population.fleet_of[reports]]
    place = home * flushes + flush
    found = np.zeros((hubs, hubs, flushes))
    for reader in range(hubs):
        is_wanted = (np.right_shift(wanted, np.uint64(reader)) & np.uint64(1)).astype(bool) & (home != reader)
        found[:, reader] = np.bincount(place[is_wanted], minlength=hubs * flushes).reshape(hubs, flushes)
    return found


def pings(assumed: Assumptions, arrangement: Arrangement, population: Population) -> float:
    """Pings of all hubs a second: a driver who is silent for the ping interval gets one, and its answer is no silence."""
    counts = np.bincount(population.kind, minlength=len(Kind))
    intervals = np.array([assumed.watched_interval, assumed.moving_interval, assumed.parked_interval])
    each = np.ceil(intervals / arrangement.ping_interval) - 1
    return float((counts * each / intervals).sum())
