"""Which other hubs of this database are alive, as the broker and the database know them."""

from collections.abc import Collection
from typing import NamedTuple

from tracking.nodes.nodes import Nodes
from tracking.nodes.registry import Registry
from tracking.store import nodes as node_store
from tracking.store.pool import Connection


class Membership(NamedTuple):
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
