"""Access: share links and revoked tokens."""

import secrets
from collections.abc import Awaitable, Callable

from tracking import caps
from tracking.auth import Auth, Issued, Role, expiry_in
from tracking.errors import ErrorCode, Refusal
from tracking.live.follower import Transactions
from tracking.model import Clock, Share, Trip
from tracking.services.trips import NOT_FOUND
from tracking.store import shares, trips
from tracking.store.changes import ChangeKind
from tracking.store.pool import Connection, unlocked

RecordShare = Callable[[Connection, Share, Trip], Awaitable[None]]
"""Records the change of a share in the audit, in the same transaction."""


class Access:
    """Every method raises `Refusal` and `StoreUnavailable`."""

    def __init__(self, follower: Transactions, auth: Auth, clock: Clock, *, shares_per_trip: int, revoked_limit: int) -> None:
        """`shares_per_trip` limits the valid links of a trip, and `revoked_limit` the revoked tokens in memory."""
        self._follower = follower
        self._auth = auth
        self._clock = clock
        self._shares_per_trip = shares_per_trip
        self._revoked_limit = revoked_limit

    @unlocked
    async def share(self, trip: Trip, expires_in: float, record: RecordShare) -> tuple[Share, Issued]:
        """Create a link for a passenger of the trip, valid for `expires_in` seconds."""
        self._hold_revoked()
        share_id = secrets.token_urlsafe(16)
        issued = self._auth.issue(Role.PASSENGER, trip.trip_id, expires_in, share_id)
        share = Share(share_id, trip.trip_id, issued.jti, issued.expires_at, self._clock(), None)
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            if await trips.lock(connection, trip.trip_id) is None:
                raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)
            count = 1 + await shares.count_valid(connection, trip.number, self._clock())
            most = self._shares_per_trip
            caps.hold(count, most, f"the trip would have {count} valid shares", "shares_per_trip", "revoke some")
            await shares.insert(connection, share, trip.number)
            await record(connection, share, trip)
        return share, issued

    @unlocked
    async def revoke_share(self, share_id: str, *, allowed: Callable[[Trip], bool], record: RecordShare) -> None:
        """Revoke the link and disconnect its clients."""
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            share = await shares.get(connection, share_id) if "\0" not in share_id else None
            trip = await trips.get(connection, share.trip_id) if share is not None else None
            if share is None or trip is None or not allowed(trip):
                raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)
            await shares.revoke(connection, share_id, self._clock())
            await shares.revoke_token(connection, share.jti, self._clock(), expiry_in(share.jti))
            await record(connection, share, trip)
            transaction.tell(ChangeKind.TOKEN_REVOKED, share.jti)

    @unlocked
    async def revoke_token(self, jti: str, record: Callable[[Connection], Awaitable[None]]) -> None:
        """Revoke the token and disconnect its clients."""
        if jti not in (self._auth.revoked or ()):
            self._hold_revoked()
        async with self._follower.transaction() as transaction:
            await shares.revoke_token(transaction.connection, jti, self._clock(), expiry_in(jti))
            await record(transaction.connection)
            transaction.tell(ChangeKind.TOKEN_REVOKED, jti)

    def _hold_revoked(self) -> None:
        """Raises `Refusal` (`conflict`) if there are too many revoked tokens and shares to remember."""
        count = 1 + len(self._auth.revoked or ())
        advice = "wait until some have expired, make tokens that live for a shorter time"
        caps.hold(count, self._revoked_limit, f"{count} revoked tokens would have to be remembered", "revoked_limit", advice)
