"""The passenger's page in a real browser, against a real hub."""

import re
from collections.abc import Callable

import pytest
from playwright.async_api import Browser

from tests.browser.browser import Watched, open_page
from tests.support.clients import Api, Driver, Message, fix, now_ms, token
from tests.support.hub_process import HubProcess


def link(hub: HubProcess, trip_id: str, bearer: str | None = None) -> str:
    return f"{hub.url}/trip/{trip_id}#{bearer or token('passenger', trip_id)}"


@pytest.mark.also_two_hubs
async def test_the_page_shows_who_comes_and_where(hub: HubProcess, api: Api, browser: Browser) -> None:
    vehicle_id, trip_id = await api.under_way()
    bearer = token("passenger", trip_id)
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, link(hub, trip_id, bearer)) as page:
        await page.until("tracking.state.live")
        assert await page.status() == "On the way to you"
        assert await page.page.inner_text("#plate") == "FL 12345"
        begin = now_ms() - 10_000
        for seq in range(1, 11):
            await driver.report(fix(seq, fix_time=begin + seq * 1_000, speed=5.5, bearing=0.0))
        await page.until("tracking.lineLength === 10 && tracking.displayed && tracking.displayed.settled")
        seen = await page.tracking()
        assert [point[2] for point in seen["line"]] == [begin + seq * 1_000 for seq in range(1, 11)]
        assert abs(seen["displayed"]["latitude"] - (47.141 + 10 * 0.00005)) < 0.0001
        assert seen["displayed"]["bearing"] == 0
        assert await page.page.locator(".car").count() == 1
        assert await page.page.locator("canvas.leaflet-tile-loaded").count() > 0
        assert page.complaints == []
        assert page.outside(hub.url) == []
        assert not any(bearer in address for address in page.requests[1:]), "the token is in the link and nowhere else"


async def test_the_line_has_no_hole_after_a_break(own_hub: Callable[..., HubProcess], browser: Browser) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
    begin = now_ms() - 20_000
    async with open_page(browser, link(hub, trip_id)) as page:
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(*(fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 6)))
            await driver.acknowledged(5)
            session = driver.session
        await page.until("tracking.lineLength === 5")
        hub.kill()
        await page.until("!tracking.state.live")
        await page.page.wait_for_selector("#banner:has-text('Reconnecting')")
        hub.start()
        async with Driver(hub.url, vehicle_id, session) as driver:
            await driver.report(*(fix(seq, fix_time=begin + seq * 1_000) for seq in range(6, 11)))
            await driver.acknowledged(10)
        await page.until("tracking.state.live && tracking.lineLength === 10", 40)
        assert [point[2] for point in (await page.tracking())["line"]] == [begin + seq * 1_000 for seq in range(1, 11)]
        assert await page.page.locator("#banner").is_hidden()


@pytest.mark.one_hub("an epoch belongs to one hub")
async def test_a_break_of_the_line_alone_is_resumed(hub: HubProcess, api: Api, browser: Browser) -> None:
    vehicle_id, trip_id = await api.under_way()
    begin = now_ms() - 20_000
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, link(hub, trip_id)) as page:
        await driver.report(*(fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 4)))
        await page.until("tracking.lineLength === 3")
        before = (await page.tracking())["state"]
        await page.page.evaluate("dispatchEvent(new Event('pagehide'))")
        await driver.report(*(fix(seq, fix_time=begin + seq * 1_000) for seq in range(4, 8)))
        await driver.acknowledged(7)
        await page.page.evaluate("dispatchEvent(new Event('pageshow'))")
        await page.until("tracking.lineLength === 7")
        resumed = rf"\?epoch={re.escape(before['epoch'])}&offset={before['offset']}&since=[0-9]+$"
        assert any(re.search(resumed, address) for address in page.requests)
        assert (await page.tracking())["state"]["epoch"] == before["epoch"]


async def test_late_fixes_fill_the_line_and_leave_the_car(hub: HubProcess, api: Api, browser: Browser) -> None:
    vehicle_id, trip_id = await api.under_way()
    begin = now_ms() - 25_000
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, link(hub, trip_id)) as page:
        await driver.report(fix(1, fix_time=begin + 1_000), fix(8, fix_time=begin + 8_000))
        await page.until("tracking.lineLength === 2")
        async with Driver(hub.url, vehicle_id) as other:
            await other.report(*(fix(seq, fix_time=begin + seq * 1_000) for seq in range(3, 6)))
            await other.acknowledged(5)
        await page.until("tracking.lineLength === 5")
        seen = await page.tracking()
        assert [(point[2] - begin) // 1_000 for point in seen["line"]] == [1, 3, 4, 5, 8]
        assert seen["state"]["position"]["fix_time"] == begin + 8_000


async def test_two_vehicles_across_the_antimeridian_are_two_lines_on_the_screen(
    hub: HubProcess, api: Api, browser: Browser
) -> None:
    """Neither line, nor the route, nor the way from one vehicle to the other runs around the world or across the map."""
    places = {
        "pickup": {"latitude": -17.0, "longitude": 179.99},
        "dropoff": {"latitude": -17.0, "longitude": -179.99},
        "route": {
            "type": "LineString",
            "coordinates": [[179.99, -17.0], [179.999, -17.0], [-179.999, -17.0], [-179.99, -17.0]],
        },
    }
    first_id, trip_id = await api.under_way(**places)
    trip = await api.call("GET", f"/trips/{trip_id}")
    second_id = await api.vehicle(trip["fleet_id"], plate="FJ 2")

    def drive(north: float, begin: int) -> list[Message]:
        return [
            fix(seq, fix_time=begin + seq * 1_000, latitude=-17.0 + north, longitude=(179.998 + seq * 0.0002 + 180) % 360 - 180)
            for seq in range(1, 21)
        ]

    async with (
        Driver(hub.url, first_id) as first,
        Driver(hub.url, second_id) as second,
        open_page(browser, link(hub, trip_id), calm=True) as page,
    ):
        await first.report(*drive(0.0, now_ms() - 25_000))
        await page.until("tracking.lineLength === 20 && tracking.displayed && tracking.displayed.longitude < 0")
        await api.call("PATCH", f"/trips/{trip_id}", {"version": trip["version"], "vehicle_id": second_id})
        await page.until("tracking.displayed === null && tracking.state.position === null")
        assert await page.page.locator(".car").count() == 0
        assert await page.page.inner_text("#freshness") == "No position of the vehicle yet"
        await second.report(*drive(0.002, now_ms() - 19_000))
        await page.until("tracking.lineLength === 40 && tracking.displayed && tracking.displayed.longitude < 0")
        await page.page.wait_for_selector(".car")
        drawn = await page.page.evaluate(
            """() => Object.fromEntries(["track", "route"].map((name) => {
              const path = document.querySelector(`path.${name}`);
              return [name, { lines: path.getAttribute("d").match(/M/g).length, width: path.getBBox().width }];
            }))"""
        )
        assert (drawn["track"]["lines"], drawn["route"]["lines"]) == (2, 1)
        assert 20 < drawn["track"]["width"] < 600
        assert drawn["track"]["width"] < drawn["route"]["width"] < 3_000
        car = await page.page.locator(".car").bounding_box()
        assert car is not None and 0 < car["x"] < 390 and 0 < car["y"] < 844
        assert page.complaints == []


@pytest.mark.also_two_hubs
async def test_status_and_messages_are_told_in_words(hub: HubProcess, api: Api, browser: Browser) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, link(hub, trip_id)) as page:
        await page.until("tracking.state.live")
        await driver.send({"type": "message", "trip_id": trip_id, "text": "<img src=x onerror=alert(1)>", "client_id": "m1"})
        await page.page.wait_for_selector(".message-text")
        assert await page.page.inner_text(".message-text") == "<img src=x onerror=alert(1)>"
        await page.page.click(".message button")
        assert await page.page.locator(".message").count() == 0
        await api.advance(trip_id, "arrived_at_pickup")
        await page.until("tracking.state.status === 'arrived_at_pickup'")
        assert await page.status() == "Waiting at pickup"
        await api.advance(trip_id, "enroute_to_dropoff", "complete")
        await page.until("tracking.state.ending === 'over'")
        assert await page.status() == "Trip finished"
        assert await page.page.title() == "Trip finished"
        assert await page.page.locator(".car").count() == 0


async def test_a_canceled_trip_says_so(hub: HubProcess, api: Api, browser: Browser) -> None:
    _, trip_id = await api.under_way()
    async with open_page(browser, link(hub, trip_id)) as page:
        await page.until("tracking.state.live")
        await api.advance(trip_id, "canceled")
        await page.until("tracking.state.ending === 'over'")
        assert await page.status() == "This trip was canceled"


async def test_a_revoked_link_stops_with_plain_words(hub: HubProcess, api: Api, browser: Browser) -> None:
    vehicle_id, trip_id = await api.under_way()
    share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 600})
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, share["url"]) as page:
        await driver.report(fix(1))
        await page.until("tracking.displayed")
        await api.call("DELETE", f"/shares/{share['share_id']}")
        await page.until("tracking.state.connection === 'ended'")
        assert await page.status() == "This link has expired or was revoked"
        assert await page.page.locator(".car").count() == 0, "what a revoked link showed is taken away"


async def test_the_token_leaves_address_and_history_and_the_page_comes_back_without_it(
    hub: HubProcess, api: Api, browser: Browser
) -> None:
    _, trip_id = await api.under_way()
    bearer = token("passenger", trip_id)
    async with open_page(browser, link(hub, trip_id, bearer)) as page:
        await page.until("tracking.state.live")
        visible = f"{hub.url}/trip/{trip_id}"
        assert page.page.url == visible
        devtools = await page.page.context.new_cdp_session(page.page)
        entries = (await devtools.send("Page.getNavigationHistory"))["entries"]
        # Beside it the browser itself keeps what somebody typed, which no page can change.
        assert entries[-1]["url"] == visible and not any(bearer in entry["url"] for entry in entries)
        await page.page.reload()
        await page.until("tracking.state.live")
        await page.page.goto(f"{hub.url}/healthz")
        await page.page.go_back()
        await page.until("tracking.state.live")
        assert page.page.url == visible
        # What the page's own button copies is the whole link.
        await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.page.click("#copy-link")
        await page.page.wait_for_selector("#copy-link:has-text('Copied')")
        assert await page.page.evaluate("navigator.clipboard.readText()") == f"{visible}#{bearer}"
        # Another tab of this browser has only what its own link gives.
        other = Watched(await page.page.context.new_page())
        await other.page.goto(visible)
        await other.until("tracking.state.ending === 'incomplete'")
        await other.page.goto(link(hub, trip_id, bearer))
        await other.until("tracking.state.live")
        # A newer link in the same tab counts.
        await page.page.evaluate("location.hash = 'nonsense'")
        await page.until("tracking.state.ending === 'invalid'")
        assert page.page.url == visible


async def test_the_link_is_copied_by_keyboard_and_without_a_clipboard_for_scripts(
    hub: HubProcess, api: Api, browser: Browser
) -> None:
    _, trip_id = await api.under_way()
    bearer = token("passenger", trip_id)
    async with open_page(browser, link(hub, trip_id, bearer)) as page:
        await page.until("tracking.state.live")
        await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        # As over plain HTTP.
        await page.page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject())")
        await page.page.focus("#copy-link")
        await page.page.keyboard.press("Enter")
        await page.page.wait_for_selector("#copy-link:has-text('Copied')")
        assert await page.page.evaluate("navigator.clipboard.readText()") == f"{hub.url}/trip/{trip_id}#{bearer}"
        assert await page.page.evaluate("document.activeElement.id") == "copy-link"
        await page.page.wait_for_selector("#copy-link:has-text('Copy link')")
        await page.page.evaluate("void (document.execCommand = () => false)")
        await page.page.keyboard.press("Enter")
        await page.page.wait_for_selector("#copy-link:has-text('Could not copy')")


@pytest.mark.parametrize(
    ("fragment", "last_word"),
    [("", "complete"), ("nonsense", "valid"), ("not%20a%20token", "valid")],
)
async def test_a_broken_link_says_so(hub: HubProcess, api: Api, browser: Browser, fragment: str, last_word: str) -> None:
    _, trip_id = await api.under_way()
    async with open_page(browser, f"{hub.url}/trip/{trip_id}#{fragment}") as page:
        await page.until("tracking.state.connection === 'ended' || tracking.state.ending")
        assert (await page.status()).split()[-1] == last_word


async def test_an_expired_link_says_so(hub: HubProcess, api: Api, browser: Browser) -> None:
    _, trip_id = await api.under_way()
    async with open_page(browser, link(hub, trip_id, token("passenger", trip_id, expires_in=2))) as page:
        await page.until("tracking.state.ending === 'expired'")
        assert await page.status() == "This link has expired"


async def test_the_map_is_the_passengers_until_they_give_it_back(hub: HubProcess, api: Api, browser: Browser) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, link(hub, trip_id), phone=False) as page:
        await driver.report(fix(1))
        await page.until("tracking.displayed && tracking.follow")
        await page.page.mouse.move(800, 400)
        await page.page.mouse.down()
        await page.page.mouse.move(600, 500, steps=5)
        await page.page.mouse.up()
        await page.until("!tracking.follow")
        await page.page.click("#follow")
        await page.until("tracking.follow")
        await page.page.click(".leaflet-control-zoom-in")
        await page.until("!tracking.follow")
        await page.page.click("#follow")
        await page.until("tracking.follow")
        assert await page.page.locator("#follow").is_hidden()


async def test_a_car_that_went_silent_turns_grey(own_hub: Callable[..., HubProcess], browser: Browser) -> None:
    hub = own_hub(stale_after="2")
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, open_page(browser, link(hub, trip_id), dark=True, calm=True) as page:
        await driver.report(fix(1))
        await page.until("tracking.displayed && !tracking.state.stale")
        await page.page.wait_for_selector(".car.stale")
        assert "last seen" in await page.page.inner_text("#age")
