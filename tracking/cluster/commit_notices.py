"""Tells other hubs at once what was committed here, and applies what they tell. The change log stays the authority.

A notice can only close something. A revoked token is refused from now on, also by a hub that cannot reach the database. A trip
that is over loses its readers. Everything else in the log is only read sooner.

Who made the change is answered when the other hubs have applied it. So nothing of an ended trip is shown on any hub after that.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from tracking.auth import Auth
from tracking.live.hub import Hub
from tracking.metrics import COMMIT_NOTICES
from tracking.model import OVER
from tracking.nodes.messages import Applied, Committed
from tracking.nodes.nodes import Nodes
from tracking.store.changes import Change, ChangeKind

LOG_SECONDS = 0.3
"""How long the log has time to say that a trip is over. Its readers then get the trip as it ended, before they are closed."""
NAMED = 200
"""Tokens and trips in one notice."""
CONFIRM_SECONDS = 0.2
"""How long a commit waits for other hubs to apply it. One that stands still, or is older than this notice, does not answer."""
MOST_ASKED = 10_000
"""Commits of other hubs that wait to be confirmed here, while the log cannot be read."""
_OVER = frozenset(status.value for status in OVER)


class CommitNotices:
    """`committed` is called after each commit of changes, and `read` after each reading of the log.

    `wake` wakes the follower of this hub.
    """

    def __init__(self, nodes: Nodes, auth: Auth, hub: Hub, wake: Callable[[], None]) -> None:
        self._nodes = nodes
        self._auth = auth
        self._hub = hub
        self._wake = wake
        self._unconfirmed: dict[int, tuple[set[str], asyncio.Future[None]]] = {}
        """By the number of an ask: who has not answered, and what waits for it."""
        self._asked: deque[tuple[str, int, float]] = deque(maxlen=MOST_ASKED)
        """Peer, ask, and when it was heard."""
        nodes.listen(Committed, self._heard)
        nodes.listen(Applied, lambda peer, applied: self._confirmed(peer, applied.ask))
        nodes.observe(self)

    def committed(self, changes: Sequence[Change]) -> asyncio.Future[None] | None:
        """Tells the other hubs. Returns what is done when they have applied it, or after a fifth of a second."""
        # One that cannot read the log shows readers nothing, or will say so by its beat.
        peers = {name for name, peer in self._nodes.peers.items() if peer.confirmed}
        if not self._nodes.peers:
            return None
        revoked = [change.subject for change in changes if change.kind == ChangeKind.TOKEN_REVOKED]
        over = [change.subject for change in changes if _is_over(change)]
        ask = self._nodes.next_ask() if peers else 0
        for begin in range(0, max(len(revoked), len(over), 1), NAMED):
            self._nodes.tell_all(Committed(revoked[begin : begin + NAMED], over[begin : begin + NAMED], ask))
        if not ask:
            return None
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._unconfirmed[ask] = peers, done
        loop.call_later(CONFIRM_SECONDS, self._give_up, ask)
        return done

    def read(self, began: float) -> None:
        """The log was read to its end, by a reading that began then, by `time.monotonic`."""
        while self._asked and self._asked[0][2] <= began:
            peer, ask, _ = self._asked.popleft()
            self._nodes.tell(peer, Applied(ask))

    def _heard(self, peer: str, notice: Committed) -> None:
        COMMIT_NOTICES.inc()
        self._wake()
        for jti in notice.revoked:
            self._auth.revoke(jti)
            self._hub.links.revoke(jti)
        if any(trip_id in self._hub.feeds for trip_id in notice.over):
            asyncio.get_running_loop().call_later(LOG_SECONDS, self._end, notice.over)
        if notice.ask:
            self._asked.append((peer, notice.ask, time.monotonic()))

    def _confirmed(self, peer: str, ask: int) -> None:
        waiting = self._unconfirmed.get(ask)
        if waiting is not None:
            waiting[0].discard(peer)
            if not waiting[0]:
                self._give_up(ask)

    def _give_up(self, ask: int) -> None:
        """Waits for nobody any more."""
        waiting = self._unconfirmed.pop(ask, None)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(None)

    # --- nodes.Observer -----------------------------------------------------------------------------------------------

    def missed(self, peer: str) -> None: ...

    def gone(self, peer: str) -> None:
        for ask in list(self._unconfirmed):
            self._confirmed(peer, ask)

    def connection_changed(self, connected: bool) -> None:
        if not connected:
            for ask in list(self._unconfirmed):
                self._give_up(ask)

    def _end(self, trip_ids: Sequence[str]) -> None:
        for trip_id in trip_ids:
            self._hub.trip_over(trip_id)


def _is_over(change: Change) -> bool:
    return change.kind == ChangeKind.TRIP_CHANGED and isinstance(change.public, dict) and change.public.get("status") in _OVER
