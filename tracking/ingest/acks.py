"""When a driver is acknowledged: at once, or at most once in an interval while it reports steadily."""

import asyncio
from collections.abc import Sequence

from tracking.ingest.vehicles import Session
from tracking.protocol.driver import Rejected

MAX_OWED = 100
"""Fixes of a session that may be handled and not acknowledged. A device keeps no more than these and those it is sending."""
STEP = 0.1
"""Seconds by which an ack may be late. Acks that are due within one step are sent together."""


class Acks:
    """Passes acks on to the drivers' connections. Call `handled` after each COMMIT.

    An ack is sent at once in four cases: the last one is `interval` seconds old, a fix was rejected, a backlog ended, or
    `MAX_OWED` fixes wait for it. Any other ack is owed until the interval is over, and covers what is handled by then. Fewer
    writes are less work for the hub, and let a phone's radio sleep. An interval of 0 acknowledges each group.

    Some devices wait for each ack before they send the next fix. They look like a device that has just parked. So an ack is
    sent after half the interval if no other fix has arrived.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[int, list[tuple[Session, int, float]]] = {}
        """Sessions that are owed an ack, by the step in which they are checked.

        With each: what was handled when the ack became owed, and when the ack is due even if more fixes arrive.
        """
        self._timer: asyncio.TimerHandle | None = None

    def handled(self, session: Session, rejected: Sequence[Rejected]) -> None:
        """Notes that the store holds all up to `session.handled`. `rejected`: among the fixes handled now, in order."""
        receiver = session.receiver
        if receiver is None:
            return
        if not rejected and session.prompt == 0:
            if session.owed and session.handled - session.acknowledged < MAX_OWED:
                return
            loop = asyncio.get_running_loop()
            now = loop.time()
            due = session.acknowledged_at + self._interval
            if now < due and session.handled - session.acknowledged < MAX_OWED:
                session.owed = True
                self._look_at(session, due, min(due, now + self._interval / 2))
                if self._timer is None:
                    self._timer = loop.call_later(STEP, self._send_due)
                return
            session.acknowledged_at = now
        elif session.handled >= session.prompt:
            session.prompt = 0
        session.owed = False
        session.acknowledged = session.handled
        receiver.acknowledge(session, rejected)

    def _look_at(self, session: Session, due: float, at: float) -> None:
        self._due.setdefault(int(at / STEP) + 1, []).append((session, session.handled, due))

    def _send_due(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for step in [step for step in self._due if step * STEP <= now]:
            for session, handled, due in self._due.pop(step):
                if session.owed and session.handled != handled and now < due:
                    self._look_at(session, due, due)
                else:
                    settle(session, now)
        self._timer = loop.call_later(STEP, self._send_due) if self._due else None


def settle(session: Session, now: float) -> None:
    """Sends the ack that the session is owed, if there is one: when it is due, and before the connection closes."""
    if session.owed and session.receiver is not None:
        session.owed = False
        session.acknowledged = session.handled
        session.acknowledged_at = now
        session.receiver.acknowledge(session, ())
