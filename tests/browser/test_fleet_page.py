"""The dispatcher's page in a real browser, against a real hub."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.browser import Watched, open_page
from tests.support.clients import Api, Driver, fix, now_ms, token
from tests.support.hub_process import HubProcess

VADUZ = 47.141, 9.521
SYDNEY = -33.87, 151.21


@asynccontextmanager
async def desk(browser: Browser, hub: HubProcess, fleet_id: str, **options: Any) -> AsyncIterator[Watched]:
    """The fleet's page, live."""
    url = f"{hub.url}/fleet/{fleet_id}#{token('dispatcher', fleet_id)}"
    async with open_page(browser, url, **{"phone": False, "calm": True, **options}) as page:
        await page.until("tracking.state.live")
        yield page


async def at(driver: Driver, seq: int, latitude: float, longitude: float, **fields: Any) -> None:
    """Reports a fix there, and waits until it is stored."""
    await driver.report(fix(seq, latitude=latitude, longitude=longitude, **fields))
    await driver.acknowledged(seq)


async def click_place(page: Watched, latitude: float, longitude: float) -> None:
    point = await page.page.evaluate("([latitude, longitude]) => tracking.pointOf(latitude, longitude)", [latitude, longitude])
    await page.page.mouse.click(point["x"], point["y"])


async def test_vehicles_move_and_the_list_is_in_step(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    async with AsyncExitStack() as stack:
        drivers = []
        for number in (10, 9, 2):
            vehicle_id = await api.vehicle(fleet_id, name=f"Van {number}", plate=f"FL {number}")
            driver = await stack.enter_async_context(Driver(hub.url, vehicle_id))
            await at(driver, 1, VADUZ[0] + number * 0.0005, VADUZ[1], fix_time=now_ms() - 60_000, speed=10, bearing=90)
            drivers.append((vehicle_id, driver))
        page = await stack.enter_async_context(desk(browser, hub, fleet_id))
        await page.until("tracking.list.length === 3")
        assert await page.page.evaluate("tracking.list") == ["Van 2", "Van 9", "Van 10"]
        first = page.page.locator("#list [role=option]").first
        assert (await first.inner_text()).split("\n") == ["Van 2", "FL 2", "Available", "36 km/h"]

        vehicle_id, driver = drivers[0]
        await at(driver, 2, VADUZ[0] + 0.001, VADUZ[1] + 0.002, speed=20, bearing=90)
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
        await at(one, 1, *VADUZ)
        await at(two, 1, VADUZ[0] + 0.002, VADUZ[1])
        async with desk(browser, hub, fleet_id) as page:
            await page.until("tracking.list.length === 2")
            await at(three, 1, *SYDNEY)
            await page.page.keyboard.press("/")
            await page.page.keyboard.type("777")
            await page.until("tracking.list.join('|') === 'Bus|Elsewhere in the fleet|Ute'")
            await page.page.click("#list [role=option]:has-text('Ute')")
            await page.until(f"tracking.selected === '{far}' && tracking.vehicles.some(({{ id }}) => id === '{far}')")
            assert await page.page.input_value("#search") == "777"
            await page.page.keyboard.press("Escape")
            await page.until("tracking.selected === null")

        async with desk(browser, hub, fleet_id) as page:
            await page.until("tracking.list.length >= 2")
            await page.page.click("[data-status=on_trip]")
            await page.until("tracking.list.join() === 'Van'")
            assert await page.page.get_attribute("[data-status=on_trip]", "aria-pressed") == "true"
            await page.page.click("[data-status=on_trip]")
            await page.until("tracking.list.length >= 2")


async def test_a_geofence_is_drawn_and_tells_who_goes_through(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id, name="Van 7")
    latitude, longitude = VADUZ
    async with Driver(hub.url, vehicle_id) as driver, desk(browser, hub, fleet_id) as page:
        await at(driver, 1, latitude, longitude - 0.004, fix_time=now_ms() - 30_000)
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
        # The hub's own words, and what was drawn is still there to be saved.
        await page.page.wait_for_selector(".fence-form .problem:not(:empty)")
        await page.page.fill(".fence-form [name=dwell]", "3")
        await page.page.click(".fence-form button.main")
        await page.until("tracking.geofences.length === 1 && document.querySelector('#card').hidden")
        assert await page.page.inner_text("#fence-list .row-name") == "<b>Depot</b>"
        assert await page.page.inner_text(".fence-name") == "<b>Depot</b>"
        [stored] = (await api.call("GET", f"/fleets/{fleet_id}/geofences"))["features"]
        assert stored["properties"] == {"name": "<b>Depot</b>", "speed_limit": 13.889, "dwell_after": 180}
        assert len(stored["geometry"]["coordinates"][0]) == 5

        await at(driver, 2, latitude, longitude - 0.001, fix_time=now_ms() - 20_000, speed=20)
        await page.until("tracking.events.some(({ kind }) => kind === 'enter')")
        await at(driver, 3, latitude, longitude + 0.004, fix_time=now_ms() - 10_000)
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


async def test_a_backlog_is_filed_quietly_and_a_wrong_clock_is_shown(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Limited", "speed_limit": 20})
    vehicle_id = await api.vehicle(fleet_id, name="Van")
    async with desk(browser, hub, fleet_id) as page, Driver(hub.url, vehicle_id) as driver:
        # The first fix of all is believed up to 25 m/s.
        await at(driver, 1, *VADUZ, fix_time=now_ms() - 1_800_000, speed=24)
        await page.until("tracking.events.some(({ late }) => late)")
        assert await page.page.is_hidden("#tab-events .badge")
        assert await page.page.inner_text("#announcer") == ""
        await page.page.click("#tab-events")
        assert "reported late" in await page.page.inner_text("#event-list [data-kind=speeding].late")
        await page.page.click("#tab-vehicles")
        ahead = now_ms() + 45_000
        # Elsewhere: of a vehicle that has not moved for half an hour no speed is believed.
        await at(driver, 2, VADUZ[0] + 0.0001, VADUZ[1], fix_time=ahead, speed=10)
        await page.until("tracking.vehicles.some(({ clockSkew }) => clockSkew === 45 || clockSkew === 44)")
        await page.page.wait_for_selector("#list .row-state:text-matches('Clock 4[45] s ahead')")
        await page.page.click("#list [role=option]")
        await page.page.wait_for_selector("#card .clock-wrong:text-matches('Clock 4[45] s ahead')")
        # As fast as its places show, however long the page took.
        await at(driver, 3, VADUZ[0] + 0.0005, VADUZ[1], fix_time=ahead + 2_000, speed=22)
        await page.until("tracking.events.at(-1).kind === 'speeding' && !tracking.events.at(-1).late")
        assert await page.page.is_visible("#tab-events .badge")
        # Set right: that is seen at once, though the marker waits for a newer fix.
        await at(driver, 4, *VADUZ, speed=10)
        await page.until("tracking.vehicles.every(({ clockSkew }) => clockSkew === 0)")
        await page.page.wait_for_selector("#card .clock-wrong", state="hidden")
        assert page.complaints == []


async def test_what_other_dispatchers_do_with_geofences_is_seen(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    square = [[9.52, 47.14], [9.53, 47.14], [9.53, 47.15], [9.52, 47.15], [9.52, 47.14]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [square]},
        "properties": {"name": "School", "colour": "red"},
    }
    async with desk(browser, hub, fleet_id) as page:
        await page.page.click("#tab-geofences")
        await api.call("PUT", f"/fleets/{fleet_id}/geofences/school", feature)
        await page.page.wait_for_selector("#fence-list [data-fence=school]")
        await page.page.click("#fence-list .zoom-to")
        await page.until("tracking.state.zoom > 12")
        await api.call("DELETE", f"/fleets/{fleet_id}/geofences/school")
        await page.until("tracking.geofences.length === 0")


async def test_a_trip_is_made_by_two_clicks_followed_and_replayed(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    near = await api.vehicle(fleet_id, name="Near")
    far = await api.vehicle(fleet_id, name="Far")
    latitude, longitude = VADUZ
    async with Driver(hub.url, near) as driver, Driver(hub.url, far) as other:
        begin = now_ms() - 20_000
        await at(driver, 1, latitude, longitude, fix_time=begin, speed=0)
        await at(other, 1, latitude + 0.01, longitude, fix_time=begin, speed=0)
        async with desk(browser, hub, fleet_id) as page:
            await page.until("tracking.list.length === 2")
            await page.page.click("#tab-trips")
            await page.page.click("#new-trip")
            await click_place(page, latitude + 0.001, longitude)
            await click_place(page, latitude + 0.004, longitude)
            await page.page.fill("[name=pickup]", "Städtle")
            # Their places are stored every few seconds, and not always both at once; the page asks again.
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
                await at(driver, seq, latitude + seq * 0.0003, longitude, fix_time=begin + seq * 1_000, speed=10 + seq)
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
    async with Driver(hub.url, vehicle_id) as driver, desk(browser, hub, fleet_id) as page:
        trip = await api.trip(fleet_id, None)
        await page.until("tracking.trips.length === 1")
        assert await page.page.inner_text("#tab-trips .badge") == "1"
        await at(driver, 1, *VADUZ)
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
    async with Driver(hub.url, vehicle_id) as driver, desk(browser, hub, fleet_id) as page:
        await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await at(driver, 1, *VADUZ)
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


async def test_the_page_is_worked_by_keyboard(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    async with AsyncExitStack() as stack:
        for number in range(3):
            vehicle_id = await api.vehicle(fleet_id, name=f"Van {number}")
            driver = await stack.enter_async_context(Driver(hub.url, vehicle_id))
            await at(driver, 1, VADUZ[0] + number * 0.001, VADUZ[1])
        page = await stack.enter_async_context(desk(browser, hub, fleet_id))
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


async def test_thresholds_are_shown_and_changed(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    async with desk(browser, hub, fleet_id, dark=True) as page:
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
    async with desk(browser, hub, fleet_id) as page:
        for _ in range(2):
            assert page.page.url == f"{hub.url}/fleet/{fleet_id}"
            await page.page.reload()
            await page.until("tracking.state.live")
        other = Watched(await page.page.context.new_page())
        await other.page.goto(page.page.url)
        await other.until("tracking.state.ending === 'incomplete'")


async def test_a_hub_that_went_down_and_came_back_is_watched_again(
    own_hub: Callable[..., HubProcess], browser: Browser
) -> None:
    hub = own_hub()
    latitude, longitude = VADUZ
    square = [[9.52, 47.14], [9.53, 47.14], [9.53, 47.15], [9.52, 47.15], [9.52, 47.14]]
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id, name="Van 1")
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}}
        await api.call("PUT", f"/fleets/{fleet_id}/geofences/square", feature)
    async with desk(browser, hub, fleet_id) as page:
        async with Driver(hub.url, vehicle_id) as driver:
            await at(driver, 1, latitude + 0.001, longitude - 0.01, fix_time=now_ms() - 30_000)
            await page.until("tracking.list.join() === 'Van 1'")
        hub.kill()
        await page.until("!tracking.state.live")
        await page.page.wait_for_selector("#banner:has-text('Reconnecting')")
        hub.start()
        async with Driver(hub.url, vehicle_id) as driver:
            # Perhaps before the page is back: then the event is one of those missed.
            await at(driver, 1, latitude + 0.001, longitude + 0.002, fix_time=now_ms() - 10_000)
            await page.until("tracking.state.live && tracking.events.some(({ kind }) => kind === 'enter')", 40)
            await at(driver, 2, latitude + 0.001, longitude + 0.003)
            await page.until(f"tracking.vehicles.some(({{ longitude }}) => Math.abs(longitude - {longitude + 0.003}) < 1e-9)")
        assert await page.page.is_hidden("#banner")


async def test_on_a_phone_the_map_stays_above_the_list(hub: HubProcess, api: Api, browser: Browser) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver, desk(browser, hub, fleet_id, phone=True) as page:
        await at(driver, 1, *VADUZ)
        await page.page.tap("#list [role=option]")
        await page.until(f"tracking.selected === '{vehicle_id}'")
        boxes = [await page.page.locator(name).bounding_box() for name in ("#stage", "#card")]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["height"] > 350
        assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"] - 1
        assert await page.page.evaluate("document.documentElement.scrollWidth") == 390
