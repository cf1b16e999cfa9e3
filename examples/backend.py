"""A backend: makes a fleet, a vehicle and a trip, issues their tokens, and follows the trip's status."""

import os
import random
import time
from typing import Any

import httpx

HUB = os.environ.get("HUB", "http://127.0.0.1:8000")
http = httpx.Client(base_url=f"{HUB}/v1/", headers={"Authorization": f"Bearer {os.environ['TOKEN']}"}, timeout=40)


def ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return http.request(method, path, json=body).raise_for_status().json()


ask("PUT", "fleets/example", {"name": "Example"})
ask("PUT", "vehicles/example-1", {"fleet_id": "example", "name": "Taxi 1", "kind": "car", "plate": "FL 70001"})
cursor = ask("GET", "fleets/example/changes")["last"]
pickup, dropoff = {"latitude": 47.1410, "longitude": 9.5209}, {"latitude": 47.1420, "longitude": 9.5213, "name": "Town hall"}
trip = ask("POST", "trips", {"fleet_id": "example", "vehicle_id": "example-1", "pickup": pickup, "dropoff": dropoff})
print("driver:", ask("POST", "tokens", {"role": "driver", "vehicle_id": "example-1"})["token"])
print("passenger:", ask("POST", f"trips/{trip['trip_id']}/shares", {})["url"])
print("status:", trip["status"], flush=True)
while trip["status"] not in ("complete", "canceled"):
    try:
        answer = ask("GET", f"fleets/example/changes?after={cursor}&wait=30")  # held until there is something
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in (429, 502, 503, 504):
            raise
        time.sleep(random.uniform(0.5, 3))
        continue
    cursor = answer["last"]
    for change in answer["changes"]:
        if change["type"] == "trip.changed" and change["data"]["trip_id"] == trip["trip_id"]:
            trip = change["data"]
            print("status:", trip["status"], flush=True)
