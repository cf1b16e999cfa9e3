"""The network between hubs through NATS. Core NATS only: messages are lost when a connection is, and links notice that."""

import asyncio
import base64
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tracking.broker_settings import BrokerSettings, split_servers
from tracking.errors import ConfigError, StoreUnavailable
from tracking.nodes.backplane import Receive, lives
from tracking.nodes.messages import MAX_BYTES

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
WAIT_SECONDS = 0.1
"""Between two attempts to connect; up to twice as long, so that hubs do not come all at once."""
LONGEST_WAIT = 0.5
PING_SECONDS = 1
PINGS = 2
"""Unanswered pings after which a connection is given up."""
LOOK_SECONDS = 0.25
CLOSE_SECONDS = 1.0
UNREAD_BYTES = 32 * 2**20
"""Received, but not yet handled. What comes above this is lost, and the links notice."""
SLICE_SECONDS = 0.002
IDLE_SECONDS = 0.0005
"""After so long without a message, the event loop has done other things."""


class Server(NamedTuple):
    """One NATS server. Nothing that is logged or raised has `user`, `password` or `token`."""

    address: str
    encrypted: bool
    user: str | None
    password: str | None
    token: str | None


class NatsBackplane:
    """A `Backplane`. Each connection is a client of its own, because a reconnecting one could hang on a dead connection.

    `cluster` names the hubs that belong together. It may raise `OSError` or `StoreUnavailable` while it is not known.
    """

    def __init__(self, settings: BrokerSettings, cluster: Callable[[], Awaitable[str]]) -> None:
        """Raises `ConfigError` if a file of the settings cannot be used."""
        self.servers = [_server(url, settings) for url in split_servers(settings.nats_url)]
        self._prefix = settings.nats_prefix
        self._cluster = cluster
        self._name: str | None = None
        """What `cluster` returned last."""
        self._credentials = _credentials(settings.nats_credentials) if settings.nats_credentials else None
        self._tls = _tls(settings, any(server.encrypted for server in self.servers))
        self._client: _Client | None = None
        self._subject = ""
        self._trouble: str | None = None
        self.connected = False
        self.life = 0

    @property
    def waiting(self) -> int:
        return 0 if self._client is None else self._client.pending_data_size

    async def run(self, node: str, *, beat: Receive, packet: Receive, changed: Callable[[], None]) -> None:
        wait = WAIT_SECONDS
        began = time.monotonic()
        servers = random.sample(self.servers, len(self.servers))
        task = asyncio.current_task()
        assert task is not None
        # The library waits in ways that may lose a cancellation. This would then connect for ever.
        while not task.cancelling():
            client = _Client(servers[0])
            servers.append(servers.pop(0))
            try:
                try:
                    await self._connect(client, node, beat, packet)
                except Exception as error:
                    self._note(client, error)
                else:
                    self._connected(client, time.monotonic() - began)
                    changed()
                    await client.lost(LOOK_SECONDS)
                    began, wait = time.monotonic(), WAIT_SECONDS
                    logger.warning("the connection to the NATS server %s was lost", client.server.address)
            finally:
                was_connected, self.connected, self._client = self.connected, False, None
                if was_connected:
                    changed()
                await client.end()
            await asyncio.sleep(random.uniform(wait, 2 * wait))
            wait = min(2 * wait, LONGEST_WAIT)

    async def send(self, node: str, data: bytes) -> None:
        await self._publish(f"{self._subject}.to.{node}", data)

    async def send_all(self, data: bytes) -> None:
        await self._publish(f"{self._subject}.beat", data)

    async def flush(self) -> None:
        if self._client is not None:
            with contextlib.suppress(errors.Error, OSError, TimeoutError):
                await self._client.flush(1)

    async def _publish(self, subject: str, data: bytes) -> None:
        client = self._client
        if client is not None and self.connected:
            try:
                await client.publish(subject, data)
            except (errors.Error, OSError) as error:
                # The receiver notices the gap. A lost connection is logged when it is noticed.
                if client.is_connected:
                    self._note(client, error)

    async def _connect(self, client: "_Client", node: str, beat: Receive, packet: Receive) -> None:
        self._subject = f"{self._prefix}.{await self._known_cluster()}"
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.begin(node, self._credentials, self._tls)
            for subject, receive in ((f"{self._subject}.beat", beat), (f"{self._subject}.to.{node}", packet)):
                await client.subscribe(subject, cb=_handler(receive), pending_bytes_limit=UNREAD_BYTES)
            await client.publish(f"{self._subject}.to.{node}")  # Nobody gets it. It shows whether we may.
            # The library's first question overtakes what waits. When the second is answered, the server has judged it all.
            for _ in range(2):
                await client.flush(int(CONNECT_SECONDS))
        if client.refusal is not None and "permissions violation" in str(client.refusal).lower():
            raise errors.Error(f"{client.refusal}: allow this user to publish and to subscribe to {self._prefix}.>")

    async def _known_cluster(self) -> str:
        try:
            self._name = await self._cluster()
        except (OSError, StoreUnavailable):
            # The database is away. Hubs go on without it, and need each other then.
            if self._name is None:
                raise
        return self._name

    def _connected(self, client: "_Client", seconds: float) -> None:
        self._client, self._trouble = client, None
        self.connected, self.life = True, next(lives)
        logger.info("connected to the NATS server %s after %.1f s", client.server.address, seconds)
        if client.max_payload < MAX_BYTES:
            logger.warning(
                "the NATS server %s takes messages of at most %d bytes, and hubs send up to %d: raise its max_payload",
                client.server.address,
                client.max_payload,
                MAX_BYTES,
            )

    def _note(self, client: "_Client", error: Exception) -> None:
        """Logs a trouble once, until it is another."""
        if client.refusal is not None and isinstance(error, errors.NoServersError):
            error = client.refusal
        trouble = f"{type(error).__name__} {error}".strip()
        if trouble != self._trouble:
            self._trouble = trouble
            logger.warning(
                "this hub cannot reach others by the NATS server %s: %s; trying again", client.server.address, trouble
            )


class _Client(Client):
    """A client that connects once."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.refusal: Exception | None = None
        self._trouble = asyncio.Event()

    async def begin(self, name: str, credentials: "Credentials | None", tls: ssl.SSLContext | None) -> None:
        server = self.server
        await self.connect(
            f"{'tls' if server.encrypted else 'nats'}://{server.address}",
            name=name,
            user=server.user,
            password=server.password,
            token=server.token,
            user_jwt_cb=None if credentials is None else credentials.jwt,
            signature_cb=None if credentials is None else credentials.sign,
            tls=tls,
            error_cb=self._failed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=2,
            ping_interval=PING_SECONDS,
            max_outstanding_pings=PINGS,
            no_echo=True,
            # No buffer for times without a connection: what is in it would come late, and in another life.
            pending_size=0,
        )
        # A first attempt may have failed, and another not.
        self._trouble.clear()

    async def lost(self, seconds: float) -> None:
        """Returns when the connection is lost. It looks every `seconds`, because not every way to lose it is told."""
        while self.is_connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._trouble.wait()
                return

    async def end(self) -> None:
        """Closes the connection, and sends what waits if the server reads it within a second."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.close()
        # The library closes a lost connection only when the server has read what waits, and has no way to end that.
        transport: Any = self._transport
        with contextlib.suppress(AttributeError):
            transport._io_writer.transport.abort()

    async def _failed(self, error: Exception) -> None:
        self.refusal = error
        if isinstance(error, OSError | errors.UnexpectedEOF | errors.StaleConnectionError):
            self._trouble.set()

    def _connect_command(self) -> bytes:
        # A server, or who pretends to be one, decides in its first message whether to encrypt. Credentials go out next.
        if self.server.encrypted and not self._server_info.get("tls_required"):
            raise errors.Error("it does not offer TLS, which these settings demand: configure its `tls`, or write nats://")
        return super()._connect_command()


class Credentials(NamedTuple):
    """A NATS user: its JWT, and the key that proves that we are this user."""

    token: str
    key: Ed25519PrivateKey

    def jwt(self) -> bytes:
        return self.token.encode()

    def sign(self, nonce: str) -> bytes:
        return base64.b64encode(self.key.sign(nonce.encode()))


def _handler(receive: Receive) -> Callable[[Msg], Awaitable[None]]:
    """Hands out messages, and lets the event loop do other things after 2 ms. The library would hand out all that wait."""
    began = ended = 0.0

    async def handle(message: Msg) -> None:
        nonlocal began, ended
        now = time.perf_counter()
        if now - ended > IDLE_SECONDS:
            began = now
        elif now - began > SLICE_SECONDS:
            await asyncio.sleep(0)
            began = time.perf_counter()
        receive(message.data)
        ended = time.perf_counter()

    return handle


def _server(url: str, settings: BrokerSettings) -> Server:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    encrypted = parts.scheme == "tls" or bool(settings.nats_ca or settings.nats_certificate)
    address = f"{host}:{parts.port or 4222}"
    return Server(address, encrypted, user if password is not None else None, password, user if password is None else None)


def _tls(settings: BrokerSettings, demanded: bool) -> ssl.SSLContext | None:
    if not demanded:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca or None)
        if settings.nats_certificate:
            context.load_cert_chain(settings.nats_certificate, settings.nats_key)
    except OSError as error:
        raise ConfigError(
            f"TRACKING_NATS_CA, TRACKING_NATS_CERTIFICATE or TRACKING_NATS_KEY cannot be used: {error}: each names a file in"
            " PEM, and the key belongs to the certificate"
        ) from None
    return context


def _credentials(path: str) -> Credentials:
    """The user of a `.creds` file. The seed is base32 of two bytes of prefix, 32 of the key, and two of checksum."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="ascii").splitlines()]
        token = lines[next(i for i, line in enumerate(lines) if "BEGIN NATS USER JWT" in line) + 1]
        seed = lines[next(i for i, line in enumerate(lines) if "BEGIN USER NKEY SEED" in line) + 1]
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        return Credentials(token, Ed25519PrivateKey.from_private_bytes(raw[2:34]))
    except OSError as error:
        raise ConfigError(f"TRACKING_NATS_CREDENTIALS cannot be read: {error}") from None
    except (ValueError, StopIteration, IndexError):
        raise ConfigError(
            "TRACKING_NATS_CREDENTIALS must name a .creds file, which has the JWT and the seed of a NATS user, each below its"
            " BEGIN line, as `nsc generate creds` writes it"
        ) from None
