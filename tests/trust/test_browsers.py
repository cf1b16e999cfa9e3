"""What browsers are told: which origins may open a socket, and the security headers of every answer."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.clients import Api
from tests.support.hub_process import HubProcess
from tests.support.plain_http import WEBSOCKET, Plain
from tracking.demo.postgres import Cluster

# --- which origins may open a socket ------------------------------------------------------------------------------------------

PUBLIC = "https://track.example"


@pytest.fixture(scope="module")
def public_hub(cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with a public address."""
    log = tmp_path_factory.mktemp("public") / "log"
    cluster.create_database("public_hub", template)
    process = HubProcess(cluster.url("public_hub"), log, public_url=PUBLIC, allowed_origins="capacitor://localhost").start()
    yield process
    process.stop()


async def opening(hub: HubProcess, origin: str | None, host: str) -> int:
    """The status of a handshake."""
    async with Plain(hub.port) as plain:
        said = "" if origin is None else f"Origin: {origin}\r\n"
        plain.writer.write(f"GET /v1/driver HTTP/1.1\r\nHost: {host}\r\n{WEBSOCKET}{said}\r\n".encode())
        return (await plain.answer()).status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "track.example", 101),  # not a browser
        (None, "127.0.0.1:8000", 101),
        (PUBLIC, "track.example", 101),
        (PUBLIC, "hub:8000", 101),  # a proxy sends the hub's own name
        ("https://TRACK.example:443", "track.example", 101),
        ("capacitor://localhost", "track.example", 101),
        ("null", "track.example", 403),
        ("null", "", 403),
        ("", "", 403),
        ("http://", "", 403),
        ("http://track.example", "track.example", 403),
        ("https://track.example:8443", "track.example:8443", 403),
        ("https://track.example.", "track.example.", 403),
        ("http://evil.example", "evil.example", 403),
        ("https://evil.example", "evil.example", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),
        ("http://localhost:8000", "localhost:8000", 403),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", 403),
        (f"{PUBLIC} http://evil.example", "track.example", 403),
    ],
)
async def test_row_27_with_a_public_address_only_its_pages_open_sockets(
    public_hub: HubProcess, origin: str | None, host: str, status: int
) -> None:
    assert await opening(public_hub, origin, host) == status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://localhost:8000", "localhost:8000", 101),
        ("http://demo.localhost:8000", "demo.localhost:8000", 101),
        ("http://192.0.2.7:8000", "192.0.2.7:8000", 101),
        ("http://[fd00::7]:8000", "[fd00::7]:8000", 101),
        ("http://hub:8000", "hub:8000", 101),
        ("http://laptop.local:8000", "laptop.local:8000", 101),
        ("http://localhost:8000", "localhost:8001", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),  # DNS rebinding
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", 403),
        ("http://evil.example", "localhost", 403),
        ("http://localhost.evil.example", "localhost.evil.example", 403),
        ("null", "localhost:8000", 403),
    ],
)
async def test_row_27_without_a_public_address_pages_of_private_names_open_sockets(
    hub: HubProcess, origin: str, host: str, status: int
) -> None:
    assert await opening(hub, origin, host) == status


# --- security headers -----------------------------------------------------------------------------------------

HSTS = "strict-transport-security"


async def test_api_answers_are_neither_cached_nor_sniffed(hub: HubProcess, public_hub: HubProcess) -> None:
    """That includes errors, malformed requests, and refusals by the HTTP protocol itself."""
    for where in (hub, public_hub):
        async with Api(where.url) as api:
            fleet_id = await api.fleet()
            trip = await api.trip(fleet_id, None)
            paths = (
                f"fleets/{fleet_id}",
                "fleets/none",
                f"trips/{trip['trip_id']}",
                f"trips/{trip['trip_id']}/track?format=csv",
            )
            answers = [await api.http.get(f"{where.url}/v1/{path}") for path in (*paths, "none")]
            answers += [
                await api.http.get(f"{where.url}/{path}") for path in ("healthz", "readyz", "metrics", "none", "web/none")
            ]
            answers += [
                await api.http.get("/fleets/none", headers={"Authorization": "none"}),
                await api.http.patch(f"/fleets/{fleet_id}"),
                await api.http.put(f"/fleets/{fleet_id}", content=b"{"),
                await api.http.delete(f"/trips/{trip['trip_id']}"),
            ]
        for answer in answers:
            said = (str(answer.request.url), answer.status_code, dict(answer.headers))
            assert answer.headers.get("cache-control") == "no-store", said
            assert answer.headers.get("x-content-type-options") == "nosniff", said
            assert answer.headers.get_list("cache-control", split_commas=True) == ["no-store"], said
            assert (HSTS in answer.headers) == (where is public_hub), said
        async with Plain(where.port) as plain:
            plain.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            refused = await plain.answer()
            assert (refused.headers["cache-control"], refused.headers["x-content-type-options"]) == ("no-store", "nosniff")


async def test_pages_have_a_security_policy(hub: HubProcess, public_hub: HubProcess) -> None:
    for where in (hub, public_hub):
        async with Api(where.url) as api:
            for path in ("trip/x", "fleet/x"):
                page = await api.http.get(f"{where.url}/{path}")
                policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
                assert policy["connect-src"] == "'self'"
                assert policy["default-src"] == "'self'"
                assert policy["frame-ancestors"] == "'none'"
                assert "geolocation=()" in page.headers["permissions-policy"]
                assert page.headers["cache-control"] == "no-cache"
                assert (page.headers.get(HSTS) or "").startswith("max-age=") == (where is public_hub)
            assert (await api.http.get(f"{where.url}/web/passenger/page.js")).headers["cache-control"] == "no-cache"


async def test_the_policy_has_the_hosts_of_the_map(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(basemap_url="https://tile{s}.maps.example:8443/{z}/{x}/{y}.png")
    async with Api(hub.url) as api:
        policy = (await api.http.get(f"{hub.url}/trip/x")).headers["content-security-policy"]
    hosts = " ".join(f"https://tile{letter}.maps.example:8443" for letter in "abc")
    assert f"connect-src 'self' {hosts};" in policy
    assert f"img-src 'self' data: blob: {hosts};" in policy
