"""The files that the hub serves below `/web/`: all that the pages load, and nothing else in `web/`."""

import re
from types import SimpleNamespace
from urllib.parse import urljoin

import httpx
import pytest
from starlette.applications import Starlette

from tracking.api import pages
from tracking.config import load


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = Starlette(routes=pages.routes)
    app.state.service = SimpleNamespace(settings=load(database_url="postgresql:///none", jwt_secret="x" * 40))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub")


@pytest.mark.parametrize("page", ["/trip/t", "/fleet/f"])
async def test_every_file_of_a_page_is_served(client: httpx.AsyncClient, page: str) -> None:
    asked, wanted = set[str](), [page]
    async with client:
        while wanted:
            path = wanted.pop()
            if path in asked or path.startswith("/web/vendor/"):
                continue
            asked.add(path)
            response = await client.get(path)
            assert response.status_code == 200, path
            assert response.headers["cache-control"] == "no-cache", path
            links = r'^import (?:[^"]*from )?"(.+?)"' if path.endswith(".js") else r'(?:href|src)="(.+?)"'
            wanted += [urljoin(path, link) for link in re.findall(links, response.text, re.MULTILINE)]
    assert len(asked) > 20
    other = "/web/dispatcher/" if page.startswith("/trip") else "/web/passenger/"
    assert not [path for path in asked if path.startswith(other)], "a page has no use for the other's files"


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/%2e",
        "/web/package.json",
        "/web/test/world.js",
        "/web/shared/%2e%2e/test/world.js",
        "/web/passenger/",
        "/web/passenger/index.html",
        "/web/dispatcher/state",
        "/web/node_modules/leaflet/dist/leaflet.js",
    ],
)
async def test_nothing_else_of_the_folder_is_served(client: httpx.AsyncClient, path: str) -> None:
    async with client:
        assert (await client.get(path)).status_code == 404
