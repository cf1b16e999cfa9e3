"""What keeps several hubs on one database from harming each other, and what they do without the broker or the database."""

from collections.abc import Callable
from typing import NamedTuple

from tracking.audit import Audit
from tracking.auth import Auth
from tracking.cluster.commit_notices import CommitNotices
from tracking.cluster.cut_off import CutOff
from tracking.cluster.fleets import FleetsAcrossHubs
from tracking.cluster.homes import Homes
from tracking.cluster.membership import Membership
from tracking.cluster.remote_erasures import RemoteErasures
from tracking.cluster.remote_vehicles import RemoteVehicles
from tracking.cluster.shedding import Shedding
from tracking.cluster.store_feed import StoreFeed
from tracking.history.revisions import Revisions
from tracking.live.follower import Follower
from tracking.live.hub import Hub
from tracking.live_state.reading import State
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.store.pool import Database


class Safeguards(NamedTuple):
    """The parts that keep hubs from harming each other. `life` runs them."""

    membership: Membership
    commit_notices: CommitNotices
    cut_off: CutOff
    store_feed: StoreFeed
    fleets: FleetsAcrossHubs | None
    """None without a broker."""
    remote_vehicles: RemoteVehicles
    remote_erasures: RemoteErasures
    shedding: Shedding

    def degraded(self) -> list[str]:
        """For `/readyz`: what does not work now, and what to do."""
        found = []
        if self.cut_off.now:
            found.append(
                "this hub is cut off: it cannot read the change log, and another hub can. Passengers and dispatchers are sent"
                " away, drivers are not acknowledged. Check this host's way to PostgreSQL"
            )
        if self.store_feed.feeding and self.membership.broker_away():
            found.append(
                "the broker is away, and other hubs run: watchers whose driver is on another hub are fed from the database,"
                " some 2 s late. Start the NATS server, or check this host's way to it"
            )
        return found


def assemble_safeguards(
    membership: Membership,
    database: Database,
    clock: Clock,
    *,
    auth: Auth,
    hub: Hub,
    monitor: Monitor,
    homes: Homes,
    revisions: Revisions,
    audit: Audit,
    follower: Callable[[], Follower[State]],
    shed_above: float,
) -> Safeguards:
    """`follower` returns the follower, which is built later."""
    nodes, others = membership.nodes, membership.others
    # Alone, a hub tells events of all vehicles. Otherwise another hub may be a vehicle's home.
    monitor.finds_events_of = lambda vehicle: homes.is_here(vehicle.number) or not others()
    homes.others_registered = lambda: bool(membership.registry.others)
    store_feed = StoreFeed(database, hub, revisions, clock, away=membership.broker_away)
    nodes.observe(store_feed)
    fleets = None
    if nodes.enabled:
        monitor.elsewhere.is_home = homes.is_here
        fleets = FleetsAcrossHubs(nodes, hub.fleets, monitor, homes.is_here, clock)
    remote_vehicles = RemoteVehicles(database, hub.fleets, monitor, clock, fleets, others=others)
    return Safeguards(
        membership,
        CommitNotices(nodes, auth, hub, lambda: follower().wake()),
        CutOff(hub, lambda: follower().behind, lambda: nodes.peers.values()),
        store_feed,
        fleets,
        remote_vehicles,
        RemoteErasures(database, audit),
        Shedding(hub.links, nodes.peers.values, lambda: hub.draining, above=shed_above if nodes.enabled else 0),
    )
