"""Rows 10, 13 to 16, 18, 20 and 25: frames that can't be read. The socket stays open, and nothing bad is stored."""

import json
import uuid

import pytest

from tests.support.clients import Api, Driver, Passenger, Socket, fix, token
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench, Raw, fix_frame, frame, is_error

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


# --- rows 13 to 16: invalid JSON ------------------------------------------------------------------------------------

NESTED = "[" * 30_000 + "]" * 30_000

INVALID_JSON = {
    "row 13 NaN": fix_frame(latitude=Raw("NaN")),
    "row 13 NaN in a field that is not known": fix_frame(other=Raw("NaN")),
    "row 13 Infinity": fix_frame(longitude=Raw("Infinity")),
    "row 13 -Infinity": fix_frame(speed=Raw("-Infinity")),
    "row 13 nan in small letters": fix_frame(accuracy=Raw("nan")),
    "row 13 in a batch": frame("positions", positions=[fix(1)]).replace("9.521", "NaN"),
    "row 14 1e999": fix_frame(latitude=Raw("1e999")),
    "row 14 -1e999": fix_frame(speed=Raw("-1e999")),
    "row 14 1e999 as seq": fix_frame(seq=Raw("1e999")),
    "row 14 1e999 as fix_time": fix_frame(fix_time=Raw("1e999")),
    "row 15 60,000 arrays never closed": "[" * 60_000,
    "row 15 30,000 arrays": NESTED,
    "row 15 arrays in a field that is not known": fix_frame(other=Raw(NESTED)),
    "row 15 arrays as latitude": fix_frame(latitude=Raw(NESTED)),
    "row 15 arrays as a batch": frame("positions", positions=Raw(NESTED)),
    "row 15 objects": '{"type":' * 7_000,
    "row 16 5,000 digits as seq": fix_frame(seq=Raw("9" * 5_000)),
    "row 16 5,000 digits as fix_time": fix_frame(fix_time=Raw("9" * 5_000)),
    "row 16 -5,000 digits as fix_time": fix_frame(fix_time=Raw("-" + "9" * 5_000)),
    "row 16 5,000 digits as latitude": fix_frame(latitude=Raw("9" * 5_000)),
    "row 16 60,000 digits as seq": fix_frame(seq=Raw("1" * 60_000)),
    "nothing": "",
    "a blank": " ",
    "half an object": fix_frame()[:-1],
    "two objects": fix_frame() + fix_frame(),
    "a comma too many": fix_frame()[:-1] + ",}",
    "a leading zero": fix_frame(seq=Raw("01")),
    "single quotes": fix_frame().replace('"', "'"),
    "a byte order mark": "\ufeff" + fix_frame(),
    "a raw control character": fix_frame(other=Raw('"\x01"')),
    "a raw NUL": fix_frame(other=Raw('"a\x00b"')),
}


@pytest.mark.parametrize("text", INVALID_JSON.values(), ids=INVALID_JSON.keys())
async def test_rows_13_to_16_a_frame_that_is_not_json_is_an_error(bench: Bench, text: str) -> None:
    assert is_error(await bench.error(text), "bad_json")
    await bench.goes_on()


INVALID_MESSAGES = {
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


@pytest.mark.parametrize("text", INVALID_MESSAGES.values(), ids=INVALID_MESSAGES.keys())
async def test_row_18_json_that_is_not_a_message_is_an_error(bench: Bench, text: str) -> None:
    assert is_error(await bench.error(text), "bad_type")
    await bench.goes_on()


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
async def test_row_20_good_text_arrives_unchanged(hub: HubProcess, api: Api, text: str, expected: str) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await passenger.send_text(f'{{"type":"message","client_id":"c","text":{text}}}')
        assert (await driver.expect("message"))["text"] == expected
        await driver.send_text(f'{{"type":"message","trip_id":"{trip_id}","client_id":"c","text":{text}}}')
        assert await driver.expect("done") == {"type": "done", "client_id": "c"}
        # The passenger first gets its own message.
        assert [(await passenger.expect("message"))["text"] for _ in range(2)] == [expected, expected]


# --- row 25: too many errors ----------------------------------------------------------------------------------------


async def test_row_25_fifty_errors_in_a_minute_end_the_connection(bench: Bench) -> None:
    for _ in range(49):
        assert is_error(await bench.error("{"), "bad_json")
    await bench.goes_on()
    assert is_error(await bench.error("{"), "bad_json")
    assert await bench.driver.closed() == 4501


async def test_row_25_the_same_holds_for_a_passenger(hub: HubProcess, api: Api) -> None:
    _, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        for _ in range(50):
            await passenger.send_text("{")
        assert await passenger.closed() == 4501


async def test_row_25_rejected_fixes_and_repeats_are_not_errors(bench: Bench) -> None:
    await bench.driver.report(*(fix(seq, latitude=91) for seq in range(1, 101)))
    assert len(await bench.driver.acknowledged(100)) == 100
    for _ in range(60):
        await bench.driver.report(fix(1))
    await bench.goes_on(seq=101)


async def test_row_25_the_hub_counts_each_connection_separately(bench: Bench) -> None:
    other_id = await bench.api.vehicle(bench.fleet_id)
    async with Driver(bench.url, other_id) as other:
        for _ in range(30):
            await bench.driver.send_text("{")
            await other.send_text("{")
        await other.report(fix(1))
        assert await other.acknowledged(1) == []
    await bench.goes_on()


# --- before hello ----------------------------------------------------------------------------------------------------


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
