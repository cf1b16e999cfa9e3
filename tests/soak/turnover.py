"""Trips of watched vehicles end and begin while a soak runs, and what their passengers are shown is judged at the end."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx

from tests.support.clients import Api, Message
from tests.support.watcher import Watcher

GRACE_MS = 30_000
"""A fix this long before the start belongs to the trip, unless the trip before it had not ended."""
STALE_MS = 3_000
"""For so long may a hub that has not heard of a trip's end show what was reported after it."""
END_SECONDS = 12.0
"""Within this a passenger must know that the trip is over, even if its hub stands still and it must go to another one."""
WAYS = (
    ("canceled",),
    ("arrived_at_pickup", "enroute_to_dropoff", "complete"),
)


class Passenger:
    """A watcher, and every position that it was shown: live, in snapshots and in revisions."""

    def __init__(self, url: str, trip_id: str) -> None:
        self.trip_id = trip_id
        self.watcher = Watcher(url, trip_id, ping_interval=2.0, on_message=self._heard)
        self.fix_times: set[int] = set()
        self.late: list[float] = []
        """Seconds from each live position's fix time to its arrival."""
        self.breaks: list[str] = []
        self._newest = 0
        self._floor = 0
        self._task = asyncio.create_task(self.watcher.run())

    def _heard(self, message: Message, _came: float) -> None:
        match message["type"]:
            case "position":
                self.fix_times.add(message["fix_time"])
                self.late.append(time.time() - message["fix_time"] / 1000)
                self._timed(message)
            case "snapshot":
                self.fix_times.update(int(point[2]) for point in message["track"])
                if "position" in message:
                    self.fix_times.add(message["position"]["fix_time"])
                    self._timed(message["position"])
            case "track_revised":
                self.fix_times.update(int(point[2]) for point in message["track"])

    def _timed(self, position: Message) -> None:
        if position["fix_time"] < self._newest:
            return  # a snapshot, after a fix was shown that its hub could not store
        self._newest = position["fix_time"]
        if position["server_time"] < self._floor:
            self.breaks.append(f"server_time fell from {self._floor} to {position['server_time']}")
        self._floor = max(self._floor, position["server_time"])

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@dataclass
class Over:
    """A trip that has ended, as its passenger saw it."""

    passenger: Passenger
    told_after: float | None
    """Seconds from the answer to the change to the close code 4506."""
    probed: str = ""
    """What was wrong when another passenger came afterwards."""


@dataclass
class Turnover:
    """`url` is where changes are made, `shown` where passengers connect: any hub behind each of them."""

    url: str
    shown: str
    rng: random.Random
    fleet_id: str = ""
    passengers: dict[str, Passenger] = field(default_factory=dict)
    """Of trips under way, by vehicle."""
    over: list[Over] = field(default_factory=list)
    ending: bool = False

    async def set_up(self, vehicles: int, watched: int) -> list[str]:
        """Vehicles, each on a trip. Returns their ids; the first ones are watched."""
        async with Api(self.url) as api:
            self.fleet_id = await api.fleet()
            made = [await api.vehicle(self.fleet_id) for _ in range(vehicles)]
            for number, vehicle_id in enumerate(made):
                trip_id = await self._begin(api, vehicle_id)
                if number < watched:
                    self.passengers[vehicle_id] = Passenger(self.shown, trip_id)
        return made

    async def run(self, every: float) -> None:
        """Until `ending`, a trip ends and the vehicle's next one begins, on average each `every` seconds."""
        async with Api(self.url) as api:
            while not self.ending:
                await asyncio.sleep(self.rng.uniform(0.0, 2 * every))
                await self._turn(api, self.rng.choice(list(self.passengers)))

    async def _turn(self, api: Api, vehicle_id: str) -> None:
        passenger = self.passengers.pop(vehicle_id)
        for status in self.rng.choice(WAYS):
            await self._step(api, passenger.trip_id, status)
        ended = time.monotonic()
        self.passengers[vehicle_id] = Passenger(self.shown, await self._begin(api, vehicle_id))
        while passenger.watcher.ended is None and time.monotonic() < ended + END_SECONDS:
            await asyncio.sleep(0.01)
        over = Over(passenger, time.monotonic() - ended if passenger.watcher.ended is not None else None)
        self.over.append(over)
        late = Passenger(self.shown, passenger.trip_id)
        deadline = time.monotonic() + END_SECONDS
        while late.watcher.ended is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if late.watcher.snapshots or late.watcher.ended not in (4506, None):
            over.probed = f"who came after the end got {late.watcher.snapshots} snapshots, and {late.watcher.ended}"
        await late.leave()

    async def _begin(self, api: Api, vehicle_id: str) -> str:
        """A new trip of the vehicle, under way."""
        body = {
            "fleet_id": self.fleet_id,
            "vehicle_id": vehicle_id,
            "pickup": {"latitude": 47.141, "longitude": 9.521},
            "dropoff": {"latitude": 47.151, "longitude": 9.515},
        }
        trip_id: str = (await insist(api, "POST", "/trips", body)).json()["trip_id"]
        await self._step(api, trip_id, "enroute_to_pickup")
        return trip_id

    async def _step(self, api: Api, trip_id: str, status: str) -> None:
        while True:
            trip = (await insist(api, "GET", f"/trips/{trip_id}")).json()
            if trip["status"] == status:
                return
            answer = await insist(api, "PATCH", f"/trips/{trip_id}", {"status": status, "version": trip["version"]})
            if answer.is_success:
                return
            assert answer.status_code == 409, answer.text

    async def leave(self) -> None:
        for passenger in (*self.passengers.values(), *(over.passenger for over in self.over)):
            await passenger.leave()

    async def broken(self, database_url: str) -> list[str]:
        """A sentence for everything that a passenger was shown and must not see, or was not told."""
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            found = []
            for passenger in (*self.passengers.values(), *(over.passenger for over in self.over)):
                wrong = [*passenger.breaks, *passenger.watcher.breaks, *await _outside(connection, passenger)]
                found += [f"{passenger.trip_id}: {line}" for line in wrong]
        finally:
            await connection.close()
        for over in self.over:
            trip_id, ended = over.passenger.trip_id, over.passenger.watcher.ended
            if ended != 4506:
                found.append(f"{trip_id}: {END_SECONDS:g} s after the trip's end its passenger was closed with {ended}")
            if over.probed:
                found.append(f"{trip_id}: {over.probed}")
        return found


async def insist(api: Api, method: str, path: str, body: Any = None) -> httpx.Response:
    """The answer of a hub that lives: connections are cut, and hubs are killed."""
    while True:
        try:
            answer = await api.http.request(method, path, json=body)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code < 500:
            return answer
        await asyncio.sleep(0.05)


async def _outside(connection: "asyncpg.Connection[asyncpg.Record]", passenger: Passenger) -> list[str]:
    """Positions that were shown although they are not of the trip's time."""
    row = await connection.fetchrow(
        """
        SELECT extract(epoch FROM s.started_at) * 1000 AS started, extract(epoch FROM s.ended_at) * 1000 AS ended, (
            SELECT extract(epoch FROM max(e.ended_at)) * 1000 FROM trip_spans e
            WHERE e.vehicle = s.vehicle AND e.ended_at <= s.started_at
        ) AS before
        FROM trip_spans s JOIN trips USING (trip) WHERE trip_id = $1
        """,
        passenger.trip_id,
    )
    assert row is not None
    first = max(float(row["started"]) - GRACE_MS, float(row["before"] or 0))
    last = float(row["ended"]) + STALE_MS if row["ended"] is not None else float("inf")
    found = []
    if early := sorted(at for at in passenger.fix_times if at < int(first)):
        found.append(f"shown though reported before the trip: {[int(at - first) for at in early]} ms from its begin")
    if late := sorted(at for at in passenger.fix_times if at > last):
        found.append(f"shown though reported after the trip: {[int(at - float(row['ended'])) for at in late]} ms after its end")
    return found
