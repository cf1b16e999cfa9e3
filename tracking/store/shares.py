"""Share links and revoked tokens."""

from collections.abc import Mapping

from tracking.model import Share
from tracking.store.pool import Connection

MAX_LISTED = 1_000


async def insert(connection: Connection, share: Share, trip: int) -> None:
    await connection.execute(
        "INSERT INTO shares (share_id, trip, jti, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        share.share_id,
        trip,
        share.jti,
        share.created_at,
        share.expires_at,
    )


MAX_LISTED = 1_000
_SELECT = """
    SELECT s.share_id, t.trip_id, s.jti, s.expires_at, s.created_at, s.revoked_at FROM shares s JOIN trips t USING (trip)
"""


async def get(connection: Connection, share_id: str) -> Share | None:
    row = await connection.fetchrow(f"{_SELECT} WHERE s.share_id = $1", share_id)
    return Share(*row) if row else None


async def of_trip(connection: Connection, trip: int) -> list[Share]:
    """Links of the trip in the order of their making, at most the last `MAX_LISTED`."""
    rows = await connection.fetch(f"{_SELECT} WHERE s.trip = $1 ORDER BY s.created_at DESC LIMIT $2", trip, MAX_LISTED)
    return [Share(*row) for row in reversed(rows)]


async def count_valid(connection: Connection, trip: int, now: int) -> int:
    """How many links of the trip are valid. The number does not rise while the trip's row is locked."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM shares WHERE trip = $1 AND revoked_at IS NULL AND expires_at > $2::timestamptz", trip, now
    )
    return count


async def revoke(connection: Connection, share_id: str, now: int) -> None:
    await connection.execute(
        "UPDATE shares SET revoked_at = coalesce(revoked_at, $2::timestamptz) WHERE share_id = $1", share_id, now
    )


async def revoke_token(connection: Connection, jti: str, now: int, expires_at: int | None) -> None:
    await connection.execute(
        "INSERT INTO revoked_tokens (jti, revoked_at, expires_at) VALUES ($1, $2, $3) ON CONFLICT (jti) DO NOTHING",
        jti,
        now,
        expires_at,
    )


async def revoke_tokens(connection: Connection, expiries: Mapping[str, int | None], now: int) -> None:
    """Stores revoked tokens that are not stored yet. The mapping has when each expires, if that is known."""
    await connection.execute(
        """
        INSERT INTO revoked_tokens (jti, revoked_at, expires_at)
        SELECT jti, $3, expires_at FROM unnest($1::text[], $2::timestamptz[]) AS lost (jti, expires_at)
        ON CONFLICT (jti) DO NOTHING
        """,
        list(expiries),
        list(expiries.values()),
        now,
    )


async def revoked_tokens(connection: Connection) -> set[str]:
    return {row["jti"] for row in await connection.fetch("SELECT jti FROM revoked_tokens")}
