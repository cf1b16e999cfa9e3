"""Processes that the supervisor starts. They end with it."""

import asyncio
import signal
import subprocess
from collections.abc import Mapping, Sequence

from tracking.child_processes import die_with_parent


class Child:
    """A process. `ended` is done when it has ended, with its exit code: negative if a signal ended it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            self._process.send_signal(number)

    def look(self) -> bool:
        """Notices that it has ended. Returns whether it has."""
        code = self._process.poll()
        if code is not None and not self.ended.done():
            self.ended.set_result(code)
        return code is not None


class Children:
    """Starts processes, and notices their end. It works inside one event loop, of the main thread."""

    def __init__(self) -> None:
        self._alive: set[Child] = set()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._look)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], inherited: Sequence[int], output: int | None = None
    ) -> Child:
        """`inherited` are file numbers. What it writes goes to the file `output`, or to where ours goes.

        It gets no signals of the terminal. Raises `OSError` if it cannot be started.
        """
        try:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(inherited),
                process_group=0,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        except subprocess.SubprocessError as error:
            raise OSError(str(error)) from error
        child = Child(process)
        self._alive.add(child)
        return child

    def _look(self) -> None:
        self._alive = {child for child in self._alive if not child.look()}
