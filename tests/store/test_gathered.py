"""Many questions in one query: each gets its own answer, whatever happens to the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.ingest.direct import a_recorder
from tests.support.clients import new_id
from tests.support.devices import until
from tests.support.hub_process import SECRET
from tests.support.live_state import NothingElse
from tracking.auth import Auth, Principal, Role
from tracking.budgets import Budget
from tracking.cluster.homes import Homes
from tracking.config import Rate, load
from tracking.errors import StoreUnavailable
from tracking.ingest.vehicles import IngestVehicles
from tracking.live.follower import Follower
from tracking.live.hub import Hub
from tracking.live_state.applying import LiveState
from tracking.model import Fleet, Place, Vehicle, system_clock
from tracking.monitor.events import Events
from tracking.monitor.monitor import Monitor
from tracking.monitor.states import AlertStates
from tracking.nodes.node import this_node
from tracking.nodes.nodes import Nodes
from tracking.services.messages import Messages
from tracking.services.trips import Trips
from tracking.store import fleets, messages, trips, vehicles
from tracking.store.gathered import AT_ONCE, Gathered
from tracking.store.marks import Marks
from tracking.store.pool import Connection, Database


class Asked:
    """Answers with the number doubled. Holds each answer back until it is released."""

    def __init__(self) -> None:
        self.questions: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, keys: list[int]) -> dict[int, int]:
        self.questions.append(keys)
        await self.go.wait()
        if 13 in keys:
            raise ValueError("13 can't be asked for")
        if 99 in keys:
            raise StoreUnavailable("away")
        return {key: 2 * key for key in keys if key >= 0}


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_asked_meanwhile_is_asked_together() -> None:
    asked = Asked()
    gathered = Gathered(asked, most=4)
    first = asyncio.create_task(gathered.get(1))
    await settled()
    others = [asyncio.create_task(gathered.get(key)) for key in (1, 2, 3, 2, -4, 5)]
    await settled()
    assert asked.questions == [[1]]
    asked.go.set()
    # 1 is asked again, because the first query may have begun before the change.
    assert await asyncio.gather(first, *others) == [2, 2, 4, 6, 4, None, 10]
    assert asked.questions == [[1], [1, 2, 3, -4], [5]]
    assert await gathered.get(7) == 14


async def test_one_that_can_not_be_asked_for_spoils_no_other() -> None:
    asked = Asked()
    asked.go.set()
    gathered = Gathered(asked)
    found = await asyncio.gather(*(gathered.get(key) for key in (12, 13, 14)), return_exceptions=True)
    assert (found[0], found[2]) == (24, 28)
    assert isinstance(found[1], ValueError)


async def test_while_the_store_is_away_nobody_waits_for_the_others_timeouts() -> None:
    asked = Asked()
    asked.go.set()
    gathered = Gathered(asked, most=1)
    found = await asyncio.gather(*(gathered.get(key) for key in (99, 1, 2)), return_exceptions=True)
    assert [type(error) for error in found] == [StoreUnavailable] * 3
    assert len(asked.questions) == 1
    assert await gathered.get(1) == 2


async def test_nobody_waits_long_for_a_question_that_gets_no_answer() -> None:
    stuck = asyncio.Event()
    questions: list[list[int]] = []

    async def ask(keys: list[int]) -> dict[int, int]:
        questions.append(keys)
        if len(questions) < AT_ONCE or 0 in keys:
            await stuck.wait()
        return {key: 2 * key for key in keys}

    gathered = Gathered(ask, slow=0.01)
    slow = [asyncio.create_task(gathered.get(0))]
    await settled()
    # The same key later is another query.
    slow.append(asyncio.create_task(gathered.get(0)))
    await until(lambda: len(questions) == 2, "it is asked beside the first", 5)
    async with asyncio.timeout(5):
        assert [await gathered.get(key) for key in (1, 2)] == [2, 4]
    assert questions == [[0], [0], [1], [2]]
    # If so many are slow, no further query begins.
    slow += [asyncio.create_task(gathered.get(key)) for key in (0, 3)]
    await until(lambda: len(questions) == 5, "there is room for a third", 5)
    slow.append(asyncio.create_task(gathered.get(4)))
    assert await asyncio.wait(slow, timeout=0.05) == (set(), set(slow))
    assert questions[4:] == [[0, 3]]
    stuck.set()
    assert await asyncio.gather(*slow) == [0, 0, 0, 6, 8]


async def test_who_goes_takes_nobodys_answer_along() -> None:
    asked = Asked()
    gathered = Gathered(asked)
    goes, stays = (asyncio.create_task(gathered.get(1)) for _ in range(2))
    await settled()
    goes.cancel()
    asked.go.set()
    assert await stays == 2
    with pytest.raises(asyncio.CancelledError):
        await goes


class Counted(Database):
    """Counts how often a connection is taken."""

    uses = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        self.uses += 1
        async with super().connection() as connection:
            yield connection


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Counted]:
    database = Counted(database_url)
    await database.open()
    yield database
    await database.close()


def new_hub() -> Hub:
    return Hub(system_clock, keep_seconds=300, keep_bytes=10**6, linger=1, interval_watched=1, interval_trip=1, interval_idle=1)


def new_follower(database: Database, ingest_vehicles: IngestVehicles) -> Follower[Any]:
    hub = new_hub()
    auth = Auth(load(jwt_secret=SECRET))
    events = Events(database, hub.fleets)
    monitor = Monitor(database, hub.fleets, AlertStates(), events, system_clock, gone_after=3_600)
    nothing_else = NothingElse()
    live = LiveState(ingest_vehicles, hub, monitor, nothing_else, auth, system_clock, nothing_else, nothing_else)
    return Follower(database, database, Marks(), live)


def new_messages(database: Database, follower: Follower[Any]) -> Messages:
    budget = Budget("messages", "messages", Rate(100, 100), system_clock)
    return Messages(follower, database, system_clock, budget=budget, most_unread=100)


def new_homes(database: Database, ingest_vehicles: IngestVehicles) -> Homes:
    hub = new_hub()
    monitor = Monitor(database, hub.fleets, AlertStates(), Events(database, hub.fleets), system_clock, gone_after=3_600)
    nodes = Nodes(this_node("", 0))
    return Homes(database, ingest_vehicles, hub, a_recorder(database, rows=1), monitor, nodes, system_clock, lambda _: None)


async def nothing() -> None: ...


async def test_a_storm_of_drivers_is_a_few_questions_and_a_return_none(database: Counted) -> None:
    names = [new_id("van") for _ in range(100)]
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        for name in names:
            await vehicles.put(connection, Vehicle(name, "fleet"))
    ingest_vehicles = IngestVehicles(database, system_clock, nothing)
    messaging = new_messages(database, new_follower(database, ingest_vehicles))
    homes = new_homes(database, ingest_vehicles)
    database.uses = 0

    async def come(name: str) -> int:
        vehicle = await ingest_vehicles.load(name)
        assert vehicle is not None
        assert vehicle.vehicle_id == name
        if not messaging.none_unread(vehicle):
            assert await messaging.unread(vehicle) == []
        session = await homes.open_session(vehicle, "session")
        assert session is not None
        return session.number

    numbers = await asyncio.gather(*(come(name) for name in names))
    assert len(set(numbers)) == 100
    assert database.uses <= 20
    assert await ingest_vehicles.load("none") is None
    assert await ingest_vehicles.load("a\0b") is None
    database.uses = 0
    assert await asyncio.gather(*(come(name) for name in names)) == numbers
    assert database.uses == 0
    # A hub that has just started finds the same.
    ingest_vehicles = IngestVehicles(database, system_clock, nothing)
    homes = new_homes(database, ingest_vehicles)
    assert await asyncio.gather(*(come(name) for name in names)) == numbers


async def test_a_driver_who_returns_is_told_what_was_written_meanwhile(database: Counted) -> None:
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        stored, _ = await vehicles.put(connection, Vehicle("van", "fleet"))
        place = Place(47, 9)
        await vehicles.put(connection, Vehicle("other", "fleet"))
        await trips.insert(
            connection,
            trip_id="trip",
            fleet_id="fleet",
            vehicle=stored.number,
            pickup=place,
            dropoff=place,
            stops=(),
            route=None,
            now=system_clock(),
        )
    ingest_vehicles = IngestVehicles(database, system_clock, nothing)
    follower = new_follower(database, ingest_vehicles)
    following = asyncio.create_task(follower.run())
    messaging = new_messages(database, follower)
    await follower.begin()
    vehicle = await ingest_vehicles.load("van")
    assert vehicle is not None
    assert not messaging.none_unread(vehicle)
    assert await messaging.unread(vehicle) == []
    assert messaging.none_unread(vehicle)
    await messaging.from_passenger(Principal(Role.PASSENGER, "trip", "jti", 2**52), "trip", "1", "I am at the back door")
    assert not messaging.none_unread(vehicle)
    assert [message.text for message in await messaging.unread(vehicle)] == ["I am at the back door"]
    assert not messaging.none_unread(vehicle)
    # After the trip got another vehicle, that vehicle's driver gets the messages.
    vehicle.read = vehicle.posted
    async with database.connection() as connection:
        found = await messages.unread_by_drivers(connection, [(stored.number, 0), (-1, 0)], 10)
    assert list(found) == [(stored.number, 0)]
    await Trips(follower, system_clock, per_fleet=10, per_vehicle=10).change("trip", allowed=lambda _: True, vehicle_id="other")
    assert not messaging.none_unread(vehicle)
    assert await messaging.unread(vehicle) == []
    following.cancel()
