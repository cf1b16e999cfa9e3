"""Tokens in and out: token -> `Principal`, and what each role may see, as one table."""

import asyncio
import base64
import hmac
import re
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec

from tracking.config import Settings
from tracking.errors import CloseCode, ConfigError, ErrorCode, Refusal, TokenRefused
from tracking.model import OVER, UNDER_WAY, Clock, Trip, TripStatus, system_clock

AUDIENCE = "tracking"
MAX_TOKEN = 8_192
"""Characters of a token at the most: a header's worth, so that nobody makes the hub chew on more."""


_CLAIMS = frozenset(("aud", "exp", "jti", "role", "vehicle_id", "trip_id", "fleet_id", "share_id", "iat"))
"""What a token of ours holds. One with any other goes through all of PyJWT's checks."""
_HEADERS_KNOWN = 16


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
"""The claim that names what a role is about."""


class Principal(NamedTuple):
    """Who is asking, as the token says. `subject` is the vehicle, trip or fleet that the role is about; instants in ms."""

    role: Role
    subject: str
    jti: str
    expires_at: int
    share_id: str | None = None


class Sight(StrEnum):
    """What there is to see of a trip."""

    LIVE = "live"
    """the live feed at all"""
    VEHICLE = "vehicle"
    """which vehicle, its name and plate"""
    POSITION = "position"
    """where the vehicle is, and the line it drove on this trip"""


_ALWAYS = frozenset(TripStatus)
_NEVER: frozenset[TripStatus] = frozenset()
_NOT_OVER = _ALWAYS - OVER

MAY_SEE: dict[Role, dict[Sight, frozenset[TripStatus]]] = {
    Role.SERVICE: {Sight.LIVE: _NOT_OVER, Sight.VEHICLE: _ALWAYS, Sight.POSITION: _ALWAYS},
    Role.DISPATCHER: {Sight.LIVE: _NOT_OVER, Sight.VEHICLE: _ALWAYS, Sight.POSITION: _ALWAYS},
    Role.PASSENGER: {Sight.LIVE: _NOT_OVER, Sight.VEHICLE: _NOT_OVER, Sight.POSITION: UNDER_WAY},
    Role.DRIVER: {Sight.LIVE: _NEVER, Sight.VEHICLE: _ALWAYS, Sight.POSITION: _NEVER},
    Role.OPERATOR: {Sight.LIVE: _NEVER, Sight.VEHICLE: _NEVER, Sight.POSITION: _NEVER},
}
"""role x what x trip status: the one table of who may see what, read at subscribe, for each message and before SQL."""


def may_see(role: Role, sight: Sight, status: TripStatus) -> bool:
    return status in MAY_SEE[role][sight]


def may_know_trip(principal: Principal, trip: Trip) -> bool:
    """Whether the trip exists, as far as this principal is told."""
    match principal.role:
        case Role.SERVICE:
            return True
        case Role.DISPATCHER:
            return trip.fleet_id == principal.subject
        case Role.PASSENGER:
            return trip.trip_id == principal.subject
        case Role.DRIVER:
            return trip.vehicle is not None and trip.vehicle.vehicle_id == principal.subject
        case Role.OPERATOR:
            return False


def may_manage_fleet(principal: Principal, fleet_id: str) -> bool:
    return principal.role is Role.SERVICE or (principal.role is Role.DISPATCHER and principal.subject == fleet_id)


_DATED_JTI = re.compile(r"[A-Za-z0-9_-]{22}\.([0-9]{1,12})", re.ASCII)


def expiry_in(jti: str) -> int | None:
    """The instant at which a token of the hub's own making expires, which its `jti` ends with (s); None for any other."""
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
        self._jwks_file: jwt.PyJWKSet | None = None
        self._jwks_url: jwt.PyJWKClient | None = None
        if settings.jwks.startswith(("http://", "https://")):
            self._jwks_url = jwt.PyJWKClient(settings.jwks, cache_keys=True, lifespan=300, timeout=5)
        elif settings.jwks:
            self._jwks_file = _read_jwks(Path(settings.jwks))
        self._clock = clock
        self._headers: set[bytes] = set()
        """Tokens' first parts that PyJWT has found good, with our secret: there are as many as libraries that sign."""
        self.revoked: set[str] | None = None
        """None until they are known: before that nobody is let in, lest it be someone who was sent out."""

    async def authenticate(self, token: str | None) -> Principal:
        """The token's principal. Raises `TokenRefused`, which says how a socket is closed."""
        if not token:
            raise TokenRefused(CloseCode.NO_TOKEN, "no token: send `Authorization: Bearer <token>`")
        if len(token) > MAX_TOKEN:
            raise TokenRefused(CloseCode.INVALID_TOKEN, f"invalid token: longer than {MAX_TOKEN} characters")
        try:
            claims = self._claims_at_once(token) or await self._claims(token)
        except jwt.PyJWKClientConnectionError as error:
            raise Refusal(ErrorCode.UNAVAILABLE, "the keys to verify tokens with can't be fetched now; try again") from error
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise TokenRefused(CloseCode.INVALID_TOKEN, f"invalid token: {error}") from None
        principal = _principal(claims)
        if self.revoked is None:
            raise Refusal(ErrorCode.UNAVAILABLE, "which tokens are revoked is not known yet: the database is away; try again")
        if principal.jti in self.revoked:
            raise TokenRefused(CloseCode.REVOKED, "this token was revoked")
        if principal.expires_at <= self._clock():
            raise expired(principal)
        return principal

    def issue(self, role: Role, subject: str | None, expires_in: float, share_id: str | None = None) -> Issued:
        """A signed token. Raises `Refusal` where the hub verifies with a JWKS and so has no key to sign with."""
        if self._secret is None:
            raise Refusal(
                ErrorCode.UNAVAILABLE,
                "this hub verifies tokens with a JWKS and can't sign any: have your identity provider issue them",
            )
        expires_at = self._clock() // 1000 + int(expires_in)
        # So that it is known until when to remember that this token was revoked.
        jti = f"{secrets.token_urlsafe(16)}.{expires_at}"
        claims: dict[str, Any] = {"aud": AUDIENCE, "exp": expires_at, "jti": jti, "role": role.value}
        claim = CLAIM_OF_ROLE[role]
        if claim is not None:
            claims[claim] = subject
        if share_id is not None:
            claims["share_id"] = share_id
        return Issued(jwt.encode(claims, self._secret, algorithm="HS256"), jti, expires_at * 1000)

    def _claims_at_once(self, token: str) -> dict[str, Any] | None:
        """The claims of an ordinary token of our secret's (HS256), at a tenth of the price; None: PyJWT is to judge it."""
        if self._secret is None or not token.isascii():
            return None
        signed, _, signature = token.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        made = base64.urlsafe_b64encode(hmac.digest(self._secret.encode(), signed, "sha256")).rstrip(b"=")
        if not hmac.compare_digest(made, signature) or header not in self._headers:
            return None
        try:
            claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)), type=dict[str, Any])
        except (msgspec.DecodeError, ValueError):
            return None
        plain = (
            claims.keys() <= _CLAIMS
            and claims.get("aud") == AUDIENCE
            and type(claims.get("exp")) in (int, float)
            and type(claims.get("jti")) is str
            and type(claims.get("role")) is str
        )
        return claims if plain else None

    async def _claims(self, token: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            await self._key_for(token),
            algorithms=["HS256"] if self._secret is not None else ["RS256", "ES256"],
            audience=AUDIENCE,
            # The expiry is judged by the hub's clock.
            options={"require": ["exp", "jti", "role"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        if self._secret is not None and len(self._headers) < _HEADERS_KNOWN:
            self._headers.add(token.encode().partition(b".")[0])
        return claims

    async def _key_for(self, token: str) -> Any:
        if self._secret is not None:
            return self._secret
        if self._jwks_url is not None:
            # Fetches, at times; never on the event loop.
            return await asyncio.to_thread(self._jwks_url.get_signing_key_from_jwt, token)
        assert self._jwks_file is not None
        kid = jwt.get_unverified_header(token).get("kid")
        keys = [key for key in self._jwks_file.keys if kid is None or key.key_id == kid]
        if not keys:
            raise jwt.InvalidKeyError(f"no key {kid!r} in the JWKS")
        return keys[0]


def expired(principal: Principal) -> TokenRefused:
    """How an expired token is refused: a share link has no other token to fetch."""
    if principal.share_id is not None:
        return TokenRefused(CloseCode.REVOKED, "this link has expired")
    return TokenRefused(CloseCode.TOKEN_EXPIRED, "token expired: fetch another")


def _principal(claims: dict[str, Any]) -> Principal:
    role = claims["role"]
    if role not in list(Role):
        raise TokenRefused(CloseCode.INVALID_TOKEN, f"invalid token: `role` must be one of {', '.join(Role)}")
    claim = CLAIM_OF_ROLE[Role(role)]
    subject = claims.get(claim, "") if claim else ""
    share_id = claims.get("share_id")
    if claim and not (isinstance(subject, str) and subject):
        raise TokenRefused(CloseCode.INVALID_TOKEN, f"invalid token: role `{role}` needs the claim `{claim}`")
    if not isinstance(claims["jti"], str) or not isinstance(claims["exp"], int | float):
        raise TokenRefused(CloseCode.INVALID_TOKEN, "invalid token: `jti` must be text and `exp` a number")
    expires_at = int(claims["exp"] * 1000)
    if expiry_in(claims["jti"]) not in (None, expires_at):
        raise TokenRefused(CloseCode.INVALID_TOKEN, "invalid token: its `jti` is of the hub's making, and tells another expiry")
    return Principal(Role(role), subject, claims["jti"], expires_at, share_id if isinstance(share_id, str) else None)


def _read_jwks(path: Path) -> jwt.PyJWKSet:
    try:
        return jwt.PyJWKSet.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"TRACKING_JWKS: can't read {path}: {error.strerror}") from None
    except (jwt.PyJWTError, ValueError) as error:
        raise ConfigError(f"TRACKING_JWKS: {path} is no JWKS with RSA or EC keys: {error}") from None
