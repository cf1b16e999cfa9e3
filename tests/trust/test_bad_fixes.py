"""Rows 17 to 19, 21 to 24: bad fixes, keys, batches and numbers. Nothing bad is stored, and no good fix beside it is lost."""

import json
import re
from typing import Any

import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench, Raw, fix_frame, frame, is_error

MAX_SEQ = 2**53 - 1
DAY_MS = 86_400_000
MINUTE_MS = 60_000


# --- rows 17, 18, 21, 22: fixes that are rejected -------------------------------------------------------------------

REJECTED: dict[str, tuple[str, Message]] = {
    "row 17 latitude 90.0001": ("out_of_range", {"latitude": 90.0001}),
    "row 17 latitude -90.0000001": ("out_of_range", {"latitude": -90.0000001}),
    "row 17 longitude 181": ("out_of_range", {"longitude": 181}),
    "row 17 longitude 180.0000001": ("out_of_range", {"longitude": 180.0000001}),
    "row 17 longitude -180.0000001": ("out_of_range", {"longitude": -180.0000001}),
    "row 17 latitude 1e308": ("out_of_range", {"latitude": 1e308}),
    "row 17 accuracy -1, which makes the place void": ("out_of_range", {"accuracy": -1}),
    "row 18 latitude true": ("bad_type", {"latitude": True}),
    "row 18 latitude text": ("bad_type", {"latitude": "47.1"}),
    "row 18 latitude null": ("bad_type", {"latitude": None}),
    "row 18 latitude array": ("bad_type", {"latitude": [47.1]}),
    "row 18 longitude false": ("bad_type", {"longitude": False}),
    "row 18 longitude object": ("bad_type", {"longitude": {}}),
    "row 18 fix_time text": ("bad_type", {"fix_time": "2024-01-01T00:00:00Z"}),
    "row 18 fix_time true": ("bad_type", {"fix_time": True}),
    "row 18 fix_time fractional": ("bad_type", {"fix_time": 1.5}),
    "row 18 fix_time null": ("bad_type", {"fix_time": None}),
    "row 18 speed text": ("bad_type", {"speed": "8"}),
    "row 18 speed null": ("bad_type", {"speed": None}),
    "row 18 accuracy true": ("bad_type", {"accuracy": True}),
    "row 18 altitude array": ("bad_type", {"altitude": []}),
    "row 18 bearing empty text": ("bad_type", {"bearing": ""}),
    "row 18 battery false": ("bad_type", {"battery": False}),
    "row 21 61 s ahead": ("clock_skew", {"fix_time": 61_000}),
    "row 21 a day ahead": ("clock_skew", {"fix_time": DAY_MS}),
    "row 22 a second over 7 days": ("too_old", {"fix_time": -7 * DAY_MS - 1_000}),
    "row 22 1970": ("too_old", {"fix_time": -(2**80)}),
}


def bad_fix(seq: int, fields: Message) -> Message:
    """A fix with these fields. A whole number as `fix_time` is relative to now."""
    bad = fix(seq, **fields)
    if type(fields.get("fix_time")) is int:
        bad["fix_time"] = now_ms() + fields["fix_time"]
    return bad


@pytest.mark.parametrize("code, fields", REJECTED.values(), ids=REJECTED.keys())
async def test_rows_17_18_21_22_a_bad_fix_is_rejected_and_acknowledged(bench: Bench, code: str, fields: Message) -> None:
    """Alone, and in a batch with good fixes: the ack names it, and only the good ones are stored."""
    await bench.driver.report(bad_fix(1, fields))
    rejected = await bench.driver.acknowledged(1)
    assert [(r["seq"], r["code"]) for r in rejected] == [(1, code)]
    assert rejected[0]["detail"]
    assert await bench.stored() == []

    await bench.driver.report(fix(2), bad_fix(3, fields), fix(4))
    rejected = await bench.driver.acknowledged(4)
    assert [(r["seq"], r["code"]) for r in rejected] == [(3, code)]
    assert await bench.stored() == [2, 4]

    # The ack must also cover a bad fix at the end of a batch.
    await bench.driver.report(fix(5), bad_fix(6, fields))
    assert [r["seq"] for r in await bench.driver.acknowledged(6)] == [6]
    await bench.goes_on(stored=[2, 4, 5], seq=7)


MISSING = ("fix_time", "latitude", "longitude")


@pytest.mark.parametrize("missing", MISSING)
async def test_row_18_a_fix_without_a_required_field_is_rejected(bench: Bench, missing: str) -> None:
    bad = fix(2)
    del bad[missing]
    await bench.driver.report(fix(1), bad, fix(3))
    rejected = await bench.driver.acknowledged(3)
    assert [(r["seq"], r["code"]) for r in rejected] == [(2, "bad_field")]
    assert missing in rejected[0]["detail"]
    assert await bench.stored() == [1, 3]


GOOD: dict[str, Message] = {
    "row 17 the north pole": {"latitude": 90.0, "longitude": 180.0},
    "row 17 the south pole": {"latitude": -90, "longitude": -180},
    "row 17 whole numbers": {"latitude": 47, "longitude": 9, "speed": 8, "bearing": 0},
    "row 17 the ends of all ranges": {"bearing": 360.0, "battery": 1, "speed": 0, "accuracy": 0, "altitude": -430},
    "row 17 the other ends": {"bearing": 0.0, "battery": 0},
    "row 21 55 s ahead": {"fix_time": 55_000},
    "row 22 a minute under 7 days": {"fix_time": -7 * DAY_MS + MINUTE_MS},
}


@pytest.mark.parametrize("fields", GOOD.values(), ids=GOOD.keys())
async def test_rows_17_21_22_the_last_valid_value_is_stored(bench: Bench, fields: Message) -> None:
    """A doubtful fix is stored with a flag, and not rejected."""
    sent = bad_fix(1, fields)
    await bench.driver.report(sent)
    assert await bench.driver.acknowledged(1) == []
    (row,) = await bench.api.track(f"/vehicles/{bench.vehicle_id}/track", suspect="true")
    assert int(row["fix_time"]) == sent["fix_time"]
    for field in set(fields) - {"fix_time", "battery"}:
        assert float(row[field]) == sent[field]


IMPOSSIBLE: dict[str, list[float]] = {
    "speed": [-1, 18_000, 1e300],
    "bearing": [-1, -0.1, 360.1, 400],
    "altitude": [1e9, -1e9, 1e300],
    "battery": [-1, 1.01, 5],
}


@pytest.mark.one_hub("it reads a metric of the hub that took the fix")
async def test_an_impossible_optional_value_is_dropped_and_the_place_is_kept(hub: HubProcess, bench: Bench) -> None:
    """It counts as left out: in the store, on maps, and in answers about the vehicle. A metric counts it."""
    before = await _not_believed(hub)
    sent: list[Message] = []
    for field, values in IMPOSSIBLE.items():
        sent += [fix(len(sent) + n, accuracy=5.0, **{field: value}) for n, value in enumerate(values, 1)]
    last = fix(len(sent) + 1, speed=-1, bearing=-1, battery=-1, altitude=1e9)
    sent.append(last)
    trip_id = (await bench.api.trip(bench.fleet_id, bench.vehicle_id))["trip_id"]
    await bench.api.advance(trip_id, "enroute_to_pickup")
    async with Passenger(hub.url, trip_id) as passenger, Dispatcher(hub.url, bench.fleet_id) as screen:
        await passenger.expect("snapshot")
        await screen.look(9.4, 47.0, 9.6, 47.2)
        await bench.driver.report(*sent)
        assert await bench.driver.acknowledged(len(sent)) == []
        for each in sent:
            shown = await passenger.expect("position")
            assert shown["latitude"] == each["latitude"]
            assert "speed" not in shown and "bearing" not in shown
        await screen.until(lambda: screen.vehicles.get(bench.vehicle_id, {}).get("latitude") == last["latitude"])
        assert screen.vehicles[bench.vehicle_id].get("speed") is None
        assert screen.vehicles[bench.vehicle_id].get("bearing") is None
    rows = await bench.api.track(f"/vehicles/{bench.vehicle_id}/track", suspect="true")
    assert [int(row["seq"]) for row in rows] == list(range(1, len(sent) + 1))
    assert {(row["speed"], row["bearing"], row["altitude"], row["suspect"]) for row in rows} == {("", "", "", "")}
    told = await bench.api.call("GET", f"/vehicles/{bench.vehicle_id}")
    assert not {"speed", "bearing", "battery"} & set(told["position"])
    after = await _not_believed(hub)
    assert {field: after[field] - before[field] for field in IMPOSSIBLE} == {
        f: len(values) + 1 for f, values in IMPOSSIBLE.items()
    }


async def _not_believed(hub: HubProcess) -> dict[str, float]:
    async with Api(hub.url, token("operator")) as api:
        text = (await api.http.get(f"{hub.url}/metrics")).text
    found = re.findall(r'tracking_values_not_believed_total\{field="(\w+)"\} (\S+)', text)
    return {field: float(value) for field, value in found}


async def test_an_absurd_accuracy_makes_a_fix_suspect(bench: Bench) -> None:
    await bench.driver.report(fix(1), fix(2, accuracy=1e12), fix(3, accuracy=1e300))
    assert await bench.driver.acknowledged(3) == []
    rows = await bench.api.track(f"/vehicles/{bench.vehicle_id}/track", suspect="true")
    assert [row["suspect"] for row in rows] == ["", "inaccurate", "inaccurate"]


async def test_row_18_elements_of_a_batch_that_are_not_objects_are_errors(bench: Bench) -> None:
    junk: list[Any] = [None, 1, "fix", [], True, {}, {"seq": "2"}]
    await bench.driver.send({"type": "positions", "positions": [fix(1), *junk, fix(2)]})
    errors = [await bench.driver.expect("error", "ack") for _ in junk]
    assert [error["type"] for error in errors] == ["error"] * len(junk)
    assert {error["code"] for error in errors} <= {"bad_type", "bad_seq"}
    assert await bench.driver.acknowledged(2) == []
    await bench.goes_on(stored=[1, 2], seq=3)


# --- row 19: keys ---------------------------------------------------------------------------------------------------


async def test_row_19_unknown_keys_are_ignored(bench: Bench) -> None:
    await bench.driver.report(fix(1, heading=3, vehicle_id="another", trip_id="another", **{"": None, "ключ": {"a": [1, {}]}}))
    await bench.driver.report(fix(2, provider="gps"), fix(3, latitude="bad", provider="gps"))
    assert [r["seq"] for r in await bench.driver.acknowledged(3)] == [3]
    await bench.goes_on(stored=[1, 2], seq=4)


@pytest.mark.parametrize("first", ["46.5", '"bad"', "null", "91", "[1]"])
async def test_row_19_of_duplicate_keys_the_last_wins(bench: Bench, first: str) -> None:
    good = f'"fix_time":{now_ms()},"longitude":9.521'
    await bench.driver.send_text(f'{{"type":"position","seq":7,"seq":1,{good},"latitude":{first},"latitude":47.25}}')
    assert await bench.driver.acknowledged(1) == []
    (row,) = await bench.api.track(f"/vehicles/{bench.vehicle_id}/track", suspect="true")
    assert (row["seq"], row["latitude"]) == ("1", "47.25")


async def test_row_19_of_duplicate_keys_the_last_wins_even_if_it_is_bad(bench: Bench) -> None:
    good = f'"fix_time":{now_ms()},"longitude":9.521'
    await bench.driver.send_text(f'{{"type":"position","seq":1,{good},"latitude":47.25,"latitude":"bad"}}')
    assert [r["code"] for r in await bench.driver.acknowledged(1)] == ["bad_type"]
    assert is_error(
        await bench.error(f'{{"type":"position","seq":2,"seq":-2,{good},"latitude":47.25}}'),
        "bad_seq",
    )
    assert is_error(await bench.error('{"type":"hello","type":"nonsense","session":"s"}'), "bad_type")
    await bench.goes_on(seq=2)


# --- row 23: batches ------------------------------------------------------------------------------------------------


def batch(size: int) -> list[Message]:
    begin = now_ms() - size * 1_000
    return [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, size + 1)]


async def test_row_23_a_batch_of_500_is_taken(bench: Bench) -> None:
    await bench.driver.report(*batch(500))
    assert await bench.driver.acknowledged(500) == []
    assert await bench.stored() == list(range(1, 501))


@pytest.mark.parametrize(
    "elements",
    [batch(501), [0] * 501, [{}] * 5_000, [*batch(500), None]],
    ids=["501 fixes", "501 numbers", "5,000 objects", "500 fixes and null"],
)
async def test_row_23_a_batch_over_500_is_one_error(bench: Bench, elements: list[Any]) -> None:
    assert is_error(await bench.error(frame("positions", positions=elements)), "batch_too_large")
    await bench.goes_on()


async def test_row_23_an_empty_batch_is_ignored(bench: Bench) -> None:
    await bench.driver.send({"type": "positions", "positions": []})
    await bench.goes_on()


# --- row 24: seq ----------------------------------------------------------------------------------------------------

BAD_SEQ = ["0", "-1", "1.5", "-0", str(2**53), str(2**63), str(2**64), "9" * 400, "1e300", '"1"', "null", "true", "[1]", "{}"]


@pytest.mark.parametrize("seq", BAD_SEQ, ids=lambda seq: seq[:20])
async def test_row_24_an_invalid_seq_is_an_error(bench: Bench, seq: str) -> None:
    """Alone, and among good fixes, which are stored and acknowledged. The ack never covers the bad number."""
    error = await bench.error(fix_frame(seq=Raw(seq)))
    assert is_error(error, "bad_seq")
    bad = fix_frame(seq=Raw(seq)).replace('"type":"position",', "")
    good = [json.dumps(fix(seq)) for seq in (1, 2)]
    error = await bench.error(f'{{"type":"positions","positions":[{good[0]},{bad},{good[1]}]}}')
    assert is_error(error, "bad_seq")
    assert await bench.driver.acknowledged(2) == []
    assert bench.driver.handled == 2
    await bench.goes_on(stored=[1, 2], seq=3)


async def test_row_24_a_fix_without_seq_is_an_error(bench: Bench) -> None:
    bad = fix(1)
    del bad["seq"]
    assert is_error(await bench.error(frame("position", **bad)), "bad_seq")
    await bench.goes_on()


async def test_row_24_the_highest_seq_is_accepted_and_the_session_survives_it(bench: Bench) -> None:
    await bench.driver.report(fix(MAX_SEQ, latitude=47.2))
    assert await bench.driver.acknowledged(MAX_SEQ) == []
    assert await bench.stored() == [MAX_SEQ]
    async with Driver(bench.url, bench.vehicle_id, bench.driver.session) as again:
        assert again.handled == MAX_SEQ
        assert is_error(await Bench(bench.url, bench.api, again, "", "").error(fix_frame(seq=MAX_SEQ + 1)), "bad_seq")
        await again.report(fix(5))
        assert (await again.expect("ack"))["seq"] == MAX_SEQ
    assert await bench.stored() == [MAX_SEQ]


async def test_row_24_missing_numbers_are_skipped(bench: Bench) -> None:
    await bench.driver.report(fix(3), fix(10, latitude=91), fix(20))
    assert [r["seq"] for r in await bench.driver.acknowledged(20)] == [10]
    # A number that is not above the last handled one counts as a repeat, even if it was never seen.
    await bench.driver.report(fix(19))
    assert await bench.driver.expect("ack") == {"type": "ack", "seq": 20}
    assert await bench.stored() == [3, 20]
