"""Play a recorded drive to a hub as if it happened now."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from driver_sim.backend import Backend, for_each
from driver_sim.client import DriverClient
from driver_sim.close_codes import NORMAL
from driver_sim.outbox import MemoryOutbox
from driver_sim.tracks import BadRow, Row, TrackError, read
from tracking.model import Clock, Place, TripStatus, Vehicle, system_clock


class Interrupted(Exception):
    """The replay was stopped before its first row."""


class Recording(NamedTuple):
    """The good rows in the order of the file, and the bad ones."""

    rows: list[Row]
    bad: list[BadRow]

    @property
    def vehicle_ids(self) -> list[str]:
        return list(dict.fromkeys(row.vehicle_id for row in self.rows))

    def of(self, vehicle_id: str) -> "Recording":
        """The rows of one vehicle. A file with a single vehicle counts as this one. Raises `TrackError` if neither fits."""
        theirs = self.vehicle_ids
        if vehicle_id in theirs:
            return self._replace(rows=[row for row in self.rows if row.vehicle_id == vehicle_id])
        if len(theirs) == 1:
            return self._replace(rows=[row._replace(vehicle_id=vehicle_id) for row in self.rows])
        raise TrackError(
            f"the file holds {len(theirs)} vehicles and {vehicle_id} is none of them ({', '.join(theirs[:5])}, …): name one "
            "of these, or leave --vehicle out and give a service token to make them all"
        )

    def shortened(self, longest: float) -> "Recording":
        """Gaps in which no vehicle reports are cut to `longest` seconds, so that nobody waits for a night to pass."""
        rows: list[Row] = []
        taken = 0
        latest = self.rows[0].due
        for row in self.rows:
            due = row.due - taken
            excess = due - latest - round(longest * 1000)
            if excess > 0:
                taken += excess
                due -= excess
            latest = max(latest, due)
            rows.append(row._replace(due=due, time=row.time - taken))
        return self._replace(rows=rows)


class Summary(NamedTuple):
    """What happened to the rows.

    `rejected` counts fixes by code. `lost` says by vehicle why clients left for good. `left` counts the rows that were never
    reported, because the replay was stopped or every client had left.
    """

    sent: int
    acknowledged: int
    rejected: Counter[str]
    bad: int
    lost: dict[str, str]
    left: int = 0

    @property
    def complete(self) -> bool:
        return self.left == 0 and self.sent == self.acknowledged + self.rejected.total()

    def __str__(self) -> str:
        text = f"sent {self.sent}, acknowledged {self.acknowledged}, rejected {self.rejected.total()}"
        if self.rejected:
            text += " (" + ", ".join(f"{code} {count}" for code, count in sorted(self.rejected.items())) + ")"
        text += f", bad rows {self.bad}"
        waiting = self.sent - self.acknowledged - self.rejected.total()
        if waiting:
            text += f", NOT acknowledged {waiting}"
        if self.left:
            text += f", not sent {self.left}"
        return "; ".join([text, *(f"{who} {why}" for who, why in self.lost.items())])


class Timing:
    """When a row is reported, and with which `fix_time`.

    `speed` 1.0: the first fix is now, and the others follow as they were recorded. 2.0: all in half of the time, fix times
    included. None: all at once, as a backlog whose last fix is now. A later one would lie in the future, and be rejected.
    """

    def __init__(self, rows: Sequence[Row], speed: float | None, now: int) -> None:
        self._speed = speed
        self._now = now
        self._from = rows[0].due if speed is not None else max(row.due for row in rows)

    def due(self, row: Row) -> int:
        """The instant at which to report a row."""
        return self._now if self._speed is None else self._now + round((row.due - self._from) / self._speed)

    def fix_time(self, row: Row) -> int:
        return self._now + round((row.time - self._from) / (self._speed or 1.0))

    def velocity(self, row: Row) -> float | None:
        """A row's speed at this pace."""
        return row.speed if row.speed is None or self._speed is None else row.speed * self._speed


def record(path: Path, say: Callable[[str], None]) -> Recording:
    """Read a whole file, and pass a line for each bad row to `say`. Raises `TrackError`, also if no row is good."""
    recording = Recording([], [])
    for row in read(path):
        if isinstance(row, BadRow):
            say(f"{path.name}, line {row.line}: {row.reason}; skipped")
            recording.bad.append(row)
        else:
            recording.rows.append(row)
    if not recording.rows:
        raise TrackError(f"{path.name} has no usable row")
    return recording


async def replay(
    recording: Recording,
    clients: dict[str, DriverClient],
    *,
    speed: float | None,
    stopping: asyncio.Event,
    clock: Clock = system_clock,
    progress: bool = True,
) -> Summary:
    """Report every row through its vehicle's client, wait for all acknowledgements, and sum up.

    The clients must not run yet. `stopping` ends the replay early. The summary then has what was reported.
    """
    rejected: Counter[str] = Counter()
    for client in clients.values():
        client.callbacks = replace(client.callbacks, on_rejected=lambda rejection: rejected.update((rejection.code,)))
    running = {vehicle_id: asyncio.ensure_future(client.run()) for vehicle_id, client in clients.items()}
    stop = asyncio.ensure_future(stopping.wait())
    ready = [asyncio.ensure_future(client.connected.wait()) for client in clients.values()]
    sent = 0
    with tqdm(total=len(recording.rows), unit="fix", disable=not progress) as bar:
        try:
            for waiting, task in zip(ready, running.values(), strict=True):
                await asyncio.wait((waiting, task, stop), return_when=asyncio.FIRST_COMPLETED)
            timing = Timing(recording.rows, speed, clock())
            for row in recording.rows:
                wait = timing.due(row) - clock()
                if wait > 0:
                    await asyncio.wait((stop,), timeout=wait / 1000.0)
                elif sent % 500 == 0:
                    await asyncio.sleep(0)
                if stop.done() or all(task.done() for task in running.values()):
                    break
                _report(clients[row.vehicle_id], row, timing)
                sent += 1
                bar.update()
            bar.set_description_str("waiting for acknowledgements", refresh=True)
            draining = asyncio.gather(*(client.drained() for client in clients.values()), return_exceptions=True)
            await asyncio.wait((draining, stop), return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await draining
        finally:
            for client in clients.values():
                client.stop()
            for waiting in (stop, *ready):
                waiting.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)
    waiting_still = sum(len(client.outbox) for client in clients.values())
    endings = {vehicle_id: task.result() for vehicle_id, task in running.items()}
    lost = {
        vehicle_id: f"left for good, {ending.code}: {ending.reason}"
        for vehicle_id, ending in endings.items()
        if ending.code != NORMAL
    }
    return Summary(
        sent, sent - waiting_still - rejected.total(), rejected, len(recording.bad), lost, len(recording.rows) - sent
    )


@contextlib.asynccontextmanager
async def own_fleet(
    backend: Backend, hub: str, fleet: str, recording: Recording, say: Callable[[str], None], stopping: asyncio.Event
) -> AsyncIterator[dict[str, DriverClient]]:
    """Make a fleet, and a vehicle, a trip and a client for each vehicle of the recording. End the trips afterwards.

    A trip leads from the vehicle's first place to its last. It is under way from the start, so that every fix belongs to it.
    Raises `Interrupted` if `stopping` is set before all are made.
    """
    await backend.put_fleet(fleet, f"Replay {fleet}")
    theirs = frozenset(recording.vehicle_ids)
    first: dict[str, Row] = {}
    last: dict[str, Row] = {}
    for row in recording.rows:
        if abs(row.latitude) <= 90.0 and abs(row.longitude) <= 180.0:
            first.setdefault(row.vehicle_id, row)
            last[row.vehicle_id] = row
    clients: dict[str, DriverClient] = {}
    trips: dict[str, str] = {}

    async def make(vehicle_id: str) -> None:
        # An exception would cancel what is half made, and its trip would never be ended.
        if stopping.is_set():
            return
        await backend.put_vehicle(Vehicle(vehicle_id, fleet, vehicle_id, "car", ""))
        client = clients[vehicle_id] = DriverClient(hub, MemoryOutbox(), await backend.driver_token(vehicle_id))
        if vehicle_id in first:
            trip = await backend.create_trip(fleet, vehicle_id, _place(first[vehicle_id]), _place(last[vehicle_id]))
            trips[vehicle_id] = trip.trip_id
            for status in (TripStatus.ENROUTE_TO_PICKUP, TripStatus.ARRIVED_AT_PICKUP, TripStatus.ENROUTE_TO_DROPOFF):
                client.advance(trip.trip_id, status)

    async def end(trip_id: str) -> None:
        trip = await backend.trip(trip_id)
        if not trip.status.over:
            done = TripStatus.COMPLETE if trip.status is TripStatus.ENROUTE_TO_DROPOFF else TripStatus.CANCELED
            await backend.change(trip, done)

    await backend.cancel_left_over(fleet, theirs.__contains__)
    try:
        await for_each(recording.vehicle_ids, make)
        if len(clients) < len(theirs):
            raise Interrupted("stopped before the first row was sent")
        say(f"fleet {fleet}: {len(clients)} vehicles, {len(trips)} trips")
        yield clients
    finally:
        await for_each(trips.values(), end)


def _report(client: DriverClient, row: Row, timing: Timing) -> None:
    client.report(
        row.latitude,
        row.longitude,
        fix_time=timing.fix_time(row),
        accuracy=row.accuracy,
        altitude=row.altitude,
        speed=timing.velocity(row),
        bearing=row.bearing,
    )


def _place(row: Row) -> Place:
    return Place(row.latitude, row.longitude)
