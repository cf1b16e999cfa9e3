"""Refusals of the HTTP API, and constants that its tests share."""

from typing import Any

import httpx
import jwt

from tests.support.clients import Api, Message
from tests.support.hub_process import SECRET

HOUR_MS = 3_600_000
PLACE = {"latitude": 47.1, "longitude": 9.5}
NOT_FOUND = {"error": {"code": "not_found", "detail": "not yours, or no such thing"}}


async def refused(api: Api, method: str, path: str, body: Any = None, *, status: int, bearer: str | None = None) -> Message:
    """The error of a refused request. It must have the protocol's form, and nothing more."""
    headers = {"Authorization": f"Bearer {bearer}"} if bearer is not None else {}
    response = await api.http.request(method, path, json=body, headers=headers)
    assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text}"
    return error_of(response)


def error_of(response: httpx.Response) -> Message:
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    assert set(answer) == {"error"}
    error: Message = answer["error"]
    assert {"code", "detail"} <= set(error) <= {"code", "detail", "field"}
    assert all(isinstance(text, str) and text for text in error.values())
    return error


def decoded(text: str) -> Message:
    claims: Message = jwt.decode(text, SECRET, algorithms=["HS256"], audience="tracking")
    return claims
