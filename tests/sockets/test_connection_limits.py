"""How many connections an address may hold."""

from hypothesis import given
from hypothesis import strategies as st

from tracking.sockets.limits import ConnectionLimits


def test_one_too_many_is_turned_away_until_another_goes() -> None:
    connection_limits = ConnectionLimits(2)
    assert [connection_limits.admit("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert connection_limits.admit("192.0.2.2")
    connection_limits.release("192.0.2.1")
    assert connection_limits.admit("192.0.2.1")
    assert not connection_limits.admit("192.0.2.1")


def test_addresses_of_one_ipv6_network_share_a_counted_as() -> None:
    connection_limits = ConnectionLimits(1)
    assert connection_limits.admit("2001:db8:1:2::1")
    assert not connection_limits.admit("2001:db8:1:2:ffff::9")
    assert connection_limits.admit("2001:db8:1:3::1")
    assert connection_limits.admit("fe80::1%eth0")


def test_an_ipv4_address_is_the_same_within_ipv6() -> None:
    connection_limits = ConnectionLimits(1)
    assert connection_limits.admit("192.0.2.1")
    assert not connection_limits.admit("::ffff:192.0.2.1")


def test_a_proxy_is_never_too_many() -> None:
    connection_limits = ConnectionLimits(1, ["10.0.0.0/8", "proxy.example", "192.0.2.7"])
    for address, free in {"10.1.2.3": True, "192.0.2.7": True, "192.0.2.8": False, "": False}.items():
        assert connection_limits.admit(address)
        assert connection_limits.admit(address) is free
    assert all(ConnectionLimits(1, ["*"]).admit("192.0.2.8") for _ in range(3))


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.booleans()), max_size=60))
def test_never_more_than_the_limit_and_never_forgotten(events: list[tuple[str, bool]]) -> None:
    connection_limits = ConnectionLimits(3)
    inside = {"a": 0, "b": 0}
    for address, comes in events:
        if comes:
            assert connection_limits.admit(address) is (inside[address] < 3)
            inside[address] = min(3, inside[address] + 1)
        elif inside[address]:
            connection_limits.release(address)
            inside[address] -= 1
