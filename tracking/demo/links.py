"""Prints links to the demo: to passengers' pages of trips under way, and to the dispatcher's page."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from tracking.errors import ConfigError

FLEET = "demo"
SHOWCASE = "demo-01"
OTHERS_SHOWN = 2
LINK_SECONDS = 86_400
UNDER_WAY = ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "arrived_at_stop")
READY_SECONDS = 60.0
LOOK_SECONDS = 0.5


def say(line: str) -> None:
    """Print at once, also into a pipe. A pipe without a reader means that the demo should stop."""
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.kill(os.getpid(), signal.SIGTERM)


class Links:
    """Prints a link to the showcase vehicle's trip, and to its next trip after that. The fleet and some others are printed
    once.
    """

    def __init__(
        self,
        http: httpx.Client,
        *,
        since: float = 0.0,
        around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """Trips made before `since` (an instant) belong to an earlier run and will be canceled. Requests are made inside
        `around()`.
        """
        self._http = http
        self._since = since
        self._around = around
        self._fleet_shown = False
        self._origin = ""
        self._shown: str | None = None
        self._others: set[str] = set()
        self._patience = time.monotonic() + READY_SECONDS

    def look(self) -> None:
        """Look for changes and print new links. Call it repeatedly."""
        if self._shown is not None and self._is_over(self._shown):
            say("That trip is over; the next one:")
            self._shown, self._patience = None, time.monotonic() + READY_SECONDS
        if self._shown is None or len(self._others) < OTHERS_SHOWN:
            trips = self._trips_under_way()
            if self._shown is None and SHOWCASE in trips and self._print("Passenger", trips[SHOWCASE]):
                self._shown = trips[SHOWCASE]
            if self._shown is not None:
                self._fleet_shown = self._fleet_shown or self._print_fleet()
                self._print_others(trips)
        if self._shown is None and time.monotonic() > self._patience:
            say(f"No trip of {SHOWCASE} is under way: still waiting. The drivers' log tells why.")
            self._patience += READY_SECONDS

    def _print_fleet(self) -> bool:
        asked = {"role": "dispatcher", "fleet_id": FLEET, "expires_in": LINK_SECONDS}
        made = self._ask("POST", "/v1/tokens", json=asked)
        if made is None:
            return False
        say(f"Dispatcher: {self._origin}/fleet/{FLEET}#{made['token']}")
        return True

    def _print_others(self, trips: Mapping[str, str]) -> None:
        for vehicle in [vehicle for vehicle in trips if vehicle not in {SHOWCASE, *self._others}]:
            if len(self._others) < OTHERS_SHOWN and self._print(f"Passenger of {vehicle}", trips[vehicle]):
                self._others.add(vehicle)

    def _print(self, whose: str, trip_id: str) -> bool:
        share = self._ask("POST", f"/v1/trips/{trip_id}/shares", json={"expires_in": LINK_SECONDS})
        if share is None:
            return False
        # People may reach the hub by another address than ours.
        self._origin = share["url"].partition("/trip/")[0]
        say(f"{whose}: {share['url']}")
        return True

    def _is_over(self, trip_id: str) -> bool:
        trip = self._ask("GET", f"/v1/trips/{trip_id}")
        return trip is not None and trip["status"] in ("complete", "canceled")

    def _trips_under_way(self) -> dict[str, str]:
        """vehicle -> trip"""
        found: dict[str, str] = {}
        for status in UNDER_WAY:
            answer = self._ask("GET", f"/v1/fleets/{FLEET}/trips", params={"status": status})
            for trip in answer["trips"] if answer else []:
                if trip.get("vehicle") and trip["created_at"] >= self._since:
                    found[trip["vehicle"]["vehicle_id"]] = trip["trip_id"]
        return dict(sorted(found.items()))

    def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any] | None:
        """An answer of the hub; None if it is busy or the thing is gone."""
        try:
            with self._around():
                response = self._http.request(method, path, **arguments)
        except httpx.TransportError:
            return None
        if response.is_success:
            answer: dict[str, Any] = response.json()
            return answer
        if response.status_code >= 500 or response.status_code in (404, 409, 429):
            return None
        raise ConfigError(f"the hub refuses {method} {path}: {response.status_code} {response.text.strip()[:500]}")


def print_links(hub: str) -> None:
    """Print links of a demo whose parts run in containers, for ever. TRACKING_SERVICE_TOKEN has the token."""
    token = os.environ["TRACKING_SERVICE_TOKEN"]
    with httpx.Client(base_url=hub, timeout=5.0, headers={"Authorization": f"Bearer {token}"}) as http:
        links = Links(http)
        while True:
            links.look()
            time.sleep(LOOK_SECONDS)
