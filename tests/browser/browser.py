"""A real Chromium for tests of the pages, found on this machine; where there is none, tests are skipped and say why."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_APPS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WEB = Path(__file__).parents[2] / "web"
LIBRARIES = ("leaflet", "protomaps-leaflet", "@geoman-io/leaflet-geoman-free", "uplot")


def find_chromium() -> tuple[str | None, str]:
    """The path of a Chromium that a driver can start, or None and the reason why there is none."""
    chosen = os.environ.get("CHROMIUM")
    if chosen:
        return (chosen, "") if Path(chosen).exists() else (None, f"CHROMIUM names {chosen}, which does not exist")
    for name in NAMES:
        found = shutil.which(name)
        if found is None:
            continue
        # A snap is confined: it sees neither our temporary profile nor the pipe that drives it.
        if _is_snap(Path(found)):
            continue
        return found, ""
    for app in MAC_APPS:
        if Path(app).exists():
            return app, ""
    return (
        None,
        "no Chromium that can be driven (a snap can't): install one (apt-get install chromium), or set CHROMIUM to its path",
    )


def _is_snap(found: Path) -> bool:
    if "snap" in found.resolve().parts:
        return True
    try:
        return b"/snap/bin/" in found.read_bytes()[:4096]
    except OSError:
        return False


def require_browser() -> str:
    """The path of Chromium; skips the test where it or the pages' libraries are missing."""
    path, reason = find_chromium()
    if path is None:
        pytest.skip(reason)
    missing = [name for name in LIBRARIES if not (WEB / "node_modules" / name / "dist").is_dir()]
    if missing:
        pytest.skip(f"the pages' libraries are missing ({', '.join(missing)}): run `npm ci` in web/")
    return path


@asynccontextmanager
async def launch() -> AsyncIterator[Browser]:
    """A headless Chromium; skips the test where there is none, or where it does not start."""
    path = require_browser()
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        except Error as error:
            pytest.skip(f"{path} does not start: {str(error).splitlines()[0]}")
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """A page with all that it asked for and complained about.

    `requests` are the addresses of every request, sockets too; `complaints` errors and warnings of its console, and uncaught
    exceptions.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._asked)
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def outside(self, origin: str) -> list[str]:
        """Requests that went anywhere but to `origin` (an http address)."""
        own = (origin, origin.replace("http", "ws", 1), "data:", "blob:")
        return [address for address in self.requests if not address.startswith(own)]

    async def tracking(self) -> dict[str, Any]:
        """What the page shows, as `window.tracking` tells it: `state`, `displayed`, `line`, `lineLength`, `follow`."""
        seen: dict[str, Any] = await self.page.evaluate(
            """() => window.tracking && ({
              state: tracking.state, displayed: tracking.displayed, line: tracking.line,
              lineLength: tracking.lineLength, follow: tracking.follow,
            })"""
        )
        return seen

    async def until(self, condition: str, seconds: float = 15.0) -> None:
        """Waits for a JavaScript condition on `tracking`, such as `tracking.lineLength > 3`."""
        await self.page.wait_for_function(f"() => window.tracking && ({condition})", timeout=seconds * 1000)

    async def status(self) -> str:
        """The line in words at the head of the panel."""
        return await self.page.inner_text("#status")


@asynccontextmanager
async def open_page(
    browser: Browser, url: str, *, phone: bool = True, dark: bool = False, calm: bool = False
) -> AsyncIterator[Watched]:
    """The page at `url` in a fresh profile, on a phone's screen or a desktop's; `calm` asks for reduced motion."""
    context = await browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 800},
        device_scale_factor=2 if phone else 1,
        is_mobile=phone,
        has_touch=phone,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce" if calm else "no-preference",
    )
    try:
        watched = Watched(await context.new_page())
        await watched.page.goto(url)
        yield watched
    finally:
        await context.close()
