"""Judges the moves of a fleet's vehicles: which geofences they cross, and which alerts begin or end."""

from collections.abc import Iterator

from msgspec import UNSET

from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.model import EventKind, Position
from tracking.monitor.alerts import Alerts, old_after
from tracking.monitor.fences import FencesInForce
from tracking.monitor.geofences import Fences, Move, move_of
from tracking.monitor.last_heard import LastHeard
from tracking.monitor.rules import GAP_MS, LATE_MS, Alert, AlertState, Route, are_on_route
from tracking.monitor.states import AlertStates


class MoveJudge:
    """`judge` compares moves with the fleet's thresholds and geofences, and with what is remembered of each vehicle."""

    def __init__(self, states: AlertStates, fences: FencesInForce, alerts: Alerts, last_heard: LastHeard) -> None:
        self._states = states
        self._fences = fences
        self._alerts = alerts
        self._last_heard = last_heard

    def judge(self, feed: FleetFeed, moves: list[tuple[LiveVehicle, Position]]) -> None:
        fleet = feed.fleet
        fences = self._fences.of(fleet.fleet_id)
        states = [self._states[vehicle] for vehicle, _ in moves]
        touched = _touched(fences, moves, states) if fences.by_id else None
        routes: dict[int, tuple[Route, Position, float]] = {}
        for number, (vehicle, position) in enumerate(moves):
            trip = vehicle.trip
            if (trip is not None and trip.route is not None) or states[number].route is not None:
                route = states[number].route_of(vehicle.trip)
                # A position from before the trip, or of another trip, says nothing of this route.
                if route is not None and (position.trip_id == route.trip_id or vehicle.age_of(position) <= LATE_MS):
                    routes[number] = route, position, fleet.off_route_distance
        on_route = are_on_route(routes)
        old = old_after(fleet.signal_lost_after)
        limited = fleet.speed_limit is not UNSET or fences.limit_speed
        for number, (vehicle, position) in enumerate(moves):
            state = states[number]
            if state.replay is None or position.fix_time > state.replay.until:
                self._hear(vehicle, position, state, old)
            if touched is not None and (touched[number][1] or state.inside):
                move, touches = touched[number]
                asked = [i for i, wholly in touches.items() if not (wholly and i in state.inside)]
                asked += [i for i in state.inside if i not in touches]
                if asked and not state.wanders(position):
                    self._cross(vehicle, position, state, move, fences, asked)
                if state.inside and position.fix_time >= state.dwell_at:
                    self.tell_all(vehicle, position, state, state.dwelling(position.fix_time, fleet, fences))
            if limited or state.speeding:
                alert = state.judge_speed(position, state.limit(fleet, fences))
                if alert is not None:
                    self._tell(vehicle, position, state, alert)
            if (alert := state.judge_standing(position, fleet.idle_after)) is not None:
                self._tell(vehicle, position, state, alert)
            if on_route and number in on_route and (alert := state.judge_route(on_route[number])) is not None:
                self._tell(vehicle, position, state, alert)
            state.previous = position
            standing = state.stands(position.fix_time)
            if standing is not vehicle.standing:
                vehicle.standing = standing
                feed.restate(vehicle)

    def _hear(self, vehicle: LiveVehicle, position: Position, state: AlertState, old: float) -> None:
        state.heard = position.server_time
        if not state.due:
            self._last_heard.look_after(vehicle)
        is_old = vehicle.age_of(position) >= old
        if state.silent and not is_old:
            state.silent = False
            self._alerts.tell(vehicle, position, Alert(EventKind.SIGNAL_BACK))
        if vehicle.lost is not (state.silent or is_old):
            vehicle.lost = not vehicle.lost
            vehicle.feed.restate(vehicle)

    def _tell(self, vehicle: LiveVehicle, position: Position, state: AlertState, alert: Alert) -> None:
        if state.replay is None or not state.replay.is_told(position, alert):
            self._alerts.tell(vehicle, position, alert)

    def tell_all(self, vehicle: LiveVehicle, position: Position, state: AlertState, alerts: Iterator[Alert]) -> None:
        """Tells alerts of a position, in order, except those that a former home has told."""
        for alert in list(alerts):
            self._tell(vehicle, position, state, alert)

    def _cross(
        self, vehicle: LiveVehicle, position: Position, state: AlertState, move: Move, fences: Fences, asked: list[str]
    ) -> None:
        def changes() -> Iterator[tuple[str, bool]]:
            for geofence_id in asked:
                fence = fences.by_id.get(geofence_id)
                if fence is None:
                    state.inside.pop(geofence_id, None)
                    continue
                for inside in fence.walk(move, geofence_id in state.inside):
                    yield geofence_id, inside

        self.tell_all(vehicle, position, state, state.change_fences(changes(), position.fix_time))


def _touched(
    fences: Fences, moves: list[tuple[LiveVehicle, Position]], states: list[AlertState]
) -> list[tuple[Move, dict[str, bool]]]:
    before: dict[LiveVehicle, Position] = {}
    made: list[Move] = []
    for (vehicle, position), state in zip(moves, states, strict=True):
        previous = before.get(vehicle, state.previous)
        before[vehicle] = position
        start = accuracy_before = None
        if previous is not None and position.fix_time - previous.fix_time <= GAP_MS:
            start, accuracy_before = (previous.longitude, previous.latitude), previous.accuracy
        made.append(move_of(start, (position.longitude, position.latitude), position.accuracy, accuracy_before))
    return list(zip(made, fences.touched(made), strict=True))
