"""Messages within a trip."""

from collections.abc import Sequence
from typing import NamedTuple

from tracking.store.pool import Connection


class Message(NamedTuple):
    number: int
    trip_id: str
    sender: str
    text: str
    server_time: int


async def insert(
    connection: Connection, trip: int, trip_id: str, sender: str, author: bytes, client_id: str, text: str, now: int
) -> tuple[Message, bool]:
    """The message as it is stored, and whether it is new. If the author's `client_id` was stored before, the first one stays.

    `sender` is a role. `author` distinguishes its tokens and shares.
    """
    row = await connection.fetchrow(
        """
        INSERT INTO messages AS old (trip, sender, author, client_id, text, server_time) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (trip, sender, author, client_id) DO UPDATE SET text = old.text
        RETURNING message, text, server_time, xmax = 0 AS fresh
        """,
        trip,
        sender,
        author,
        client_id,
        text,
        now,
    )
    assert row is not None
    return Message(row["message"], trip_id, sender, row["text"], row["server_time"]), row["fresh"]


async def sent_before(
    connection: Connection, trip: int, trip_id: str, sender: str, client_id: str, text: str
) -> Message | None:
    """The message of this role, `client_id` and text, of any author."""
    row = await connection.fetchrow(
        """
        SELECT message, server_time FROM messages WHERE trip = $1 AND sender = $2 AND client_id = $3 AND text = $4
        ORDER BY message LIMIT 1
        """,
        trip,
        sender,
        client_id,
        text,
    )
    return Message(row["message"], trip_id, sender, text, row["server_time"]) if row else None


async def unread_by_drivers(
    connection: Connection, wanted: Sequence[tuple[int, int]], limit: int
) -> dict[tuple[int, int], list[Message]]:
    """Messages of passengers and dispatchers to vehicles' open trips that the drivers have not read, oldest first.

    By `(vehicle, after)`, the numbers of the vehicle and of a message: the first `limit` after it. Vehicles without any are
    left out.
    """
    rows = await connection.fetch(
        """
        SELECT w.vehicle, w.after, u.* FROM unnest($1::int[], $2::bigint[]) AS w (vehicle, after)
        CROSS JOIN LATERAL (
            SELECT m.message, t.trip_id, m.sender, m.text, m.server_time
            FROM trips t CROSS JOIN LATERAL (
                SELECT * FROM messages m
                WHERE m.trip = t.trip AND m.sender <> 'driver' AND m.read_at IS NULL AND m.message > w.after
                ORDER BY m.message LIMIT $3
            ) m
            WHERE t.vehicle = w.vehicle AND t.status NOT IN ('complete', 'canceled')
            ORDER BY m.message LIMIT $3
        ) u
        """,
        [vehicle for vehicle, _ in wanted],
        [after for _, after in wanted],
        limit,
    )
    unread: dict[tuple[int, int], list[Message]] = {}
    for vehicle, after, *message in rows:
        unread.setdefault((vehicle, after), []).append(Message(*message))
    for page in unread.values():
        page.sort()
    return unread


async def posted_since(
    connection: Connection, wanted: Sequence[tuple[int, int]], limit: int
) -> dict[tuple[int, int], list[Message]]:
    """The newest `limit` messages of each trip from an instant on, oldest first. By `(trip, since)`, with the trip's number."""
    rows = await connection.fetch(
        """
        SELECT w.trip, w.since, m.message, t.trip_id, m.sender, m.text, m.server_time
        FROM unnest($1::int[], $2::timestamptz[]) AS w (trip, since)
        JOIN trips t USING (trip)
        CROSS JOIN LATERAL (
            SELECT * FROM messages m WHERE m.trip = w.trip AND m.server_time >= w.since ORDER BY m.message DESC LIMIT $3
        ) m
        ORDER BY m.message
        """,
        [trip for trip, _ in wanted],
        [since for _, since in wanted],
        limit,
    )
    found: dict[tuple[int, int], list[Message]] = {}
    for trip, since, *message in rows:
        found.setdefault((trip, since), []).append(Message(*message))
    return found


async def by_number(connection: Connection, numbers: Sequence[int]) -> dict[int, Message]:
    """Those of the messages that exist."""
    rows = await connection.fetch(
        """
        SELECT m.message, t.trip_id, m.sender, m.text, m.server_time FROM messages m JOIN trips t USING (trip)
        WHERE m.message = ANY($1::bigint[])
        """,
        numbers,
    )
    return {row["message"]: Message(*row) for row in rows}


async def count_unread(connection: Connection, trip: int, sender: str, author: bytes) -> int:
    """How many messages of this author the trip's driver has not read."""
    count: int = await connection.fetchval(
        """
        SELECT count(*) FROM messages
        WHERE trip = $1 AND sender <> 'driver' AND read_at IS NULL AND sender = $2 AND author = $3
        """,
        trip,
        sender,
        author,
    )
    return count


async def mark_read(connection: Connection, messages: list[int], now: int) -> None:
    await connection.execute(
        "UPDATE messages SET read_at = $2 WHERE message = ANY($1::bigint[]) AND read_at IS NULL", messages, now
    )
