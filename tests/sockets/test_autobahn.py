"""Autobahn's cases for RFC 6455: framing, fragments, UTF-8, control frames, closing."""

from typing import Any

import kosoku
import pytest

from tests.support.serving import Echo, Echoes, echo_by_asgi, serving
from tracking.sockets.server import SocketProtocol

WITHOUT = ["9.*", "12.*", "13.*"]
"""Load, and compression, which is never negotiated."""
CASES = 247


class WithBinary(SocketProtocol):
    """Echoes binary messages. The hub uses none, but Autobahn expects them back."""

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "bytes" and isinstance(self._listener, Echo):
            self._listener.binary = b"".join(self.frames)
        super().send_receive_event_to_app()


@pytest.mark.parametrize("echo", [Echoes(), echo_by_asgi], ids=["wire", "asgi"])
async def test_every_case_passes(echo: Any) -> None:
    async with serving(echo, WithBinary) as served:
        try:
            results = await kosoku.run_fuzzingclient(f"ws://127.0.0.1:{served.port}", None, WITHOUT, concurrency=4)
        except kosoku.FailureError as failure:
            results = failure.results
    passed = [result for result in results if result.passed]
    failed = {
        result.case_id: f"{result.behavior.value}, {result.behavior_close.value}: {result.result} {result.result_close}"
        for result in results
        if not result.passed
    }
    assert failed == {}
    assert len(passed) == CASES
