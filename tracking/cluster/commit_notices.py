"""Tells other hubs at once what was committed here, and applies what they tell. The change log stays the authority.

A notice can only close something. A revoked token is refused from now on, also by a hub that cannot reach the database. A trip
that is over loses its readers. Everything else in the log is only read sooner.
"""

import asyncio
from collections.abc import Callable, Sequence

from tracking.auth import Auth
from tracking.live.hub import Hub
from tracking.metrics import COMMIT_NOTICES
from tracking.model import OVER
from tracking.nodes.messages import Committed
from tracking.nodes.nodes import Nodes
from tracking.store.changes import Change, ChangeKind

LOG_SECONDS = 0.3
"""How long the log has time to say that a trip is over. Its readers then get the trip as it ended, before they are closed."""
NAMED = 200
"""Tokens and trips in one notice."""
_OVER = frozenset(status.value for status in OVER)


class CommitNotices:
    """`committed` is called after each commit of changes. `wake` wakes the follower of this hub."""

    def __init__(self, nodes: Nodes, auth: Auth, hub: Hub, wake: Callable[[], None]) -> None:
        self._nodes = nodes
        self._auth = auth
        self._hub = hub
        self._wake = wake
        nodes.listen(Committed, self._heard)

    def committed(self, changes: Sequence[Change]) -> None:
        """Tells the other hubs."""
        if not self._nodes.peers:
            return
        revoked = [change.subject for change in changes if change.kind == ChangeKind.TOKEN_REVOKED]
        over = [change.subject for change in changes if _is_over(change)]
        for begin in range(0, max(len(revoked), len(over), 1), NAMED):
            self._nodes.tell_all(Committed(revoked[begin : begin + NAMED], over[begin : begin + NAMED]))

    def _heard(self, _: str, notice: Committed) -> None:
        COMMIT_NOTICES.inc()
        self._wake()
        for jti in notice.revoked:
            self._auth.revoke(jti)
            self._hub.links.revoke(jti)
        if any(trip_id in self._hub.feeds for trip_id in notice.over):
            asyncio.get_running_loop().call_later(LOG_SECONDS, self._end, notice.over)

    def _end(self, trip_ids: Sequence[str]) -> None:
        for trip_id in trip_ids:
            self._hub.trip_over(trip_id)


def _is_over(change: Change) -> bool:
    return change.kind == ChangeKind.TRIP_CHANGED and isinstance(change.public, dict) and change.public.get("status") in _OVER
