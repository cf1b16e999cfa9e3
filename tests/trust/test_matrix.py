"""Role by status by door: every route of the application, with every kind of token, in every status of the trip.

What is expected stands in `docs/SECURITY-MODEL.md`, and nowhere else. A route that has no row there fails the first test.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
import websockets
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from tests.support.clients import Api, Driver, Message, Socket, fix, new_id, token
from tests.support.hub_process import SECRET
from tests.support.serving import serving
from tests.trust.matrix import HEADING, PAGE, Cell, Door, read_table
from tests.trust.test_who_may import OTHER_SECRET, signed
from tracking.app import create_app
from tracking.config import load
from tracking.demo.postgres import Cluster
from tracking.model import TripStatus

TABLE = read_table()
DOORS = [door for door in TABLE if door.seen is None]
SEEN = {door.name: [row for row in TABLE if row.seen and (row.method, row.path) == (door.method, door.path)] for door in DOORS}
MISSING = "missing"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

STEPS = {
    TripStatus.NEW: (),
    TripStatus.ENROUTE_TO_PICKUP: ("enroute_to_pickup",),
    TripStatus.ARRIVED_AT_PICKUP: ("enroute_to_pickup", "arrived_at_pickup"),
    TripStatus.ENROUTE_TO_DROPOFF: ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff"),
    TripStatus.ARRIVED_AT_STOP: ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "arrived_at_stop"),
    TripStatus.COMPLETE: ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "complete"),
    TripStatus.CANCELED: ("enroute_to_pickup", "canceled"),
}
"""How a trip comes to each status."""

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""What every answer of the API has among its headers."""

LATER: set[tuple[str, str, str]] = set()
"""Cells (door, column, status or missing) that are known to be wrong still. One that is right fails, to be taken out."""


# --- the stage ------------------------------------------------------------------------------------------------------


class World(NamedTuple):
    """A fleet with a trip in one status, and who belongs to it: by column of the table the tokens."""

    status: TripStatus
    ids: dict[str, str]
    version: int
    tokens: dict[str, list[str]]


class Stage(NamedTuple):
    url: str
    api: Api
    worlds: list[World]
    strangers: World
    """whose tokens are of another fleet, vehicle and trip"""
    refused: dict[str, str]
    """tokens that open nothing, by what is wrong with them"""

    @property
    def not_under_way_and_under_way(self) -> list[World]:
        """One of each: enough for what does not depend on the status."""
        return [self.worlds[0], self.worlds[1]]


async def a_trip(api: Api, url: str, fleet_id: str, status: TripStatus) -> tuple[Message, str, list[Message]]:
    """A trip in that status with its vehicle, which reported a place if it got under way, and two shares of it."""
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    shares = [await api.call("POST", f"/trips/{trip['trip_id']}/shares", {}) for _ in range(2)]
    for number, step in enumerate(STEPS[status]):
        trip = await api.advance(trip["trip_id"], step)
        if number == 0:
            async with Driver(url, vehicle_id) as driver:
                await driver.report(fix(1), fix(2))
                await driver.acknowledged(2)
    return trip, vehicle_id, shares


async def a_world(api: Api, url: str, status: TripStatus) -> World:
    fleet_id = await api.fleet()
    trip, vehicle_id, (share, thrown_away) = await a_trip(api, url, fleet_id, status)
    spare = await api.vehicle(fleet_id)
    issued = await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": spare})
    ids = {
        "fleet_id": fleet_id,
        "vehicle_id": vehicle_id,
        "trip_id": trip["trip_id"],
        "share_id": thrown_away["share_id"],
        "geofence_id": "fence",
        "jti": issued["jti"],
    }
    await api.call("PUT", f"/fleets/{fleet_id}/geofences/fence", FENCE)
    tokens = {
        "service": [token("service")],
        "dispatcher": [token("dispatcher", fleet_id)],
        "driver": [token("driver", vehicle_id)],
        "other driver": [token("driver", spare)],
        "passenger": [token("passenger", trip["trip_id"]), share["token"]],
        "operator": [token("operator")],
    }
    return World(status, ids, trip["version"], tokens)


@pytest.fixture(scope="module")
async def stage(cluster: Cluster, template: str) -> AsyncIterator[Stage]:
    cluster.create_database("matrix", template)
    settings = load(database_url=cluster.url("matrix"), jwt_secret=SECRET, ack_interval=0, summary_delay=0.2)
    async with serving(create_app(settings), lifespan="on") as served, Api(served.url) as api:
        *worlds, strangers = await asyncio.gather(
            *(a_world(api, served.url, status) for status in [*TripStatus, TripStatus.ENROUTE_TO_PICKUP])
        )
        for world in worlds:
            for column in ("dispatcher", "passenger"):
                world.tokens[f"other {column}"] = strangers.tokens[column]
            world.tokens["other driver"] += strangers.tokens["driver"]
        revoked = await api.call("POST", "/tokens", {"role": "service"})
        await api.call("DELETE", f"/tokens/{revoked['jti']}")
        expired = int(time.time()) - 1
        refused = {
            "expired": signed(exp=expired),
            "expired share": signed(role="passenger", trip_id=worlds[1].ids["trip_id"], share_id="s", exp=expired),
            "revoked": revoked["token"],
            "signed by somebody else": signed(OTHER_SECRET),
            "an unknown role": signed(role="viewers"),
            "no role": signed(role=None),
        }
        for world in worlds:
            if world.status.over:
                summary = f"/trips/{world.ids['trip_id']}/summary"

                async def summed_up(summary: str = summary) -> bool:
                    return (await api.http.get(summary)).status_code == 200

                while not await summed_up():
                    pass
        yield Stage(served.url, api, worlds, strangers, refused)


# --- how each door is called ----------------------------------------------------------------------------------------

FENCE = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [[[9.5, 47.1], [9.6, 47.1], [9.6, 47.2], [9.5, 47.1]]]},
    "properties": {},
}
PLACE = {"latitude": 47.1, "longitude": 9.5}


class Asking(NamedTuple):
    """What a request is made of: the ids for its path, the trip's version, and the fleet of the dispatcher who asks."""

    ids: dict[str, str]
    version: int
    fleet_id: str


BODIES: dict[str, Callable[[Asking], Any]] = {
    "POST /v1/tokens": lambda asking: {"role": "operator"},
    "PUT /v1/fleets/{fleet_id}": lambda asking: {"name": "Test fleet"},
    "PUT /v1/fleets/{fleet_id}/geofences/{geofence_id}": lambda asking: FENCE,
    "PUT /v1/vehicles/{vehicle_id}": lambda asking: {"fleet_id": asking.fleet_id},
    "POST /v1/trips": lambda asking: {"fleet_id": asking.ids["fleet_id"], "pickup": PLACE, "dropoff": PLACE},
    "PATCH /v1/trips/{trip_id}": lambda asking: {"version": asking.version},
    "POST /v1/trips/{trip_id}/shares": lambda asking: {},
}
"""Bodies of the doors that want one; such that the world is afterwards as it was, but for what is made anew."""
QUERIES = {"GET /v1/trips/{trip_id}/access": "?role=passenger&subject=x"}
NAMED_IN_BODY = {"POST /v1/trips": "fleet_id"}
"""Doors whose body names a thing that may be missing."""


async def throwaway(stage: Stage, door: Door, world: World) -> dict[str, str]:
    """Things to be removed, for who may remove them."""
    ids = world.ids
    match door.method, door.path:
        case "DELETE", "/v1/trips/{trip_id}":
            trip, _, _ = await a_trip(stage.api, stage.url, ids["fleet_id"], world.status)
            return {**ids, "trip_id": trip["trip_id"]}
        case "DELETE", "/v1/vehicles/{vehicle_id}":
            return {**ids, "vehicle_id": await stage.api.vehicle(ids["fleet_id"])}
        case "DELETE", "/v1/fleets/{fleet_id}/geofences/{geofence_id}":
            await stage.api.call("PUT", f"/fleets/{ids['fleet_id']}/geofences/other", FENCE)
            return {**ids, "geofence_id": "other"}
    return ids


def missing(ids: dict[str, str], door: Door) -> dict[str, str] | None:
    """The same ids, but what the door is to is not there. As long as the real ones. None where it names nothing."""
    named = [name for name in ids if f"{{{name}}}" in door.path] or [*filter(None, [NAMED_IN_BODY.get(door.name)])]
    if not named:
        return None
    first, _, _ = ids[named[0]].partition("-")
    other = new_id(first) if named[0] in ("fleet_id", "vehicle_id") else "x" * len(ids[named[0]])
    return {**ids, named[0]: other}


class Answer(NamedTuple):
    """How it ended: `yes`, or the status or close code; what was said, and all that must not differ."""

    outcome: str
    said: Any
    bytes: Any


async def ask(stage: Stage, door: Door, asking: Asking, bearer: str | None, method: str | None = None) -> Answer:
    path = door.path.format(**asking.ids) + QUERIES.get(door.name, "")
    if door.method == "SOCKET":
        return await connect(f"{stage.url}{path}", bearer)
    body = BODIES.get(door.name)
    # An empty `Authorization` is none, and keeps out the client's own.
    headers = {"Authorization": f"Bearer {bearer}" if bearer is not None else ""}
    request = httpx.Request(
        method or door.method, f"{stage.url}{path}", headers=headers, json=body(asking) if body is not None else None
    )
    response = await stage.api.http.send(request)
    if door.path.startswith("/v1/"):
        lacking = {name: value for name, value in HEADERS.items() if response.headers.get(name) != value}
        assert not lacking, f"{door.name} answered without {lacking}"
    is_json = response.headers.get("content-type", "").startswith("application/json") and response.content
    headers = {name: value for name, value in response.headers.items() if name not in ("date", "server")}
    outcome = "yes" if response.is_success else str(response.status_code)
    return Answer(outcome, response.json() if is_json else None, (response.status_code, response.content, headers))


async def connect(url: str, bearer: str | None) -> Answer:
    """`yes` is to be told what the socket is for."""
    async with Socket(url, bearer) as socket:
        try:
            if "/fleets/" in url:
                with contextlib.suppress(websockets.ConnectionClosed):
                    await socket.send({"type": "viewport", "bounds": [9, 47, 10, 48], "zoom": 12})
            said = await socket.expect("welcome", "snapshot", "fleet_snapshot")
        except websockets.ConnectionClosed:
            code, reason = socket.connection.close_code, socket.connection.close_reason
            return Answer(str(code), None, (code, reason))
    return Answer("yes", said, said)


def sees(what: str, said: Any) -> str:
    """Whether what was said tells it: `yes` or `no`."""
    if said is None:
        return "no"
    if what == "its vehicle":
        return "yes" if said.get("trip", said).get("vehicle") else "no"
    if what == "its position":
        return "yes" if said.get("position") and said["track"] else "no"
    raise AssertionError(f"{PAGE.name} has a row for what is seen, `… {what}`: say in `sees` how that is found in an answer")


# --- the doors are those of the application -------------------------------------------------------------------------


def routes_of(routes: Iterable[BaseRoute], below: str = "") -> Iterator[tuple[str, str]]:
    """Each route of the application as a method, SOCKET or FILES, and a path."""
    for route in routes:
        if isinstance(route, Mount):
            if isinstance(route.app, StaticFiles):
                yield "FILES", below + route.path
            elif route.routes:
                yield from routes_of(route.routes, below + route.path)
            else:
                yield "UNKNOWN", below + route.path
        elif isinstance(route, WebSocketRoute):
            yield "SOCKET", below + route.path
        elif isinstance(route, Route):
            for method in route.methods or {"ANY"}:
                if method != "HEAD":
                    yield method, below + route.path
        else:
            yield "UNKNOWN", below + getattr(route, "path", repr(route))


def _application() -> Any:
    return create_app(load(database_url="postgresql:///none", jwt_secret=SECRET))


def strange_routes(routes: Iterable[BaseRoute]) -> list[str]:
    """A sentence for each route that the table does not know."""
    known = {(door.method, door.path) for door in DOORS}
    return [
        f"`{method} {path}` is a door that nobody said who may use: add its row to `{HEADING[3:]}` in docs/{PAGE.name},"
        " and the body or query it needs to tests/trust/test_matrix.py"
        for method, path in sorted(set(routes_of(routes)) - known)
        if not (method == "FILES" and (path == "/web" or path.startswith("/web/")))
    ]


def test_every_route_is_a_door_that_the_table_knows() -> None:
    routes = _application().routes
    strange = strange_routes(routes)
    assert not strange, "\n".join(strange)
    gone = [door.name for door in DOORS if (door.method, door.path) not in set(routes_of(routes))]
    assert not gone, f"docs/{PAGE.name} has rows for doors that are no more: {gone}"


async def _nothing(*_: Any) -> None: ...


@pytest.mark.parametrize(
    "route",
    [
        Route("/v1/secrets", _nothing, methods=["GET"]),
        Route("/v1/trips/{trip_id}", _nothing, methods=["POST"]),
        Route("/v1/anything", _nothing, methods=None),
        WebSocketRoute("/v1/ops/live", _nothing),
        Mount("/v2", routes=[Mount("/deep", routes=[Route("/er", _nothing)])]),
        Mount("/other", app=_nothing),
        Mount("/files", app=StaticFiles(directory=".")),
    ],
    ids=lambda route: route.path,
)
def test_a_route_that_is_added_is_missed_in_the_table(route: Route | WebSocketRoute | Mount) -> None:
    [strange] = strange_routes([*_application().routes, route])
    assert route.path in strange and "add its row" in strange


# --- the cells ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_each_token_may_do_what_the_table_says(stage: Stage, door: Door) -> None:
    wrong: list[str] = []
    right_already: list[str] = []

    def judge(column: str, case: str, what: str, expected: str, outcome: str) -> None:
        if (door.name, column, case) in LATER:
            if outcome == expected:
                right_already.append(f"{door.name} x {column} x {case}")
        elif outcome != expected:
            wrong.append(f"{what} x {column} x {case}: {outcome}, and the table says {expected}")

    async def try_in(column: str, cell: Cell, world: World, number: int, *, there: bool) -> tuple[int, str, Answer]:
        bearer = _tokens(world, column)[number]
        expected = cell.by_status[world.status] if there else _without_it(door, cell)
        ids = world.ids
        if not there:
            ids = missing(ids, door) or ids
        elif expected == "yes":
            ids = await throwaway(stage, door, world)
        answer = await ask(stage, door, Asking(ids, world.version, _fleet_of(stage, column, world)), bearer)
        case = world.status if there else MISSING
        judge(column, case, door.name, expected, answer.outcome)
        if there:
            for row in SEEN[door.name]:
                judge(column, case, row.name, row.cells[column].by_status[world.status], sees(row.seen or "", answer.said))
        return number, case, answer

    names_something = missing(stage.worlds[0].ids, door) is not None
    for column, cell in door.cells.items():
        # What there is not is in no status: two worlds are enough for it.
        tried = await asyncio.gather(
            *(
                try_in(column, cell, world, number, there=there)
                for there, worlds in (
                    (True, stage.worlds),
                    (False, stage.not_under_way_and_under_way if names_something else []),
                )
                for world in worlds
                for number in range(len(_tokens(world, column)))
            )
        )
        alike: dict[int, dict[str, str]] = {}
        for number, case, answer in tried:
            if cell.refused and (door.name, column, case) not in LATER:
                alike.setdefault(number, {})[str(answer.bytes)] = case
        wrong += [
            f"{door.name} x {column}: what is there and what is not differ: {tell}" for tell in alike.values() if len(tell) > 1
        ]
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert not right_already, f"right now, take them out of LATER: {sorted(set(right_already))}"


def _tokens(world: World, column: str) -> list[str | None]:
    return [None] if column == "none" else [*world.tokens[column]]


def _fleet_of(stage: Stage, column: str, world: World) -> str:
    """The fleet that a token would put a vehicle into: a dispatcher its own."""
    return stage.strangers.ids["fleet_id"] if column == "other dispatcher" else world.ids["fleet_id"]


def _without_it(door: Door, cell: Cell) -> str:
    """What happens where the thing does not exist."""
    if cell.also_new:
        return "yes"
    if cell.refused:
        return cell.refused
    return "4502" if door.method == "SOCKET" else "404"


CLOSED = {"expired": "4405", "revoked": "4503", "expired share": "4503"}
"""How sockets end whose token is not good; any other with 4500."""


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
async def test_a_token_that_is_not_good_opens_nothing(stage: Stage, door: Door) -> None:
    world = stage.worlds[1]
    public = door.cells["none"].refused is None
    for ids in filter(None, (world.ids, missing(world.ids, door))):
        for why, bearer in stage.refused.items():
            answer = await ask(stage, door, Asking(ids, world.version, ids["fleet_id"]), bearer)
            expected = "yes" if public else CLOSED.get(why, "4500") if door.method == "SOCKET" else "401"
            assert answer.outcome == expected, (door.name, why)


@pytest.mark.parametrize("door", [door for door in DOORS if door.method == "GET"], ids=lambda door: door.name)
async def test_head_is_as_get(stage: Stage, door: Door) -> None:
    for world in stage.not_under_way_and_under_way:
        for column, cell in door.cells.items():
            for bearer in _tokens(world, column)[:1]:
                answer = await ask(stage, door, Asking(world.ids, world.version, world.ids["fleet_id"]), bearer, "HEAD")
                assert answer.outcome == cell.by_status[world.status], (column, world.status)
                assert answer.bytes[1] == b""


@pytest.mark.parametrize("path", sorted({door.path for door in DOORS if door.method != "SOCKET"}))
async def test_any_other_method_is_a_405_whoever_asks(stage: Stage, path: str) -> None:
    world = stage.worlds[1]
    known = {door.method for door in DOORS if door.path == path}
    for method in set(METHODS) - known - ({"HEAD"} if "GET" in known else set()):
        answers = set()
        for bearer in (None, *world.tokens["service"], *world.tokens["passenger"][:1]):
            door = Door(method, path, None, {})
            answer = await ask(stage, door, Asking(world.ids, world.version, ""), bearer)
            assert answer.outcome == "405", method
            answers.add(str(answer.bytes))
        assert len(answers) == 1
