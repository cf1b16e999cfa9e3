"""Geofences, events and thresholds on the dispatcher's page, in a real browser."""

from playwright.async_api import Browser

from tests.browser.dispatcher import VADUZ, click_place, dispatcher_page, report_at
from tests.support.clients import Api, Driver, now_ms
from tests.support.hub_process import HubProcess


async def test_a_geofence_is_drawn_and_causes_events(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id, name="Van 7")
    latitude, longitude = VADUZ
    async with Driver(hub.url, vehicle_id) as driver, dispatcher_page(browser, hub, fleet_id) as page:
        await report_at(driver, 1, latitude, longitude - 0.004, fix_time=now_ms() - 30_000)
        await page.until("tracking.vehicles.length === 1")
        await page.page.click("#tab-geofences")
        await page.page.click("#new-fence")
        corners = [(-0.001, -0.002), (-0.001, 0.002), (0.001, 0.002), (0.001, -0.002), (-0.001, -0.002)]
        for north, east in corners:
            await click_place(page, latitude + north, longitude + east)
        await page.page.fill(".fence-form [name=name]", "<b>Depot</b>")
        await page.page.fill(".fence-form [name=speed]", "50")
        await page.page.fill(".fence-form [name=dwell]", "0.00001")
        await page.page.evaluate("document.querySelector('.fence-form').noValidate = true")
        await page.page.click(".fence-form button.main")
        # The page shows the hub's error, and the drawing can still be saved.
        await page.page.wait_for_selector(".fence-form .problem:not(:empty)")
        await page.page.fill(".fence-form [name=dwell]", "3")
        await page.page.click(".fence-form button.main")
        await page.until("tracking.geofences.length === 1 && document.querySelector('#card').hidden")
        assert await page.page.inner_text("#fence-list .row-name") == "<b>Depot</b>"
        assert await page.page.inner_text(".fence-name") == "<b>Depot</b>"
        [stored] = (await api.call("GET", f"/fleets/{fleet_id}/geofences"))["features"]
        assert stored["properties"] == {"name": "<b>Depot</b>", "speed_limit": 13.889, "dwell_after": 180}
        assert len(stored["geometry"]["coordinates"][0]) == 5

        await report_at(driver, 2, latitude, longitude - 0.001, fix_time=now_ms() - 20_000, speed=20)
        await page.until("tracking.events.some(({ kind }) => kind === 'enter')")
        await report_at(driver, 3, latitude, longitude + 0.004, fix_time=now_ms() - 10_000)
        await page.until("tracking.events.some(({ kind }) => kind === 'exit')")
        assert await page.page.is_visible("#tab-events .badge")
        await page.page.click("#tab-events")
        assert await page.page.is_hidden("#tab-events .badge")
        entry = page.page.locator("#event-list [data-kind=enter]")
        assert "entered <b>Depot</b>" in await entry.inner_text()
        await entry.locator(".show-event").click()
        await page.until(f"tracking.selected === '{vehicle_id}'")
        assert await page.page.locator(".flash").count() == 1

        await page.page.click("#tab-geofences")
        await page.page.click("#fence-list .edit")
        await page.page.fill(".fence-form [name=name]", "Depot")
        await page.page.wait_for_selector(".marker-icon")
        await page.page.click(".fence-form button.main")
        await page.page.wait_for_selector(".fence-name span:text-is('Depot')")
        await page.page.click("#fence-list .edit")
        await page.page.click(".remove")
        await page.page.click(".remove-sure")
        await page.until("tracking.geofences.length === 0")
        assert (await api.call("GET", f"/fleets/{fleet_id}/geofences"))["features"] == []
        assert [text for text in page.complaints if "422" not in text] == []


async def test_events_of_a_backlog_raise_no_notice_and_a_wrong_clock_is_shown(
    hub: HubProcess, api: Api, browser: Browser
) -> None:
    fleet_id = await api.fleet()
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Limited", "speed_limit": 20})
    vehicle_id = await api.vehicle(fleet_id, name="Van")
    async with dispatcher_page(browser, hub, fleet_id) as page, Driver(hub.url, vehicle_id) as driver:
        # A first fix is believed up to 25 m/s.
        await report_at(driver, 1, *VADUZ, fix_time=now_ms() - 1_800_000, speed=24)
        await page.until("tracking.events.some(({ late }) => late)")
        assert await page.page.is_hidden("#tab-events .badge")
        assert await page.page.inner_text("#announcer") == ""
        await page.page.click("#tab-events")
        assert "reported late" in await page.page.inner_text("#event-list [data-kind=speeding].late")
        await page.page.click("#tab-vehicles")
        ahead = now_ms() + 45_000
        # At another place, because no speed is believed of a vehicle that has not moved for half an hour.
        await report_at(driver, 2, VADUZ[0] + 0.0001, VADUZ[1], fix_time=ahead, speed=10)
        await page.until("tracking.vehicles.some(({ clockSkew }) => clockSkew === 45 || clockSkew === 44)")
        await page.page.wait_for_selector("#list .row-state:text-matches('Clock 4[45] s ahead')")
        await page.page.click("#list [role=option]")
        await page.page.wait_for_selector("#card .clock-wrong:text-matches('Clock 4[45] s ahead')")
        # The speed fits the places, however long the page took.
        await report_at(driver, 3, VADUZ[0] + 0.0005, VADUZ[1], fix_time=ahead + 2_000, speed=22)
        await page.until("tracking.events.at(-1).kind === 'speeding' && !tracking.events.at(-1).late")
        assert await page.page.is_visible("#tab-events .badge")
        # The corrected clock is seen at once. The marker waits for a newer fix.
        await report_at(driver, 4, *VADUZ, speed=10)
        await page.until("tracking.vehicles.every(({ clockSkew }) => clockSkew === 0)")
        await page.page.wait_for_selector("#card .clock-wrong", state="hidden")
        assert page.complaints == []


async def test_changes_of_geofences_by_others_are_seen(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    square = [[9.52, 47.14], [9.53, 47.14], [9.53, 47.15], [9.52, 47.15], [9.52, 47.14]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"name": "School", "colour": "red"},
    }
    async with dispatcher_page(browser, hub, fleet_id) as page:
        await page.page.click("#tab-geofences")
        await api.call("PUT", f"/fleets/{fleet_id}/geofences/school", feature)
        await page.page.wait_for_selector("#fence-list [data-fence=school]")
        await page.page.click("#fence-list .zoom-to")
        await page.until("tracking.state.zoom > 12")
        await api.call("DELETE", f"/fleets/{fleet_id}/geofences/school")
        await page.until("tracking.geofences.length === 0")


async def test_thresholds_are_shown_and_changed(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    async with dispatcher_page(browser, hub, fleet_id, dark=True) as page:
        await page.page.click("#thresholds-open")
        await page.page.fill("dialog [name=name]", "Night fleet")
        await page.page.fill("dialog [name=speed_limit]", "80")
        await page.page.fill("dialog [name=idle_after]", "2.5")
        await page.page.click("dialog button.main")
        await page.page.wait_for_selector("#fleet-name:text-is('Night fleet')")
        fleet = await api.call("GET", f"/fleets/{fleet_id}")
        assert (fleet["name"], fleet["speed_limit"], fleet["idle_after"]) == ("Night fleet", 22.222, 150)
        await page.page.click("#thresholds-open")
        assert await page.page.input_value("dialog [name=speed_limit]") == "80"
