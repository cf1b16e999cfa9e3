"""The pages behind a proxy that gives the hub a path of its host, as a town's second web application has it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable

import httpx
from playwright.async_api import Browser

from tests.browser.browser import open_page
from tests.support.clients import Api, Driver, Passenger, fix, token
from tests.support.hub_process import HubProcess, free_port

PREFIX = "/town/track"


class SubPathProxy:
    """Passes on what is asked for below `PREFIX`, with or without it, and names the hub in `Host`; 404 for all else."""

    def __init__(self, port: int, hub: int) -> None:
        self._port = port
        self._hub = hub
        self.cuts = True
        self.others: list[bytes] = []
        """Targets outside the prefix."""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", self._port):
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            method, target, rest = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
            if not target.startswith(PREFIX.encode() + b"/"):
                self.others.append(target)
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            rest = re.sub(rb"(?im)^host:.*?\r\n", b"Host: 127.0.0.1:%d\r\n" % self._hub, rest)
            if b"websocket" not in rest.lower():
                rest = re.sub(rb"(?im)^connection:.*?\r\n", b"", rest).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._hub)
            with contextlib.closing(up_writer):
                up_writer.write(b" ".join((method, target[len(PREFIX) :] if self.cuts else target, rest)))
                await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


async def test_pages_sockets_and_links_work_below_a_path(own_hub: Callable[..., HubProcess], browser: Browser) -> None:
    front = free_port()
    base = f"http://127.0.0.1:{front}{PREFIX}"
    hub = own_hub(public_url=f"{base}/")
    proxy = SubPathProxy(front, hub.port)
    async with proxy.serving(), Api(base) as api:
        vehicle_id, trip_id = await api.under_way()
        async with Driver(base, vehicle_id) as driver:
            await driver.report(fix(1))
            await driver.acknowledged(1)
            for proxy.cuts in (True, False):
                await _seen(browser, api, base, trip_id, vehicle_id)
    # And without any proxy the hub is still reached at its own address.
    assert httpx.get(f"{hub.url}/trip/x").status_code == 200
    assert proxy.others == []


async def _seen(browser: Browser, api: Api, base: str, trip_id: str, vehicle_id: str) -> None:
    share = await api.call("POST", f"/trips/{trip_id}/shares", {})
    assert share["url"].startswith(f"{base}/trip/{trip_id}#")
    async with Passenger(base, trip_id, share["token"], origin=base.removesuffix(PREFIX)) as passenger:
        assert (await passenger.receive())["type"] == "snapshot"
    fleet_id = (await api.call("GET", f"/vehicles/{vehicle_id}"))["fleet_id"]
    fleet = f"{base}/fleet/{fleet_id}#{token('dispatcher', fleet_id)}"
    for link, shown in ((share["url"], "tracking.lineLength === 1"), (fleet, "tracking.list.length === 1")):
        async with open_page(browser, link, phone=False, calm=True) as page:
            await page.until(f"tracking.state.live && {shown}")
            await page.page.wait_for_selector("canvas.leaflet-tile-loaded")
            assert page.complaints == []
            assert page.outside(base) == []
