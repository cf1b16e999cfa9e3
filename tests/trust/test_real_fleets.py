"""The default limits refuse nothing to a real fleet.

200 phones of a depot come back at once behind one address. A passenger has six open tabs, and a dispatcher four screens.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from tests.support.clients import Api, Dispatcher, Message, Passenger, Socket, now_ms, token
from tests.support.hub_process import HubProcess

PHONES = 200
BACKLOG = 500
UNREAD = 5
TABS, RECONNECTS = 6, 3
SCREENS, LOOKS, LOOKS_PER_SECOND = 4, 40, 20
FLEET = "depot"
DRIVEN = 250
"""Fixes of each phone that were acknowledged before the connection broke."""
LIMIT_SECONDS = 30.0


@pytest.fixture
async def depot(own_hub: Callable[..., HubProcess], database_url: str) -> AsyncIterator[tuple[HubProcess, list[str]]]:
    """A hub with default settings, also for the pace of acks. Its phones already have their sessions."""
    sessions = [str(uuid.uuid4()) for _ in range(PHONES)]
    connection = await asyncpg.connect(database_url)
    await connection.execute("INSERT INTO fleets (fleet_id, name) VALUES ($1, 'Depot')", FLEET)
    await connection.execute(
        """
        INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'van-' || n, $1 FROM generate_series(1, $2::int) n
        """,
        FLEET,
        PHONES,
    )
    await connection.execute(
        """
        INSERT INTO sessions (vehicle, name, handled_seq)
        SELECT v, name, $2 FROM unnest($1::text[]) WITH ORDINALITY u (name, v)
        """,
        sessions,
        DRIVEN,
    )
    await connection.execute(
        """
        INSERT INTO trips (trip_id, fleet_id, vehicle, status, version, pickup, dropoff, created_at, started_at)
        SELECT 'trip-' || vehicle, $1, vehicle, 'enroute_to_pickup', 2, $2, $2, now() - interval '1 h', now() - interval '1 h'
        FROM vehicles
        """,
        FLEET,
        '{"latitude": 47.1, "longitude": 9.5}',
    )
    await connection.execute("INSERT INTO trip_spans (trip, vehicle, started_at) SELECT trip, vehicle, started_at FROM trips")
    await connection.execute(
        """
        INSERT INTO messages (trip, sender, author, client_id, text, server_time)
        SELECT trip, 'dispatcher', '', n::text, 'Come back', now() FROM trips, generate_series(1, $1::int) n
        """,
        UNREAD,
    )
    await connection.close()
    yield own_hub(ack_interval="2"), sessions


def backlog(phone: int, first: int) -> str:
    """A `positions` frame with a fix for each second that the connection was lost."""
    begin = now_ms() - BACKLOG * 1000
    fixes = [
        {
            "seq": first + n,
            "fix_time": begin + n * 1000,
            "latitude": round(47.0 + phone * 1e-3 + n * 4e-5, 6),
            "longitude": 9.5,
            "speed": 4.4,
        }
        for n in range(BACKLOG)
    ]
    # A frame may have at most 64 KiB.
    return json.dumps({"type": "positions", "positions": fixes}, separators=(",", ":"))


class Refused:
    """All refusals that any client got."""

    def __init__(self) -> None:
        self.of: list[str] = []

    def look(self, who: str, message: Message) -> None:
        if message["type"] == "error" or "code" in message or "rejected" in message:
            self.of.append(f"{who}: {message}")


async def phone(url: str, number: int, session: str, refused: Refused) -> None:
    """Reconnects with its session, sends its backlog, reads its messages, and answers."""
    frame = backlog(number, DRIVEN + 1)
    async with Socket(f"{url}/v1/driver", token("driver", f"van-{number}"), open_timeout=LIMIT_SECONDS) as driver:
        await driver.send({"type": "hello", "session": session})
        await driver.send_text(frame)
        await driver.send({"type": "message", "trip_id": f"trip-{number}", "text": "Coming", "client_id": str(uuid.uuid4())})
        unread, handled, done = UNREAD, 0, False
        while unread or handled < DRIVEN + BACKLOG or not done:
            async with asyncio.timeout(LIMIT_SECONDS):
                message = json.loads(await driver.connection.recv())
            refused.look(f"phone {number}", message)
            match message["type"]:
                case "message":
                    unread -= 1
                case "ack":
                    assert message["seq"] >= DRIVEN
                    handled = message["seq"]
                case "done":
                    done = True


async def tab(url: str, bearer: str, refused: Refused) -> None:
    """Opens, and reopens three times, as pages do that return from the background."""
    for _ in range(1 + RECONNECTS):
        async with Passenger(url, "trip-1", bearer) as passenger:
            message = await passenger.receive()
            assert message["type"] == "snapshot"
            refused.look("tab", message)


async def screen(url: str, bearer: str, refused: Refused) -> None:
    """Drags its map for two seconds, and downloads a track."""
    async with Dispatcher(url, FLEET, bearer) as dispatcher, Api(url, bearer) as api:
        download = asyncio.create_task(api.track("/vehicles/van-1/track"))
        reading = asyncio.create_task(_read(dispatcher))
        began = time.monotonic()
        for look in range(LOOKS):
            shift = look * 0.002
            await dispatcher.look(9.4 + shift, 47.0, 9.6 + shift, 47.3)
            # The test needs the pace of a user's hand.
            await asyncio.sleep(max(0.0, began + (look + 1) / LOOKS_PER_SECOND - time.monotonic()))
        await download
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        assert dispatcher.vehicles
        for message in dispatcher.messages:
            refused.look("screen", message)


async def _read(dispatcher: Dispatcher) -> None:
    while True:
        await dispatcher.receive()


async def test_nobody_in_a_real_fleet_is_refused(depot: tuple[HubProcess, list[str]]) -> None:
    hub, sessions = depot
    refused = Refused()
    async with Api(hub.url) as api:
        share = await api.call("POST", "/trips/trip-1/shares", {})
    bearer = token("dispatcher", FLEET)
    await asyncio.gather(
        *(phone(hub.url, number, session, refused) for number, session in enumerate(sessions, 1)),
        *(tab(hub.url, share["token"], refused) for _ in range(TABS)),
        *(screen(hub.url, bearer, refused) for _ in range(SCREENS)),
    )
    assert refused.of == []
