"""The dispatcher's page in a real browser, against a real hub."""

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from playwright.async_api import Browser

from tests.browser.browser import Watched, open_page
from tests.browser.dispatcher import SYDNEY, VADUZ, click_place, dispatcher_page, report_at
from tests.support.clients import Api, Driver, now_ms, token
from tests.support.hub_process import HubProcess


@pytest.mark.also_two_hubs
async def test_vehicles_move_and_the_list_follows(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    async with AsyncExitStack() as stack:
        drivers = []
        for number in (10, 9, 2):
            vehicle_id = await api.vehicle(fleet_id, name=f"Van {number}", plate=f"FL {number}")
            driver = await stack.enter_async_context(Driver(hub.url, vehicle_id))
            await report_at(driver, 1, VADUZ[0] + number * 0.0005, VADUZ[1], fix_time=now_ms() - 60_000, speed=10, bearing=90)
            drivers.append((vehicle_id, driver))
        page = await stack.enter_async_context(dispatcher_page(browser, hub, fleet_id))
        await page.until("tracking.list.length === 3")
        assert await page.page.evaluate("tracking.list") == ["Van 2", "Van 9", "Van 10"]
        first = page.page.locator("#list [role=option]").first
        assert (await first.inner_text()).split("\n") == ["Van 2", "FL 2", "Available", "36 km/h"]

        vehicle_id, driver = drivers[0]
        await report_at(driver, 2, VADUZ[0] + 0.001, VADUZ[1] + 0.002, speed=20, bearing=90)
        moved = f"tracking.vehicles.find(({{ id }}) => id === '{vehicle_id}').longitude"
        await page.until(f"Math.abs({moved} - {VADUZ[1] + 0.002}) < 1e-9")
        await page.page.wait_for_selector("#list [role=option]:has-text('72 km/h')")

        await click_place(page, VADUZ[0] + 0.001, VADUZ[1] + 0.002)
        await page.until(f"tracking.selected === '{vehicle_id}'")
        assert "Van 10" in await page.page.inner_text("#list [aria-selected=true]")
        await page.page.click("#list [role=option]:has-text('Van 9')")
        await page.until(f"tracking.selected === '{drivers[1][0]}'")
        assert await page.page.inner_text("#card-title") == "Van 9"

        await api.call("DELETE", f"/vehicles/{vehicle_id}")
        await page.until("tracking.list.join() === 'Van 2,Van 9'")
        assert page.complaints == []
        assert page.outside(hub.url) == []
        assert not any("#" in address or "bearer" in address.lower() for address in page.requests[1:])


async def test_a_vehicle_is_found_by_name_or_plate_wherever_it_is(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    near = await api.vehicle(fleet_id, name="Bus", plate="FL 777")
    other = await api.vehicle(fleet_id, name="Van", plate="FL 12")
    far = await api.vehicle(fleet_id, name="Ute", plate="NSW 777")
    await api.trip(fleet_id, other)
    async with Driver(hub.url, near) as one, Driver(hub.url, other) as two, Driver(hub.url, far) as three:
        await report_at(one, 1, *VADUZ)
        await report_at(two, 1, VADUZ[0] + 0.002, VADUZ[1])
        async with dispatcher_page(browser, hub, fleet_id) as page:
            await page.until("tracking.list.length === 2")
            await report_at(three, 1, *SYDNEY)
            await page.page.keyboard.press("/")
            await page.page.keyboard.type("777")
            await page.until("tracking.list.join('|') === 'Bus|Elsewhere in the fleet|Ute'")
            await page.page.click("#list [role=option]:has-text('Ute')")
            await page.until(f"tracking.selected === '{far}' && tracking.vehicles.some(({{ id }}) => id === '{far}')")
            assert await page.page.input_value("#search") == "777"
            await page.page.keyboard.press("Escape")
            await page.until("tracking.selected === null")

        async with dispatcher_page(browser, hub, fleet_id) as page:
            await page.until("tracking.list.length >= 2")
            await page.page.click("[data-status=on_trip]")
            await page.until("tracking.list.join() === 'Van'")
            assert await page.page.get_attribute("[data-status=on_trip]", "aria-pressed") == "true"
            await page.page.click("[data-status=on_trip]")
            await page.until("tracking.list.length >= 2")


async def test_the_page_works_by_keyboard(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    async with AsyncExitStack() as stack:
        for number in range(3):
            vehicle_id = await api.vehicle(fleet_id, name=f"Van {number}")
            driver = await stack.enter_async_context(Driver(hub.url, vehicle_id))
            await report_at(driver, 1, VADUZ[0] + number * 0.001, VADUZ[1])
        page = await stack.enter_async_context(dispatcher_page(browser, hub, fleet_id))
        await page.until("tracking.list.length === 3")
        keys = page.page.keyboard
        await keys.press("/")
        assert await page.page.evaluate("document.activeElement.id") == "search"
        await keys.type("van")
        await keys.press("ArrowDown")
        assert await page.page.evaluate("document.activeElement.id") == "list"
        await keys.press("ArrowDown")
        active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).textContent"
        assert "Van 1" in await page.page.evaluate(active)
        await keys.press("Enter")
        await page.page.wait_for_selector("#card-title:text-is('Van 1')")
        assert await page.page.evaluate("document.activeElement.id") == "card-title"
        await keys.press("Escape")
        await page.until("tracking.selected === null && document.activeElement.id === 'list'")
        await page.page.focus("#tab-vehicles")
        await keys.press("ArrowRight")
        assert await page.page.is_visible("#new-trip")
        await page.page.focus("#new-trip")
        await keys.press("Enter")
        assert "begins" in await page.page.inner_text("#hint")
        await keys.press("Escape")
        assert await page.page.is_hidden("#hint")


@pytest.mark.parametrize(
    ("fragment", "ending", "last_words"),
    [
        ("", "incomplete", "complete"),
        ("nonsense", "invalid", "open this fleet"),
        ("another", "invalid", "open this fleet"),
        ("expired", "expired", "run out"),
    ],
)
async def test_a_link_that_does_not_open_the_fleet_says_so(
    hub: HubProcess, api: Api, browser: Browser, fragment: str, ending: str, last_words: str
) -> None:
    fleet_id = await api.fleet()
    tokens = {
        "another": token("dispatcher", await api.fleet()),
        "expired": token("dispatcher", fleet_id, expires_in=2),
    }
    async with open_page(browser, f"{hub.url}/fleet/{fleet_id}#{tokens.get(fragment, fragment)}", phone=False) as page:
        await page.until(f"tracking.state.ending === '{ending}'")
        assert (await page.page.inner_text("#ending h2")).endswith(last_words)
        assert await page.page.is_hidden("#side")


async def test_the_token_leaves_address_and_history_and_a_reload_still_works(
    hub: HubProcess, api: Api, browser: Browser
) -> None:
    fleet_id = await api.fleet()
    async with dispatcher_page(browser, hub, fleet_id) as page:
        for _ in range(2):
            assert page.page.url == f"{hub.url}/fleet/{fleet_id}"
            await page.page.reload()
            await page.until("tracking.state.live")
        other = Watched(await page.page.context.new_page())
        await other.page.goto(page.page.url)
        await other.until("tracking.state.ending === 'incomplete'")


async def test_the_page_reconnects_to_a_restarted_hub(own_hub: Callable[..., HubProcess], browser: Browser) -> None:
    hub = own_hub()
    latitude, longitude = VADUZ
    square = [[9.52, 47.14], [9.53, 47.14], [9.53, 47.15], [9.52, 47.15], [9.52, 47.14]]
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id, name="Van 1")
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}}
        await api.call("PUT", f"/fleets/{fleet_id}/geofences/square", feature)
    async with dispatcher_page(browser, hub, fleet_id) as page:
        async with Driver(hub.url, vehicle_id) as driver:
            await report_at(driver, 1, latitude + 0.001, longitude - 0.01, fix_time=now_ms() - 30_000)
            await page.until("tracking.list.join() === 'Van 1'")
        hub.kill()
        await page.until("!tracking.state.live")
        await page.page.wait_for_selector("#banner:has-text('Reconnecting')")
        hub.start()
        async with Driver(hub.url, vehicle_id) as driver:
            # If the page is not connected again yet, it reads this event as a missed one.
            await report_at(driver, 1, latitude + 0.001, longitude + 0.002, fix_time=now_ms() - 10_000)
            await page.until("tracking.state.live && tracking.events.some(({ kind }) => kind === 'enter')", 40)
            await report_at(driver, 2, latitude + 0.001, longitude + 0.003)
            await page.until(f"tracking.vehicles.some(({{ longitude }}) => Math.abs(longitude - {longitude + 0.003}) < 1e-9)")
        assert await page.page.is_hidden("#banner")


async def test_on_a_phone_the_map_stays_above_the_list(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver, dispatcher_page(browser, hub, fleet_id, phone=True) as page:
        await report_at(driver, 1, *VADUZ)
        await page.page.tap("#list [role=option]")
        await page.until(f"tracking.selected === '{vehicle_id}'")
        boxes = [await page.page.locator(name).bounding_box() for name in ("#stage", "#card")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["height"] > 350
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"] - 1
        assert await page.page.evaluate("document.documentElement.scrollWidth") == 390
