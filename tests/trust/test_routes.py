"""Every route of the application has a row in the table of who may do what."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from tests.support.hub_process import SECRET
from tests.trust.matrix import ENDPOINTS, HEADING, PAGE
from tracking.app import create_app
from tracking.config import load


def routes_of(routes: Iterable[BaseRoute], below: str = "") -> Iterator[tuple[str, str]]:
    """Each route of the application as a method, SOCKET or FILES, and a path."""
    for route in routes:
        if isinstance(route, Mount):
            if isinstance(route.app, StaticFiles):
                yield "FILES", below + route.path
            elif route.routes:
                yield from routes_of(route.routes, below + route.path)
            else:
                yield "UNKNOWN", below + route.path
        elif isinstance(route, WebSocketRoute):
            yield "SOCKET", below + route.path
        elif isinstance(route, Route):
            for method in route.methods or {"ANY"}:
                if method != "HEAD":
                    yield method, below + route.path
        else:
            yield "UNKNOWN", below + getattr(route, "path", repr(route))


def _application() -> Any:
    return create_app(load(database_url="postgresql:///none", jwt_secret=SECRET))


def strange_routes(routes: Iterable[BaseRoute]) -> list[str]:
    """A sentence for each route without a row."""
    known = {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    return [
        f"`{method} {path}` has no row that says who may use it: add one to `{HEADING[3:]}` in docs/{PAGE.name},"
        " and the body or query that it needs to tests/trust/asking.py"
        for method, path in sorted(set(routes_of(routes)) - known)
        if not (method == "FILES" and (path == "/web" or path.startswith("/web/")))
    ]


def test_every_route_has_a_row_in_the_table() -> None:
    routes = _application().routes
    strange = strange_routes(routes)
    assert not strange, "\n".join(strange)
    gone = [endpoint.name for endpoint in ENDPOINTS if (endpoint.method, endpoint.path) not in set(routes_of(routes))]
    assert not gone, f"docs/{PAGE.name} has rows for endpoints that the application does not have: {gone}"


async def _nothing(*_: Any) -> None: ...


@pytest.mark.parametrize(
    "route",
    [
        Route("/v1/secrets", _nothing, methods=["GET"]),
        Route("/v1/trips/{trip_id}", _nothing, methods=["POST"]),
        Route("/v1/anything", _nothing, methods=None),
        WebSocketRoute("/v1/ops/live", _nothing),
        Mount("/v2", routes=[Mount("/deep", routes=[Route("/er", _nothing)])]),
        Mount("/other", app=_nothing),
        Mount("/files", app=StaticFiles(directory=".")),
    ],
    ids=lambda route: route.path,
)
def test_a_route_without_a_row_is_reported(route: Route | WebSocketRoute | Mount) -> None:
    [strange] = strange_routes([*_application().routes, route])
    assert route.path in strange and "add one to" in strange
