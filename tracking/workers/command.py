"""`tracking serve --workers`: from the settings to the supervisor's exit code."""

import asyncio
import logging
import os
import signal
import socket

from tracking.config import Settings, load, require_database, require_key, unknown_variables
from tracking.logs import set_up_logging
from tracking.workers.broker import PrivateBroker
from tracking.workers.children import Children
from tracking.workers.hubs import Hubs
from tracking.workers.port import Port
from tracking.workers.supervisor import Supervisor

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 25.0
"""How long a hub may take to stop, besides the settings `drain_seconds` and `stop_timeout`."""
BROKER_SETTINGS = frozenset(f"TRACKING_NATS_{name}" for name in ("URL", "CREDENTIALS", "CA", "CERTIFICATE", "KEY"))


def run(host: str, port: int, count: int) -> None:
    """Runs `count` hubs until a signal. Raises `ConfigError` if they cannot run, and `SystemExit` if one had to be killed."""
    settings = load()
    require_key(settings)
    require_database(settings)
    set_up_logging("supervisor")
    for sentence in unknown_variables(os.environ):
        logger.warning("%s", sentence)
    if not asyncio.run(_supervise(settings, Port(host, port), count)):
        logger.error("not all hubs stopped by themselves")
        raise SystemExit(1)


async def _supervise(settings: Settings, port: Port, count: int) -> bool:
    children = Children()
    environment = dict(os.environ)
    broker: PrivateBroker | None = None
    if settings.nats_url is None:
        broker = PrivateBroker(children, count)
        environment = {name: value for name, value in environment.items() if name.upper() not in BROKER_SETTINGS}
        environment["TRACKING_NATS_URL"] = broker.url
    hubs = Hubs(children, port, environment, settings.node_name or socket.gethostname())
    stop_seconds = settings.drain_seconds + settings.stop_timeout + SHUTDOWN_SECONDS
    supervisor = Supervisor(hubs, count, stop_seconds)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, supervisor.roll)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    try:
        if broker is not None:
            await broker.start()
        logger.info("%d hubs begin to serve on %s", count, port.url)
        return await supervisor.run()
    finally:
        if broker is not None:
            await broker.stop()
        port.close()
