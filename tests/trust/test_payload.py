"""Rows 10 and 13 to 25: bad payloads. The socket stays open, nothing bad is stored, and nothing good is lost beside it."""

import json
import re
import uuid
from typing import Any

import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, Socket, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench, Raw, frame, is_error, position

MAX_SEQ = 2**53 - 1
DAY_MS = 86_400_000
MINUTE_MS = 60_000


def raw(**fields: Any) -> str:
    """A good fix of seq 1, but for these fields."""
    return position(**{**fix(1), **fields})


# --- row 10: binary frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\xff\xfe", json.dumps({"type": "position", **fix(1, fix_time=0)}).encode()],
    ids=["empty", "NUL", "no UTF-8", "a position"],
)
async def test_row_10_a_drivers_binary_frame_ends_the_connection(bench: Bench, data: bytes) -> None:
    await bench.driver.connection.send(data)
    assert await bench.driver.closed() == 1003
    assert await bench.stored() == []


async def test_row_10_a_passengers_binary_frame_ends_the_connection(hub: HubProcess, api: Api) -> None:
    _, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await passenger.connection.send(b'{"type":"message","text":"hello","client_id":"1"}')
        assert await passenger.closed() == 1003


# --- rows 13 to 16: what is no JSON ---------------------------------------------------------------------------------

NESTED = "[" * 30_000 + "]" * 30_000

NO_JSON = {
    "row 13 NaN": raw(latitude=Raw("NaN")),
    "row 13 NaN in a field that is not known": raw(other=Raw("NaN")),
    "row 13 Infinity": raw(longitude=Raw("Infinity")),
    "row 13 -Infinity": raw(speed=Raw("-Infinity")),
    "row 13 nan in small letters": raw(accuracy=Raw("nan")),
    "row 13 in a batch": frame("positions", positions=[fix(1)]).replace("9.521", "NaN"),
    "row 14 1e999": raw(latitude=Raw("1e999")),
    "row 14 -1e999": raw(speed=Raw("-1e999")),
    "row 14 1e999 as seq": raw(seq=Raw("1e999")),
    "row 14 1e999 as fix_time": raw(fix_time=Raw("1e999")),
    "row 15 60,000 arrays never closed": "[" * 60_000,
    "row 15 30,000 arrays": NESTED,
    "row 15 arrays in a field that is not known": raw(other=Raw(NESTED)),
    "row 15 arrays as latitude": raw(latitude=Raw(NESTED)),
    "row 15 arrays as a batch": frame("positions", positions=Raw(NESTED)),
    "row 15 objects": '{"type":' * 7_000,
    "row 16 5,000 digits as seq": raw(seq=Raw("9" * 5_000)),
    "row 16 5,000 digits as fix_time": raw(fix_time=Raw("9" * 5_000)),
    "row 16 -5,000 digits as fix_time": raw(fix_time=Raw("-" + "9" * 5_000)),
    "row 16 5,000 digits as latitude": raw(latitude=Raw("9" * 5_000)),
    "row 16 60,000 digits as seq": raw(seq=Raw("1" * 60_000)),
    "nothing": "",
    "a blank": " ",
    "half an object": raw()[:-1],
    "two objects": raw() + raw(),
    "a comma too many": raw()[:-1] + ",}",
    "a leading zero": raw(seq=Raw("01")),
    "single quotes": raw().replace('"', "'"),
    "a byte order mark": "\ufeff" + raw(),
    "a raw control character": raw(other=Raw('"\x01"')),
    "a raw NUL": raw(other=Raw('"a\x00b"')),
}


@pytest.mark.parametrize("text", NO_JSON.values(), ids=NO_JSON.keys())
async def test_rows_13_to_16_what_is_no_json_is_an_error(bench: Bench, text: str) -> None:
    assert is_error(await bench.error(text), "bad_json")
    await bench.goes_on()


NO_MESSAGE = {
    "array": "[]",
    "null": "null",
    "number": "1",
    "text": '"position"',
    "no type": "{}",
    "type null": '{"type":null}',
    "type an array": '{"type":["position"]}',
    "type an object": '{"type":{}}',
    "another type": '{"type":"welcome"}',
    "type in capitals": '{"type":"POSITION"}',
    "a passenger's type": '{"type":"viewport","bounds":[0,0,1,1],"zoom":3}',
    "no batch": '{"type":"positions"}',
    "a batch that is an object": '{"type":"positions","positions":{"0":1}}',
    "a batch that is null": '{"type":"positions","positions":null}',
}


@pytest.mark.parametrize("text", NO_MESSAGE.values(), ids=NO_MESSAGE.keys())
async def test_row_18_what_is_no_message_is_an_error(bench: Bench, text: str) -> None:
    assert is_error(await bench.error(text), "bad_type")
    await bench.goes_on()


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
    """`fix_time`, where it is a whole number, is counted from now."""
    bad = fix(seq, **fields)
    if type(fields.get("fix_time")) is int:
        bad["fix_time"] = now_ms() + fields["fix_time"]
    return bad


@pytest.mark.parametrize("code, fields", REJECTED.values(), ids=REJECTED.keys())
async def test_rows_17_18_21_22_a_bad_fix_is_rejected_and_let_go(bench: Bench, code: str, fields: Message) -> None:
    """Alone and amid good ones of a batch: handled, named in the ack, not stored, and the good ones are."""
    await bench.driver.report(bad_fix(1, fields))
    rejected = await bench.driver.acknowledged(1)
    assert [(r["seq"], r["code"]) for r in rejected] == [(1, code)]
    assert rejected[0]["detail"]
    assert await bench.stored() == []

    await bench.driver.report(fix(2), bad_fix(3, fields), fix(4))
    rejected = await bench.driver.acknowledged(4)
    assert [(r["seq"], r["code"]) for r in rejected] == [(3, code)]
    assert await bench.stored() == [2, 4]

    # The last of a batch must be let go too: the ack covers it.
    await bench.driver.report(fix(5), bad_fix(6, fields))
    assert [r["seq"] for r in await bench.driver.acknowledged(6)] == [6]
    await bench.goes_on(stored=[2, 4, 5], seq=7)


MISSING = ("fix_time", "latitude", "longitude")


@pytest.mark.parametrize("missing", MISSING)
async def test_row_18_a_fix_without_what_it_needs_is_rejected(bench: Bench, missing: str) -> None:
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
async def test_rows_17_21_22_the_last_value_that_is_good_is_stored(bench: Bench, fields: Message) -> None:
    """Also where it is doubted: stored with a flag, never rejected."""
    sent = bad_fix(1, fields)
    await bench.driver.report(sent)
    assert await bench.driver.acknowledged(1) == []
    (row,) = await bench.api.track(f"/vehicles/{bench.vehicle_id}/track", suspect="true")
    assert int(row["fix_time"]) == sent["fix_time"]
    for field in set(fields) - {"fix_time", "battery"}:
        assert float(row[field]) == sent[field]


UNTRUE: dict[str, list[float]] = {
    "speed": [-1, 18_000, 1e300],
    "bearing": [-1, -0.1, 360.1, 400],
    "altitude": [1e9, -1e9, 1e300],
    "battery": [-1, 1.01, 5],
}


async def test_an_optional_value_that_cannot_be_true_is_unknown_and_the_place_is_kept(hub: HubProcess, bench: Bench) -> None:
    """As if it had been left out: in what is stored, on the maps, in what is told of the vehicle; and it is counted."""
    before = await _not_believed(hub)
    sent: list[Message] = []
    for field, values in UNTRUE.items():
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
    assert {field: after[field] - before[field] for field in UNTRUE} == {f: len(values) + 1 for f, values in UNTRUE.items()}


async def _not_believed(hub: HubProcess) -> dict[str, float]:
    async with Api(hub.url, token("operator")) as api:
        text = (await api.http.get(f"{hub.url}/metrics")).text
    found = re.findall(r'tracking_values_not_believed_total\{field="(\w+)"\} (\S+)', text)
    return {field: float(value) for field, value in found}


async def test_an_absurd_accuracy_is_taken_at_its_word(bench: Bench) -> None:
    await bench.driver.report(fix(1), fix(2, accuracy=1e12), fix(3, accuracy=1e300))
    assert await bench.driver.acknowledged(3) == []
    rows = await bench.api.track(f"/vehicles/{bench.vehicle_id}/track", suspect="true")
    assert [row["suspect"] for row in rows] == ["", "inaccurate", "inaccurate"]


async def test_row_18_elements_of_a_batch_that_are_no_objects_are_errors(bench: Bench) -> None:
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


async def test_row_19_of_duplicate_keys_the_last_wins_also_where_it_is_bad(bench: Bench) -> None:
    good = f'"fix_time":{now_ms()},"longitude":9.521'
    await bench.driver.send_text(f'{{"type":"position","seq":1,{good},"latitude":47.25,"latitude":"bad"}}')
    assert [r["code"] for r in await bench.driver.acknowledged(1)] == ["bad_type"]
    assert is_error(
        await bench.error(f'{{"type":"position","seq":2,"seq":-2,{good},"latitude":47.25}}'),
        "bad_seq",
    )
    assert is_error(await bench.error('{"type":"hello","type":"nonsense","session":"s"}'), "bad_type")
    await bench.goes_on(seq=2)


# --- row 20: text that no database keeps ----------------------------------------------------------------------------

BAD_TEXT = {
    "lone high surrogate": r'"\ud800"',
    "lone low surrogate": r'"a\udfffb"',
    "pair in the wrong order": r'"\ude00\ud83d"',
    "lone before a pair": r'"\ud83d\ud83d\ude00"',
    "surrogate after an escaped backslash": r'"\\\ud800"',
    "NUL alone": r'"\u0000"',
    "NUL in the middle": r'"a\u0000b"',
    "empty": '""',
    "too long": '"' + "x" * 1_001 + '"',
}


DRIVERS_TEXTS = {
    "session": '{"type":"hello","session":%s}',
    "text": '{"type":"message","trip_id":"t","client_id":"c","text":%s}',
    "client_id": '{"type":"message","trip_id":"t","client_id":%s,"text":"hello"}',
    "client_id of a status": '{"type":"trip_status","trip_id":"t","status":"complete","client_id":%s}',
}


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT.keys())
async def test_row_20_bad_text_from_a_driver_is_an_error(bench: Bench, text: str) -> None:
    for where, form in DRIVERS_TEXTS.items():
        assert is_error(await bench.error(form % text), "bad_field"), where
    await bench.goes_on()


@pytest.mark.parametrize("text", BAD_TEXT.values(), ids=BAD_TEXT.keys())
async def test_row_20_bad_text_from_a_passenger_is_an_error(hub: HubProcess, api: Api, text: str) -> None:
    _, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await passenger.send_text(f'{{"type":"message","client_id":"c","text":{text}}}')
        assert is_error(await passenger.expect("error", "done", "message"), "bad_field")
        await passenger.send_text(f'{{"type":"message","client_id":{text},"text":"hello"}}')
        assert is_error(await passenger.expect("error", "done", "message"), "bad_field")
        await passenger.send({"type": "message", "client_id": "c", "text": "good"})
        assert (await passenger.expect("message"))["text"] == "good"


GOOD_TEXT = {
    "an emoji as a pair": (r'"\ud83d\ude00"', "\U0001f600"),
    "escaped backslash before what looks like a surrogate": (r'"\\ud800"', "\\ud800"),
    "1,000 characters of four bytes": ('"' + "\U0001f600" * 1_000 + '"', "\U0001f600" * 1_000),
    "line breaks and quotes": (r'"a\n\"b\"\t"', 'a\n"b"\t'),
}


@pytest.mark.parametrize("text, expected", GOOD_TEXT.values(), ids=GOOD_TEXT.keys())
async def test_row_20_good_text_arrives_as_it_is(hub: HubProcess, api: Api, text: str, expected: str) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await passenger.send_text(f'{{"type":"message","client_id":"c","text":{text}}}')
        assert (await driver.expect("message"))["text"] == expected
        await driver.send_text(f'{{"type":"message","trip_id":"{trip_id}","client_id":"c","text":{text}}}')
        assert await driver.expect("done") == {"type": "done", "client_id": "c"}
        # Its own message comes back first.
        assert [(await passenger.expect("message"))["text"] for _ in range(2)] == [expected, expected]


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


async def test_row_23_an_empty_batch_is_nothing(bench: Bench) -> None:
    await bench.driver.send({"type": "positions", "positions": []})
    await bench.goes_on()


# --- row 24: seq ----------------------------------------------------------------------------------------------------

BAD_SEQ = ["0", "-1", "1.5", "-0", str(2**53), str(2**63), str(2**64), "9" * 400, "1e300", '"1"', "null", "true", "[1]", "{}"]


@pytest.mark.parametrize("seq", BAD_SEQ, ids=lambda seq: seq[:20])
async def test_row_24_a_seq_that_is_none_is_an_error(bench: Bench, seq: str) -> None:
    """Alone, and amid good fixes, which are stored and acknowledged; the ack never covers the bad number."""
    error = await bench.error(raw(seq=Raw(seq)))
    assert is_error(error, "bad_seq")
    bad = raw(seq=Raw(seq)).replace('"type":"position",', "")
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


async def test_row_24_the_last_seq_is_taken_and_a_session_survives_it(bench: Bench) -> None:
    await bench.driver.report(fix(MAX_SEQ, latitude=47.2))
    assert await bench.driver.acknowledged(MAX_SEQ) == []
    assert await bench.stored() == [MAX_SEQ]
    async with Driver(bench.url, bench.vehicle_id, bench.driver.session) as again:
        assert again.handled == MAX_SEQ
        assert is_error(await Bench(bench.url, bench.api, again, "", "").error(raw(seq=MAX_SEQ + 1)), "bad_seq")
        await again.report(fix(5))
        assert (await again.expect("ack"))["seq"] == MAX_SEQ
    assert await bench.stored() == [MAX_SEQ]


async def test_row_24_numbers_left_out_are_passed_over(bench: Bench) -> None:
    await bench.driver.report(fix(3), fix(10, latitude=91), fix(20))
    assert [r["seq"] for r in await bench.driver.acknowledged(20)] == [10]
    # What is not above the last one handled is a repeat, also where it was never seen.
    await bench.driver.report(fix(19))
    assert await bench.driver.expect("ack") == {"type": "ack", "seq": 20}
    assert await bench.stored() == [3, 20]


# --- row 25: too many errors ----------------------------------------------------------------------------------------


async def test_row_25_fifty_errors_in_a_minute_end_the_connection(bench: Bench) -> None:
    for _ in range(49):
        assert is_error(await bench.error("{"), "bad_json")
    await bench.goes_on()
    assert is_error(await bench.error("{"), "bad_json")
    assert await bench.driver.closed() == 4501


async def test_row_25_it_is_the_same_for_a_passenger(hub: HubProcess, api: Api) -> None:
    _, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        for _ in range(50):
            await passenger.send_text("{")
        assert await passenger.closed() == 4501


async def test_row_25_rejected_fixes_and_repeats_are_no_errors(bench: Bench) -> None:
    await bench.driver.report(*(fix(seq, latitude=91) for seq in range(1, 101)))
    assert len(await bench.driver.acknowledged(100)) == 100
    for _ in range(60):
        await bench.driver.report(fix(1))
    await bench.goes_on(seq=101)


async def test_row_25_the_hub_counts_each_connection_by_itself(bench: Bench) -> None:
    other_id = await bench.api.vehicle(bench.fleet_id)
    async with Driver(bench.url, other_id) as other:
        for _ in range(30):
            await bench.driver.send_text("{")
            await other.send_text("{")
        await other.report(fix(1))
        assert await other.acknowledged(1) == []
    await bench.goes_on()


# --- all of them ----------------------------------------------------------------------------------------------------


async def test_fixes_before_hello_are_an_error_and_not_stored(bench: Bench) -> None:
    other_id = await bench.api.vehicle(bench.fleet_id)
    async with Socket(f"{bench.url}/v1/driver", token("driver", other_id)) as socket:
        await socket.expect("welcome")
        await socket.send({"type": "position", **fix(1)})
        assert (await socket.expect("error", "ack"))["type"] == "error"
        await socket.send({"type": "hello", "session": str(uuid.uuid4())})
        assert await socket.expect("ack") == {"type": "ack", "seq": 0}
        await socket.send({"type": "position", **fix(1)})
        assert await socket.expect("ack") == {"type": "ack", "seq": 1}
