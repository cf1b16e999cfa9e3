"""When an HTTP connection reads: two independent reasons may stop it."""

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """uvicorn stops reading for a body that is not fetched. `hold` stops it as well. Reading continues when neither does."""

    held = False

    def hold(self) -> None:
        if not self.held:
            self.held = True
            if not self.read_paused:
                self._transport.pause_reading()

    def release(self) -> None:
        if self.held:
            self.held = False
            if not self.read_paused:
                self._transport.resume_reading()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            if not self.held:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.held:
                self._transport.resume_reading()
