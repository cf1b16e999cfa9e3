"""An integrator's backend: its requests to the hub over HTTP, with a service token."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx
import msgspec

from driver_sim.backoff import Backoff, full_jitter
from driver_sim.roads import Point
from tracking.model import Place, TripStatus, Vehicle
from tracking.protocol.http import TripView

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

_UNAVAILABLE = frozenset({429, 500, 502, 503, 504})


class BackendError(Exception):
    """The hub refused a request. `status` is that of HTTP, `code` that of the protocol (empty if the answer had none)."""

    def __init__(self, what: str, status: int, code: str, detail: str) -> None:
        super().__init__(f"{what}: {status} {code}: {detail}")
        self.status = status
        self.code = code


class Backend:
    """Fleets, vehicles, trips and tokens. A request is repeated while the hub is away (no connection, 429, 5xx).

    After `attempts` failures the last one is raised. None: never. Raises `BackendError` for a refusal.
    """

    def __init__(
        self,
        hub: str,
        service_token: str,
        *,
        backoff: Backoff | None = None,
        attempts: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._backoff = backoff or full_jitter(first=0.5, longest=10.0)
        self._attempts = attempts
        self._http = httpx.AsyncClient(
            base_url=hub.rstrip("/") + "/v1",
            headers={"Authorization": f"Bearer {service_token}"},
            timeout=timeout,
            # A proxy of the environment is meant for the internet, not for the hub.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def put_fleet(self, fleet_id: str, name: str, thresholds: Mapping[str, float] | None = None) -> None:
        await self._ask("PUT", f"/fleets/{fleet_id}", {"name": name, **(thresholds or {})})

    async def put_geofence(self, fleet_id: str, geofence_id: str, feature: Mapping[str, Any]) -> None:
        """`feature`: GeoJSON, a Polygon or MultiPolygon."""
        await self._ask("PUT", f"/fleets/{fleet_id}/geofences/{geofence_id}", feature)

    async def put_vehicle(self, vehicle: Vehicle) -> None:
        body = {"fleet_id": vehicle.fleet_id, "name": vehicle.name, "kind": vehicle.kind, "plate": vehicle.plate}
        await self._ask("PUT", f"/vehicles/{vehicle.vehicle_id}", body)

    async def driver_token(self, vehicle_id: str, expires_in: int = 12 * 3600) -> str:
        """A token for this vehicle's driver, valid for `expires_in` seconds."""
        body = {"role": "driver", "vehicle_id": vehicle_id, "expires_in": expires_in}
        return str((await self._ask("POST", "/tokens", body))["token"])

    async def create_trip(
        self,
        fleet_id: str,
        vehicle_id: str,
        pickup: Place,
        dropoff: Place,
        stops: Sequence[Place] = (),
        route: Sequence[Point] = (),
    ) -> TripView:
        """`route`: the planned way, as `(latitude, longitude)`."""
        body: dict[str, Any] = {
            "fleet_id": fleet_id,
            "vehicle_id": vehicle_id,
            "pickup": msgspec.to_builtins(pickup),
            "dropoff": msgspec.to_builtins(dropoff),
        }
        if stops:
            body["stops"] = [msgspec.to_builtins(stop) for stop in stops]
        if len(route) > 1:
            body["route"] = line_string(route)
        return msgspec.convert(await self._ask("POST", "/trips", body), TripView)

    async def trips(self, fleet_id: str, status: TripStatus) -> list[TripView]:
        """The fleet's trips with this status."""
        answer = await self._ask("GET", f"/fleets/{fleet_id}/trips", parameters={"status": status.value})
        return msgspec.convert(answer["trips"], list[TripView])

    async def trip(self, trip_id: str) -> TripView:
        return msgspec.convert(await self._ask("GET", f"/trips/{trip_id}"), TripView)

    async def change(self, trip: TripView, status: TripStatus) -> bool:
        """False if somebody else has changed or ended the trip since `trip` was read."""
        try:
            await self._ask("PATCH", f"/trips/{trip.trip_id}", {"status": status.value, "version": trip.version})
        except BackendError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def cancel_left_over(self, fleet_id: str, mine: Callable[[str], bool]) -> int:
        """Cancel every trip that is not over and whose vehicle is `mine`. Returns how many."""
        canceled = 0
        for status in TripStatus:
            if status.over:
                continue
            for trip in await self.trips(fleet_id, status):
                if isinstance(trip.vehicle, msgspec.UnsetType) or not mine(trip.vehicle.vehicle_id):
                    continue
                canceled += await self.change(trip, TripStatus.CANCELED)
        return canceled

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, parameters: Mapping[str, str] | None = None
    ) -> Any:
        attempt = 0
        while True:
            failure: Exception
            try:
                answer = await self._http.request(method, path, json=body, params=parameters)
            except httpx.TransportError as error:
                failure = error
            else:
                if answer.is_success:
                    return answer.json() if answer.content else {}
                failure = _refusal(f"{method} {path}", answer)
                if answer.status_code not in _UNAVAILABLE:
                    raise failure
            attempt += 1
            if self._attempts is not None and attempt >= self._attempts:
                raise failure
            logger.info("%s %s: %s; trying again", method, path, failure or type(failure).__name__)
            await asyncio.sleep(self._backoff(attempt))


async def for_each(things: Iterable[Thing], act: Callable[[Thing], Awaitable[None]], at_once: int = 8) -> None:
    """Call `act` on all `things`, `at_once` at a time. The first failure is raised, and the rest is cancelled."""
    gate = asyncio.Semaphore(at_once)

    async def one(thing: Thing) -> None:
        async with gate:
            await act(thing)

    tasks = [asyncio.ensure_future(one(thing)) for thing in things]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def line_string(points: Sequence[Point]) -> dict[str, Any]:
    """A GeoJSON LineString, precise to a decimetre, without repeated points."""
    coordinates: list[list[float]] = []
    for latitude, longitude in points:
        place = [round(longitude, 6), round(latitude, 6)]
        if not coordinates or place != coordinates[-1]:
            coordinates.append(place)
    return {"type": "LineString", "coordinates": coordinates}


def _refusal(what: str, answer: httpx.Response) -> BackendError:
    try:
        error = answer.json()["error"]
        return BackendError(what, answer.status_code, str(error["code"]), str(error["detail"]))
    except (ValueError, KeyError, TypeError):
        return BackendError(what, answer.status_code, "", answer.text[:200])
