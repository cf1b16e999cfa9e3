"""Rows 34, 38 and 39: what belongs to another looks as if it did not exist."""

import asyncio

import asyncpg
import pytest
import websockets

from tests.support.clients import Api, Driver, Message, Socket, fix, new_id, token
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster


class Other:
    """Another fleet with a vehicle, a trip and a share."""

    def __init__(self, fleet_id: str, vehicle_id: str, trip_id: str, share_id: str) -> None:
        self.fleet_id, self.vehicle_id, self.trip_id, self.share_id = fleet_id, vehicle_id, trip_id, share_id


@pytest.fixture(scope="session")
async def other(hub: HubProcess, api: Api) -> Other:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
    fleet = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
    share = await api.call("POST", f"/trips/{trip_id}/shares", {})
    return Other(fleet, vehicle_id, trip_id, share["share_id"])


PLACE = {"latitude": 47, "longitude": 9}
REQUESTS: list[tuple[str, str, Message | None]] = [
    ("GET", "/fleets/{fleet_id}", None),
    ("GET", "/fleets/{fleet_id}/vehicles", None),
    ("GET", "/fleets/{fleet_id}/trips", None),
    ("GET", "/fleets/{fleet_id}/trips?status=new", None),
    ("GET", "/vehicles/{vehicle_id}", None),
    ("PUT", "/vehicles/{vehicle_id}", {"fleet_id": "{own_fleet}", "name": "mine"}),
    ("PUT", "/vehicles/{vehicle_id}", {"fleet_id": "{fleet_id}", "name": "theirs"}),
    ("PUT", "/fleets/{fleet_id}", {"name": "mine"}),
    ("PUT", "/fleets/{fleet_id}/geofences/yard", {"type": "Feature"}),
    ("GET", "/fleets/{fleet_id}/geofences", None),
    ("GET", "/fleets/{fleet_id}/geofences/yard", None),
    ("DELETE", "/fleets/{fleet_id}/geofences/yard", None),
    ("GET", "/fleets/{fleet_id}/events", None),
    ("GET", "/fleets/{own_fleet}/events?vehicle_id={vehicle_id}", None),
    ("POST", "/trips", {"fleet_id": "{fleet_id}", "pickup": PLACE, "dropoff": PLACE}),
    ("GET", "/vehicles/{vehicle_id}/days", None),
    ("GET", "/trips/{trip_id}/summary", None),
    ("DELETE", "/vehicles/{vehicle_id}", None),
    ("GET", "/vehicles/{vehicle_id}/track", None),
    ("GET", "/vehicles/{vehicle_id}/track?format=csv", None),
    ("GET", "/vehicles/{vehicle_id}/track?format=nonsense", None),
    ("GET", "/trips/{trip_id}", None),
    ("GET", "/trips/{trip_id}/track", None),
    ("GET", "/trips/{trip_id}/track?format=nonsense", None),
    ("PATCH", "/trips/{trip_id}", {"status": "canceled", "version": 2}),
    ("PATCH", "/trips/{trip_id}", {"status": "canceled", "version": 99}),
    ("PATCH", "/trips/{trip_id}", {"vehicle_id": "none", "version": 2}),
    ("DELETE", "/trips/{trip_id}", None),
    ("GET", "/trips/{trip_id}/shares", None),
    ("POST", "/trips/{trip_id}/shares", {"expires_in": 60}),
    ("DELETE", "/shares/{share_id}", None),
]


@pytest.mark.parametrize("method, path, body", REQUESTS, ids=[f"{method} {path}" for method, path, _ in REQUESTS])
async def test_rows_34_38_39_missing_and_forbidden_are_the_same_bytes(
    api: Api, fleet_id: str, other: Other, method: str, path: str, body: Message | None
) -> None:
    """For every role, status, bytes and headers for a foreign thing are those for a missing thing."""
    own_trip = (await api.trip(fleet_id, None))["trip_id"]
    own_vehicle = await api.vehicle(fleet_id)
    before = await api.call("GET", f"/trips/{other.trip_id}")
    # As long as the real ids, so that their length makes no difference.
    names = {"fleet_id": new_id("fleet"), "vehicle_id": new_id("van"), "trip_id": "x" * 22, "share_id": "x" * 22}
    asked = []
    for of in (vars(other), names):
        written = {
            name: value.format(**of, own_fleet=fleet_id) if isinstance(value, str) else value
            for name, value in (body or {}).items()
        }
        asked.append((path.format(**of, own_fleet=fleet_id), written if body is not None else None))
    for role, subject in (
        ("dispatcher", fleet_id),
        ("passenger", own_trip),
        ("driver", own_vehicle),
        ("operator", None),
    ):
        headers = {"Authorization": f"Bearer {token(role, subject)}"}
        answers = [await api.http.request(method, path, json=body, headers=headers) for path, body in asked]
        assert answers[0].content == answers[1].content, role
        assert answers[0].status_code == answers[1].status_code
        assert {**answers[0].headers, "date": ""} == {**answers[1].headers, "date": ""}
        # A role that may do this to its own things gets 404. A role that never may gets 403.
        if "own_fleet" not in path or role != "dispatcher":
            assert answers[0].status_code in ((404,) if role == "dispatcher" else (403, 404))
            assert "error" in answers[0].json()
    assert await api.call("GET", f"/trips/{other.trip_id}") == before
    assert (await api.call("GET", f"/vehicles/{other.vehicle_id}"))["fleet_id"] == other.fleet_id
    assert (await api.http.get(f"/vehicles/{names['vehicle_id']}")).status_code == 404, "a dispatcher creates no new ids"


async def test_row_34_a_dispatcher_does_not_wait_for_a_vehicle_of_another_fleet(
    hub: HubProcess, api: Api, fleet_id: str, other: Other, cluster: Cluster
) -> None:
    """Waiting would reveal that the vehicle exists, and delay those who change it."""
    headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    connection = await asyncpg.connect(cluster.url("shared"))
    async with asyncio.timeout(5), connection.transaction():
        await connection.execute("SELECT FROM vehicles WHERE vehicle_id = $1 FOR UPDATE", other.vehicle_id)
        trip = {"fleet_id": fleet_id, "vehicle_id": other.vehicle_id, "pickup": PLACE, "dropoff": PLACE}
        for method, path, body in (
            ("PUT", f"/vehicles/{other.vehicle_id}", {"fleet_id": fleet_id}),
            ("DELETE", f"/vehicles/{other.vehicle_id}", None),
            ("POST", "/trips", trip),
        ):
            assert (await api.http.request(method, path, json=body, headers=headers)).status_code == 404
    await connection.close()


async def test_a_dispatcher_changes_vehicles_and_only_a_backend_creates_them(api: Api, fleet_id: str) -> None:
    headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    vehicle_id = new_id("van")
    body = {"fleet_id": fleet_id, "name": "Van 7", "kind": "van", "plate": "FL 7"}
    assert (await api.http.put(f"/vehicles/{vehicle_id}", json=body, headers=headers)).status_code == 404
    assert (await api.http.put(f"/vehicles/{vehicle_id}", json=body)).status_code == 201
    changed = await api.http.put(f"/vehicles/{vehicle_id}", json={**body, "name": "Van 8"}, headers=headers)
    assert (changed.status_code, changed.json()["name"]) == (200, "Van 8")


async def test_row_39_a_dispatcher_cannot_take_a_vehicle_of_another_fleet(api: Api, fleet_id: str, other: Other) -> None:
    """Neither by moving it nor by giving it a trip. A missing vehicle looks the same."""
    headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
    body = {"fleet_id": fleet_id, "name": "mine now"}
    assert (await api.http.put(f"/vehicles/{other.vehicle_id}", json=body, headers=headers)).status_code == 404
    body = {"fleet_id": other.fleet_id, "name": "planted"}
    assert (await api.http.put(f"/vehicles/{new_id('van')}", json=body, headers=headers)).status_code == 404
    place = {"latitude": 47, "longitude": 9}
    missing = "van-000000000000"
    answers = []
    for vehicle_id in (other.vehicle_id, missing):
        trip = {"fleet_id": fleet_id, "vehicle_id": vehicle_id, "pickup": place, "dropoff": place}
        answers.append(await api.http.post("/trips", json=trip, headers=headers))
    own = await api.trip(fleet_id, None)
    for vehicle_id in (other.vehicle_id, missing):
        change = {"vehicle_id": vehicle_id, "version": own["version"]}
        answers.append(await api.http.patch(f"/trips/{own['trip_id']}", json=change, headers=headers))
    assert {answer.status_code for answer in answers} == {404}
    assert answers[0].text.replace(other.vehicle_id, missing) == answers[1].text
    assert answers[2].text.replace(other.vehicle_id, missing) == answers[3].text
    trip = {"fleet_id": other.fleet_id, "pickup": place, "dropoff": place}
    assert (await api.http.post("/trips", json=trip, headers=headers)).status_code == 404
    assert (await api.call("GET", f"/vehicles/{other.vehicle_id}"))["fleet_id"] == other.fleet_id


async def test_row_34_on_sockets_missing_and_forbidden_are_the_same_close(
    hub: HubProcess, api: Api, fleet_id: str, other: Other
) -> None:
    own_trip = (await api.trip(fleet_id, None))["trip_id"]
    strangers = [
        token("passenger", own_trip),
        token("dispatcher", fleet_id),
        token("driver", await api.vehicle(fleet_id)),
        token("operator"),
    ]
    for bearer in strangers:
        seen = set()
        for trip_id in (other.trip_id, "x" * 22, "x", "%F0%9F%98%80", "x" * 2_000):
            for query in ("", "?epoch=x&offset=0"):
                async with Socket(f"{hub.url}/v1/trips/{trip_id}/live{query}", bearer) as socket:
                    with pytest.raises(websockets.ConnectionClosed):
                        await socket.receive()
                    seen.add((socket.connection.close_code, socket.connection.close_reason))
        assert len(seen) == 1, seen
        assert seen.pop()[0] == 4502


async def test_row_34_ids_from_the_hub_are_unguessable(api: Api, fleet_id: str) -> None:
    """At least 128 random bits: 22 characters of 6 bits, each of which changes."""
    trips = [(await api.trip(fleet_id, None))["trip_id"] for _ in range(8)]
    shares = [(await api.call("POST", f"/trips/{trips[0]}/shares", {}))["share_id"] for _ in range(8)]
    tokens = [(await api.call("POST", "/tokens", {"role": "operator"}))["jti"] for _ in range(8)]
    for ids in (trips, shares, tokens):
        assert len(set(ids)) == 8
        assert all(len(id_) >= 22 for id_ in ids)
        assert all(len({id_[place] for id_ in ids}) > 1 for place in range(21))


async def test_row_38_a_passenger_gets_nothing_of_a_fleet(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """Not even of its own fleet, vehicle and trip."""
    vehicle_id = await api.vehicle(fleet_id)
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    headers = {"Authorization": f"Bearer {token('passenger', trip_id)}"}
    place = {"latitude": 47, "longitude": 9}
    for method, path, body in (
        ("GET", f"/fleets/{fleet_id}", None),
        ("GET", f"/fleets/{fleet_id}/vehicles", None),
        ("GET", f"/fleets/{fleet_id}/trips", None),
        ("PUT", f"/fleets/{fleet_id}", {"name": "x"}),
        ("GET", f"/vehicles/{vehicle_id}", None),
        ("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id}),
        ("DELETE", f"/vehicles/{vehicle_id}", None),
        ("GET", f"/vehicles/{vehicle_id}/track", None),
        ("POST", "/trips", {"fleet_id": fleet_id, "pickup": place, "dropoff": place}),
        ("PATCH", f"/trips/{trip_id}", {"status": "canceled", "version": 1}),
        ("DELETE", f"/trips/{trip_id}", None),
        ("GET", f"/trips/{trip_id}/shares", None),
        ("POST", f"/trips/{trip_id}/shares", {}),
        ("POST", "/tokens", {"role": "service"}),
        ("DELETE", "/tokens/none", None),
    ):
        response = await api.http.request(method, path, json=body, headers=headers)
        assert response.status_code in (403, 404), (method, path)
        assert vehicle_id not in response.text
    assert (await api.http.get(f"/trips/{trip_id}", headers=headers)).status_code == 200
