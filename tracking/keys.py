"""The keys of an identity provider that verify tokens: a JWKS from a file or an address, read again and again."""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tracking.errors import ConfigError, ErrorCode, Refusal
from tracking.metrics import KEY_READINGS

logger = logging.getLogger(__name__)

ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
"""The algorithm of each type of key. There is only one each, so a token cannot choose it."""
MIN_RSA_BITS = 2_048
MAX_RSA_BITS = 8_192
"""A longer key costs the event loop more than a millisecond a token."""
MAX_KEYS = 64
"""A token without a `kid` is tried with every key of its algorithm."""
MAX_KID = 256
"""Characters."""
MAX_BYTES = 256 * 1024
READ_SECONDS = 5.0
"""How long the provider may take, from the first packet to the last."""
APART_SECONDS = 5.0
"""The least time between two readings, however many tokens name unknown keys. It is shorter if the next one is due earlier."""
RETRY_SECONDS = 1.0
"""The wait after the first failed reading. It doubles with each failure, up to the usual time between readings."""
MAX_WAITING = 200
"""Tokens that may wait for the next reading at once. More are refused and told to come back."""
MAX_MISSED = 1_000
"""Names of keys that are remembered as missing from the JWKS."""
REDIRECTS = 3

Verifier = RSAPublicKey | EllipticCurvePublicKey


class Key(NamedTuple):
    """A public key, with the one algorithm that it verifies."""

    kid: str | None
    algorithm: str
    verifier: Verifier


class KeySet(NamedTuple):
    """The keys of a JWKS that can verify tokens, and why each of the others was left out."""

    keys: tuple[Key, ...]
    left_out: tuple[str, ...]

    @property
    def lack(self) -> str:
        """The error text for a set without keys: why there are none, and what to do."""
        why = f" ({'; '.join(self.left_out)})" if self.left_out else ""
        return (
            f"no key that tokens can be verified with{why}: publish RSA keys of at least {MIN_RSA_BITS} bits (RS256),"
            " or EC keys on the curve P-256 (ES256)"
        )


def read_keys(content: bytes) -> KeySet:
    """The keys of a JWKS document. Raises `ValueError` if it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError('it is no JWKS, which is a JSON object with a list of keys: {"keys": [...]}')
    keys: list[Key] = []
    left_out: list[str] = []
    for number, member in enumerate(members):
        try:
            if number >= MAX_KEYS:
                raise ValueError(f"past the first {MAX_KEYS}")
            keys.append(_read_key(member))
        except (ValueError, TypeError, AttributeError, KeyError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
            kid = member.get("kid") if isinstance(member, dict) else None
            left_out.append(f"key {kid!r:.80}: {error}" if kid is not None else f"keys[{number}]: {error}")
    return KeySet(tuple(keys), tuple(left_out[:MAX_KEYS]))


def _read_key(member: Any) -> Key:
    if not isinstance(member, dict):
        raise ValueError("it is no JSON object")
    kid = member.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID):
        raise ValueError(f"`kid` must be text of at most {MAX_KID} characters")
    kind = member.get("kty")
    if kind == "oct":
        raise ValueError("it is symmetric (`oct`), so whoever may verify with it could sign too")
    algorithm = ALGORITHMS.get(kind) if isinstance(kind, str) else None
    if algorithm is None:
        raise ValueError(f"`kty` is {kind!r:.40}, and must be RSA or EC")
    if "d" in member:
        raise ValueError("it is a private key: publish its public part alone, and make a new one, as this is known now")
    if member.get("use", "sig") != "sig":
        raise ValueError(f"`use` is {member['use']!r:.40}, not `sig`")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("`key_ops` lacks `verify`")
    if member.get("alg", algorithm) != algorithm:
        raise ValueError(f"`alg` is {member['alg']!r:.40}, and must be {algorithm} for a key of type {kind}")
    verifier: object
    if kind == "RSA":
        verifier = RSAAlgorithm.from_jwk(member)
        assert isinstance(verifier, RSAPublicKey)
        if not MIN_RSA_BITS <= verifier.key_size <= MAX_RSA_BITS:
            raise ValueError(f"it has {verifier.key_size} bits, and must have {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        return Key(kid, algorithm, verifier)
    verifier = ECAlgorithm.from_jwk(member)
    assert isinstance(verifier, EllipticCurvePublicKey)
    if not isinstance(verifier.curve, SECP256R1):
        raise ValueError(f"its curve is {verifier.curve.name}, and must be P-256")
    return Key(kid, algorithm, verifier)


class CannotRead(Exception):
    """The JWKS could not be read now. The message says why."""


class Keys:
    """The known keys. A token with a known key does not wait. Any other token waits for the next reading, or is refused.

    `run` reads the JWKS at `place` (a file's path, or an address) every `refresh` seconds, one reading at a time. A key that
    was removed is refused from then on. While the JWKS can't be read, the known keys stay valid for `grace` seconds.
    """

    def __init__(self, place: str, *, refresh: float, grace: float, now: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigError` for a file that can't be used."""
        self._place = place
        self._url = place.startswith(("http://", "https://"))
        if self._url:
            # Imported only if needed: it takes a tenth of a start. Later it would block the event loop.
            import_module("httpx")
        self._refresh = refresh
        self._apart = min(APART_SECONDS, refresh)
        self._grace = grace
        self._now = now
        self._known: KeySet | None = None
        self._by_name: dict[tuple[str | None, str], list[Key]] = {}
        self._names: set[str | None] = set()
        self._content: bytes | None = None
        self._stamp: tuple[int, ...] | None = None
        self._read_at = -float("inf")
        """When the last successful reading began."""
        self._tried_at = -float("inf")
        self._failures = 0
        """Failed readings since the last successful one."""
        self._begun = self._ended = 0
        """Readings."""
        self._reading: asyncio.Task[None] | None = None
        self._waiting = 0
        self._missed: dict[str, None] = {}
        self.on_removed: Callable[[Collection[Key]], object] = lambda _: None
        """Called with keys that `find` returned and that were removed since."""
        if self._url:
            # It takes tens of milliseconds, so it is made before the hub serves.
            self._tls = ssl.create_default_context()
            parts = urlsplit(place)
            if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
                logger.warning("TRACKING_JWKS is an http address: whoever is on the way to it can plant keys; use https")
        else:
            self._open_file()

    def _open_file(self) -> None:
        began = self._tried_at = self._now()
        path = Path(self._place)
        try:
            found = read_keys(self._read_file() or b"")
        except OSError as error:
            raise ConfigError(f"TRACKING_JWKS: can't read {path}: {error.strerror or error}") from None
        except (ValueError, CannotRead) as error:
            raise ConfigError(f"TRACKING_JWKS: {path} can't be used: {error}") from None
        if not found.keys:
            raise ConfigError(f"TRACKING_JWKS: {path} holds {found.lack}")
        self._know(found, began)

    @property
    def trouble(self) -> str | None:
        """Why no token can be accepted now."""
        if self._known is None:
            return "the keys to verify tokens with were not read yet"
        if not self._known.keys:
            return "the JWKS holds no key that tokens can be verified with"
        if self._now() - self._read_at > self._grace:
            return f"the keys to verify tokens with could not be read for {self._now() - self._read_at:.0f} s"
        return None

    # --- called for each token --------------------------------------------------------------------------------------

    def find(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The known keys that may have signed a token with this header. Without `kid`, all keys of the algorithm."""
        if self._known is None or self._now() - self._read_at > self._grace:
            return ()
        if kid is None:
            return [key for key in self._known.keys if key.algorithm == algorithm]
        return self._by_name.get((kid, algorithm), ())

    async def look_for(self, kid: str | None, algorithm: str) -> Sequence[Key]:
        """The same, after a reading if one is needed. Empty if the provider has no such key.

        Raises `Refusal` (`unavailable`) if that is unknown now.
        """
        wanted = self._begun + 1
        while not (found := self.find(kid, algorithm)):
            known = self.trouble is None
            if known and (not kid or len(kid) > MAX_KID or kid in self._missed or kid in self._names):
                return ()
            if known and self._ended >= wanted and not self._failures:
                if kid is not None:
                    self._miss(kid)
                return ()
            puts_off = self._failures and not self._is_reading and self._now() < self._due()
            if self._ended >= wanted or puts_off or self._waiting >= MAX_WAITING:
                raise Refusal(ErrorCode.UNAVAILABLE, "the keys to verify tokens with can't be had now; try again in a while")
            self._waiting += 1
            try:
                await asyncio.shield(self._read_soon())
            finally:
                self._waiting -= 1
        return found

    def _miss(self, kid: str) -> None:
        self._missed[kid] = None
        if len(self._missed) > MAX_MISSED:
            del self._missed[next(iter(self._missed))]

    # --- reading ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reads the JWKS, and reads it again whenever that is due."""
        try:
            while True:
                wait = self._due() - self._now()
                await (asyncio.sleep(wait) if wait > 0 else asyncio.shield(self._read_soon()))
        finally:
            if self._reading is not None:
                self._reading.cancel()

    def _due(self) -> float:
        if not self._failures:
            return self._tried_at + self._refresh
        return self._tried_at + min(RETRY_SECONDS * 2.0 ** min(self._failures - 1, 10), self._refresh)

    @property
    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _read_soon(self) -> asyncio.Task[None]:
        """The reading under way, or a new one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="keys")
        return self._reading

    async def _read(self) -> None:
        """Never raises. Callers look at the known keys afterwards."""
        if not self._failures:
            await asyncio.sleep(max(0.0, self._tried_at + self._apart - self._now()))
        began = self._tried_at = self._now()
        self._begun += 1
        try:
            content = await self._read_in_time()
            if content is None or content == self._content:
                self._read_at = began
            else:
                self._know(await asyncio.to_thread(read_keys, content), began)
                self._content = content
        except (CannotRead, OSError, ValueError) as error:
            self._fail()
            left = self._read_at + self._grace - self._now()
            those = f"those known are good for {left:.0f} s more" if left > 0 else "nobody is let in"
            logger.error("TRACKING_JWKS: the keys can't be read from %s: %s; %s", self._where, error, those)
        except Exception:
            self._fail()
            logger.exception("a fault of ours in reading keys")
        else:
            self._failures = 0
            KEY_READINGS.labels("good").value += 1
        finally:
            self._ended = self._begun

    async def _read_in_time(self) -> bytes | None:
        """None if it has not changed. Raises `OSError` and `CannotRead`."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await (self._fetch() if self._url else asyncio.to_thread(self._read_file))
        except TimeoutError:
            raise CannotRead(f"it took more than {READ_SECONDS:g} s") from None

    def _fail(self) -> None:
        self._failures += 1
        # The wait for the next reading begins now, so that one slow reading does not follow another at once.
        self._tried_at = self._now()
        self._stamp = None  # a file that could not be used must be read again
        KEY_READINGS.labels("failed").value += 1

    def _know(self, found: KeySet, began: float) -> None:
        before = self._known
        known = before.keys if before is not None else ()
        # A key that stays remains the same object, because principals refer to it.
        found = found._replace(keys=tuple(next((old for old in known if old == key), key) for key in found.keys))
        self._known, self._read_at = found, began
        self._names = {key.kid for key in found.keys}
        self._by_name = {}
        for key in found.keys:
            self._by_name.setdefault((key.kid, key.algorithm), []).append(key)
            if key.kid is not None:
                self._missed.pop(key.kid, None)
        if before is None or found.left_out != before.left_out:
            for why in found.left_out:
                logger.warning("TRACKING_JWKS: left out %s", why)
        if not found.keys:
            logger.error("TRACKING_JWKS: %s holds %s", self._where, found.lack)
        removed = [old for old in known if old not in found.keys]
        if removed:
            logger.warning("TRACKING_JWKS: no more good are the keys %s", ", ".join(repr(key.kid) for key in removed))
            self.on_removed(removed)

    @property
    def _where(self) -> str:
        """The place without passwords."""
        if not self._url:
            return self._place
        parts = urlsplit(self._place)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"

    def _read_file(self) -> bytes | None:
        """None if it has not changed. Raises `OSError` and `CannotRead`."""
        path = Path(self._place)
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
        if stamp == self._stamp:
            return None
        if stat.st_size > MAX_BYTES:
            raise CannotRead(f"it has {stat.st_size} bytes, and {MAX_BYTES} at most are read")
        content = path.read_bytes()
        self._stamp = stamp
        return content

    async def _fetch(self) -> bytes:
        """Raises `CannotRead`."""
        import httpx

        body = bytearray()
        try:
            async with (
                httpx.AsyncClient(
                    verify=self._tls, timeout=READ_SECONDS, follow_redirects=True, max_redirects=REDIRECTS
                ) as client,
                client.stream(
                    "GET", self._place, headers={"Accept": "application/json", "Accept-Encoding": "identity"}
                ) as answer,
            ):
                if any(self._place.startswith("https:") and step.url.scheme != "https" for step in (*answer.history, answer)):
                    raise CannotRead("it leads from https to http")
                if answer.status_code != 200:
                    raise CannotRead(f"it answered {answer.status_code}")
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise CannotRead(f"it has more than {MAX_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise CannotRead(f"{type(error).__name__}: {error}") from None
        return bytes(body)
