"""Builds the network of a hub from its settings."""

from collections.abc import Callable

from tracking.config import Settings
from tracking.model import Clock
from tracking.nodes.backplane import Backplane
from tracking.nodes.nats_backplane import NatsBackplane
from tracking.nodes.node import Node, this_node
from tracking.nodes.nodes import Nodes
from tracking.nodes.registry import Registry
from tracking.store import nodes as node_store
from tracking.store.pool import Database


def assemble_registry(settings: Settings, url: str, clock: Clock, backplane: Backplane | None) -> Registry:
    """Of a process that begins. `url` is the database's."""
    node = this_node(settings.node_name, clock())
    has_broker = backplane is not None or settings.nats_url is not None
    return Registry(node, url, has_broker=has_broker, timeout=settings.database_timeout)


def assemble_nodes(
    settings: Settings, database: Database, node: Node, backplane: Backplane | None, *, confirmed: Callable[[], bool]
) -> Nodes:
    """`backplane` replaces the one that the settings name. Raises `ConfigError` if a file of the settings cannot be used."""

    async def cluster() -> str:
        async with database.connection() as connection:
            return await node_store.cluster(connection)

    if backplane is None and settings.nats_url is not None:
        backplane = NatsBackplane(settings, cluster)
    return Nodes(node, backplane, confirmed=confirmed)
