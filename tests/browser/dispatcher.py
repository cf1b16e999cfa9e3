"""What a test does on the dispatcher's page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser

from tests.browser.browser import Watched, open_page
from tests.support.clients import Driver, fix, token
from tests.support.hub_process import HubProcess

VADUZ = 47.141, 9.521
SYDNEY = -33.87, 151.21


@asynccontextmanager
async def dispatcher_page(browser: Browser, hub: HubProcess, fleet_id: str, **options: Any) -> AsyncIterator[Watched]:
    """The fleet's page, connected."""
    url = f"{hub.url}/fleet/{fleet_id}#{token('dispatcher', fleet_id)}"
    async with open_page(browser, url, **{"phone": False, "calm": True, **options}) as page:
        await page.until("tracking.state.live")
        yield page


async def report_at(driver: Driver, seq: int, latitude: float, longitude: float, **fields: Any) -> None:
    """Report a fix there, and wait until it is acknowledged."""
    await driver.report(fix(seq, latitude=latitude, longitude=longitude, **fields))
    await driver.acknowledged(seq)


async def click_place(page: Watched, latitude: float, longitude: float) -> None:
    point = await page.page.evaluate("([latitude, longitude]) => tracking.pointOf(latitude, longitude)", [latitude, longitude])
    await page.page.mouse.click(point["x"], point["y"])
