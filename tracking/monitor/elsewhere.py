"""Vehicles whose home is another hub: they are shown where their home or the store says, and no events are made of them."""

from collections.abc import Callable, Iterable

from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.model import Clock, Position
from tracking.monitor.alerts import old_after
from tracking.monitor.last_heard import LastHeard
from tracking.monitor.states import AlertStates
from tracking.nodes.messages import SeenVehicle


class Elsewhere:
    """Silence of these vehicles is noticed here too: their home may be dead."""

    def __init__(self, fleets: Fleets, states: AlertStates, last_heard: LastHeard, clock: Clock) -> None:
        self.is_home: Callable[[int], bool] = lambda _: False
        """Whether this hub is the home of a vehicle, by its number. `cluster` sets it."""
        self._fleets = fleets
        self._states = states
        self._last_heard = last_heard
        self._clock = clock

    def stored(self, vehicle: LiveVehicle, position: Position) -> None:
        """The store has a newer position than is shown, and the vehicle's home is not here."""
        vehicle.newest_elsewhere = position.fix_time
        vehicle.feed.moved(vehicle, position)
        state = self._states[vehicle]
        lost = state.silent or vehicle.age_of(position) >= old_after(vehicle.feed.fleet.signal_lost_after)
        self.set_flags(vehicle, lost, vehicle.standing)
        self._look_after(vehicle, position.server_time)

    def told(self, feed: FleetFeed, vehicles: Iterable[SeenVehicle], sent_at: int) -> list[SeenVehicle]:
        """Homes tell how they show vehicles of a fleet, at this instant of their clock. Returns those that are not in it here.

        Nothing is shown that is older than what is shown already. Thousands come each second.
        """
        by_number, is_home, states = self._fleets.by_number, self.is_home, self._states
        now, lost_after, gone_after = self._clock(), feed.fleet.signal_lost_after * 1000, self._last_heard.gone_after_ms
        unknown = []
        for seen in vehicles:
            position = seen.position
            vehicle = by_number.get(position.vehicle)
            if vehicle is None or vehicle.feed is not feed:
                unknown.append(seen)
                continue
            fix_time, server_time, shown = position.fix_time, position.server_time, vehicle.position
            is_news = True
            if shown is not None and fix_time <= shown.fix_time:
                if fix_time < shown.fix_time or vehicle.cell is None:
                    continue  # something newer is shown, or it has left the map
                is_news = (position.latitude, position.longitude) != (shown.latitude, shown.longitude)
            # The fleet may not see what was before the vehicle joined it.
            if fix_time - seen.clock_skew < vehicle.joined_at or server_time < vehicle.joined_at or is_home(position.vehicle):
                continue
            silent_for = sent_at - server_time if sent_at > server_time else 0
            if silent_for >= gone_after:
                continue
            # A home that stood still counts the time as no silence, and others may have shown the vehicle as lost meanwhile.
            lost = seen.lost or silent_for >= lost_after
            if vehicle.clock_skew != seen.clock_skew:
                self._fleets.set_clock_skew(vehicle.vehicle.vehicle_id, seen.clock_skew)
            if vehicle.lost is not lost or vehicle.standing is not seen.standing:
                self.set_flags(vehicle, lost, seen.standing)
            if is_news:
                vehicle.newest_elsewhere = fix_time
                feed.moved(vehicle, position)
            state = states[vehicle]
            state.heard = now - silent_for
            if not state.due:
                self._last_heard.look_after(vehicle)
        return unknown

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

    def _look_after(self, vehicle: LiveVehicle, heard: int) -> None:
        state = self._states[vehicle]
        state.heard = heard
        if not state.due:
            self._last_heard.look_after(vehicle)
