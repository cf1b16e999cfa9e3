"""Frozen settings, read once from the environment (`TRACKING_…`). A test checks that `docs/SETTINGS.md` lists them all."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from tracking.broker_settings import BrokerSettings
from tracking.errors import ConfigError
from tracking.moving_settings import MovingSettings
from tracking.origins import is_loopback, parse_address, parse_origin

MIN_SECRET_BYTES = 32
MIN_RETENTION_DAYS = 8
"""A fix may be seven days late. One more day is a margin."""


VARIABLES_OF_PROGRAMS = frozenset({"DRIVER_TOKEN", "SERVICE_TOKEN", "SETUP_LOCKED"})
"""Variables, TRACKING_…, that the simulator, the examples and `setup.sh` read."""


class Rate(NamedTuple):
    """A budget: `at_once` units at once, and as many again in `seconds`. It is written `count/seconds`, such as `600/60`."""

    at_once: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.at_once / self.seconds

    def __str__(self) -> str:
        return f"{self.at_once}/{self.seconds:g}"


def _parse_rate(text: object) -> Rate:
    if isinstance(text, Rate):
        return text
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,6}(?:\.[0-9]{1,3})?)", str(text), re.ASCII)
    if found is None or not int(found[1]) or not float(found[2]):
        raise ValueError("must be written count/seconds, as 600/60: 600 at once, and 600 more in each 60 s")
    return Rate(int(found[1]), float(found[2]))


RateSetting = Annotated[Rate, BeforeValidator(_parse_rate), NoDecode]


class Settings(BrokerSettings, MovingSettings):
    """Every setting with its default and unit. Build it with `load`, which explains what is wrong."""

    model_config = SettingsConfigDict(env_prefix="TRACKING_", frozen=True, extra="ignore")

    database_url: str = Field("", description="PostgreSQL with PostGIS, as a `postgresql://` URL")
    jwt_secret: SecretStr | None = Field(None, description="HS256 secret for tokens, at least 32 bytes")
    jwks: str = Field("", description="JWKS file or https URL (RS256, ES256), in place of the secret")
    jwks_refresh: float = Field(
        20.0,
        gt=0,
        le=50,
        description="Seconds between two readings of the JWKS. A token whose key is gone from the JWKS is then refused",
    )
    jwks_grace: float = Field(86_400.0, gt=0, description="Seconds that the known keys stay valid while the JWKS can't be read")
    public_url: str = Field("http://127.0.0.1:8000", description="The address that people use, with its path if it has one")
    trusted_proxies: str = Field(
        "", description="Addresses of proxies, comma-separated, whose `X-Forwarded-For` header the hub believes"
    )
    allowed_origins: str = Field("", description="Browser origins, comma-separated, besides the public URL's own")

    basemap_url: str = Field(
        "", description="URL of raster tiles, `https://…/{z}/{x}/{y}.png`; empty: the vector map that is shipped"
    )
    basemap_attribution: str = Field("", description="The credit shown for raster tiles")
    stale_after: float = Field(
        30.0, gt=0, description="Seconds without a position after which the map shows the vehicle in grey"
    )

    interval_watched: float = Field(1.0, gt=0, description="Seconds between fixes while a passenger watches")
    interval_trip: float = Field(2.0, gt=0, description="Seconds between fixes while a trip is under way")
    interval_idle: float = Field(5.0, gt=0, description="Seconds between fixes of a vehicle without a trip")
    driver_frames_per_second: float = Field(
        200.0, gt=0, description="WebSocket frames a second that a driver may send in the long run"
    )
    driver_frames_at_once: int = Field(1_000, gt=0, description="WebSocket frames that a driver may send at once")

    commit_interval: float = Field(
        0.1,
        ge=0,
        description="Seconds that the recorder waits for more fixes before it commits a group; twice that with two hubs,"
        " and three times with more",
    )
    commit_rows: int = Field(
        2_000, gt=0, description="Fixes that make a group full. A group takes all fixes that wait, up to 20,000"
    )
    ack_interval: float = Field(
        2.0, ge=0, le=60, description="Seconds between two acks to a driver who reports steadily; 0: an ack after each commit"
    )
    latest_interval: float = Field(5.0, gt=0, description="Seconds between two writes of the vehicles' latest positions")
    queue_limit: int = Field(100_000, gt=0, description="Fixes that may wait for the database")
    database_timeout: float = Field(10.0, gt=0, description="Seconds after which a database statement is cancelled")
    stop_timeout: float = Field(
        10.0, gt=0, description="Seconds that a stopping hub may take to store the fixes that it has accepted"
    )

    summary_delay: float = Field(600.0, gt=0, description="Seconds between the end of a trip or day and its summary")
    retention_days: int = Field(0, ge=0, description="Days that positions are kept, at least 8; 0: for ever")
    summary_retention_days: int = Field(0, ge=0, description="Days that summaries and the lines of trips are kept; 0: for ever")
    event_retention_days: int = Field(0, ge=0, description="Days that events are kept; 0: for ever")
    message_retention_days: int = Field(
        30, ge=0, description="Days that messages are kept after their trip has ended; 0: for ever"
    )
    trip_retention_days: int = Field(
        0, ge=0, description="Days that a trip is kept after its end, with its line and messages; 0: for ever"
    )
    session_retention_days: int = Field(
        30,
        ge=0,
        description="Days that a driver's session is kept without a new fix, at least 8; 0: for ever",
    )
    share_retention_days: int = Field(
        30, ge=0, description="Days that a share is listed after its link has expired; 0: for ever"
    )
    revoked_retention_days: int = Field(
        0,
        ge=0,
        description="Days that a token of unknown expiry stays revoked, more than it can be valid; 0: for ever",
    )

    changes_days: int = Field(
        7,
        ge=1,
        le=7,
        description="Days that changes are kept in the change log. Data with a retention of its own is kept longer",
    )
    changes_bytes: int = Field(
        5_000_000_000, gt=0, description="Bytes of changes that are kept. Above this, the oldest are removed early"
    )

    audit_days: int = Field(
        365, ge=0, description="Days that the audit log is kept (who changed what, who watched); 0: for ever"
    )
    audit_addresses: bool = Field(True, description="Whether the audit log stores the IP addresses of clients")

    feed_seconds: float = Field(
        300.0, ge=0, description="Seconds that the updates of a trip are kept for clients that reconnect"
    )
    feed_bytes: int = Field(96 * 2**20, gt=0, description="Bytes of such updates that are kept, for all trips together")
    feed_linger: float = Field(
        600.0, ge=0, description="Seconds that the updates of a trip are kept after its last watcher left"
    )
    tick_interval: float = Field(15.0, gt=0, description="Seconds between two `tick` messages to passengers and dispatchers")
    outbox_high_water: int = Field(
        64 * 1024, gt=0, description="Unsent bytes of a reader above which only the newest position is kept for it"
    )
    outbox_limit: int = Field(1024 * 1024, gt=0, description="Unsent bytes above which a slow reader is disconnected (4008)")

    gone_after: float = Field(86_400.0, gt=0, description="Seconds of silence after which a vehicle leaves its fleet's map")

    ping_interval: float = Field(20.0, gt=0, description="Seconds of silence after which the hub sends a ping to a client")
    connections_per_address: int = Field(10_000, gt=0, description="Sockets that one IP address may hold (IPv6: one /64)")
    connections_per_token: int = Field(1_000, gt=0, description="Sockets that one token, or one share link, may hold")
    connections_per_dispatcher: int = Field(64, gt=0, description="Sockets that one dispatcher's token may hold")
    budget_writes: RateSetting = Field(
        Rate(600, 60), description="Requests and trip steps that may change something, for each token, as count/seconds"
    )
    budget_bytes: RateSetting = Field(
        Rate(16_000_000, 60),
        description="Bytes of request bodies and of the routes stored from them, for each token, as count/seconds",
    )
    budget_shares: RateSetting = Field(
        Rate(60, 60), description="Shares that a dispatcher may make, for each token, as count/seconds"
    )
    budget_sessions: RateSetting = Field(
        Rate(300, 600),
        description="New sessions that a vehicle may begin, as count/seconds. Continuing its last session is free",
    )
    fleets_limit: int = Field(10_000, gt=0, description="Fleets that may exist")
    vehicles_per_fleet: int = Field(50_000, gt=0, description="Vehicles that a fleet may have")
    geofences_per_fleet: int = Field(1_000, gt=0, description="Geofences that a fleet may have")
    open_trips_per_fleet: int = Field(50_000, gt=0, description="Trips of a fleet that have not ended")
    open_trips_per_vehicle: int = Field(500, gt=0, description="Trips of a vehicle that have not ended")
    shares_per_trip: int = Field(100, gt=0, description="Shares of a trip that have a valid link")
    revoked_limit: int = Field(
        1_000_000, gt=0, description="Revoked tokens that are kept at once. Each takes about 150 bytes of memory"
    )
    budget_connects: RateSetting = Field(Rate(2_000, 60), description="Sockets that one token may open, as count/seconds")
    budget_frames: RateSetting = Field(
        Rate(2_000, 10), description="WebSocket frames that all screens of one dispatcher's token may send, as count/seconds"
    )
    budget_looks: RateSetting = Field(
        Rate(80_000, 20),
        description="Vehicles sent to the screens of one token after they move or zoom the map, as count/seconds",
    )
    budget_searches: RateSetting = Field(
        Rate(300, 60), description="Searches for vehicles (`search=`, `near=`) for each token, as count/seconds"
    )

    budget_fixes: RateSetting = Field(
        Rate(300, 30), description="Live fixes that a vehicle may report, as count/seconds. Fixes above this count as a backlog"
    )
    budget_backlog: RateSetting = Field(
        Rate(100_000, 3600), description="Backlog fixes that a vehicle may report, as count/seconds. Fixes above this wait"
    )
    budget_messages: RateSetting = Field(
        Rate(300, 300), description="Messages that one token or one share link may send, as count/seconds"
    )
    unread_messages: int = Field(
        100, gt=0, description="Messages of one token or share link that a trip may hold unread by its driver"
    )

    downloads_at_once: int = Field(
        32, gt=0, description="Downloads of tracks that may run at once. One `service` token may use half"
    )
    downloads_per_token: int = Field(2, gt=0, description="Downloads that one token or one share link may run at once")
    download_seconds: float = Field(600.0, gt=0, description="Seconds after which a download is cut off")
    download_least_rate: float = Field(
        16_384.0, gt=0, description="Bytes a second. A download whose reader stays slower than this is cut off"
    )
    budget_downloads: RateSetting = Field(
        Rate(60, 60), description="Downloads of tracks that each token may start, as count/seconds"
    )
    budget_sums: RateSetting = Field(
        Rate(60, 60),
        description="Days without a stored summary that requests of one token may compute, as count/seconds",
    )

    change_feed_bytes: int = Field(
        16 * 2**20, gt=0, description="Bytes of recent changes that are kept in memory for clients that follow fleets"
    )
    change_readers: int = Field(
        1_200, gt=0, description="Streams and waiting requests of changes at once. One `service` token may use half"
    )
    change_readers_per_token: int = Field(
        8, gt=0, description="Streams and waiting requests of changes at once, for each token"
    )

    lag_interval: float = Field(0.1, gt=0, description="Seconds between two measurements of the event loop's delay")
    open_files: int = Field(65_536, gt=0, description="Limit of open files that the hub requests from the system")

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value().encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"must have at least {MIN_SECRET_BYTES} bytes: make one with `openssl rand -hex 32`")
        return secret

    @field_validator("retention_days")
    @classmethod
    def _past_the_late(cls, days: int) -> int:
        if 0 < days < MIN_RETENTION_DAYS:
            raise ValueError(
                f"must be 0 (positions are kept for ever) or at least {MIN_RETENTION_DAYS}: fixes come up to 7 days late,"
                " and the summary of a day is made again after that"
            )
        return days

    @field_validator("session_retention_days")
    @classmethod
    def _past_the_last_repeat(cls, days: int) -> int:
        if 0 < days < MIN_RETENTION_DAYS:
            raise ValueError(
                f"must be 0 (sessions are kept for ever) or at least {MIN_RETENTION_DAYS}: a fix may come again for 7 days,"
                " and its session says that it is stored already"
            )
        return days

    @field_validator("trip_retention_days")
    @classmethod
    def _no_shorter_than_what_names_trips(cls, days: int, info: ValidationInfo) -> int:
        if days and not all(0 < info.data.get(name, 0) <= days for name in ("retention_days", "event_retention_days")):
            raise ValueError(
                "must be 0 (trips are kept for ever) or at least TRACKING_RETENTION_DAYS and TRACKING_EVENT_RETENTION_DAYS,"
                " which must be set too: positions and events would name a trip that is gone"
            )
        return days

    @field_validator("summary_retention_days")
    @classmethod
    def _no_shorter_than_positions(cls, days: int, info: ValidationInfo) -> int:
        positions = info.data.get("retention_days", 0)
        if days and not 0 < positions <= days:
            raise ValueError(
                "must be 0 (summaries are kept for ever) or at least TRACKING_RETENTION_DAYS, which must be set too:"
                " summaries would be made again from positions that are still there"
            )
        return days

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if bool(self.nats_certificate) != bool(self.nats_key):
            raise ValueError("TRACKING_NATS_CERTIFICATE and TRACKING_NATS_KEY belong together: set both, or neither")
        if self.outbox_high_water > self.outbox_limit:
            raise ValueError(
                f"TRACKING_OUTBOX_HIGH_WATER ({self.outbox_high_water}) must not exceed TRACKING_OUTBOX_LIMIT"
                f" ({self.outbox_limit}): a slow reader would be closed before any position is skipped; raise the limit"
            )
        if self.stale_after <= self.interval_watched:
            raise ValueError(
                f"TRACKING_STALE_AFTER ({self.stale_after:g}) must be more than TRACKING_INTERVAL_WATCHED"
                f" ({self.interval_watched:g}): the vehicle would turn grey between any two fixes"
            )
        return self

    @field_validator("public_url")
    @classmethod
    def _as_browsers_write_it(cls, url: str) -> str:
        return "".join(parse_address(url))

    @field_validator("allowed_origins")
    @classmethod
    def _origins_alone(cls, origins: str) -> str:
        return ",".join(parse_origin(origin) for origin in _listed(origins))

    @cached_property
    def prefix(self) -> str:
        """The path prefix of all our URLs, such as `/track`; empty at a host's root."""
        return parse_address(self.public_url)[1]

    @cached_property
    def is_public(self) -> bool:
        """Whether the public address is reachable from other machines."""
        return not is_loopback(parse_address(self.public_url)[0])

    @cached_property
    def origins(self) -> frozenset[str]:
        """Browser origins that may open a socket, in the form that browsers send."""
        return frozenset({parse_address(self.public_url)[0], *_listed(self.allowed_origins)})

    @cached_property
    def proxies(self) -> list[str]:
        return _listed(self.trusted_proxies)


def _listed(text: str) -> list[str]:
    return [member.strip() for member in text.split(",") if member.strip()]


def load(**overrides: Any) -> Settings:
    """Settings from the environment. Raises `ConfigError`, which names the variable, what was wrong, and what to do."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        # An error about two settings has no location. Its message names both.
        wrong = "; ".join(
            "".join(f"TRACKING_{str(name).upper()} " for name in e["loc"][:1]) + e["msg"].removeprefix("Value error, ")
            for e in error.errors()
        )
        raise ConfigError(wrong) from None


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """A sentence for each variable that is named like a setting and is none."""
    prefix = "TRACKING_"
    settings = [name.upper() for name in Settings.model_fields]
    # A setting is found in any case. Kubernetes sets variables of its own for a Service that is called `tracking`.
    named = {name.upper().removeprefix(prefix) for name in environment if name.upper().startswith(prefix)}
    named = {name for name in named if not re.match(r"(SERVICE_(HOST|PORT)|PORT)(_|$)", name)}
    sentences = []
    for name in sorted(named - VARIABLES_OF_PROGRAMS - set(settings)):
        near = get_close_matches(name, settings, 1)
        hint = f"did you mean {prefix}{near[0]}?" if near else "docs/SETTINGS.md lists the settings"
        sentences.append(f"{prefix}{name} is no setting and has no effect: {hint}")
    return sentences


def require_database(settings: Settings) -> str:
    if not settings.database_url:
        raise ConfigError("TRACKING_DATABASE_URL is not set: give a PostgreSQL URL, or run `make demo`, which starts one")
    return settings.database_url


def require_key(settings: Settings) -> None:
    """Raises `ConfigError` unless exactly one key source is set: the secret, or the JWKS."""
    if settings.jwt_secret is None and not settings.jwks:
        raise ConfigError(
            "no key to verify tokens with: set TRACKING_JWT_SECRET (at least 32 bytes, e.g. from `openssl rand -hex 32`)"
            " or TRACKING_JWKS (a file or URL)"
        )
    if settings.jwt_secret is not None and settings.jwks:
        raise ConfigError("TRACKING_JWT_SECRET and TRACKING_JWKS are both set: keep one, never both")
