"""`tracking`: serve, migrate, token, demo."""

import asyncio
import gc
import logging
import os
import re
import resource
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType

import click
import uvicorn

from tracking.api.tokens import MAX_EXPIRES_IN
from tracking.app import create_app
from tracking.auth import CLAIM_OF_ROLE, Auth, Role
from tracking.config import load, require_database, require_key, unknown_variables
from tracking.drain import Drain
from tracking.errors import HubRefused, StoreUnavailable, TrackingError
from tracking.life import go_down_with
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.service import Service
from tracking.sockets.door import Door
from tracking.sockets.http import HttpProtocol
from tracking.sockets.limits import ConnectionLimits
from tracking.sockets.listening import listening_socket
from tracking.sockets.server import SocketProtocol
from tracking.store import migrations

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.001
"""A thread that runs Python code gives way to another after this time."""


class _Group(click.Group):
    """Print our own errors as one line, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except TrackingError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A self-hosted live tracking service. Settings come from the environment, TRACKING_…; see docs/SETTINGS.md."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
def serve(host: str, port: int) -> None:
    """Run the hub."""
    settings = load()
    app = create_app(settings)
    _set_up_logging()
    for sentence in unknown_variables(os.environ):
        logger.warning("%s", sentence)
    try:
        asyncio.run(migrations.check(settings.database_url))
    except StoreUnavailable as error:
        logger.warning("%s; going on without, and trying again", error)
    _raise_open_files(settings.open_files)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=HttpProtocol.guarded(ConnectionLimits(settings.connections_per_address, settings.proxies)),
        ws=SocketProtocol,
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.ping_interval,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        timeout_graceful_shutdown=5,
        backlog=4096,
        access_log=False,
        log_config=None,
        server_header=False,
    )
    server = _Server(config, lambda: app.state.service)
    server.run([listening_socket(config)])
    if server.refusal is not None:
        raise server.refusal


class _Server(uvicorn.Server):
    """uvicorn's server, with garbage collection tuned for a process that keeps most of its objects.

    While it runs, the process is registered among the hubs of its database.
    """

    def __init__(self, config: uvicorn.Config, service: Callable[[], Service], *, shared: bool = False) -> None:
        """`shared`: another process holds the same listening socket, and goes on to listen when this one stops."""
        super().__init__(config)
        self.refusal: HubRefused | None = None
        """why this hub had to go down"""
        self._shared = shared
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


@main.command()
def migrate() -> None:
    """Migrate the database to the newest version."""
    applied = asyncio.run(migrations.migrate(require_database(load())))
    click.echo("\n".join(f"applied {name}" for name in applied) if applied else "nothing to do: the database is up to date")


@main.command()
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]))
@click.option("--subject", help="The vehicle_id, trip_id or fleet_id that the role is about.")
@click.option(
    "--expires-in", default=30 * 86_400.0, show_default=True, type=click.FloatRange(min=1, max=MAX_EXPIRES_IN), help="Seconds."
)
def token(role: str, subject: str | None, expires_in: float) -> None:
    """Print a token on the last line."""
    settings = load()
    require_key(settings)
    claim = CLAIM_OF_ROLE[Role(role)]
    if (claim is None) != (subject is None):
        needs = f"needs --subject, its {claim}" if claim else "takes no --subject"
        raise click.UsageError(f"a token of role {role} {needs}")
    click.echo(Auth(settings).issue(Role(role), subject, expires_in).token)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the hub; by default 8000, or the next free one.")
@click.option("--drivers", default=40, show_default=True, type=click.IntRange(1, 500), help="How many simulated drivers.")
def demo(port: int | None, drivers: int) -> None:
    """Run a private database, the hub and simulated drivers, and print the links to open."""
    # The import is local, so that a hub does not load the demo's modules.
    import_module("tracking.demo.supervisor").run(port, drivers)


class _Redacted(logging.Formatter):
    """Removes tokens from every log line."""

    _token = re.compile(r"eyJ[\w-]+\.[\w-]+\.?[\w-]*")

    def format(self, record: logging.LogRecord) -> str:
        return self._token.sub("[token]", super().format(record))


def _set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # httpx would log a line for each reading of the JWKS.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Metrics count the sockets that open and close. Log lines would add nothing.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: not str(record.msg).startswith(('%s - "WebSocket', "connection open", "connection closed"))
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


if __name__ == "__main__":
    main()
