"""What a driver's client tells its caller."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from driver_sim.outbox import Request
from tracking.model import Fix
from tracking.protocol.driver import DriverTextMessage
from tracking.protocol.http import TripView
from tracking.protocol.shared import Error


class Rejection(NamedTuple):
    """A fix that the hub rejected. `fix` is None if it was rejected before and has left the outbox."""

    seq: int
    code: str
    detail: str
    fix: Fix | None


@dataclass(frozen=True)
class Callbacks:
    """They run in the event loop, between messages. An exception in one of them ends `DriverClient.run`."""

    on_trip: Callable[[TripView], None] | None = None
    """A trip was assigned, changed or taken away (then it has no `vehicle`). Each welcome may bring one too."""
    on_rejected: Callable[[Rejection], None] | None = None
    on_done: Callable[[Request, str | None, str | None], None] | None = None
    """A request was answered: its code and detail, or None and None if it was committed."""
    on_message: Callable[[DriverTextMessage], None] | None = None
    on_interval: Callable[[float], None] | None = None
    """Seconds between fixes that the hub wants."""
    on_error: Callable[[Error], None] | None = None
    on_connected: Callable[[], None] | None = None
    """The hub has answered hello."""
    on_lost: Callable[[int, str], None] | None = None
    """A connection ended with this code and reason. The client will connect again."""
