"""A request to each endpoint of the table, and its answer."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import websockets

from tests.support.clients import Socket, new_id
from tests.trust.matrix import PAGE, Endpoint
from tests.trust.worlds import FENCE, MatrixHub, World, a_trip

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Every answer of the API has these."""
PLACE = {"latitude": 47.1, "longitude": 9.5}


class Asking(NamedTuple):
    """What a request contains: the ids of its path, the trip's version, and the fleet of the dispatcher who asks."""

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
"""Bodies of the endpoints that need one. They leave the world as it was, apart from what they create."""
QUERIES = {"GET /v1/trips/{trip_id}/access": "?role=passenger&subject=x"}
NAMED_IN_BODY = {"POST /v1/trips": "fleet_id"}
"""Endpoints whose body names a thing that may be missing."""


async def something_to_remove(matrix_hub: MatrixHub, endpoint: Endpoint, world: World) -> dict[str, str]:
    """The ids of something that a request may remove."""
    ids = world.ids
    match endpoint.method, endpoint.path:
        case "DELETE", "/v1/trips/{trip_id}":
            trip, _, _ = await a_trip(matrix_hub.api, matrix_hub.url, ids["fleet_id"], world.status)
            return {**ids, "trip_id": trip["trip_id"]}
        case "DELETE", "/v1/vehicles/{vehicle_id}":
            return {**ids, "vehicle_id": await matrix_hub.api.vehicle(ids["fleet_id"])}
        case "DELETE", "/v1/fleets/{fleet_id}/geofences/{geofence_id}":
            await matrix_hub.api.call("PUT", f"/fleets/{ids['fleet_id']}/geofences/other", FENCE)
            return {**ids, "geofence_id": "other"}
    return ids


def missing(ids: dict[str, str], endpoint: Endpoint) -> dict[str, str] | None:
    """The same ids, but the thing that the endpoint names does not exist. None if the endpoint names nothing."""
    named = [name for name in ids if f"{{{name}}}" in endpoint.path] or [*filter(None, [NAMED_IN_BODY.get(endpoint.name)])]
    if not named:
        return None
    first, _, _ = ids[named[0]].partition("-")
    other = new_id(first) if named[0] in ("fleet_id", "vehicle_id") else "x" * len(ids[named[0]])
    return {**ids, named[0]: other}


class Answer(NamedTuple):
    """`outcome` is `yes`, the status or the close code. `bytes` must not tell a missing thing from a forbidden one."""

    outcome: str
    said: Any
    bytes: Any


async def ask(
    matrix_hub: MatrixHub, endpoint: Endpoint, asking: Asking, bearer: str | None, method: str | None = None
) -> Answer:
    path = endpoint.path.format(**asking.ids) + QUERIES.get(endpoint.name, "")
    if endpoint.method == "SOCKET":
        return await connect(f"{matrix_hub.url}{path}", bearer)
    body = BODIES.get(endpoint.name)
    # An empty `Authorization` counts as none, and replaces that of the client.
    headers = {"Authorization": f"Bearer {bearer}" if bearer is not None else ""}
    request = httpx.Request(
        method or endpoint.method, f"{matrix_hub.url}{path}", headers=headers, json=body(asking) if body is not None else None
    )
    response = await matrix_hub.api.http.send(request)
    if endpoint.path.startswith("/v1/"):
        missing_headers = {name: value for name, value in HEADERS.items() if response.headers.get(name) != value}
        assert not missing_headers, f"{endpoint.name} answered without {missing_headers}"
    is_json = response.headers.get("content-type", "").startswith("application/json") and response.content
    headers = {name: value for name, value in response.headers.items() if name not in ("date", "server")}
    outcome = "yes" if response.is_success else str(response.status_code)
    return Answer(outcome, response.json() if is_json else None, (response.status_code, response.content, headers))


async def connect(url: str, bearer: str | None) -> Answer:
    """`yes` if the hub sends the first message of the socket."""
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
    """Whether an answer shows this: `yes` or `no`."""
    if said is None:
        return "no"
    if what == "its vehicle":
        return "yes" if said.get("trip", said).get("vehicle") else "no"
    if what == "its position":
        return "yes" if said.get("position") and said["track"] else "no"
    raise AssertionError(f"{PAGE.name} has a row `… {what}`: add to `sees` how an answer shows it")
