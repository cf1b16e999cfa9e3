"""Reading what the hub sends to a driver."""

import contextlib
import logging

import msgspec
from msgspec import Struct

from tracking.protocol.driver import Ack, DriverTextMessage, DriverTrip, Interval, Welcome
from tracking.protocol.shared import Done, Error

logger = logging.getLogger(__name__)

HubMessage = Welcome | Ack | Done | Interval | DriverTrip | DriverTextMessage | Error

_decode = msgspec.json.Decoder(HubMessage).decode
_KNOWN = frozenset({"welcome", "ack", "done", "interval", "trip", "message", "error"})


class _AnyMessage(Struct):
    type: str


_decode_type = msgspec.json.Decoder(_AnyMessage).decode


def read_message(frame: bytes | str) -> HubMessage | None:
    """The message in a frame; None if this client does not know its type, or can't read it."""
    try:
        message: HubMessage = _decode(frame)
    except msgspec.ValidationError:
        # A later version of the hub may send types that this client does not know. It ignores them.
        with contextlib.suppress(msgspec.ValidationError):
            if _decode_type(frame).type in _KNOWN:
                logger.warning("the hub sent a message that can't be read: %.200r", frame)
        return None
    except msgspec.DecodeError:
        logger.warning("the hub sent something that is not JSON: %.200r", frame)
        return None
    return message
