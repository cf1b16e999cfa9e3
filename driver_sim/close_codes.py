"""What a close code asks of a driver's app: reconnect, reconnect with another token, or stop."""

from enum import Enum

NORMAL = 1000
ABNORMAL_CLOSURE = 1006
"""The connection ended without a close frame."""
TOKEN_EXPIRED = 4405
NO_TOKEN = 4401
REPLACED = 4409

CLIENT_FAULTS = frozenset({1002, 1003, 1007, 1009})
"""The client's own message is at fault. It would send the same message again."""


class Verdict(Enum):
    RECONNECT = "connect again, after a random pause"
    RENEW_TOKEN = "connect again with another token"  # noqa: S105  no token
    STOP = "do not connect again unasked"


def verdict(code: int) -> Verdict:
    """What to do after the socket closed with `code`; `ABNORMAL_CLOSURE` stands for no close frame.

    A client reconnects after 4000-4499 and stops after 4500-4999, whatever the number means. The exception is 4409, replaced
    by a newer connection: it waits for the user. Otherwise two devices of one vehicle would replace each other for ever.
    """
    if code in (TOKEN_EXPIRED, NO_TOKEN):
        return Verdict.RENEW_TOKEN
    if code == REPLACED or code in CLIENT_FAULTS or 4500 <= code <= 4999:
        return Verdict.STOP
    return Verdict.RECONNECT
