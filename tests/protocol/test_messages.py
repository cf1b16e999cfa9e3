"""Bytes in, messages or refusals out."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.errors import ErrorCode, Refusal
from tracking.ingest.credibility import drop_untrue
from tracking.model import Fix
from tracking.protocol.driver import MAX_BATCH, MAX_SEQ, Hello, Report, TripStatusChange, Unreadable, decode_driver
from tracking.protocol.passenger import decode_passenger
from tracking.protocol.shared import TextMessage

SESSION = "0b6f4a52-7c1e-4d0a-9d5f-3a8e2c41b790"
GOOD: dict[str, Any] = {"seq": 1, "fix_time": 1_763_856_000_000, "latitude": 47.1, "longitude": 9.5}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
json_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=4), scalars, max_size=3)
fields = st.sampled_from(
    ["seq", "fix_time", "latitude", "longitude", "accuracy", "altitude", "speed", "bearing", "battery", "x", "type"]
)


def position(**changes: Any) -> str:
    return json.dumps({"type": "position", **GOOD, **changes})


def only(text: str) -> Fix | Unreadable:
    message = decode_driver(text)
    assert isinstance(message, Report)
    [fix] = message.fixes
    return fix


def refusal(text: str | bytes) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode_driver(text)
    return caught.value


def test_a_position_with_everything() -> None:
    fix = only(position(accuracy=5, altitude=450.5, speed=0, bearing=359.9, battery=1))
    assert isinstance(fix, Fix)
    assert (fix.seq, fix.latitude, fix.accuracy, fix.battery) == (1, 47.1, 5.0, 1.0)


def test_the_other_messages_of_a_driver() -> None:
    assert decode_driver(f'{{"type":"hello","session":"{SESSION}"}}') == Hello(SESSION)
    assert decode_driver(f'{{"type":"hello","session":"{SESSION.upper()}"}}') == Hello(SESSION)
    change = decode_driver('{"type":"trip_status","trip_id":"t","status":"complete","client_id":"c"}')
    assert isinstance(change, TripStatusChange)
    message = decode_driver('{"type":"message","trip_id":"t","text":"Grüezi 😀","client_id":"c"}')
    assert message == TextMessage(text="Grüezi 😀", client_id="c", trip_id="t")


@pytest.mark.parametrize(
    "text",
    [
        position(latitude="NaN").replace('"NaN"', "NaN"),
        position(latitude="x").replace('"x"', "-Infinity"),
        position(latitude="x").replace('"x"', "1e999"),
        position(note="x").replace('"x"', "[" * 30_000 + "]" * 30_000),
        position(latitude="x").replace('"x"', "9" * 5_000),
        position() + "{}",
        "",
        "{",
    ],
    ids=["nan", "infinity", "1e999", "nested", "endless integer", "two values", "empty", "cut off"],
)
def test_what_is_not_json_that_can_be_used(text: str) -> None:
    assert refusal(text).code is ErrorCode.BAD_JSON


@pytest.mark.parametrize("seq", [0, -1, 1.5, 1.0, MAX_SEQ + 1, 10**30, "1", True, None])
def test_a_seq_that_is_none(seq: object) -> None:
    assert refusal(position(seq=seq)).code is ErrorCode.BAD_SEQ


@pytest.mark.parametrize("seq", [1, MAX_SEQ])
def test_the_first_and_the_last_seq(seq: int) -> None:
    assert only(position(seq=seq)).seq == seq


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"latitude": True}, ErrorCode.BAD_TYPE),
        ({"latitude": "47.1"}, ErrorCode.BAD_TYPE),
        ({"fix_time": 1.5}, ErrorCode.BAD_TYPE),
        ({"speed": None}, ErrorCode.BAD_TYPE),
        ({"bearing": [1]}, ErrorCode.BAD_TYPE),
    ],
)
def test_a_field_of_the_wrong_type_names_the_seq_and_the_field(changes: dict[str, Any], code: ErrorCode) -> None:
    fix = only(position(**changes))
    assert isinstance(fix, Unreadable)
    assert (fix.seq, fix.code) == (1, code)
    assert next(iter(changes)) in fix.detail


@pytest.mark.parametrize("name", ["altitude", "speed", "bearing", "battery"])
@pytest.mark.parametrize("value", [10**308, 10**309, -(10**400)], ids=["1e308", "1e309", "-1e400"])
def test_a_number_too_large_for_any_field_costs_no_place(name: str, value: int) -> None:
    """It is read as one that can't be true, and so taken for unknown."""
    fix = only(position(**{name: value}))
    assert isinstance(fix, Fix)
    assert drop_untrue(fix) == (name,)


def test_a_missing_field() -> None:
    fix = only('{"type":"position","seq":7,"fix_time":1,"longitude":9}')
    assert isinstance(fix, Unreadable)
    assert (fix.seq, fix.code) == (7, ErrorCode.BAD_FIELD)
    assert "latitude" in fix.detail


def test_one_bad_element_does_not_spoil_the_others() -> None:
    elements = [GOOD, {**GOOD, "seq": 2, "latitude": "x"}, 5, {**GOOD, "seq": -1}, {**GOOD, "seq": 3, "type": "anything"}]
    message = decode_driver(json.dumps({"type": "positions", "positions": elements}))
    assert isinstance(message, Report)
    judged = [(f.seq, f.code if isinstance(f, Unreadable) else None) for f in message.fixes]
    assert judged == [(1, None), (2, "bad_type"), (None, "bad_type"), (None, "bad_seq"), (3, None)]


def test_a_batch_of_as_many_as_there_may_be_and_one_more() -> None:
    def batch(count: int) -> str:
        return json.dumps({"type": "positions", "positions": [{**GOOD, "seq": seq} for seq in range(1, count + 1)]})

    message = decode_driver(batch(MAX_BATCH))
    assert isinstance(message, Report)
    assert len(message.fixes) == MAX_BATCH
    assert refusal(batch(MAX_BATCH + 1)).code is ErrorCode.BATCH_TOO_LARGE


def test_unknown_keys_are_ignored_and_of_duplicates_the_last_wins() -> None:
    fix = only(position(unknown={"a": [1]}).replace('"seq": 1', '"seq": 1, "seq": 9'))
    assert fix.seq == 9


@pytest.mark.parametrize(
    ("escaped", "good"),
    [
        (r"\ud800", False),
        (r"\udc00 late", False),
        (r"\ud83d\ude00\ude00", False),
        (r"\ud83d\ude00", True),
        (r"\\ud800", True),
        (r"a\u0000b", False),
        (r"", False),
    ],
)
def test_text_must_be_text(escaped: str, good: bool) -> None:
    frame = '{"type":"message","trip_id":"t","client_id":"c","text":"' + escaped + '"}'
    if good:
        assert isinstance(decode_driver(frame), TextMessage)
    else:
        assert refusal(frame).code is ErrorCode.BAD_FIELD


def test_a_text_that_is_too_long() -> None:
    frame = {"type": "message", "client_id": "c", "text": "ü" * 1_000}
    assert decode_passenger(json.dumps(frame)).text == "ü" * 1_000
    frame["text"] += "ü"
    with pytest.raises(Refusal) as caught:
        decode_passenger(json.dumps(frame))
    assert caught.value.code is ErrorCode.BAD_FIELD


@pytest.mark.parametrize(
    "session",
    [
        "=1+1",
        "s",
        SESSION[:-1],
        SESSION + "0",
        SESSION + "\n",
        SESSION.replace("-", ""),
        "{" + SESSION + "}",
        "urn:uuid:" + SESSION,
        SESSION.replace("0", "g"),
        SESSION.replace("0", "\u0660"),
        "",
    ],
)
def test_a_session_that_is_no_uuid(session: str) -> None:
    refused = refusal(json.dumps({"type": "hello", "session": session}))
    assert (refused.code, refused.field) == (ErrorCode.BAD_FIELD, "session")


@pytest.mark.parametrize("text", ['{"type":"position"', '{"type":"hello","session":"s"}', "[]", '{"text":"x"}'])
def test_what_a_passenger_may_not_send(text: str) -> None:
    with pytest.raises(Refusal):
        decode_passenger(text)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(frame: bytes) -> None:
    for decode in (decode_driver, decode_passenger):
        try:
            decode(frame)
        except Refusal as refused:
            assert refused.detail


@given(st.dictionaries(fields, json_values, max_size=8))
def test_every_fix_is_read_or_named_unreadable(changes: dict[str, Any]) -> None:
    """The fast way and the slow way judge alike, alone and in a batch."""
    element = {**GOOD, **changes}
    element.pop("type", None)
    message = decode_driver(json.dumps({"type": "positions", "positions": [element]}))
    assert isinstance(message, Report)
    [in_batch] = message.fixes
    try:
        alone = only(json.dumps({**element, "type": "position"}))
    except Refusal as refused:
        assert isinstance(in_batch, Unreadable)
        assert in_batch.seq is None
        assert in_batch.code is refused.code
    else:
        assert msgspec.to_builtins(in_batch) == {k: v for k, v in msgspec.to_builtins(alone).items() if k != "type"}
