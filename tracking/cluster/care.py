"""What keeps several hubs on one database from harming each other, and what they do without the broker or the database."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from tracking.audit import Audit
from tracking.auth import Auth
from tracking.cluster.cut_off import CutOff
from tracking.cluster.erased_elsewhere import ErasedElsewhere
from tracking.cluster.held_fleets import HeldFleets
from tracking.cluster.hints import Hints
from tracking.cluster.homes import Homes
from tracking.cluster.store_feed import StoreFeed
from tracking.history.revisions import Revisions
from tracking.live.follower import Follower
from tracking.live.hub import Hub
from tracking.live_state.reading import State
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.nodes.nodes import Nodes
from tracking.nodes.registry import Registry
from tracking.store import nodes as node_store
from tracking.store.pool import Connection, Database


class Company(NamedTuple):
    """The other hubs of this database, as the broker and the database know them."""

    nodes: Nodes
    registry: Registry

    def others(self) -> bool:
        """Whether another hub is alive, as far as this one knows."""
        return bool(self.nodes.peers or self.registry.others)

    def other_hubs(self) -> Collection[str]:
        """The boot ids of other live hubs."""
        return {*self.nodes.peers, *(other.node for other in self.registry.others)}

    def broker_away(self) -> bool:
        """Whether the broker is away, while another hub is alive by the database."""
        return self.nodes.enabled and not self.nodes.connected and bool(self.registry.others)

    async def read_others(self, connection: Connection) -> Collection[str]:
        """The boot ids of other live hubs, as of now."""
        return {*self.nodes.peers, *(one.node for one in await node_store.others(connection, self.nodes.node.node))}


class Care(NamedTuple):
    company: Company
    hints: Hints
    cut_off: CutOff
    store_feed: StoreFeed
    held_fleets: HeldFleets
    erased: ErasedElsewhere

    def degraded(self) -> list[str]:
        """For `/readyz`: what does not work now, and what to do."""
        found = []
        if self.cut_off.now:
            found.append(
                "this hub is cut off: it cannot read the change log, and another hub can. Passengers and dispatchers are sent"
                " away, drivers are not acknowledged. Check this host's way to PostgreSQL"
            )
        if self.store_feed.feeding:
            found.append(
                "the broker is away, and other hubs run: watchers whose driver is on another hub are fed from the database,"
                " some 2 s late. Start the NATS server, or check this host's way to it"
            )
        return found


def assemble_care(
    company: Company,
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
) -> Care:
    """`follower` returns the follower, which is built later."""
    nodes, others = company.nodes, company.others
    # Alone, a hub tells events of all vehicles. Otherwise another hub may be a vehicle's home.
    monitor.speaks_for = lambda vehicle: homes.is_here(vehicle.number) or not others()
    homes.others_registered = lambda: bool(company.registry.others)
    store_feed = StoreFeed(database, hub, revisions, clock, away=company.broker_away)
    nodes.observe(store_feed)
    return Care(
        company,
        Hints(nodes, auth, hub, lambda: follower().wake()),
        CutOff(hub, lambda: follower().behind, lambda: nodes.peers.values()),
        store_feed,
        HeldFleets(database, hub.fleets, monitor, clock, others=others),
        ErasedElsewhere(database, audit),
    )
