"""A mixed load of changes on one fleet, and the check of what every client is told against PostgreSQL."""

import asyncio
import contextlib
import json
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import httpx
import websockets

from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, Socket, fix, now_ms, token
from tests.support.devices import until
from tests.support.hub_process import SECRET, HubProcess
from tracking.auth import Auth, Role
from tracking.config import load

VEHICLES = 3
FENCES = 2
GATE = {"type": "Polygon", "coordinates": [[[9.52, 47.14], [9.53, 47.14], [9.53, 47.15], [9.52, 47.15], [9.52, 47.14]]]}
STEP_MS = 10_000
"""The time between two fixes of the vehicle that enters and leaves the geofence."""
FIXES = 340
"""All within an hour: dispatchers are told nothing older."""
UNBOUND = {
    f"budget_{name}": "1000000/60" for name in ("writes", "connects", "messages", "looks", "shares", "sessions", "frames")
} | {"connections_per_address": "1000", "latest_interval": "0.1"}
"""Settings of a hub under this load. The load uses one token of a service."""
if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection
_HUB_DIED = (OSError, EOFError, httpx.TransportError, websockets.ConnectionClosed, websockets.InvalidHandshake)


class Load:
    """`begin` makes the fleet. After each start of the hub, `meet` checks what clients are told; `running` makes changes."""

    def __init__(self, url: str, database_url: str, rng: random.Random) -> None:
        self._url = url
        self._api = Api(url)
        self._rng = rng
        self._database_url = database_url
        self._auth = Auth(load(jwt_secret=SECRET))
        self.answered = 0
        """Changes that the hub confirmed."""
        self.unanswered = 0
        """Changes under way when the hub died."""
        self.faults: list[str] = []
        """Errors: what a client was told and the database does not say."""
        self._fixes = 0
        self._begin = now_ms() - FIXES * STEP_MS
        self._session = str(uuid.uuid4())
        self._told_driver: set[str] = set()
        """Texts, sent since this start of the hub or before it."""
        self._told_events: Counter[int] = Counter()
        self._revoked: list[tuple[str, str]] = []
        """Each token with its id."""
        self._texts = 0
        self._plates = 0
        self.fleet_id = ""
        self.vehicles: list[str] = []
        self.trips: list[str] = []
        """A trip under way of each vehicle."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._api.http.aclose()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await asyncpg.connect(self._database_url, timeout=10)
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        try:
            yield connection
        finally:
            await connection.close()

    async def begin(self) -> None:
        api = self._api
        self.fleet_id = await api.fleet()
        thresholds = {"idle_after": 1e6, "dwell_after": 1e6, "signal_lost_after": 1e6}
        await api.call("PUT", f"/fleets/{self.fleet_id}", {"name": "Under load", **thresholds})
        await api.call("PUT", f"/fleets/{self.fleet_id}/geofences/gate", _feature(GATE))
        for _ in range(VEHICLES):
            vehicle_id = await api.vehicle(self.fleet_id)
            trip = await api.trip(self.fleet_id, vehicle_id)
            await api.advance(trip["trip_id"], "enroute_to_pickup")
            self.vehicles.append(vehicle_id)
            self.trips.append(trip["trip_id"])
            async with Driver(self._url, vehicle_id) as driver:
                await driver.report(fix(1, fix_time=now_ms() - 3_700_000, latitude=47.145, longitude=9.515))
                await driver.acknowledged(1)
        async with self._connection() as connection:
            await until(lambda: self._all_on_map(connection), "where they are outlasts a hub")

    async def _all_on_map(self, connection: Connection) -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM latest_positions") == VEHICLES)

    # --- what everybody is told ---------------------------------------------------------------------------------------

    async def meet(self) -> None:
        """Checks that clients that connect now are told what the database says. Nothing changes meanwhile."""
        async with self._connection() as connection:
            trips = {row["trip_id"]: row for row in await connection.fetch("SELECT trip_id, status, version FROM trips")}
            plates = await _by_id(connection, "SELECT vehicle_id, plate FROM vehicles")
            fences = await _by_id(connection, "SELECT geofence_id, properties FROM geofences")
            revoked = {row["jti"] for row in await connection.fetch("SELECT jti FROM revoked_tokens")}
            texts = {row["text"] for row in await connection.fetch("SELECT text FROM messages WHERE read_at IS NULL")}
        for trip_id in self.trips:
            async with Passenger(self._url, trip_id) as passenger:
                shown = (await passenger.expect("snapshot"))["trip"]
            self._hold(f"passenger of {trip_id}", shown["version"], trips[trip_id]["version"])
            self._hold(f"passenger of {trip_id}", shown["status"], trips[trip_id]["status"])
        for vehicle_id, trip_id in zip(self.vehicles, self.trips, strict=True):
            async with Socket(f"{self._url}/v1/driver", token("driver", vehicle_id)) as driver:
                welcome = await driver.expect("welcome")
                self._hold(f"driver of {vehicle_id}", welcome["trip"]["version"], trips[trip_id]["version"])
                if trip_id == self.trips[0]:
                    await self._read_unread(driver, texts)
        async with Dispatcher(self._url, self.fleet_id) as screen:
            await screen.look(9.4, 47.0, 9.6, 47.2)
            await screen.until(lambda: all(vehicle_id in screen.vehicles for vehicle_id in self.vehicles))
            for vehicle_id in self.vehicles:
                self._hold(f"screen, {vehicle_id}", screen.vehicles[vehicle_id]["plate"], plates[vehicle_id])
        listed: dict[str, Any] = {}
        await until(lambda: self._list_fences(listed), "the fences are known")
        self._hold("fences", listed, fences)
        for bearer, jti in self._revoked[-3:]:
            answer = await self._api.http.get(f"/fleets/{self.fleet_id}", headers={"Authorization": f"Bearer {bearer}"})
            self._hold(f"token {jti} is refused", answer.status_code == 401, jti in revoked)

    async def _list_fences(self, listed: dict[str, Any]) -> bool:
        response = await self._api.http.get(f"/fleets/{self.fleet_id}/geofences")
        if response.status_code == 200:
            listed.update({feature["id"]: feature["properties"] for feature in response.json()["features"]})
        return response.status_code == 200

    def _hold(self, what: str, told: object, true: object) -> None:
        if told != true:
            self.faults.append(f"{what}: told {told}, true is {true}")

    # --- changes ------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Changes everything at once, until the hub dies within this context."""
        workers = [self._change_trip, self._change_trip, self._change_vehicle, self._change_fence, self._revoke]
        works = [self._over_http(worker) for worker in workers] + [self._chat(), self._listen(), self._drive(), self._look()]
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
            async with asyncio.timeout(20):
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, BaseException) and not isinstance(result, _HUB_DIED):
                        raise result
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def kill_under_load(self, hub: HubProcess) -> int:
        """Kills the hub at a random moment of the load. Returns how many changes were under way."""
        self.unanswered = 0
        answered = self.answered + self._rng.randint(5, 40)
        async with self.running():
            await until(lambda: self.answered >= answered, f"{answered} changes are answered")
            # Any instant of the next few milliseconds: between two of this loop's own steps nothing else would be.
            await asyncio.sleep(self._rng.uniform(0.0, 0.02))
            await asyncio.to_thread(hub.kill)
        return self.unanswered

    async def _over_http(self, change: Callable[[Api], Coroutine[Any, Any, None]]) -> None:
        while True:
            self.unanswered += 1
            await change(self._api)
            self.unanswered -= 1
            self.answered += 1

    async def _change_trip(self, api: Api) -> None:
        """Changes a trip. Of two changes at once, one may find another version than it read."""
        trip_id = self._rng.choice(self.trips)
        route = {"type": "LineString", "coordinates": [[9.521, 47.141], [9.515 + self._rng.random() / 1e4, 47.151]]}
        version = (await api.call("GET", f"/trips/{trip_id}"))["version"]
        status = (await api.http.patch(f"/trips/{trip_id}", json={"route": route, "version": version})).status_code
        assert status in (200, 409)

    async def _change_vehicle(self, api: Api) -> None:
        self._plates += 1
        body = {"fleet_id": self.fleet_id, "name": "Van 1", "kind": "van", "plate": f"FL {self._plates}"}
        await api.call("PUT", f"/vehicles/{self._rng.choice(self.vehicles)}", body)

    async def _change_fence(self, api: Api) -> None:
        path = f"/fleets/{self.fleet_id}/geofences/fence-{self._rng.randrange(FENCES)}"
        if self._rng.random() < 0.3:
            await api.http.delete(path)
        else:
            self._plates += 1
            await api.call("PUT", path, _feature(GATE, name=f"Fence {self._plates}"))

    async def _revoke(self, api: Api) -> None:
        issued = self._auth.issue(Role.SERVICE, None, 3600)
        self._revoked.append((issued.token, issued.jti))
        await api.call("DELETE", f"/tokens/{issued.jti}")

    async def _chat(self) -> None:
        """A passenger writes, and sees each message once."""
        seen: Counter[str] = Counter()
        async with Passenger(self._url, self.trips[0]) as passenger:
            while True:
                self._texts += 1
                self.unanswered += 1
                await passenger.send({"type": "message", "text": f"text {self._texts}", "client_id": str(uuid.uuid4())})
                while (await self._next(passenger, seen))["type"] not in ("done", "error"):
                    pass
                self.unanswered -= 1
                self.answered += 1

    async def _next(self, socket: Socket, seen: Counter[str]) -> Message:
        message = await socket.receive()
        if message["type"] == "message":
            seen[message["text"]] += 1
            if seen[message["text"]] > 1:
                self.faults.append(f"a passenger was told {message['text']} twice")
        assert message["type"] != "error", message
        return message

    async def _listen(self) -> None:
        """The driver that they write to."""
        async with Socket(f"{self._url}/v1/driver", token("driver", self.vehicles[0])) as driver:
            seen: Counter[str] = Counter()
            while True:
                message = await driver.receive()
                if message["type"] == "message":
                    seen[message["text"]] += 1
                    self._told_driver.add(message["text"])
                    if seen[message["text"]] > 1:
                        self.faults.append(f"a driver was told {message['text']} twice")

    async def _drive(self) -> None:
        """Drives in and out of the gate. Each time is an event."""
        async with Driver(self._url, self.vehicles[1], session=self._session) as driver:
            self._fixes = max(self._fixes, driver.handled)
            while self._fixes < FIXES:
                self._fixes += 1
                place = {"latitude": 47.145, "longitude": 9.5206 if self._fixes % 2 else 9.5194, "accuracy": 4.0}
                await driver.report(fix(self._fixes, fix_time=self._begin + self._fixes * STEP_MS, **place))
                await driver.acknowledged(self._fixes)

    async def _look(self) -> None:
        async with Dispatcher(self._url, self.fleet_id) as screen:
            await screen.look(9.4, 47.0, 9.6, 47.2)
            while True:
                message = await screen.receive()
                if message["type"] == "event":
                    self._told_events[message["event_id"]] += 1
                    if self._told_events[message["event_id"]] > 1:
                        self.faults.append(f"a screen was told event {message['event_id']} twice")

    async def _read_unread(self, driver: Socket, texts: set[str]) -> None:
        """Checks that a driver that has just connected gets each unread message once."""
        seen: Counter[str] = Counter()
        while len(seen) < len(texts):
            seen[(await driver.expect("message"))["text"]] += 1
        self._hold("driver, unread", seen, Counter(dict.fromkeys(texts, 1)))
        self._told_driver |= texts

    # --- the books ----------------------------------------------------------------------------------------------------

    async def wrongs(self) -> list[str]:
        """Errors: what the log lacks, has twice, or has differently from the tables, and what clients were wrongly told."""
        async with self._connection() as connection:
            log = await connection.fetch("SELECT kind, subject, public, internal FROM changes ORDER BY number")
            found = [
                *self.faults,
                *await self._wrong_trips(connection, log),
                *await self._wrong_things(connection, log),
                *await self._wrong_counts(connection, log),
            ]
            texts = {row["text"] for row in await connection.fetch("SELECT text FROM messages")}
        if texts != self._told_driver:
            found.append(f"messages that the driver was not told, or that are none: {texts ^ self._told_driver}")
        return found

    async def _wrong_trips(self, connection: Connection, log: list[asyncpg.Record]) -> list[str]:
        """Checks that each version of a trip is in the log once, in order."""
        versions: dict[str, list[int]] = {}
        for row in log:
            if row["kind"] in ("trip.created", "trip.changed"):
                versions.setdefault(row["subject"], []).append(row["public"]["version"])
        return [
            f"trip {trip_id} is at version {version}, the log says {versions.get(trip_id)}"
            for trip_id, version in await connection.fetch("SELECT trip_id, version FROM trips")
            if versions.get(trip_id) != list(range(1, version + 1))
        ]

    async def _wrong_things(self, connection: Connection, log: list[asyncpg.Record]) -> list[str]:
        """Checks that vehicles and geofences are as the last row of the log says."""
        plates: dict[str, str] = {}
        fences: dict[str, Message] = {}
        for row in log:
            match row["kind"]:
                case "vehicle.changed":
                    plates[row["subject"]] = row["public"]["plate"]
                case "geofence.changed":
                    fences[row["subject"]] = row["public"]["properties"]
                case "geofence.deleted":
                    fences.pop(row["subject"], None)
        stored = [
            (plates, await _by_id(connection, "SELECT vehicle_id, plate FROM vehicles")),
            (fences, await _by_id(connection, "SELECT geofence_id, properties FROM geofences")),
        ]
        return [f"the log says {said}, stored is {there}" for said, there in stored if said != there]

    async def _wrong_counts(self, connection: Connection, log: list[asyncpg.Record]) -> list[str]:
        """Checks that each message, revoked token and event is in the log once."""
        found = []
        for what, said, query in (
            (
                "message",
                [r["internal"]["message"] for r in log if r["kind"] == "message.posted"],
                "SELECT message FROM messages",
            ),
            ("token", [r["subject"] for r in log if r["kind"] == "token.revoked"], "SELECT jti FROM revoked_tokens"),
            ("event", [r["internal"]["event"] for r in log if r["kind"].startswith("event.")], "SELECT event FROM events"),
        ):
            stored = {row[0] for row in await connection.fetch(query)}
            missing, twice = stored.difference(said), [one for one, count in Counter(said).items() if count > 1]
            if missing or twice or not stored:
                found.append(f"of {len(stored)} {what}s the log lacks {missing}, has twice {twice}")
        return found


async def _by_id(connection: Connection, query: str) -> dict[str, Any]:
    return {row[0]: row[1] for row in await connection.fetch(query)}


def _feature(geometry: Any, **properties: str) -> Message:
    return {"type": "Feature", "geometry": geometry, "properties": properties}
