"""Helpers for all HTTP handlers: read a body into a struct, answer with one, find the principal, explain errors."""

import asyncio
import logging
import math
import re
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tracking.api.headers import of_answers
from tracking.audit import Doer
from tracking.auth import Principal, Role
from tracking.budgets import Held
from tracking.errors import HTTP_STATUS, ErrorCode, Refusal, TokenRefused
from tracking.metrics import HTTP_ERRORS
from tracking.model import Place
from tracking.protocol.codec import field_of
from tracking.service import Service
from tracking.services.trips import NOT_FOUND

logger = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Bytes. A route of about 50,000 points fits."""

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""An id of a fleet, vehicle or geofence, chosen by the integrator."""
MAX_LABEL = 200
Label = str
"""A name for people to read: see `label`."""
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]

_READING = ("GET", "HEAD")

Handler = Callable[[Request], Awaitable[Response]]
ServiceWork = Callable[[Service], Awaitable[None]]
Body = TypeVar("Body", bound=msgspec.Struct)
Item = TypeVar("Item")

ENCODED_AT_ONCE = 100
"""List items that are encoded in one step. It takes about a millisecond."""
WRITTEN_AT_ONCE = 256 * 1024
"""Bytes of an answer that are written in one step."""
SMALL = 64 * 1024
"""An answer up to this size, in bytes, is written in one step and not counted."""

_encode = msgspec.json.Encoder().encode


def label(field: str, text: str) -> str:
    """A name for people, in NFC, so that a letter has one form whichever keyboard wrote it.

    Raises `Refusal` (`bad_field`) if it is longer than `MAX_LABEL` characters, or has a control character.
    """
    text = unicodedata.normalize("NFC", text)
    if len(text) > MAX_LABEL:
        raise Refusal(ErrorCode.BAD_FIELD, f"`{field}` must have at most {MAX_LABEL} characters; got {len(text)}", field=field)
    control = next((character for character in text if unicodedata.category(character) in _CONTROLS), None)
    if control is not None:
        detail = f"`{field}` holds the control character U+{ord(control):04X}: a name is one line of text, leave it out"
        raise Refusal(ErrorCode.BAD_FIELD, detail, field=field)
    return text


_CONTROLS = ("Cc", "Zl", "Zp")
"""Control characters, line separators and paragraph separators. Characters for the writing direction are allowed, because the
pages isolate names.
"""


class Named(msgspec.Struct):
    """A body with names for people to read."""

    def __post_init__(self) -> None:
        for field in ("name", "kind", "plate"):
            text = getattr(self, field, None)
            if isinstance(text, str):
                try:
                    setattr(self, field, label(field, text))
                except Refusal as refusal:
                    raise ValueError(refusal.detail) from None  # msgspec adds where in the body it stands


class PlaceBody(Named):
    latitude: Latitude
    longitude: Longitude
    name: Label | None = None

    def place(self) -> Place:
        return Place(self.latitude, self.longitude, self.name)


def resource(path: str, **handlers: Handler) -> Route:
    """One route for all methods of a path, so that a wrong method is answered with the allowed ones."""

    async def endpoint(request: Request) -> Response:
        response = await handlers["GET" if request.method == "HEAD" else request.method](request)
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None or request.method == "HEAD" or len(getattr(response, "body", b"")) <= SMALL:
            return response
        return Large(response, service_of(request).budgets.answers, principal)

    return Route(path, endpoint, methods=list(handlers))


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def principal_of(request: Request) -> Principal:
    """The principal of the request.

    Raises `TokenRefused`, and `Refusal` (`rate_limited`) if its budget of such requests is spent.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    service = service_of(request)
    principal = await service.auth.authenticate(token.strip() if scheme.lower() == "bearer" else None)
    request.state.principal = principal
    if request.method not in _READING:
        service.budgets.writes.spend(principal.jti, principal.role)
    return principal


async def require(request: Request, *roles: Role) -> Principal:
    """`principal_of`; raises `Refusal` (`forbidden`) unless it has one of the roles."""
    principal = await principal_of(request)
    if principal.role not in roles:
        raise Refusal(ErrorCode.FORBIDDEN, f"this needs a token of role {' or '.join(roles)}; yours is {principal.role}")
    return principal


def doer_of(request: Request, principal: Principal) -> Doer:
    """The principal of the request, as the audit stores it."""
    return service_of(request).audit.doer(principal, request.client.host if request.client is not None else None)


def not_found() -> Refusal:
    """The same answer for what does not exist and for what belongs to another fleet."""
    return Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)


async def read(request: Request, kind: type[Body], *, most: int = MAX_BODY) -> Body:
    """The body as `kind`. It has at most `most` bytes, and is JSON whatever its `Content-Type`.

    Call `principal_of` before, because the bytes count against the principal's budgets. A token may hold a limited number of
    bytes in bodies that are still arriving. Raises `Refusal` (`rate_limited`, `bad_json`, `bad_type`, `out_of_range` or
    `bad_field`, with the field). Raises `HTTPException` (415) for a compressed body.
    """
    _check_coding(request)
    principal: Principal = request.state.principal
    bodies = service_of(request).budgets.bodies
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > most:
                raise Refusal(ErrorCode.BATCH_TOO_LARGE, f"a body has at most {most} bytes")
            # A slow client may take half an hour to send its body.
            bodies.take(principal.jti, principal.role, len(chunk))
            body += chunk
    except ClientDisconnect:
        # The client is gone and reads no answer. The refusal keeps this from being logged as our error.
        raise Refusal(ErrorCode.BAD_JSON, "the body is incomplete") from None
    finally:
        bodies.give_back(principal.jti, len(body))
    spend_bytes(request, len(body))
    try:
        found = msgspec.json.decode(bytes(body) or b"{}", type=kind)
    except msgspec.ValidationError as error:
        empty = "" if body else "the body is empty: "
        named = re.match(r"`(name|kind|plate)` ", str(error))
        field = ".".join(part for part in (field_of(error), named and named[1]) if part) or None
        raise Refusal(_code_of(error), empty + _taught(str(error)), field=field) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Refusal(ErrorCode.BAD_JSON, f"the body is not JSON that can be used: {error}") from None
    if not body:
        # The body may have been lost on the way, with values that differ from the defaults.
        raise Refusal(ErrorCode.BAD_JSON, "the body is empty: send a JSON object, `{}` for the defaults")
    return found


def read_part(text: bytes, kind: Any, field: str) -> Any:
    """Decode a part of a body that was left as JSON. Raises `Refusal` as `read` does."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        within = field_of(error)
        found = f"{field}.{within}" if within else field
        raise Refusal(_code_of(error), str(error).split(" - at `")[0] + f" - at `$.{found}`", field=found) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Refusal(ErrorCode.BAD_JSON, f"the body is not JSON that can be used: {error}") from None


def spend_bytes(request: Request, amount: int) -> None:
    """Take these bytes from the principal's budget. Raises `Refusal` (`rate_limited`)."""
    principal: Principal = request.state.principal
    service_of(request).budgets.bytes.spend(principal.jti, principal.role, amount)


def _check_coding(request: Request) -> None:
    for header, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        coding = ", ".join(request.headers.getlist(header)).strip().lower()
        if coding not in ("", plain):
            raise HTTPException(415, f"the body is encoded as `{coding}`: send it as it is, without `{header.title()}`")


def _code_of(error: msgspec.ValidationError) -> ErrorCode:
    text = str(error)
    if re.search(r" [<>]=? ", text) and "of length" not in text:
        return ErrorCode.OUT_OF_RANGE
    return ErrorCode.BAD_TYPE if text.startswith("Expected `") and ", got `" in text else ErrorCode.BAD_FIELD


def _taught(text: str) -> str:
    return text.replace(f"matching regex {NAME_PATTERN!r}", "of 1 to 64 characters from A-Z a-z 0-9 . _ -")


def name_in_path(request: Request, parameter: str) -> str:
    """An id in the path. Raises `Refusal` if no id has that form."""
    name: str = request.path_params[parameter]
    if not re.fullmatch(NAME_PATTERN, name):
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`{parameter}` must have 1 to 64 characters from A-Z a-z 0-9 . _ -", field=parameter
        )
    return name


def whole_number(
    request: Request, parameter: str, default: int | None = None, *, least: int = 0, most: int = 2**53
) -> int | None:
    """A query parameter that is an integer. Raises `Refusal`."""
    text = request.query_params.get(parameter)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise Refusal(ErrorCode.BAD_FIELD, f"`{parameter}` must be a whole number from {least} to {most}", field=parameter)
    return int(text)


def check_order(first: int | None, last: int | None, names: tuple[str, str]) -> None:
    """Raises `Refusal` for a time range whose end is before its start. An empty answer would not show the mistake."""
    if first is not None and last is not None and first > last:
        raise Refusal(
            ErrorCode.BAD_FIELD,
            f"`{names[0]}` ({first}) must not be after `{names[1]}` ({last}): exchange them",
            field=names[0],
        )


def flag(request: Request, parameter: str) -> bool:
    text = request.query_params.get(parameter, "false")
    if text not in ("true", "false"):
        raise Refusal(ErrorCode.BAD_FIELD, f"`{parameter}` must be true or false", field=parameter)
    return text == "true"


def respond(content: Any, status: int = 200) -> Response:
    return Response(_encode(content), status, media_type="application/json")


async def respond_listing(name: str, items: Sequence[Item], view: Callable[[Item], Any] = lambda item: item) -> Response:
    """`{name: [view(item), …]}`. The list is encoded in parts, so that other requests run in between."""
    parts = []
    for begin in range(0, len(items), ENCODED_AT_ONCE):
        parts.append(_encode([view(item) for item in items[begin : begin + ENCODED_AT_ONCE]])[1:-1])
        await asyncio.sleep(0)
    return Response(b'{"%b":[%b]}' % (name.encode(), b",".join(parts)), media_type="application/json")


class Large(StreamingResponse):
    """An answer that is written as fast as its reader reads. A slow reader does not cause a second copy.

    Its bytes count for the token until it ends. Raises `Refusal` (`rate_limited`) if the token's answers hold too many.
    """

    def __init__(self, response: Response, held: Held, principal: Principal) -> None:
        self._body = bytes(response.body)
        self._held = held
        self._principal = principal
        super().__init__(self._pieces(), response.status_code, response.headers)
        held.take(principal.jti, principal.role, len(self._body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._held.give_back(self._principal.jti, len(self._body))

    async def _pieces(self) -> AsyncIterator[bytes]:
        for begin in range(0, len(self._body), WRITTEN_AT_ONCE):
            yield self._body[begin : begin + WRITTEN_AT_ONCE]


def failure(code: ErrorCode, detail: str, field: str | None = None) -> Response:
    error = {"code": code.value, "detail": detail}
    if field is not None:
        error["field"] = field
    response = respond({"error": error}, HTTP_STATUS[code])
    if code is ErrorCode.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    HTTP_ERRORS.labels("4xx").inc()
    if isinstance(error, TokenRefused):
        return failure(ErrorCode.UNAUTHORIZED, error.detail)
    response = failure(error.code, error.detail, error.field)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


async def on_store_unavailable(_: Request, error: Exception) -> Response:
    HTTP_ERRORS.labels("5xx").inc()
    logger.warning("answered 503: %s", error)
    response = failure(ErrorCode.UNAVAILABLE, "storage is away; try again in a while")
    response.headers["Retry-After"] = "2"
    return response


async def on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    HTTP_ERRORS.labels("4xx").inc()
    code = {405: ErrorCode.BAD_TYPE, 415: ErrorCode.BAD_TYPE, 400: ErrorCode.BAD_FIELD}.get(
        error.status_code, ErrorCode.NOT_FOUND
    )
    detail = NOT_FOUND if error.status_code == 404 else str(error.detail)
    response = respond({"error": {"code": code.value, "detail": detail}}, error.status_code)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def on_fault(request: Request, error: Exception) -> Response:
    HTTP_ERRORS.labels("5xx").inc()
    logger.error("a fault of ours at %s %s", request.method, request.url.path, exc_info=error)
    response = respond({"error": {"code": ErrorCode.UNAVAILABLE.value, "detail": "a fault in the hub; it was logged"}}, 500)
    # The middleware does not see this answer.
    response.headers.update(of_answers(service_of(request).settings))
    return response
