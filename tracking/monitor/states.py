"""What the monitor remembers of each vehicle in memory."""

from tracking.live.fleet import LiveVehicle
from tracking.monitor.rules import AlertState


class AlertStates(dict[LiveVehicle, AlertState]):
    """The state of each vehicle that was heard of, for as long as the vehicle is in memory. See `live.fleets.Remembered`."""

    def __missing__(self, vehicle: LiveVehicle) -> AlertState:
        state = self[vehicle] = AlertState()
        return state

    def forget(self, vehicle: LiveVehicle) -> None:
        self.pop(vehicle, None)

    def transfer(self, vehicle: LiveVehicle) -> None:
        state = self.get(vehicle)
        if state is not None:
            self[vehicle] = state.of_another_fleet()
