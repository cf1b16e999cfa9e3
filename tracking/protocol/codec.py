"""Bytes to messages and back: JSON, WebSocket frames, and errors for messages that can't be used.

Only msgspec decodes. It refuses NaN, Infinity, and endless nesting or integers, which the standard library's `json` accepts.
The last of duplicate keys wins, and unknown keys are ignored.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from tracking.errors import ErrorCode, Refusal

MAX_FRAME_BYTES = 64 * 1024

encode = msgspec.json.Encoder().encode
"""A message as UTF-8 JSON."""

_SHORT_HEADS = tuple(bytes((0x81, length)) for length in range(126))
_middle_head = struct.Struct("!BBH").pack
_long_head = struct.Struct("!BBQ").pack


def frame(message: Struct) -> bytes:
    """A message as a complete, unmasked WebSocket text frame (RFC 6455 5.2). The same bytes go to every reader."""
    return framed(encode(message))


def framed(text: bytes) -> bytes:
    """UTF-8 JSON as such a frame."""
    length = len(text)
    if length < 126:
        return _SHORT_HEADS[length] + text
    return (_middle_head(0x81, 126, length) if length < 65_536 else _long_head(0x81, 127, length)) + text


def text_of(frame: bytes) -> bytes:
    """The message in such a frame, as UTF-8 JSON."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def frame_ends(frames: bytes | bytearray) -> Iterator[int]:
    """The end of each frame in a sequence of such frames."""
    at = 0
    while at < len(frames):
        length = frames[at + 1]
        if length < 126:
            at += 2 + length
        elif length == 126:
            at += 4 + (frames[at + 2] << 8 | frames[at + 3])
        else:
            at += 10 + int.from_bytes(frames[at + 2 : at + 10], "big")
        yield at


_decode_any = msgspec.json.Decoder().decode

_ESCAPE = re.compile(r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.")
"""A surrogate pair, a lone surrogate, or any other escape. The last keeps an escaped backslash from being taken for a start."""


def tree(frame: str | bytes) -> dict[str, Any]:
    """The JSON object in a frame. Raises `Refusal`."""
    try:
        decoded = _decode_any(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise _bad_json(frame, error) from None
    if not isinstance(decoded, dict):
        raise Refusal(ErrorCode.BAD_TYPE, f"a message is a JSON object with a `type`; got {shown(decoded)}")
    return decoded


def _bad_json(frame: str | bytes, error: Exception) -> Refusal:
    """The error for a frame that msgspec refuses. A lone surrogate is valid JSON but invalid text. The rest is bad JSON."""
    text = frame if isinstance(frame, str) else frame.decode(errors="replace")
    if "\\u" in text:
        try:
            _decode_any(_ESCAPE.sub(lambda escape: "?" if escape[2] else escape[0], text))
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
        else:
            return Refusal(ErrorCode.BAD_FIELD, "text holds a lone surrogate; send well-formed Unicode")
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return Refusal(ErrorCode.BAD_JSON, f"not JSON that can be used: {what}")


def convert(decoded: dict[str, Any], kind: type[Struct]) -> Any:
    """The object as a message. Raises `Refusal`."""
    try:
        return msgspec.convert(decoded, kind)
    except msgspec.ValidationError as error:
        raise Refusal(code_of(error), str(error), field=field_of(error)) from None


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in the form of RFC 9562, of any version, in upper or lower case."""
    return _UUID.fullmatch(text) is not None


def check_text(field: str, text: str, longest: int) -> None:
    """Raises `Refusal` (`bad_field`) if the text is empty, has more than `longest` characters, or contains NUL."""
    if not 1 <= len(text) <= longest:
        raise Refusal(ErrorCode.BAD_FIELD, f"`{field}` must have 1 to {longest} characters; got {len(text)}", field=field)
    if "\0" in text:
        raise Refusal(ErrorCode.BAD_FIELD, f"`{field}` holds a NUL character; leave it out", field=field)


def field_of(error: msgspec.ValidationError) -> str | None:
    """The field that msgspec's error names, as a path or as the missing one."""
    found = re.search(r"`\$\.([^`]+)`|required field `([^`]+)`", str(error))
    return (found[1] or found[2]) if found else None


def code_of(error: msgspec.ValidationError) -> ErrorCode:
    """The code for a wrong type, or for a wrong value."""
    wrong_type = str(error).startswith("Expected `") and ", got `" in str(error)
    return ErrorCode.BAD_TYPE if wrong_type else ErrorCode.BAD_FIELD


def shown(value: object) -> str:
    """A value for an error's text, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
