"""What a claim asks of the database. Many share one transaction: after a restart all drivers say hello at once."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import NamedTuple

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.model import Position
from tracking.monitor import replay
from tracking.monitor.rules import AlertState
from tracking.store import geofence_stays, homes, last_moves, latest_positions, silences
from tracking.store.gathered import Gathered
from tracking.store.geofence_stays import StayRow
from tracking.store.homes import Claimed
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

KNOWN_AT_ONCE = 200
"""Vehicles whose last moves are read by one query: some 60 ms."""
SLICE = 50
"""Vehicles whose state is made in one step of the event loop: some 2 ms."""
STALLED_SECONDS = 3.0
"""How long a claim may wait for another hub's transaction before it is taken for one that stands still."""


class Known(NamedTuple):
    """What the store has of a vehicle whose former home did not answer. `alerts` say nothing of when it was heard.

    `moves` are to be judged again: `alerts` are from before them.
    """

    last: latest_positions.Latest | None
    alerts: AlertState
    moves: list[Position]


class Claims:
    """Keys are vehicles' numbers. Each call raises `StoreUnavailable`."""

    def __init__(self, database: Database, node: str) -> None:
        """`node`: this hub's boot id."""
        self._database = database
        self._node = node
        self._rows: Gathered[int, homes.Home] = Gathered(self._read_rows)
        self._claims: Gathered[tuple[int, str], Claimed] = Gathered(self._claim_all)
        self._opened: Gathered[tuple[int, str, int], tuple[int, int]] = Gathered(self._open_all)
        self._known: Gathered[int, Known] = Gathered(self._read_known, most=KNOWN_AT_ONCE)

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
        work = asyncio.create_task(self._claim_at_once(wanted))
        try:
            await asyncio.wait({work}, timeout=STALLED_SECONDS)
            if not work.done():
                await self._end_stalled()
            return await work
        finally:
            work.cancel()

    async def _end_stalled(self) -> None:
        """Another hub may have stopped within a commit. The timeout of `Database` does not end a `COPY`."""
        with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
            async with self._database.connection() as connection:
                ended = await homes.end_stalled(connection, STALLED_SECONDS)
            if ended:
                logger.warning("ended %d transactions of a hub that stands still and made drivers wait", ended)

    async def _claim_at_once(self, wanted: list[tuple[int, str]]) -> Mapping[tuple[int, str], Claimed]:
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
            last = await last_moves.of_vehicles(connection, vehicles)
            # After the events: a stay that is read later is of the same events at least.
            stays = await geofence_stays.of_vehicles(connection, vehicles)
            silent = await silences.silent(connection, vehicles)
        of_vehicle: dict[int, list[StayRow]] = {}
        for stay in stays:
            of_vehicle.setdefault(stay.vehicle, []).append(stay)
        known = {}
        for number, vehicle in enumerate(vehicles, 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            positions, events = last[vehicle]
            state = replay.begin(positions, events, of_vehicle.get(vehicle, ()), places.get(vehicle))
            state.silent = vehicle in silent
            known[vehicle] = Known(newest.get(vehicle), state, positions)
        return known
