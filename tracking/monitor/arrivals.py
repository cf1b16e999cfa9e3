"""Vehicles whose home this hub has become while it held their fleet: what another hub found of them is read first.

Until then their moves wait. Otherwise an `enter` that the former home told would be told again.
"""

import logging

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.live.fleet import LiveVehicle
from tracking.live.fleets import MAX_MOVES, Fleets
from tracking.model import Position
from tracking.monitor.rules import AlertState, Stay
from tracking.monitor.states import AlertStates
from tracking.store import geofence_stays, silences
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

AT_ONCE = 500
"""Vehicles that are read together."""


class Arrivals:
    """`wait` takes a move of such a vehicle. `read` reads the vehicles, and hands their moves back."""

    def __init__(self, database: Database, fleets: Fleets, states: AlertStates) -> None:
        self._database = database
        self._fleets = fleets
        self._states = states
        self._waiting: dict[LiveVehicle, list[Position]] = {}
        self._count = 0

    def wait(self, vehicle: LiveVehicle, position: Position) -> None:
        if self._count < MAX_MOVES:
            self._waiting.setdefault(vehicle, []).append(position)
            self._count += 1

    async def read(self) -> None:
        """Reads those that wait. Does nothing while the database is away: the map shows them all the same."""
        if not self._waiting:
            return
        read = list(self._waiting)[:AT_ONCE]
        numbers = [vehicle.number for vehicle in read]
        try:
            async with self._database.connection() as connection:
                stays = await geofence_stays.of_vehicles(connection, numbers)
                silent = await silences.silent(connection, numbers)
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            logger.debug("the former home's events can't be read now: %s", error)
            return
        for vehicle in read:
            moves = self._waiting.pop(vehicle)
            self._count -= len(moves)
            known = self._states.get(vehicle)
            if known is None or not self._fleets.is_there(vehicle):
                continue
            state = self._states[vehicle] = AlertState()
            state.heard, state.due = known.heard, known.due
            state.silent = vehicle.number in silent
            state.inside = {
                stay.geofence_id: Stay(stay.since, stay.dwelt)
                for stay in stays
                if (stay.vehicle, stay.fleet_id) == (vehicle.number, vehicle.feed.fleet.fleet_id)
            }
            self._fleets.moves.extend((vehicle, position) for position in moves)
