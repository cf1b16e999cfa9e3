"""Every error of the project, and the code that a client gets for it.

    TrackingError
    |-- ConfigError            a setting is missing or wrong; the process does not start
    |-- MigrationError         the database's schema can't be used by this code
    |-- StoreUnavailable       PostgreSQL is away; the caller may try again
    |   |-- StoreWentBack      the store is older than memory; this memory must not use it any more
    |   `-- HomeLost           another hub is the vehicle's home now; the device comes back and sends again
    |-- LeaseLost              another hub does this job now
    |-- Refusal                a request that is understood and refused; carries an error code
    |   `-- TokenRefused       no token, or an invalid one; carries a close code too
    `-- SocketClosed           a WebSocket must be closed; carries a close code

`ErrorCode` names every error code of the protocol and its HTTP status; `CLOSE_CODES` every close code, its reason and whether a
client may come back. Both are the only places that know.
"""

from enum import IntEnum, StrEnum


class ErrorCode(StrEnum):
    """Error codes on the wire, the same on sockets and over HTTP."""

    BAD_JSON = "bad_json"
    BAD_TYPE = "bad_type"
    BAD_FIELD = "bad_field"
    BAD_SEQ = "bad_seq"
    OUT_OF_RANGE = "out_of_range"
    CLOCK_SKEW = "clock_skew"
    TOO_OLD = "too_old"
    BATCH_TOO_LARGE = "batch_too_large"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    GONE = "gone"
    UNAVAILABLE = "unavailable"


HTTP_STATUS: dict[ErrorCode, int] = {
    ErrorCode.BAD_JSON: 400,
    ErrorCode.BAD_TYPE: 422,
    ErrorCode.BAD_FIELD: 422,
    ErrorCode.BAD_SEQ: 422,
    ErrorCode.OUT_OF_RANGE: 422,
    ErrorCode.CLOCK_SKEW: 422,
    ErrorCode.TOO_OLD: 422,
    ErrorCode.BATCH_TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.GONE: 410,
    ErrorCode.UNAVAILABLE: 503,
}


class CloseCode(IntEnum):
    """WebSocket close codes. 4000-4499: come back, with jitter. 4500-4999: do not."""

    GOING_DOWN = 1012
    PROTOCOL_ERROR = 1002
    BINARY_FRAME = 1003
    INTERNAL_ERROR = 1011
    TOO_SLOW = 4008
    NO_PONG = 4012
    TOO_MANY_REQUESTS = 4013
    OVERLOADED = 4014
    TOO_MANY_CONNECTIONS = 4015
    NO_TOKEN = 4401
    TOKEN_EXPIRED = 4405
    UNFINISHED_MESSAGE = 4408
    REPLACED = 4409
    INVALID_TOKEN = 4500
    BAD_PROTOCOL = 4501
    NOT_FOUND = 4502
    REVOKED = 4503
    TRIP_OVER = 4506

    @property
    def reason(self) -> str:
        return CLOSE_CODES[self][0]

    @property
    def may_return(self) -> bool:
        return CLOSE_CODES[self][1]


CLOSE_CODES: dict[CloseCode, tuple[str, bool]] = {
    CloseCode.GOING_DOWN: ("the hub is going down, come back", True),
    CloseCode.PROTOCOL_ERROR: ("not the WebSocket protocol", False),
    CloseCode.BINARY_FRAME: ("binary frame: send JSON in text frames", False),
    CloseCode.INTERNAL_ERROR: ("a fault in the hub, come back", True),
    CloseCode.TOO_SLOW: ("you read slower than we must send, come back", True),
    CloseCode.NO_PONG: ("no pong: the line seems dead, come back", True),
    CloseCode.TOO_MANY_REQUESTS: ("too many frames a second, come back slower", True),
    CloseCode.OVERLOADED: ("overloaded, or storage is away and the queue is full: keep your fixes, come back", True),
    CloseCode.TOO_MANY_CONNECTIONS: ("too many connections, come back later", True),
    CloseCode.NO_TOKEN: ("no token: send Authorization: Bearer, or the subprotocol bearer.<token>", True),
    CloseCode.TOKEN_EXPIRED: ("token expired: fetch another and come back", True),
    CloseCode.UNFINISHED_MESSAGE: ("half a message for too long, come back", True),
    CloseCode.REPLACED: ("replaced by a newer connection of this vehicle: come back only when the user asks", False),
    CloseCode.INVALID_TOKEN: ("invalid token", False),
    CloseCode.BAD_PROTOCOL: ("bad protocol, or too many errors", False),
    CloseCode.NOT_FOUND: ("not yours, or no such thing", False),
    CloseCode.REVOKED: ("access revoked, or the link has expired", False),
    CloseCode.TRIP_OVER: ("the trip is over", False),
}
"""Close code -> the reason sent with it, at most 123 bytes, and whether a client may come back by itself."""


class TrackingError(Exception):
    """Base of all errors that this project raises on purpose."""


class ConfigError(TrackingError):
    """A setting is missing or wrong. The message says which one, what was expected, and what to do."""


class HubRefused(TrackingError):
    """This hub must not run beside another one on the same database."""


class MigrationError(TrackingError):
    """The schema can't be migrated to what this code needs, or other migrations made it."""


class StoreUnavailable(TrackingError):
    """PostgreSQL can't be reached, or did not answer in time. The caller may try again."""


class StoreWentBack(StoreUnavailable):
    """The store lacks data that this memory saw committed, after a failover to a lagging replica or a restored backup.

    A request treats it as a store that is away. A task that would retry must stop, because new memory replaces this one.
    """


class HomeLost(StoreUnavailable):
    """Another hub is the vehicle's home now, so nothing of it is stored here. The device must come back and send it again."""


class LeaseLost(TrackingError):
    """Another hub does this job now. It continues where this one has stopped."""


class Refusal(TrackingError):
    """A request that was understood and refused.

    The client gets `code`, `detail` (what was wrong, what was expected, what to do) and the name of the field, if one is wrong.
    `retry_after` is the time in seconds after which the same request may succeed, if it is known.
    """

    def __init__(self, code: ErrorCode, detail: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.field = field
        self.retry_after = retry_after


class TokenRefused(Refusal):
    """The token is missing or can't be used. HTTP answers 401; a socket is closed with `close`."""

    def __init__(self, close: CloseCode, detail: str) -> None:
        super().__init__(ErrorCode.UNAUTHORIZED, detail)
        self.close = close


class SocketClosed(TrackingError):
    """Raised in a socket's handler to close the connection with this code."""

    def __init__(self, code: CloseCode, reason: str | None = None) -> None:
        super().__init__(f"{code.value}: {reason or code.reason}")
        self.code = code
        self.reason = reason or code.reason
