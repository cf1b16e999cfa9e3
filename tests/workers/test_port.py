"""The port that hubs share."""

import contextlib
import socket

import pytest

from tests.support.hub_process import free_port
from tracking.errors import ConfigError
from tracking.workers import port as ports
from tracking.workers.port import Port


def connect(host: str, port: int, stack: contextlib.ExitStack) -> None:
    stack.enter_context(socket.create_connection((host, port), timeout=5))


def accepted(listener: socket.socket) -> int:
    """How many connections wait there."""
    listener.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_spread_over_the_sockets_that_listen(host: str) -> None:
    port = Port(host, 0)
    with contextlib.closing(port), contextlib.ExitStack() as stack, port.listen() as first:
        with port.listen() as second:
            for _ in range(64):
                connect(host, port.number, stack)
            counts = [accepted(first), accepted(second)]
            assert sum(counts) == 64 and min(counts) > 0
        for _ in range(8):
            connect(host, port.number, stack)
        assert accepted(first) == 8
    assert port.url.endswith(f":{port.number}") and ("[::1]" in port.url) == (host == "::1")


def test_who_comes_while_no_hub_listens_is_refused_and_a_second_supervisor_too() -> None:
    port = Port("127.0.0.1", free_port())
    with contextlib.closing(port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port.number), timeout=5)
        with port.listen(), pytest.raises(ConfigError, match="cannot listen on 127"):
            Port("127.0.0.1", port.number)


def test_a_port_of_another_program_is_told() -> None:
    told = r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match=told):
        Port("127.0.0.1", other.getsockname()[1])


def test_where_the_system_does_not_spread_connections_all_hubs_have_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "SPREADS", False)
    port = Port("127.0.0.1", 0)
    with contextlib.closing(port), contextlib.ExitStack() as stack:
        first, second = port.listen(), port.listen()
        for _ in range(8):
            connect("127.0.0.1", port.number, stack)
        with first, second:
            first.setblocking(False)
            first.accept()[0].close()
            assert accepted(second) == 7
