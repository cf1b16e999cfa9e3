"""Runs one hub until a signal ends it: alone, or as a worker of a supervisor."""

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from tracking.app import create_app
from tracking.config import Settings, load, unknown_variables
from tracking.drain import Drain
from tracking.errors import ConfigError, HubRefused, MigrationError, StoreUnavailable
from tracking.life import go_down_with
from tracking.logs import set_up_logging
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.readiness import unready
from tracking.service import Service
from tracking.sockets.door import Door
from tracking.sockets.http import HttpProtocol
from tracking.sockets.limits import ConnectionLimits
from tracking.sockets.listening import BACKLOG, address, bound_socket
from tracking.sockets.server import SocketProtocol
from tracking.store import migrations
from tracking.workers.channel import Channel, Inherited

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.001
"""A thread that runs Python code gives way to another after this time."""

READY_CHECK_SECONDS = 0.02


def serve(host: str, port: int) -> None:
    """Runs a hub. Raises `TrackingError` with the reason if it cannot run."""
    settings = load()
    app = create_app(settings)
    set_up_logging()
    for sentence in unknown_variables(os.environ):
        logger.warning("%s", sentence)
    _check_database(settings)
    listener = bound_socket(host, port)
    logger.info("listening on http://%s", address(host, listener.getsockname()[1]))
    _run(_Server(_config(app, settings), listener, lambda: app.state.service))


def work(left: str) -> None:
    """Runs a hub for a supervisor. `left` is what it left to this process, an `Inherited`.

    What is wrong with the settings is told to the supervisor, which says it once.
    """
    inherited = Inherited.parse(left)
    channel = Channel(inherited.channel)
    try:
        settings = load()
        set_up_logging(settings.node_name)
        app = create_app(settings)
        _check_database(settings)
        listener = socket.socket(fileno=inherited.listener)
        listener.set_inheritable(False)
        config = _config(app, settings)
        _run(_Worker(config, listener, lambda: app.state.service, channel, successor=inherited.successor))
    except (ConfigError, MigrationError) as error:
        channel.refuse(str(error))
        raise SystemExit(1) from None
    except HubRefused as error:
        channel.fail(str(error))
        raise SystemExit(1) from None


def _check_database(settings: Settings) -> None:
    try:
        asyncio.run(migrations.check(settings.database_url))
    except StoreUnavailable as error:
        logger.warning("%s; going on without, and trying again", error)


def _config(app: Starlette, settings: Settings) -> uvicorn.Config:
    _raise_open_files(settings.open_files)
    return uvicorn.Config(
        app,
        http=HttpProtocol.guarded(ConnectionLimits(settings.connections_per_address, settings.proxies)),
        ws=SocketProtocol,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.ping_interval,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        timeout_graceful_shutdown=5,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
    )


def _raise_open_files(wanted: int) -> None:
    """Raise the limit of open files. Every connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    for limit in ((wanted, max(wanted, hard)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        except (OSError, ValueError):
            continue
        break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        logger.warning("open files are limited to %d, wanted %d: more connections than that will be refused", soft, wanted)


def _run(server: "_Server") -> None:
    server.run([server.listener])
    if server.refusal is not None:
        raise server.refusal


class _Server(uvicorn.Server):
    """uvicorn's server, with garbage collection tuned for a process that keeps most of its objects.

    While it runs, the process is registered among the hubs of its database.
    """

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, service: Callable[[], Service], *, shared: bool = False
    ) -> None:
        """`shared`: another process holds the same listening socket, and goes on to listen when this one stops."""
        super().__init__(config)
        self.listener = listener
        self.refusal: HubRefused | None = None
        """why this hub had to go down"""
        self._shared = shared
        self._service = service
        self._drain = Drain(service)
        self._registry = service().registry
        self._registered: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._registry.admit(lambda: self.should_exit)
        if self.should_exit:
            return
        await super().startup(sockets)
        self._registered = asyncio.create_task(self._registry.run(), name="registry")
        self._registered.add_done_callback(self._unregistered)
        # A thread that parses a large polygon gives way to the event loop after one millisecond, not five.
        sys.setswitchinterval(SWITCH_SECONDS)
        # Objects that exist now stay. Connections live long and hold no cycles. Scanning 5,000 of them took 30 % of the CPU.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and not self._drain.is_over:
            self._captured_signals.append(sig)
            self._drain.end_now()
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ticking = asyncio.create_task(self._tick_on(), name="date header")
        try:
            await self._drain.run(Door(self, sockets or [], shared=self._shared))
        finally:
            ticking.cancel()
        await super().shutdown(sockets)
        if self._registered is not None:
            self._registered.cancel()
            await asyncio.wait({self._registered})
        await self._registry.leave()

    async def _tick_on(self) -> None:
        """uvicorn's own loop has ended."""
        while True:
            await self.on_tick(0)
            await asyncio.sleep(1.0)

    def _unregistered(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, HubRefused):
            self.refusal, self.should_exit = error, True
            self._drain.end_now()
        else:
            go_down_with(task)


class _Worker(_Server):
    """A hub that a supervisor has started. It tells when it is ready, and does not outlive the supervisor."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        service: Callable[[], Service],
        channel: Channel,
        *,
        successor: bool,
    ) -> None:
        super().__init__(config, listener, service, shared=True)
        self._channel = channel
        self._successor = successor
        self._announcement: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._channel.end_with_supervisor()
        # The hub that still serves accepts connections from the same socket. A successor leaves them to it.
        await super().startup([] if self._successor else sockets)
        if self.should_exit:
            return
        if self._successor:
            await self._become_ready()
            if not self.should_exit:
                await self._accept(sockets or [])
        else:
            # Nobody else would accept what waits there.
            self._announcement = asyncio.create_task(self._become_ready(), name="readiness")
            self._announcement.add_done_callback(go_down_with)

    async def _become_ready(self) -> None:
        said = None
        while not self.should_exit:
            why = unready(self._service())
            if why is None:
                self._channel.ready()
                return
            if why != said:
                logger.info("not ready yet: %s", why)
            said = why
            await asyncio.sleep(READY_CHECK_SECONDS)

    async def _accept(self, sockets: Sequence[socket.socket]) -> None:
        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        loop = asyncio.get_running_loop()
        for listener in sockets:
            self.servers.append(await loop.create_server(protocol, sock=listener, backlog=self.config.backlog))
