"""Origins and the public address, compared as URLs are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clients import Api, token
from tests.support.hub_process import HubProcess
from tests.support.plain_http import WEBSOCKET, Plain
from tracking.config import load
from tracking.errors import ConfigError
from tracking.origins import origin_of, parse_address

SAME = {
    "https://track.example": [
        "https://Track.Example",
        "HTTPS://track.example:443",
        "https://track.example/",
        "https://track.example:",
    ],
    "http://track.example": ["http://TRACK.example:80"],
    "http://127.0.0.1:8000": ["http://127.0.0.1:8000/"],
    "http://[::1]:8000": ["http://[0:0:0:0:0:0:0:1]:8000"],
    "https://xn--bcher-kva.example": ["https://Bücher.example", "https://b\u0075\u0308cher.example"],
    "https://xn--strae-oqa.example": ["https://straße.example"],
    "capacitor://localhost": ["capacitor://LOCALHOST"],
}


@pytest.mark.parametrize(("origin", "written"), [(origin, written) for origin, ways in SAME.items() for written in ways])
def test_one_origin_may_be_written_in_several_ways(origin: str, written: str) -> None:
    assert origin_of(origin) == origin
    assert origin_of(written) == origin


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://track.example", "http://track.example"),
        ("https://track.example", "https://track.example:8443"),
        ("https://track.example", "https://track.example."),  # browsers tell them apart, and so must we
        ("https://track.example", "https://www.track.example"),
        ("http://track.example:443", "https://track.example"),
    ],
)
def test_other_origins_stay_other_ones(one: str, other: str) -> None:
    assert origin_of(one) is not None
    assert origin_of(other) is not None
    assert origin_of(one) != origin_of(other)


NONE = [
    *(
        "",
        "null",
        "track.example",
        "//track.example",
        "https://",
        "https:///x",
        "https://track.example/page",
        "https://a b.example",
    ),
    *("https://user@track.example", "https://track.example?x", "https://track.example#x", "https://track.example:x"),
    *("https://track.example:99999", "https://track.example, https://other.example", "https://[::1", "https://*.example", "*"),
    *("https://track.example\\@other.example", " https://track.example", "https://a..example", "https://[1.2.3.4]"),
]


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_origin(text: str) -> None:
    assert origin_of(text) is None


@given(st.text(max_size=40) | st.from_regex(r"https?://[^/]{0,12}(:[0-9]{0,6})?/?", fullmatch=True))
def test_an_origin_is_written_in_one_form(text: str) -> None:
    origin = origin_of(text)
    assert origin is None or origin_of(origin) == origin


def test_settings_hold_origins_as_browsers_write_them() -> None:
    settings = load(public_url="https://Track.Example:443/", allowed_origins="http://App.example:80 , capacitor://localhost")
    assert settings.public_url == "https://track.example"
    assert settings.origins == {"https://track.example", "http://app.example", "capacitor://localhost"}
    assert settings.prefix == ""
    below = load(public_url="https://host:8443/a/track/")
    assert (below.public_url, below.prefix) == ("https://host:8443/a/track", "/a/track")
    assert below.origins == {"https://host:8443"}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("public_url", "track.example", "https://"),
        ("public_url", "ftp://track.example", "http://"),
        ("public_url", "https://track.example/?x=1", "query"),
        ("public_url", "https://track.example/a//b", "segments"),
        ("public_url", "https://track.example/../x", "segments"),
        ("public_url", "https://track.example/fleet", "/fleet"),
        ("public_url", "https://track.example/v1/x", "/v1"),
        ("allowed_origins", "null", "null"),
        ("allowed_origins", "https://good.example,*", "*"),
        ("allowed_origins", "https://track.example/page", "path"),
    ],
)
def test_a_setting_that_can_not_be_is_refused_at_the_start(setting: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"TRACKING_{setting.upper()}") as refused:
        load(**{setting: value})
    assert said in str(refused.value)


def test_an_address_has_a_prefix() -> None:
    assert parse_address("http://Host:80/track/") == ("http://host", "/track")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://hub", 101),
        ("http://HUB:80", 101),
        ("https://hub:443", 101),
        ("http://hub:81", 403),
        ("http://hub.", 403),
        ("http://hub/page", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_row_27_a_page_of_the_requests_own_host_comes_in(hub: HubProcess, api: Api, origin: str, status: int) -> None:
    bearer = token("driver", await api.vehicle(await api.fleet()))
    async with Plain(hub.port) as plain:
        plain.ask("GET /v1/driver", f"{WEBSOCKET}Origin: {origin}\r\n", bearer=bearer)
        assert (await plain.answer()).status == status


async def test_row_27_no_origin_is_that_of_a_host_without_a_name(hub: HubProcess) -> None:
    async with Plain(hub.port) as plain:
        plain.writer.write(f"GET /v1/driver HTTP/1.1\r\nHost:\r\n{WEBSOCKET}Origin: null\r\n\r\n".encode())
        assert (await plain.answer()).status == 403
