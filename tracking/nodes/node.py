"""Who a hub is, to itself and to others."""

import secrets
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Node(NamedTuple):
    """This hub. `node` is its boot id: random, new for each process. `started_at` is an instant."""

    node: str
    name: str
    release: str
    started_at: int


class Peer(NamedTuple):
    """Another hub. `confirmed`: it reached the database when it sent its last beat, `heard_at` (s, of the event loop).

    `draining`: it sends its clients to other hubs, and stops soon. `connections`: their open sockets; below 0: not told.
    """

    node: str
    name: str
    release: str
    started_at: int
    confirmed: bool
    heard_at: float
    draining: bool = False
    connections: int = -1


def this_node(name: str, started_at: int) -> Node:
    """`name` is for people; empty: the host's."""
    return Node(secrets.token_urlsafe(12), name or socket.gethostname(), release(), started_at)


def release() -> str:
    try:
        return version("tracking")
    except PackageNotFoundError:
        return "unknown"
