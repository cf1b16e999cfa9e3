"""The environment: a private database, a hub in a process of its own, and a fleet with trips under way."""

import asyncio
import contextlib
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import psutil
from tqdm import tqdm

from driver_sim.backend import Backend
from driver_sim.bench.clients import DispatcherClient, DriverClient, WatcherClient
from driver_sim.bench.hub import READY_SECONDS, STOP_SECONDS, Broker, EnvironmentFailed, Hub, Launch, cpu, launch
from driver_sim.bench.lines import LineClient
from driver_sim.bench.returning import Driver, Passenger, Ports
from driver_sim.bench.workers import Workers
from tracking.demo.postgres import Cluster
from tracking.errors import TrackingError
from tracking.model import Place
from tracking.protocol.codec import encode
from tracking.store.migrations import migrate

FLEET = "bench"
PEERS = "tracking_peers"
"""The metric: how many other hubs a hub sees alive."""
SETTLE_SECONDS = 3.0
"""Before each measurement."""
_PLACE = Place(47.0, 9.5)


@dataclass(frozen=True)
class Conditions:
    """How an environment is made and asked. The defaults are those of a measurement; tests of the bench have others."""

    settle_seconds: float = SETTLE_SECONDS
    """How long each load goes on before it is measured."""
    launch: Launch = launch
    hubs: tuple[int, ...] = (1, 2, 4)
    """The numbers of hubs that are compared."""
    ways: tuple[str, ...] = ("workers", "separate")
    """How hubs are replaced in `roll`."""
    questions: int = 300
    """How often each question of the shapes that ask is asked."""
    cluster: Cluster | None = None
    """A PostgreSQL that runs. None: a new one is made for each shape, and removed after it."""
    template: str | None = None
    """The database of that cluster which is copied for each shape."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """TRACKING_… of hubs."""


@dataclass
class Cost:
    """What the operating system and the database have counted so far; seconds of CPU, bytes. `hub`: all hubs together."""

    at: float
    hub: float
    database: float
    load: float
    wal: int
    broker: float = 0.0

    def since(self, before: "Cost") -> "Cost":
        return Cost(
            self.at - before.at,
            self.hub - before.hub,
            self.database - before.database,
            self.load - before.load,
            self.wal - before.wal,
            self.broker - before.broker,
        )


class Environment:
    """Made by `environment`. `vehicles` and `trips` are parallel: vehicle n is under way on trip n.

    There is one hub without a broker, until `run_hubs` changes that.
    """

    def __init__(
        self,
        cluster: Cluster,
        database: str,
        log: Path,
        settings: Mapping[str, str],
        conditions: Conditions,
    ) -> None:
        self.settle_seconds = conditions.settle_seconds
        self.questions = conditions.questions
        self.hub_counts = conditions.hubs
        self.ways = conditions.ways
        self.vehicles: list[str] = []
        self.trips: list[str] = []
        self.fleet = FLEET
        self._database = database
        self._log = log
        self._secret = secrets.token_hex(32)
        self._environment = {
            **{
                name: value
                for name, value in os.environ.items()
                # A hub that had to compile its own code would take a quarter longer to start.
                if not name.startswith("TRACKING_") and name != "PYTHONDONTWRITEBYTECODE"
            },
            "TRACKING_DATABASE_URL": cluster.url(database),
            "TRACKING_JWT_SECRET": self._secret,
            "TRACKING_CONNECTIONS_PER_ADDRESS": "100000",
            **settings,
            **conditions.settings,
        }
        self.sql: asyncpg.Connection[Any]
        self._launch = conditions.launch
        self.broker: Broker | None = None
        self.hubs = [self._hub(0)]
        self._postmaster = psutil.Process(int((cluster.data / "postmaster.pid").read_text().split("\n", 1)[0]))

    async def open(self) -> None:
        try:
            await migrate(self.database_url)
        except TrackingError as error:
            raise EnvironmentFailed(f"the database can't be migrated: {error}") from error
        await self.start()
        self.sql = await asyncpg.connect(self._environment["TRACKING_DATABASE_URL"])

    async def close(self) -> None:
        try:
            if hasattr(self, "sql"):  # not if the hub did not start
                await self.sql.close(timeout=STOP_SECONDS)
        finally:
            self._end_hubs()

    @property
    def port(self) -> int:
        return self.hubs[0].port

    @property
    def url(self) -> str:
        return self.hubs[0].url

    def _hub(self, number: int) -> Hub:
        nats = {"TRACKING_NATS_URL": self.broker.url} if self.broker is not None else {}
        log = self._log if number == 0 else self._log.with_name(f"hub-{number}.log")
        return Hub({**self._environment, **nats}, log, self._launch)

    async def start(self, timeout: float = READY_SECONDS) -> None:
        """Starts the first hub and waits until it is ready. Raises `EnvironmentFailed`."""
        await self.hubs[0].start(timeout)

    def kill(self, *, graceful: bool = False) -> None:
        """Ends the first hub."""
        self.hubs[0].kill(graceful=graceful)

    async def run_hubs(self, count: int) -> None:
        """Replaces the hubs by so many new ones, joined by a broker if there are several. Raises `EnvironmentFailed`."""
        self._end_hubs()
        if count > 1:
            self.broker = Broker(self._log.with_name("broker.log"))
            await self.broker.start()
        self.hubs = [self._hub(number) for number in range(count)]
        await asyncio.gather(*(hub.start() for hub in self.hubs))
        deadline = time.monotonic() + READY_SECONDS
        while count > 1:
            seen = [metrics.get(PEERS, 0.0) for metrics in await self.metrics_of_all()]
            if seen == [count - 1] * count:
                break
            if time.monotonic() > deadline:
                raise EnvironmentFailed(f"of {count} hubs, each sees so many others: {seen}; their logs are beside {self._log}")
            await asyncio.sleep(0.05)

    def workers(self, count: int) -> Workers:
        """So many hubs on one port, in place of the present ones. They are not started yet."""
        self._end_hubs()
        return Workers(count, self._environment, self._log.with_name("workers.log"), self._launch)

    def _end_hubs(self) -> None:
        for hub in self.hubs:
            hub.kill(graceful=True)
        if self.broker is not None:
            self.broker.kill()
            self.broker = None

    async def set_up(self, count: int) -> None:
        """Makes vehicles until there are `count`, each under way on a trip of its own; by SQL, as in `set_up_fleet`."""
        vehicles = [f"{FLEET}-{number:05}" for number in range(len(self.vehicles), count)]
        if vehicles:
            self.trips += await self._under_way(FLEET, vehicles)
            self.vehicles += vehicles

    async def set_up_unseen(self, fleets: int, each: int) -> list[str]:
        """More fleets, of so many vehicles each, that nobody connects to; the ids of their trips, one a vehicle, under way."""
        made: list[str] = []
        for number in range(fleets):
            fleet = f"{FLEET}-unseen-{number}"
            made += await self._under_way(fleet, [f"{fleet}-{n}" for n in range(each)])
        return made

    async def _under_way(self, fleet: str, vehicles: list[str]) -> list[str]:
        async with Backend(self.url, self._token("service")) as backend:
            await backend.put_fleet(fleet, "Bench")
        trips = [secrets.token_urlsafe(16) for _ in vehicles]
        await self.sql.execute(
            """
            WITH new AS (SELECT * FROM unnest($1::text[], $2::text[]) AS new (vehicle_id, trip_id)),
            made AS (
                INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate)
                SELECT vehicle_id, $3, vehicle_id, 'van', 'FL 1' FROM new RETURNING vehicle, vehicle_id
            ),
            under_way AS (
                INSERT INTO trips (trip_id, fleet_id, vehicle, status, version, pickup, dropoff, created_at, started_at)
                SELECT trip_id, $3, vehicle, 'enroute_to_pickup', 2, $4::jsonb, $4::jsonb, now(), now()
                FROM new JOIN made USING (vehicle_id) RETURNING trip, vehicle, started_at
            )
            INSERT INTO trip_spans (trip, vehicle, started_at) SELECT trip, vehicle, started_at FROM under_way
            """,
            vehicles,
            trips,
            fleet,
            encode(_PLACE).decode(),
        )
        return trips

    async def set_up_fleet(self, count: int) -> None:
        """A fleet of its own of so many vehicles without trips, made by SQL: over HTTP it would take its time."""
        self.fleet = f"{FLEET}-{count}"
        async with Backend(self.url, self._token("service")) as backend:
            await backend.put_fleet(self.fleet, "Bench")
        await self.sql.execute(
            """
            INSERT INTO vehicles (vehicle_id, fleet_id, name, kind, plate)
            SELECT $1 || '-' || n, $1, 'Van ' || n, 'van', 'FL ' || n FROM generate_series(0, $2::int - 1) AS n
            """,
            self.fleet,
            count,
        )
        self.vehicles = [f"{self.fleet}-{number}" for number in range(count)]

    async def put_geofences(self, polygons: Mapping[str, dict[str, Any]]) -> None:
        """Geofences of the fleet by their ids, as GeoJSON polygons."""
        headers = {"Authorization": f"Bearer {self._token('service')}"}
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, headers=headers, timeout=30) as http:
            for geofence_id, polygon in tqdm(polygons.items(), desc="geofences", unit="", leave=False):
                body = {"type": "Feature", "geometry": polygon, "properties": {"name": geofence_id}}
                answer = await http.put(f"/v1/fleets/{self.fleet}/geofences/{geofence_id}", json=body)
                if not answer.is_success:
                    raise EnvironmentFailed(f"the hub refused a geofence: {answer.text}")

    async def metric(self, name: str) -> float:
        """The value of one of the hubs' metrics, of all hubs together."""
        return sum(metrics[name] for metrics in await self.metrics_of_all())

    async def metrics(self) -> dict[str, float]:
        """The metrics of the first hub by their names, labels included."""
        return await self.hubs[0].metrics(self._token("operator"))

    async def metrics_of_all(self) -> list[dict[str, float]]:
        """Those of each hub."""
        token = self._token("operator")
        return await asyncio.gather(*(hub.metrics(token) for hub in self.hubs))

    def dispatcher(
        self, bounds: tuple[float, float, float, float], drivers: Mapping[str, DriverClient] | None = None
    ) -> DispatcherClient:
        """`bounds` are west, south, east, north."""
        return DispatcherClient(self.fleet, self._token("dispatcher", fleet_id=self.fleet), bounds, drivers or {})

    def driver(self, number: int, tick: float, place: tuple[float, float] | None = None) -> DriverClient:
        token, session = self._token("driver", vehicle_id=self.vehicles[number]), str(uuid.uuid4())
        return (
            DriverClient(token, session, tick=tick) if place is None else DriverClient(token, session, tick=tick, place=place)
        )

    def watcher(self, number: int, driver: DriverClient | None = None) -> WatcherClient:
        trip_id = self.trips[number]
        return WatcherClient(trip_id, self._token("passenger", trip_id=trip_id), driver)

    def returning_driver(self, number: int, ports: Ports) -> Driver:
        return Driver(self._token("driver", vehicle_id=self.vehicles[number]), ports)

    def returning_passenger(self, number: int, ports: Ports) -> Passenger:
        trip_id = self.trips[number]
        return Passenger(trip_id, self._token("passenger", trip_id=trip_id), ports)

    async def stored_seqs(self) -> dict[str, list[int]]:
        """The numbers of stored fixes by the name of their session."""
        rows = await self.sql.fetch(
            "SELECT name, array_agg(seq) AS seqs FROM positions JOIN sessions USING (session) GROUP BY name"
        )
        return {row["name"]: row["seqs"] for row in rows}

    def line_client(self, number: int, before: LineClient | None = None) -> LineClient:
        """A passenger who goes on from what it had on another hub, if there is one before."""
        trip_id = self.trips[number]
        return LineClient(trip_id, self._token("passenger", trip_id=trip_id), before)

    async def lines(self) -> dict[str, set[int]]:
        """The fix times that passengers must have in the end, by trip."""
        rows = await self.sql.fetch(
            """
            SELECT trip_id, array_agg(round(extract(epoch FROM fix_time) * 1000)::bigint) AS fix_times
            FROM positions JOIN trips USING (trip) WHERE suspect IS NULL GROUP BY trip_id
            """
        )
        return {row["trip_id"]: set(row["fix_times"]) for row in rows}

    async def stored_twice(self) -> int:
        """How many positions are stored that have the number of another one of the same session."""
        return int(await self.sql.fetchval("SELECT count(*) - count(DISTINCT (session, seq)) FROM positions"))

    def service_token(self) -> str:
        return self._token("service")

    @property
    def database_url(self) -> str:
        return self._environment["TRACKING_DATABASE_URL"]

    def _token(self, role: str, **claim: str) -> str:
        claims = {"aud": "tracking", "exp": int(time.time()) + 86_400, "jti": secrets.token_urlsafe(16), "role": role, **claim}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    async def cost(self) -> Cost:
        wal = await self.sql.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        return Cost(
            time.perf_counter(),
            sum(hub.cpu() for hub in self.hubs),
            _cpu_with_children(self._postmaster),
            time.process_time(),
            int(wal),
            self.broker.cpu() if self.broker is not None else 0.0,
        )

    def memory(self) -> int:
        """Bytes that the hubs have in memory; look at what they grow by."""
        return sum(hub.memory() for hub in self.hubs)

    async def stored(self) -> tuple[int, int]:
        """How many positions are stored, and their bytes, indices included."""
        count = await self.sql.fetchval("SELECT count(*) FROM positions")
        size = await self.sql.fetchval(
            "SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0) FROM pg_inherits WHERE inhparent = 'positions'::regclass"
        )
        return int(count), int(size)


@contextlib.asynccontextmanager
async def environment(directory: Path, settings: Mapping[str, str], conditions: Conditions) -> AsyncIterator[Environment]:
    """A fresh database and a hub, both gone at the end. `settings` are the hub's, TRACKING_…. Raises `EnvironmentFailed`."""
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)  # noqa: ASYNC240  nothing runs yet
    cluster = conditions.cluster or Cluster(directory / "pg", die_with_parent=True)
    if conditions.cluster is None:
        cluster.start()
    try:
        cluster.drop_database("bench")
        cluster.create_database("bench", conditions.template)
        made = Environment(cluster, "bench", directory / "hub.log", settings, conditions)
        try:
            await made.open()
            yield made
        finally:
            await made.close()
    finally:
        if conditions.cluster is None:
            cluster.remove()
        else:
            cluster.drop_database("bench")


def _cpu_with_children(process: psutil.Process) -> float:
    """With those that have ended too: a connection's process dies with it."""
    times = process.cpu_times()
    total = float(times.user + times.system + times.children_user + times.children_system)
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += cpu(child)
    return total
