"""When a driver is acknowledged: at once, or, while it reports steadily, at most once in an interval."""

import asyncio
from collections.abc import Sequence

from tracking.ingest.vehicles import Session
from tracking.protocol.driver import Rejected

MAX_OWED = 100
"""Fixes of a session that may be handled and not acknowledged: a device need keep no more than these and what is under way."""
STEP = 0.1
"""Seconds by which an ack may come late: those that are due within a step go out together."""


class Acks:
    """Passes acks on to the drivers' connections. Call `handled` after each COMMIT.

    An ack goes out at once if the one before is `interval` seconds old, if a fix was rejected, after a backlog, and where
    `MAX_OWED` fixes wait for one. Any other is owed until the interval is over, and covers what is handled by then. A write
    less is less work for the hub, and lets a phone's radio sleep. An interval of 0 acknowledges each group.

    A device that waits for each ack before it sends the next fix can't be told from one that was just parked. Both are owed
    no longer than half the interval: past that without another fix, they get their ack.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._due: dict[int, list[tuple[Session, int, float]]] = {}
        """Sessions that are owed an ack, by the step in which to look at them: with what was handled when they came to be owed
        one, and when it is due though more comes."""
        self._timer: asyncio.TimerHandle | None = None

    def handled(self, session: Session, rejected: Sequence[Rejected]) -> None:
        """Takes note that the store holds what `session.handled` says. `rejected`: of the fixes handled now, in order."""
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
    """Sends the ack that the session is owed, if it is owed one: when it is due, and before its connection is closed."""
    if session.owed and session.receiver is not None:
        session.owed = False
        session.acknowledged = session.handled
        session.acknowledged_at = now
        session.receiver.acknowledge(session, ())
