"""The offsets of a trip's numbered messages."""

from typing import Any


def assert_contiguous(offset: int, messages: list[dict[str, Any]]) -> None:
    """Every offset is delivered or named as skipped, once, in order."""
    for message in messages:
        if message["type"] == "skipped":
            assert message["from"] == offset + 1
            offset = message["to"]
        elif "offset" in message:
            assert message["offset"] == offset + 1
            offset += 1
