"""How much a driver's client sends at once, and how long it waits."""

from dataclasses import dataclass

from tracking.protocol.driver import MAX_BATCH


@dataclass(frozen=True)
class ConnectionSettings:
    """All times are in seconds."""

    max_in_flight: int = 2 * MAX_BATCH
    """Fixes sent and not yet acknowledged. Beyond this the client sends no more."""
    max_batch: int = MAX_BATCH
    """Fixes in one message."""
    ping_interval: float | None = 10.0
    ping_timeout: float | None = 10.0
    """With `ping_interval` it decides how soon a dead connection is noticed."""
    answer_timeout: float = 15.0
    """For the handshake, welcome, the answer to hello, and `done`."""
    close_timeout: float = 0.5
    steady_after: float = 10.0
    """A connection that lasted this long resets the backoff."""
