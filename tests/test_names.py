"""Names as people write them. They are kept in NFC, and found in any case and with any accents and keyboard."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.clients import Api, new_id

KEYS = json.loads((Path(__file__).parent / "support/search_keys.json").read_text(encoding="utf-8"))["keys"]
NAMES = {
    "mac": unicodedata.normalize("NFD", "Zürich Süd"),
    "pc": "Zürich Nord",
    "istanbul": "İSTANBUL Taksi",
    "athens": "ΟΔΥΣΣΕΥΣ",
    "cairo": "سيارة \u0667",
    "emoji": "🚕 Müller 👩🏽‍🚒",
    "long": unicodedata.normalize("NFD", "Ö" * 200),
    "percent": "100%_\\ sure",
    "bidi": "\u202egnp.exe\u202c",
}
SEARCHES = {
    "zürich": {"mac", "pc"},
    unicodedata.normalize("NFD", "ZÜRICH"): {"mac", "pc"},
    "süd zur": {"mac"},
    "istanbul": {"istanbul"},
    "οδυσσευς": {"athens"},
    "سيارة": {"cairo"},
    "MULLER": {"emoji"},
    "👩🏽‍🚒": {"emoji"},
    "ööö": {"long"},
    "%_\\": {"percent"},
    "_": {"percent"},
    "gnp": {"bidi"},
    "fl77": {"pc"},
    "fl 77": {"pc"},
    " ".join("abcdefghijklm"): set(),
}


@pytest.fixture(scope="module")
async def named(hub: Any) -> Any:
    """A fleet with these vehicles, by their names in this test."""
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        ids = {name: await api.vehicle(fleet_id, name=NAMES[name], plate="FL-7 7" if name == "pc" else "") for name in NAMES}
        yield fleet_id, ids


async def test_a_name_comes_back_composed(api: Api, named: tuple[str, dict[str, str]]) -> None:
    for name, vehicle_id in named[1].items():
        assert (await api.call("GET", f"/vehicles/{vehicle_id}"))["name"] == unicodedata.normalize("NFC", NAMES[name])


@pytest.mark.parametrize("search, wanted", SEARCHES.items(), ids=map(ascii, SEARCHES))
async def test_a_vehicle_is_found_as_a_person_expects(
    api: Api, named: tuple[str, dict[str, str]], search: str, wanted: set[str]
) -> None:
    fleet_id, ids = named
    found = (await api.call("GET", f"/fleets/{fleet_id}/vehicles", search=search))["vehicles"]
    assert {vehicle["vehicle_id"] for vehicle in found} == {ids[name] for name in wanted}


async def test_every_name_is_composed_and_on_one_line(api: Api) -> None:
    """This applies to fleets, vehicles, places and geofences."""
    apart = "u\u0308"
    fleet_id = new_id("fleet")
    assert (await api.call("PUT", f"/fleets/{fleet_id}", {"name": apart}))["name"] == "ü"
    body: dict[str, Any] = {"fleet_id": fleet_id, "name": apart, "kind": apart, "plate": apart}
    vehicle = await api.call("PUT", f"/vehicles/{new_id('van')}", body)
    assert [vehicle[field] for field in ("name", "kind", "plate")] == ["ü"] * 3
    place = {"latitude": 47.1, "longitude": 9.5, "name": apart}
    trip = await api.call("POST", "/trips", {"fleet_id": fleet_id, "pickup": place, "dropoff": place, "stops": [place]})
    assert [trip[field]["name"] for field in ("pickup", "dropoff")] == [trip["stops"][0]["name"], "ü"] == ["ü"] * 2
    ring = [[9.5, 47.1], [9.6, 47.1], [9.6, 47.2], [9.5, 47.1]]
    fence: dict[str, Any] = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    path = f"/fleets/{fleet_id}/geofences/yard"
    assert (await api.call("PUT", path, {**fence, "properties": {"name": apart}}))["properties"]["name"] == "ü"
    for bad in ("a\nb", "a\tb", "\x1b[2J", "\x85", "a\u2028b", "x" * 201):
        for request in (
            ("PUT", f"/fleets/{fleet_id}", {"name": bad}),
            ("PUT", f"/vehicles/{vehicle['vehicle_id']}", {**body, "plate": bad}),
            ("POST", "/trips", {"fleet_id": fleet_id, "pickup": {**place, "name": bad}, "dropoff": place}),
            ("PUT", path, {**fence, "properties": {"name": bad}}),
        ):
            error = (await api.call(*request, expect=422))["error"]
            assert error["code"] == "bad_field"
            assert error["field"] in ("name", "plate", "pickup.name")
            assert "200" in error["detail"] or f"U+{next(ord(c) for c in bad if not c.isalnum()):04X}" in error["detail"]


async def test_the_database_folds_texts_as_the_pages_do(database_url: str) -> None:
    """`web/test/dispatcher/search_key.test.js` checks the pages with the same list."""
    connection = await asyncpg.connect(database_url)
    for text, key in KEYS:
        assert await connection.fetchval("SELECT search_key($1)", text) == unicodedata.normalize("NFKD", key)
    await connection.close()
