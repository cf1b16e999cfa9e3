"""Waiting for something in this process's event loop."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool]) -> None:
    """Lets the event loop run until the condition holds. Fails after 5 s."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
