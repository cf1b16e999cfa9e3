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
    connection: Connection, trip: int, trip_id: str, sender: str, client_id: str, text: str, now: int
) -> tuple[Message, bool]:
    """The message as it is stored, and whether it is new: where the sender's `client_id` was stored before, the first stays."""
    row = await connection.fetchrow(
        """
        INSERT INTO messages AS old (trip, sender, client_id, text, server_time) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (trip, sender, client_id) DO UPDATE SET text = old.text
        RETURNING message, text, server_time, xmax = 0 AS fresh
        """,
        trip,
        sender,
        client_id,
        text,
        now,
    )
    assert row is not None
    return Message(row["message"], trip_id, sender, row["text"], row["server_time"]), row["fresh"]


async def unread_by_drivers(connection: Connection, vehicles: Sequence[int]) -> dict[int, list[Message]]:
    """What passengers and dispatchers wrote to the vehicles' open trips and their drivers have not read, oldest first.

    By the vehicles' numbers; those are left out for whom there is nothing.
    """
    rows = await connection.fetch(
        """
        SELECT t.vehicle, m.message, t.trip_id, m.sender, m.text, m.server_time FROM messages m JOIN trips t USING (trip)
        WHERE t.vehicle = ANY($1::int[]) AND t.status NOT IN ('complete', 'canceled')
            AND m.sender <> 'driver' AND m.read_at IS NULL
        ORDER BY m.message
        """,
        vehicles,
    )
    unread: dict[int, list[Message]] = {}
    for vehicle, *message in rows:
        unread.setdefault(vehicle, []).append(Message(*message))
    return unread


async def mark_read(connection: Connection, messages: list[int], now: int) -> None:
    await connection.execute(
        "UPDATE messages SET read_at = $2 WHERE message = ANY($1::bigint[]) AND read_at IS NULL", messages, now
    )
