"""Tokens, good and bad, and how the hub ends a connection that it refuses."""

import base64
import hmac
import json
import time
from typing import Any

import jwt
import websockets

from tests.support.clients import Message, Socket, new_id
from tests.support.hub_process import SECRET, HubProcess

OTHER_SECRET = "another secret, as long as the hub's own is"


def claims(**changes: Any) -> Message:
    """Valid claims of a service token, with these changes. None leaves a claim out."""
    good = {"aud": "tracking", "exp": int(time.time()) + 3600, "jti": new_id("jti"), "role": "service"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(secret: str = SECRET, headers: Message | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm="HS256", headers=headers)


def part(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def hs512() -> str:
    text = part(b'{"alg":"HS512","typ":"JWT"}') + "." + part(json.dumps(claims()).encode())
    return f"{text}.{part(hmac.digest(SECRET.encode(), text.encode(), 'sha512'))}"


def unsigned(algorithm: Any, signature: str = "") -> str:
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    return f"{part(header)}.{part(json.dumps(claims()).encode())}.{signature}"


async def close_code(url: str, bearer: str | None, **options: Any) -> int:
    """The code with which the hub closes a connection that it accepted."""
    async with Socket(url, bearer, **options) as socket:
        return await socket.closed()


async def status_of(hub: HubProcess, path: str, origin: str | None, bearer: str) -> int:
    """The HTTP status of a handshake. 101 if it succeeds."""
    try:
        async with Socket(f"{hub.url}{path}", bearer, origin=origin):
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


SOCKETS = ["/v1/driver", "/v1/trips/none/live"]
PATHS = [
    ("GET", "/v1/fleets/none"),
    ("PUT", "/v1/fleets/none"),
    ("GET", "/v1/fleets/none/vehicles"),
    ("GET", "/v1/fleets/none/trips"),
    ("GET", "/v1/vehicles/none"),
    ("PUT", "/v1/vehicles/none"),
    ("DELETE", "/v1/vehicles/none"),
    ("GET", "/v1/vehicles/none/track"),
    ("POST", "/v1/trips"),
    ("GET", "/v1/trips/none"),
    ("PATCH", "/v1/trips/none"),
    ("DELETE", "/v1/trips/none"),
    ("GET", "/v1/trips/none/track"),
    ("GET", "/v1/trips/none/shares"),
    ("POST", "/v1/trips/none/shares"),
    ("DELETE", "/v1/shares/none"),
    ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens/none"),
    ("GET", "/metrics"),
]
