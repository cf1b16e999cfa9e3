"""Trips and share links on the dispatcher's page, in a real browser."""

from playwright.async_api import Browser

from tests.browser.browser import open_page
from tests.browser.dispatcher import VADUZ, click_place, dispatcher_page, report_at
from tests.support.clients import Api, Driver, now_ms
from tests.support.hub_process import HubProcess


async def test_a_trip_is_made_by_two_clicks_followed_and_replayed(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    near = await api.vehicle(fleet_id, name="Near")
    far = await api.vehicle(fleet_id, name="Far")
    latitude, longitude = VADUZ
    async with Driver(hub.url, near) as driver, Driver(hub.url, far) as other:
        begin = now_ms() - 20_000
        await report_at(driver, 1, latitude, longitude, fix_time=begin, speed=0)
        await report_at(other, 1, latitude + 0.01, longitude, fix_time=begin, speed=0)
        async with dispatcher_page(browser, hub, fleet_id) as page:
            await page.until("tracking.list.length === 2")
            await page.page.click("#tab-trips")
            await page.page.click("#new-trip")
            await click_place(page, latitude + 0.001, longitude)
            await click_place(page, latitude + 0.004, longitude)
            await page.page.fill("[name=pickup]", "Städtle")
            # The places are stored every few seconds, and not always together. The page asks again.
            await page.page.wait_for_selector(".nearest-list li:nth-child(2) button")
            assert await page.page.locator(".nearest-list .row-name").all_inner_texts() == ["Near", "Far"]
            await page.page.click(f".nearest-list [data-vehicle='{near}']")
            await page.until(f"tracking.trips.length === 1 && tracking.trips[0].vehicle_id === '{near}'")
            [trip] = await page.page.evaluate("tracking.trips")
            assert "Städtle" in await page.page.inner_text("#trip-list")
            await page.until(f"tracking.vehicles.find(({{ id }}) => id === '{near}').status === 'on_trip'")

            await api.advance(trip["trip_id"], "enroute_to_pickup")
            await page.page.wait_for_selector("#card .trip-status[data-status=enroute_to_pickup]")
            for seq in range(2, 12):
                await report_at(driver, seq, latitude + seq * 0.0003, longitude, fix_time=begin + seq * 1_000, speed=10 + seq)
            await api.advance(trip["trip_id"], "arrived_at_pickup", "enroute_to_dropoff", "complete")
            await page.page.wait_for_selector("#card .trip-status[data-status=complete]")
            await page.until("tracking.trips.length === 0")

            await page.page.keyboard.press("Escape")
            await page.page.click("#tab-vehicles")
            await page.page.click("#list [role=option]:has-text('Near')")
            await page.page.click(".replay-open")
            await page.until("tracking.replay && tracking.replay.positions === 11")
            assert await page.page.locator(".chart canvas").count() == 1
            await page.page.select_option("#replay .rate", "60")
            await page.page.focus("#replay .scrubber")
            await page.page.keyboard.press("Space")
            await page.until("tracking.replay.time === tracking.replay.to && !tracking.replay.playing")
            shown = (await page.page.evaluate("tracking.replay"))["shown"]
            assert abs(shown["latitude"] - (latitude + 11 * 0.0003)) < 1e-6
            assert shown["speed"] == 21
            await page.page.keyboard.press("Home")
            await page.until("tracking.replay.time === tracking.replay.from")
            async with page.page.expect_download() as download:
                await page.page.click("[data-format=csv]")
            assert (await download.value).suggested_filename == f"{near}.csv"
            assert await page.page.locator(".car").count() == 1
            await page.page.keyboard.press("Escape")
            await page.until("tracking.replay === null")
            assert page.complaints == []


async def test_a_trip_is_made_without_a_vehicle_assigned_and_canceled(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver, dispatcher_page(browser, hub, fleet_id) as page:
        trip = await api.trip(fleet_id, None)
        await page.until("tracking.trips.length === 1")
        assert await page.page.inner_text("#tab-trips .badge") == "1"
        await report_at(driver, 1, *VADUZ)
        await page.page.click("#tab-trips")
        await page.page.click("#trip-list .row-open")
        await page.page.click(f".nearest-list [data-vehicle='{vehicle_id}']")
        await page.until(f"tracking.trips[0].vehicle_id === '{vehicle_id}'")
        await page.page.click(".show-vehicle")
        await page.until(f"tracking.selected === '{vehicle_id}'")
        await page.page.fill(".message-form .text", "Come to the back door")
        await page.page.keyboard.press("Enter")
        assert (await driver.expect("message"))["text"] == "Come to the back door"
        await page.page.wait_for_selector(".sent:text-is('Sent')")
        await page.page.click(".cancel-trip")
        await page.page.click(".cancel-trip")
        await page.until("tracking.trips.length === 0")
        assert (await api.call("GET", f"/trips/{trip['trip_id']}"))["status"] == "canceled"


async def test_a_share_link_is_copied_and_revoked(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    await api.advance(trip["trip_id"], "enroute_to_pickup")
    async with Driver(hub.url, vehicle_id) as driver, dispatcher_page(browser, hub, fleet_id) as page:
        await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await report_at(driver, 1, *VADUZ)
        await page.page.click("#list [role=option]")
        await page.page.click(".share-new")
        await page.page.click(".share-list .copy")
        await page.page.wait_for_selector(".copy:text-is('Copied')")
        link = await page.page.evaluate("navigator.clipboard.readText()")
        assert link.startswith(f"{hub.url}/trip/{trip['trip_id']}#")
        async with open_page(browser, link) as passenger:
            await passenger.until("tracking.state.live")
            await page.page.click(".revoke")
            await passenger.until("tracking.state.ending === 'revoked'")
        await page.page.wait_for_selector(".share-list .none")
        shares = (await api.call("GET", f"/trips/{trip['trip_id']}/shares"))["shares"]
        assert ["revoked_at" in share for share in shares] == [True]
