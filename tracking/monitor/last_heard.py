"""When each vehicle of the fleets in memory was last heard of, and which of them have been silent for too long."""

from collections.abc import Callable

from tracking.live.fleet import LiveVehicle
from tracking.live.fleets import Fleets
from tracking.model import EventKind
from tracking.monitor.alerts import Alerts
from tracking.monitor.rules import Alert
from tracking.monitor.states import AlertStates

FindsEventsOf = Callable[[LiveVehicle], bool]
"""Whether this hub tells events of a vehicle. Its home tells them if that is another hub."""
SWEEP_MS = 1_000
PAUSE_MS = 10_000
"""A longer time between two sweeps means that the clock was set, or that this process stood still."""
LOOK_AFTER_MS = 10_000
"""Each vehicle is checked at least this often: its fleet, or its fleet's threshold, may change."""


class LastHeard:
    """Checks each vehicle in the second in which it will have been silent for too long.

    `gone_after_ms` is how long a vehicle may be silent before it leaves its fleet's map.
    """

    def __init__(
        self, fleets: Fleets, states: AlertStates, alerts: Alerts, finds_events_of: FindsEventsOf, *, gone_after_ms: int
    ) -> None:
        self._finds_events_of = finds_events_of
        self._fleets = fleets
        self._states = states
        self._alerts = alerts
        self.gone_after_ms = gone_after_ms
        self._due: dict[int, list[LiveVehicle]] = {}
        """Vehicles to check, by the second in which they may have fallen silent."""
        self._swept = 0

    def fall_silent(self, vehicle: LiveVehicle) -> None:
        """Marks the vehicle as silent. Tells nobody."""
        self._states[vehicle].silent = vehicle.lost = True
        vehicle.feed.restate(vehicle)

    def is_due(self, now: int) -> bool:
        """Whether it is time for a sweep."""
        return now - self._swept >= SWEEP_MS or now < self._swept

    def sweep(self, now: int) -> None:
        """Finds the vehicles that have been silent for too long, and tells of them."""
        if self._swept and not 0 <= now - self._swept < PAUSE_MS:
            self._resume(now, now - self._swept)
        self._swept = now
        heard_meanwhile = {vehicle for vehicle, _ in self._fleets.moves}
        for second in [second for second in self._due if second <= now // 1000]:
            for vehicle in self._due.pop(second):
                state = self._states.get(vehicle)
                if state is None or state.due != second:
                    # It was forgotten, or the check is another one: its home was elsewhere in between.
                    continue
                state.due = 0
                if vehicle in heard_meanwhile:
                    self.look_after(vehicle)
                else:
                    self._check_silence(vehicle, now)

    def look_after(self, vehicle: LiveVehicle) -> None:
        """Schedules the check of this vehicle."""
        state = self._states[vehicle]
        assert state.heard is not None
        lost = state.silent or (vehicle.lost and not self._finds_events_of(vehicle))
        after = self.gone_after_ms if lost else int(vehicle.feed.fleet.signal_lost_after * 1000)
        second = max(min(state.heard + after, self._swept + LOOK_AFTER_MS), self._swept) // 1000 + 1
        state.due = second
        self._due.setdefault(second, []).append(vehicle)

    def _resume(self, now: int, gap: int) -> None:
        """The gap counts as no silence: nobody could be heard in it, or the clock was set."""
        everyone = [vehicle for vehicles in self._due.values() for vehicle in vehicles]
        self._due = {now // 1000: everyone}
        for vehicle in everyone:
            state = self._states.get(vehicle)
            if state is not None and state.heard is not None:
                state.due = now // 1000
                state.heard = min(state.heard + gap, now)

    def _check_silence(self, vehicle: LiveVehicle, now: int) -> None:
        state, feed = self._states[vehicle], vehicle.feed
        assert state.heard is not None
        if not feed.loaded:
            # Its moves wait to be judged.
            state.heard = now
        silent_for = now - state.heard
        ours = self._finds_events_of(vehicle)
        if (state.silent or not ours) and silent_for >= self.gone_after_ms:
            feed.leave(vehicle)
            return
        if silent_for >= feed.fleet.signal_lost_after * 1000:
            if ours and not state.silent:
                self.fall_silent(vehicle)
                self._alerts.tell(vehicle, vehicle.position, Alert(EventKind.SIGNAL_LOST))
            elif not ours and not vehicle.lost:
                # Its home tells of it, or `silence` if that hub is dead.
                vehicle.lost = True
                feed.restate(vehicle)
        self.look_after(vehicle)
