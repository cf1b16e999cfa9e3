"""Measures how late the event loop is, with a timer."""

import asyncio
import time

from tracking.metrics import LOOP_LAG, LOOP_STEP


async def measure(interval: float) -> None:
    """Note every `interval` (s) how late the loop ran the timer, until cancelled.

    The lateness includes time in which other processes used the core. `LOOP_STEP` counts only the loop's own CPU time while it
    was late.
    """
    loop = asyncio.get_running_loop()
    busy = time.thread_time()
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        late = max(0.0, loop.time() - due)
        before, busy = busy, time.thread_time()
        LOOP_LAG.observe(late)
        LOOP_STEP.observe(min(late, busy - before))
