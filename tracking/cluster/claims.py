"""What a claim asks of the database. Many share one transaction: after a restart all drivers say hello at once."""

from collections.abc import Mapping
from typing import NamedTuple

from tracking.monitor.rules import AlertState, Stay
from tracking.store import geofence_stays, homes, latest_positions, silences
from tracking.store.gathered import Gathered
from tracking.store.homes import Claimed
from tracking.store.pool import Database


class Known(NamedTuple):
    """What the store has of a vehicle whose former home did not answer. `alerts` say nothing of when it was heard."""

    last: latest_positions.Latest | None
    alerts: AlertState


class Claims:
    """Keys are vehicles' numbers. Each call raises `StoreUnavailable`."""

    def __init__(self, database: Database, node: str) -> None:
        """`node`: this hub's boot id."""
        self._database = database
        self._node = node
        self._rows: Gathered[int, homes.Home] = Gathered(self._read_rows)
        self._claims: Gathered[tuple[int, str], Claimed] = Gathered(self._claim_all)
        self._opened: Gathered[tuple[int, str, int], tuple[int, int]] = Gathered(self._open_all)
        self._known: Gathered[int, Known] = Gathered(self._read_known)

    async def row(self, vehicle: int) -> homes.Home | None:
        return await self._rows.get(vehicle)

    async def claim(self, vehicle: int, session: str) -> Claimed | None:
        """This hub is the vehicle's home from now on. None if the vehicle was removed."""
        return await self._claims.get((vehicle, session))

    async def open(self, vehicle: int, session: str, term: int) -> tuple[int, int] | None:
        """`(session, handled_seq)` of a vehicle in this term; session 0 if the term is over, None if it was removed."""
        return await self._opened.get((vehicle, session, term))

    async def known(self, vehicle: int) -> Known:
        known = await self._known.get(vehicle)
        assert known is not None
        return known

    async def rows(self, vehicles: list[int]) -> dict[int, homes.Home]:
        """All at once. Those without a home are left out."""
        async with self._database.connection() as connection:
            return await homes.of(connection, vehicles)

    async def _read_rows(self, vehicles: list[int]) -> Mapping[int, homes.Home]:
        return await self.rows(vehicles)

    async def _claim_all(self, wanted: list[tuple[int, str]]) -> Mapping[tuple[int, str], Claimed]:
        async with self._database.transaction() as connection:
            return await homes.claim(connection, wanted, self._node)

    async def _open_all(self, wanted: list[tuple[int, str, int]]) -> Mapping[tuple[int, str, int], tuple[int, int]]:
        async with self._database.transaction() as connection:
            opened, lost = await homes.open_sessions(connection, wanted)
        found = {key: opened[key[:2]] for key in wanted if key[:2] in opened}
        return found | {key: (0, 0) for key in wanted if key[0] in lost}

    async def _read_known(self, vehicles: list[int]) -> Mapping[int, Known]:
        async with self._database.connection() as connection:
            newest = await latest_positions.newest(connection, vehicles)
            places = await latest_positions.stored(connection, vehicles, 0)
            stays = await geofence_stays.of_vehicles(connection, vehicles)
            silent = await silences.silent(connection, vehicles)
        states = {vehicle: AlertState() for vehicle in vehicles}
        for vehicle, state in states.items():
            state.previous = places.get(vehicle)
            state.silent = vehicle in silent
        for stay in stays:
            states[stay.vehicle].inside[stay.geofence_id] = Stay(stay.since, stay.dwelt)
        return {vehicle: Known(newest.get(vehicle), state) for vehicle, state in states.items()}
