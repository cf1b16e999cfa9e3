"""Tokens: issue them, verify them, and read a `Principal` from one. One table says what each role may see."""

import base64
import hmac
import math
import re
import secrets
import unicodedata
from enum import StrEnum
from typing import Any, NamedTuple

import jwt
import msgspec

from tracking.config import Settings
from tracking.errors import CloseCode, ErrorCode, Refusal, TokenRefused
from tracking.keys import ALGORITHMS, Key, Keys
from tracking.model import OVER, UNDER_WAY, Clock, Trip, TripStatus, system_clock

AUDIENCE = "tracking"
MAX_TOKEN = 8_192
"""The longest token that the hub reads, in characters. It is the size of a request header."""
MAX_ID = 256
"""The longest id in a token, in characters: the token's own, and that of its vehicle, trip or fleet."""
MAX_EXPIRES_IN = 366 * 86_400
"""The longest lifetime of a token that the hub issues, in seconds."""
CLOCKS_DIFFER_MS = 5_000
"""How far an issuer's clock may differ from the hub's, when `nbf` or `iat` is checked."""
LAST_EXPIRY_MS = 253_402_300_799_000
"""The end of the year 9999. A later `exp` is in milliseconds by mistake, or not a time at all."""
_HEADERS_KNOWN = 16
_MAX_HEADER = 256
"""The longest header that is remembered, in characters."""


class Role(StrEnum):
    SERVICE = "service"
    DRIVER = "driver"
    PASSENGER = "passenger"
    DISPATCHER = "dispatcher"
    OPERATOR = "operator"


CLAIM_OF_ROLE: dict[Role, str | None] = {
    Role.SERVICE: None,
    Role.DRIVER: "vehicle_id",
    Role.PASSENGER: "trip_id",
    Role.DISPATCHER: "fleet_id",
    Role.OPERATOR: None,
}
"""The claim that names the role's vehicle, trip or fleet."""


class Principal(NamedTuple):
    """The client that asks, as its token describes it. Instants are in ms.

    `subject` is the vehicle, trip or fleet that the role is for. `issued_at` is None if the token lacks it. `key` is None if
    the hub's own secret verified the token.
    """

    role: Role
    subject: str
    jti: str
    expires_at: int
    share_id: str | None = None
    issued_at: int | None = None
    key: Key | None = None


class TripField(StrEnum):
    """The parts of a trip that a role may or may not see."""

    LIVE = "live"
    """the live feed itself"""
    VEHICLE = "vehicle"
    """which vehicle, its name and plate"""
    POSITION = "position"
    """the vehicle's position, and the line that it drove on this trip"""


_ALWAYS = frozenset(TripStatus)
_NEVER: frozenset[TripStatus] = frozenset()
_NOT_OVER = _ALWAYS - OVER

MAY_SEE: dict[Role, dict[TripField, frozenset[TripStatus]]] = {
    Role.SERVICE: {TripField.LIVE: _NOT_OVER, TripField.VEHICLE: _ALWAYS, TripField.POSITION: _ALWAYS},
    Role.DISPATCHER: {TripField.LIVE: _NOT_OVER, TripField.VEHICLE: _ALWAYS, TripField.POSITION: _ALWAYS},
    Role.PASSENGER: {TripField.LIVE: _NOT_OVER, TripField.VEHICLE: _NOT_OVER, TripField.POSITION: UNDER_WAY},
    Role.DRIVER: {TripField.LIVE: _NEVER, TripField.VEHICLE: _ALWAYS, TripField.POSITION: _NEVER},
    Role.OPERATOR: {TripField.LIVE: _NEVER, TripField.VEHICLE: _NEVER, TripField.POSITION: _NEVER},
}
"""Role x field x trip status. This one table says who may see what. It is read at subscribe, for each message, and before SQL.
"""


def may_see(role: Role, field: TripField, status: TripStatus) -> bool:
    return status in MAY_SEE[role][field]


def may_know_trip(principal: Principal, trip: Trip) -> bool:
    """Whether the trip exists for this principal."""
    match principal.role:
        case Role.SERVICE:
            return True
        case Role.DISPATCHER:
            return trip.fleet_id == principal.subject
        case Role.PASSENGER:
            return trip.trip_id == principal.subject
        case Role.DRIVER:
            # After its vehicle has moved to another fleet, the trip no longer exists for the driver.
            return (
                trip.vehicle is not None
                and trip.vehicle.vehicle_id == principal.subject
                and trip.vehicle.fleet_id == trip.fleet_id
                and is_of_incarnation(principal, trip.tokens_from)
            )
        case Role.OPERATOR:
            return False


def is_of_incarnation(principal: Principal, tokens_from: int | None) -> bool:
    """Whether a driver's token belongs to the present vehicle of its id, and not to an erased one.

    `tokens_from` is the instant at which the vehicle was created, if an erased one had the same id; else None.
    """
    if tokens_from is None:
        return True
    if principal.issued_at is None:
        return False
    # The hub's own tokens carry milliseconds of its own clock. Other tokens carry seconds of another clock.
    differ = 0 if expiry_in(principal.jti) is not None else CLOCKS_DIFFER_MS
    return principal.issued_at >= tokens_from - differ


def may_manage_fleet(principal: Principal, fleet_id: str) -> bool:
    return principal.role is Role.SERVICE or (principal.role is Role.DISPATCHER and principal.subject == fleet_id)


_DATED_JTI = re.compile(r"[A-Za-z0-9_-]{22}\.([0-9]{1,12})", re.ASCII)


def expiry_in(jti: str) -> int | None:
    """The expiry in the `jti` of a token that a hub issued, in ms; None for any other token."""
    found = _DATED_JTI.fullmatch(jti)
    return int(found[1]) * 1000 if found is not None else None


class Issued(NamedTuple):
    token: str
    jti: str
    expires_at: int


class Auth:
    """Verifies and issues tokens, with the hub's secret or with a JWKS. Holds the ids of revoked tokens in memory."""

    def __init__(self, settings: Settings, clock: Clock = system_clock) -> None:
        """Raises `ConfigError` for a JWKS file that can't be used."""
        self._secret = settings.jwt_secret.get_secret_value() if settings.jwt_secret is not None else None
        self.keys = Keys(settings.jwks, refresh=settings.jwks_refresh, grace=settings.jwks_grace) if settings.jwks else None
        """A task must run `Keys.run`."""
        self._clock = clock
        self._headers: set[bytes] = set()
        """Headers of tokens that PyJWT has verified with our secret. There is one for each library that signs."""
        self._revoked_meanwhile: set[str] = set()
        self.revoked: set[str] | None = None
        """None until they are read from the store. Until then no token is accepted, because it could be a revoked one."""

    def revoke(self, jti: str) -> None:
        """Refuse this token from now on."""
        if self.revoked is None:
            self._revoked_meanwhile.add(jti)
        else:
            self.revoked.add(jti)

    def know_revoked(self, stored: set[str]) -> None:
        """Add the revoked tokens of the store to those that were revoked while the store was read."""
        self.revoked = (self.revoked or set()) | stored | self._revoked_meanwhile
        self._revoked_meanwhile.clear()

    async def authenticate(self, token: str | None) -> Principal:
        """Return the token's principal.

        Raises `TokenRefused`, which has the socket's close code, or `Refusal` (`unavailable`).
        """
        if not token:
            raise TokenRefused(CloseCode.NO_TOKEN, "no token: send `Authorization: Bearer <token>`")
        if len(token) > MAX_TOKEN:
            raise _invalid(f"longer than {MAX_TOKEN} characters")
        if not token.isascii():
            raise _invalid("it holds characters that no token has")
        key: Key | None = None
        payload = self._signed_at_once(token)
        if payload is None:
            payload, key = await self._signed(token)
        principal = _principal(_claims(payload), key, self._clock())
        if self.revoked is None:
            raise Refusal(ErrorCode.UNAVAILABLE, "which tokens are revoked is not known yet: the database is away; try again")
        if principal.jti in self.revoked:
            raise TokenRefused(CloseCode.REVOKED, "this token was revoked")
        if principal.expires_at <= self._clock():
            raise expired(principal)
        return principal

    def forget(self, jtis: set[str]) -> None:
        """Stop remembering these revoked tokens."""
        if self.revoked is not None:
            self.revoked -= jtis

    def check_still(self, principal: Principal) -> None:
        """Raises `TokenRefused` if the token has expired or was revoked since it was authenticated."""
        if principal.jti in (self.revoked or ()):
            raise TokenRefused(CloseCode.REVOKED, "this token was revoked")
        if principal.expires_at <= self._clock():
            raise expired(principal)

    def issue(self, role: Role, subject: str | None, expires_in: float, share_id: str | None = None) -> Issued:
        """Sign a token. Raises `Refusal` if the hub uses a JWKS, because it then has no key to sign with."""
        if self._secret is None:
            raise Refusal(
                ErrorCode.UNAVAILABLE,
                "this hub verifies tokens with a JWKS and can't sign any: have your identity provider issue them",
            )
        now = self._clock()
        expires_at = now // 1000 + int(expires_in)
        # The expiry is in the id. So it is known how long a revoked id must be remembered.
        jti = f"{secrets.token_urlsafe(16)}.{expires_at}"
        # Milliseconds tell which is older: the token, or a vehicle that was created again under the same id.
        claims: dict[str, Any] = {"aud": AUDIENCE, "iat": now / 1000, "exp": expires_at, "jti": jti, "role": role.value}
        claim = CLAIM_OF_ROLE[role]
        if claim is not None:
            claims[claim] = subject
        if share_id is not None:
            claims["share_id"] = share_id
        return Issued(jwt.encode(claims, self._secret, algorithm="HS256"), jti, expires_at * 1000)

    def _signed_at_once(self, token: str) -> bytes | None:
        """The payload of an ordinary HS256 token, at a tenth of PyJWT's cost; None if PyJWT must verify it."""
        if self._secret is None:
            return None
        signed, _, signature = token.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        made = _encoded(hmac.digest(self._secret.encode(), signed, "sha256"))
        if not hmac.compare_digest(made, signature) or header not in self._headers:
            return None
        try:
            content = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
        except ValueError:
            return None
        # Python's decoder skips characters that are not base64.
        return content if _encoded(content) == payload else None

    async def _signed(self, token: str) -> tuple[bytes, Key | None]:
        """The token's payload and the key that verified it (None: our secret). Raises as `authenticate` does."""
        try:
            if self._secret is not None:
                payload: bytes = _jws.decode_complete(token, self._secret, ["HS256"])["payload"]
                header = token.encode().partition(b".")[0]
                if len(self._headers) < _HEADERS_KNOWN and len(header) <= _MAX_HEADER:
                    self._headers.add(header)
                return payload, None
            named = _jws.get_unverified_header(token)
            algorithm, kid = named.get("alg"), named.get("kid")
            if not isinstance(algorithm, str) or algorithm not in ALGORITHMS.values():
                raise jwt.InvalidAlgorithmError(f"`alg` must be {' or '.join(ALGORITHMS.values())}, as the keys are")
            assert self.keys is not None
            keys = self.keys.find(kid, algorithm) or await self.keys.look_for(kid, algorithm)
            for key in keys:
                try:
                    return _jws.decode_complete(token, key.verifier, [key.algorithm])["payload"], key
                except jwt.InvalidSignatureError:
                    continue
            if keys:
                raise jwt.InvalidSignatureError("Signature verification failed")
            raise jwt.InvalidKeyError(f"the JWKS has no key {kid!r:.80} for {algorithm}")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _invalid(error) from None


_jws = jwt.PyJWS()


def _encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def _invalid(why: object) -> TokenRefused:
    return TokenRefused(CloseCode.INVALID_TOKEN, f"invalid token: {why}")


def expired(principal: Principal) -> TokenRefused:
    """How an expired token is refused. A share link is closed for good, because its client can't fetch another token."""
    if principal.share_id is not None:
        return TokenRefused(CloseCode.REVOKED, "this link has expired")
    return TokenRefused(CloseCode.TOKEN_EXPIRED, "token expired: fetch another")


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise _invalid(f"its claims can't be read: {error}") from None


def _principal(claims: dict[str, Any], key: Key | None, now: int) -> Principal:
    """Check the claims, whichever way the signature was verified. Raises `TokenRefused`."""
    for name in ("aud", "exp", "jti", "role"):
        if claims.get(name) is None:
            raise _invalid(f"it lacks the claim `{name}`")
    audience = claims["aud"]
    if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
        raise _invalid(f"`aud` must be {AUDIENCE}")
    expires_at = _instant(claims, "exp")
    begins_at = _instant(claims, "nbf")
    issued_at = _instant(claims, "iat")
    jti = _id(claims, "jti")
    share_id = _id(claims, "share_id")
    if not isinstance(claims.get("sub", ""), str):
        raise _invalid("`sub` must be text")
    assert expires_at is not None and jti is not None
    named = claims["role"]
    role = _ROLES.get(named) if isinstance(named, str) else None
    if role is None:
        raise _invalid(f"`role` must be one of {', '.join(Role)}")
    claim = CLAIM_OF_ROLE[role]
    subject = _id(claims, claim) if claim is not None else ""
    if subject is None:
        raise _invalid(f"role `{role}` needs the claim `{claim}`")
    if begins_at is not None and begins_at > now + CLOCKS_DIFFER_MS:
        raise _invalid("it is not good yet (`nbf`)")
    if expiry_in(jti) not in (None, expires_at):
        raise _invalid("its `jti` was made by a hub, and has another expiry")
    return Principal(role, subject, jti, expires_at, share_id, issued_at, key)


_ROLES = {role.value: role for role in Role}


def _instant(claims: dict[str, Any], name: str) -> int | None:
    """A claim in seconds as an instant in ms; None if it is missing."""
    seconds: int | float | None = claims.get(name)
    if seconds is None:
        return None
    if type(seconds) not in (int, float):
        raise _invalid(f"`{name}` must be a number of seconds since 1970")
    # An integer in JSON may have thousands of digits.
    if not (-LAST_EXPIRY_MS <= seconds * 1000 <= LAST_EXPIRY_MS and math.isfinite(seconds)):
        raise _invalid(f"`{name}` must be in seconds since 1970, and before the year 10000")
    return round(seconds * 1000)


def _id(claims: dict[str, Any], name: str) -> str | None:
    """A claim that is an id; None if it is missing."""
    text = claims.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_ID:
        raise _invalid(f"`{name}` must be text of 1 to {MAX_ID} characters")
    if not text.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise _invalid(f"`{name}` holds a control character")
    return text
