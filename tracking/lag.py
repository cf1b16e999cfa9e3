"""How late the event loop is: a timer that notes by how much it was missed."""

import asyncio
import time

from tracking.metrics import LOOP_LAG, LOOP_STEP


async def measure(interval: float) -> None:
    """Notes every `interval` (s) how late the loop came to it, until cancelled.

    Lateness has the machine's in it, where other processes had the core. A step of the loop itself shows as both: late, and
    busy meanwhile by the thread's own CPU time.
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
