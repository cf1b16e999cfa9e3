"""What a principal may see of a trip, as `GET /v1/trips/{trip_id}/access` says: the other routes do the same."""

import pytest

from tests.support.clients import Api, Message, token
from tests.support.hub_process import HubProcess
from tests.trust.asking import connect
from tests.trust.worlds import STEPS
from tracking.model import TripStatus


@pytest.mark.parametrize("status", TripStatus)
async def test_it_says_what_the_other_routes_do(hub: HubProcess, api: Api, status: TripStatus) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    await api.advance(trip_id, *STEPS[status])
    for role, subject in (
        ("service", None),
        ("operator", None),
        ("dispatcher", fleet_id),
        ("dispatcher", "another"),
        ("driver", vehicle_id),
        ("driver", "another"),
        ("passenger", trip_id),
        ("passenger", "another"),
    ):
        params = {"role": role} if subject is None else {"role": role, "subject": subject}
        told = await api.call("GET", f"/trips/{trip_id}/access", **params)
        assert {**params, "trip_id": trip_id, "status": status}.items() <= told.items()
        bearer = token(role, subject)
        headers = {"Authorization": f"Bearer {bearer}"}
        shown = await api.http.get(f"/trips/{trip_id}", headers=headers)
        track = await api.http.get(f"/trips/{trip_id}/track", headers=headers)
        live = await connect(f"{hub.url}/v1/trips/{trip_id}/live", bearer)
        assert told["knows"] == (shown.status_code == 200), role
        sees = {name: sight["may"] for name, sight in told["sees"].items()}
        assert sees == {
            "live": live.outcome == "yes",
            "vehicle": "vehicle" in shown.json(),
            "position": track.status_code == 200,
        }, role
        assert all(sight["rule"] for sight in told["sees"].values())


async def test_the_rule_is_given_as_a_sentence(api: Api) -> None:
    _, trip_id = await api.under_way()
    passenger = await api.call("GET", f"/trips/{trip_id}/access", role="passenger", subject=trip_id)
    assert passenger["rule"] == "a passenger knows the one trip that its token names"
    assert passenger["sees"]["position"] == {
        "may": True,
        "rule": "a passenger sees positions and the track while the trip is"
        " enroute_to_pickup, arrived_at_pickup, enroute_to_dropoff, arrived_at_stop",
    }
    other = await api.call("GET", f"/trips/{trip_id}/access", role="passenger", subject="another")
    assert other["sees"]["live"] == {
        "may": False,
        "rule": "it does not know the trip: a passenger knows the one trip that its token names",
    }


async def test_a_request_without_a_principal_is_refused(api: Api) -> None:
    _, trip_id = await api.under_way()
    questions: list[tuple[Message, str]] = [
        ({}, "role"),
        ({"role": "admin"}, "role"),
        ({"role": "driver"}, "subject"),
        ({"role": "passenger", "subject": "x" * 300}, "subject"),
    ]
    for params, field in questions:
        refusal = await api.call("GET", f"/trips/{trip_id}/access", expect=422, **params)
        assert refusal["error"]["field"] == field
