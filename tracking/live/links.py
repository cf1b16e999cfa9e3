"""The open connections of this process, by token."""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from tracking.auth import Principal
from tracking.errors import CloseCode
from tracking.keys import Key

CLOSED_AT_ONCE = 100


class Link(Protocol):
    """An open connection, as the hub sees it."""

    principal: Principal

    def close(self, code: CloseCode) -> None: ...


class Links:
    """Connections from when they were admitted until they are over."""

    def __init__(self) -> None:
        self._by_token: dict[str, set[Link]] = {}
        self.count = 0
        """of all"""

    def all(self) -> list[Link]:
        """In no order that may be relied on. 20,000 take a millisecond."""
        return [link for links in self._by_token.values() for link in links]

    def tokens(self) -> list[str]:
        """The ids of the tokens that have a connection."""
        return list(self._by_token)

    def opened(self, jti: str, link: Link) -> None:
        self._by_token.setdefault(jti, set()).add(link)
        self.count += 1

    def of_token(self, jti: str) -> int:
        """How many connections of the token are open."""
        return len(self._by_token.get(jti, ()))

    def closed(self, jti: str, link: Link) -> None:
        links = self._by_token.get(jti)
        if links is not None and link in links:
            links.discard(link)
            self.count -= 1
            if not links:
                del self._by_token[jti]

    def revoke(self, jti: str) -> None:
        """Closes every connection of a token."""
        for link in list(self._by_token.get(jti, ())):
            link.close(CloseCode.REVOKED)

    async def refuse(self, removed: Collection[Key]) -> None:
        """Closes every connection whose token was verified with a key that the provider removed, some at a time."""
        keys = {id(key) for key in removed}
        await self.close_all(CloseCode.INVALID_TOKEN, lambda principal: id(principal.key) in keys)

    async def close_all(self, code: CloseCode, whose: Callable[[Principal], bool] = lambda _: True) -> None:
        """Closes every connection of such a principal, some at a time."""
        for number, link in enumerate(self.all(), 1):
            if whose(link.principal):
                link.close(code)
            if number % CLOSED_AT_ONCE == 0:
                await asyncio.sleep(0)
