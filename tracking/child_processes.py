"""Child processes: their end, and that they do not outlive the process that started them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A `preexec_fn` that ties the child to its parent.

    When the thread that started the child ends, even by SIGKILL, the kernel sends the child this signal. Returns None on
    systems other than Linux. Start such a child from the main thread.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def before_exec() -> None:
        libc.prctl(1, int(number))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the kernel knew
            os.kill(os.getpid(), number)

    return before_exec


def how_it_ended(code: int) -> str:
    """`code` is as `Popen.returncode` has it: negative if a signal ended the process."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"was ended by signal {-code}"
