"""How many connections one address may hold."""

import ipaddress
from collections.abc import Iterable

IPV6_PREFIX = 64
"""Bits. A household or phone gets a whole prefix of this length, so its addresses count as one."""


class ConnectionLimits:
    """Counts connections by address, IPv6 by /64. `exempt` are addresses or networks without a limit."""

    def __init__(self, limit: int, exempt: Iterable[str] = ()) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}
        self._all_exempt = False
        self._exempt: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for network in exempt:
            if network == "*":
                self._all_exempt = True
            else:
                # A name, such as that of a Unix socket's peer, is no address of a client.
                try:
                    self._exempt.append(ipaddress.ip_network(network, strict=False))
                except ValueError:
                    continue

    def admit(self, address: str) -> bool:
        """Counts one more connection of this address. False if that is too many; then nothing is counted."""
        key = _counted_as(address)
        count = self._open.get(key, 0)
        if count >= self._limit and not self._is_exempt(address):
            return False
        self._open[key] = count + 1
        return True

    def release(self, address: str) -> None:
        """An admitted connection is closed."""
        key = _counted_as(address)
        count = self._open.get(key, 0)
        if count > 1:
            self._open[key] = count - 1
        else:
            self._open.pop(key, None)

    def _is_exempt(self, address: str) -> bool:
        if self._all_exempt:
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._exempt)


def _counted_as(address: str) -> str:
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, IPV6_PREFIX), strict=False))
