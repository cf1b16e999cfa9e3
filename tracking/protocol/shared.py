"""Messages that several audiences send or get, and the offers of an opening handshake."""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tracking.protocol.codec import check_text

MAX_TEXT = 1_000
MAX_CLIENT_ID = 64

SUBPROTOCOL = "tracking.v1"
BEARER_SUBPROTOCOL = "bearer."


class TextMessage(Struct, tag="message", frozen=True):
    """The text of a driver or passenger. A driver names the trip; a passenger's socket has only one."""

    text: str
    client_id: str
    trip_id: str | UnsetType = UNSET


class Done(Struct, tag="done"):
    client_id: str
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET
    """Seconds; set if the `code` is `rate_limited`."""


class Error(Struct, tag="error"):
    code: str
    detail: str
    seq: int | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


class Skipped(Struct, tag="skipped"):
    """This reader was slow. The positions with these offsets, both included, were skipped. The newest follows."""

    from_: int = msgspec.field(name="from")
    to: int


class Tick(Struct, tag="tick"):
    server_time: int


def check_text_message(message: TextMessage) -> None:
    """Raises `Refusal` if its text or `client_id` is too short or too long."""
    check_text("client_id", message.client_id, MAX_CLIENT_ID)
    check_text("text", message.text, MAX_TEXT)
