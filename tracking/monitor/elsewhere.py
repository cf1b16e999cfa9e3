"""Vehicles whose home is another hub: they are shown where their home or the store says, and no events are made of them."""

from tracking.live.fleet import LiveVehicle
from tracking.live.fleets import Fleets
from tracking.model import Clock, Position
from tracking.monitor.alerts import old_after
from tracking.monitor.last_heard import LastHeard
from tracking.monitor.states import AlertStates
from tracking.nodes.messages import SeenVehicle


class Elsewhere:
    """The caller has found that the vehicle's home is not here. Silence is noticed here too: its home may be dead."""

    def __init__(self, fleets: Fleets, states: AlertStates, last_heard: LastHeard, clock: Clock) -> None:
        self._fleets = fleets
        self._states = states
        self._last_heard = last_heard
        self._clock = clock

    def stored(self, vehicle: LiveVehicle, position: Position) -> None:
        """The store has a newer position than is shown."""
        self._move(vehicle, position)
        state = self._states[vehicle]
        lost = state.silent or vehicle.age_of(position) >= old_after(vehicle.feed.fleet.signal_lost_after)
        self.set_flags(vehicle, lost, vehicle.standing)
        self._look_after(vehicle, position.server_time)

    def told(self, vehicle: LiveVehicle, seen: SeenVehicle, silent_for: int) -> None:
        """Its home tells how it shows the vehicle. The position came to the home so many ms before.

        Nothing is shown that is older than what is shown already.
        """
        position, shown = seen.position, vehicle.position
        # The fleet may not see what was before the vehicle joined it.
        if min(position.fix_time - seen.clock_skew, position.server_time) < vehicle.joined_at:
            return
        if shown is not None and position.fix_time < shown.fix_time:
            return
        is_news = shown is None or position.fix_time > shown.fix_time
        if self._last_heard.is_gone(silent_for) or not (is_news or vehicle.cell is not None):
            return  # it has left the map, here or there
        # A home that stood still counts the time as no silence, and others may have shown the vehicle as lost meanwhile.
        lost = seen.lost or silent_for >= vehicle.feed.fleet.signal_lost_after * 1000
        self._fleets.set_clock_skew(vehicle.vehicle.vehicle_id, seen.clock_skew)
        self.set_flags(vehicle, lost, seen.standing)
        if is_news:
            self._move(vehicle, position)
        self._look_after(vehicle, self._clock() - silent_for)

    def left(self, vehicle: LiveVehicle) -> None:
        """Looks after a vehicle whose home is not here any more. Nothing is remembered of it but where it was."""
        if vehicle not in self._states and vehicle.cell is not None and vehicle.position is not None:
            self._look_after(vehicle, vehicle.position.server_time)

    def is_heard(self, vehicle: LiveVehicle) -> bool:
        """Whether the vehicle is not silent now, as far as this hub knows. Also of vehicles whose home is here."""
        heard = self._states[vehicle].heard
        return heard is not None and self._clock() - heard < vehicle.feed.fleet.signal_lost_after * 1000

    @staticmethod
    def set_flags(vehicle: LiveVehicle, lost: bool, standing: bool) -> None:
        if (vehicle.lost, vehicle.standing) != (lost, standing):
            vehicle.lost, vehicle.standing = lost, standing
            vehicle.feed.restate(vehicle)

    @staticmethod
    def _move(vehicle: LiveVehicle, position: Position) -> None:
        vehicle.newest_elsewhere = position.fix_time
        vehicle.feed.moved(vehicle, position)

    def _look_after(self, vehicle: LiveVehicle, heard: int) -> None:
        state = self._states[vehicle]
        state.heard = heard
        if not state.due:
            self._last_heard.look_after(vehicle)
