"""The pages, and the files that they load."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tracking.api.headers import of_pages
from tracking.api.http import respond, service_of

WEB = Path(__file__).parents[2] / "web"
_VENDOR = WEB / "node_modules"


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    """Serve the page. Its script reads the id and the token from the link, and asks the hub for the data."""

    async def page(request: Request) -> Response:
        settings = service_of(request).settings
        return FileResponse(WEB / name, headers=of_pages(settings.basemap_url))

    return page


async def web_config(request: Request) -> Response:
    """The settings that the pages need."""
    settings = service_of(request).settings
    if settings.basemap_url:
        basemap = {"kind": "raster", "url": settings.basemap_url, "attribution": settings.basemap_attribution}
    else:
        basemap = {
            "kind": "vector",
            "url": "web/data/liechtenstein_basemap.pmtiles",  # from the hub's own address
            "attribution": "© OpenStreetMap contributors, © OpenMapTiles",
        }
    return respond({"basemap": basemap, "stale_after": settings.stale_after})


PIECE_BYTES = 16 * 1024
"""The bytes of a file that are read at once. Memory holds this much for a client that does not read."""


class _Files(StaticFiles):
    """Static files that a browser revalidates before each use, so that an upgrade shows at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.setdefault("Cache-Control", "no-cache")
        if isinstance(response, FileResponse):
            response.chunk_size = PIECE_BYTES
        return response


PAGE_FOLDERS = frozenset({"shared", "passenger", "dispatcher"})


class _PageFiles(_Files):
    """The modules, styles and images of the pages. Tests and configuration are not served."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        file = Path(path)
        if not PAGE_FOLDERS.intersection(file.parts[:1]) or file.suffix not in {".js", ".css", ".svg", ".png"}:
            return "", None
        return super().lookup_path(path)


def _vendor(package: str) -> BaseRoute:
    return Mount(f"/web/vendor/{package.rpartition('/')[2]}", _Files(directory=_VENDOR / package / "dist", check_dir=False))


routes: list[BaseRoute] = [
    Route("/trip/{trip_id}", _page("passenger/index.html")),
    Route("/fleet/{fleet_id}", _page("dispatcher/index.html")),
    Route("/web-config.json", web_config),
    _vendor("leaflet"),
    _vendor("protomaps-leaflet"),
    _vendor("@geoman-io/leaflet-geoman-free"),
    _vendor("uplot"),
    Mount("/web/data", _Files(directory=WEB / "data", check_dir=False)),
    Mount("/web", _PageFiles(directory=WEB, check_dir=False)),
]
