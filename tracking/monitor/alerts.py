"""Turns alerts of vehicles into events, and hands them to `Events` to be stored."""

from collections.abc import Iterator

from tracking.live.fleet import LiveVehicle
from tracking.model import Clock, Event, EventKind, Position
from tracking.monitor.events import Emitted, Events
from tracking.monitor.rules import LATE_MS, Alert

_OF_THE_SIGNAL = (EventKind.SIGNAL_LOST, EventKind.SIGNAL_BACK)


def old_after(signal_lost_after: float) -> float:
    """A position that was older than this (ms) on arrival does not say where the vehicle is now.

    `signal_lost_after` is the threshold of the vehicle's fleet.
    """
    return max(LATE_MS, signal_lost_after * 1000)


class Alerts:
    """`tell` makes an event of an alert."""

    def __init__(self, events: Events, clock: Clock) -> None:
        self._events = events
        self._clock = clock

    def tell_all(self, vehicle: LiveVehicle, position: Position, alerts: Iterator[Alert]) -> None:
        for alert in list(alerts):
            self.tell(vehicle, position, alert)

    def tell(self, vehicle: LiveVehicle, position: Position | None, alert: Alert) -> None:
        trip_id = vehicle.trip.trip_id if vehicle.trip is not None and vehicle.trip.status.under_way else None
        late = False
        if position is not None:
            # A signal is lost or back now by the hub's clock, unless the position was old on arrival.
            of_the_signal = alert.kind in _OF_THE_SIGNAL
            late = vehicle.age_of(position) > (old_after(vehicle.feed.fleet.signal_lost_after) if of_the_signal else LATE_MS)
            if late:
                # Its trip may not be in memory any more. The position names the trip, so the store is not asked.
                trip_id = position.trip_id or None
        event = Event(
            event_id=0,
            kind=alert.kind,
            vehicle_id=vehicle.vehicle.vehicle_id,
            server_time=self._clock(),
            geofence_id=alert.geofence_id,
            fix_time=position.fix_time if position is not None else None,
            latitude=position.latitude if position is not None else None,
            longitude=position.longitude if position is not None else None,
            trip_id=trip_id,
            speed=alert.speed,
            limit=alert.limit,
            late=late,
        )
        number = position.vehicle if position is not None else None
        self._events.add(Emitted(vehicle.feed, vehicle.feed.fleet.fleet_id, vehicle, number, event))
