"""Vehicles with a session, and positions of them, for the store."""

from tracking.model import Fleet, Position, Vehicle
from tracking.store import fleets, sessions, vehicles
from tracking.store.days import DAY_MS
from tracking.store.pool import Database

DAY = 20_400
"""A UTC day."""
BEGIN = DAY * DAY_MS + 43_200_000
"""Noon of that day."""


async def a_vehicle(store: Database, name: str) -> tuple[int, int]:
    """The numbers of a new vehicle and of a session of it."""
    async with store.connection() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        stored, _ = await vehicles.put(connection, Vehicle(name, "fleet"))
        session, _ = await sessions.open(connection, stored.number, "session")
    return stored.number, session


def a_position(vehicle: int, session: int, seq: int, **changes: object) -> Position:
    position = Position(
        vehicle, "", session, seq, BEGIN + seq * 1000, BEGIN, 47.1, 9.5, None, None, 7.5, None, None, None, None, (), True
    )
    for name, value in changes.items():
        setattr(position, name, value)
    return position
