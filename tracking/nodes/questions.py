"""Questions to one peer, each answered by one notice: the hand-over of a vehicle."""

import asyncio
import itertools

from tracking.nodes.messages import HandOver

numbers = itertools.count(1)
"""Of all questions of this process. None is used twice, also by another object in the place of this one."""


class Questions:
    """Those that wait for their answer."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, asyncio.Future[HandOver | None]]] = {}

    async def wait(self, peer: str, number: int, seconds: float) -> HandOver | None:
        """The peer's answer; None if none came in time. The question was sent in this step of the event loop."""
        answer: asyncio.Future[HandOver | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = peer, answer
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]

    def answered(self, peer: str, answer: HandOver) -> None:
        asked, waiting = self._waiting.get(answer.ask, (None, None))
        if asked == peer and waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def gone(self, peer: str) -> None:
        """Nothing more is expected of the peer."""
        for asked, answer in list(self._waiting.values()):
            if asked == peer and not answer.done():
                answer.set_result(None)
