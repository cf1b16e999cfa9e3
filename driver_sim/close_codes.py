"""What a close code asks of a driver's app: come back, come back with another token, or stay away."""

from enum import Enum

NORMAL = 1000
GONE_WITHOUT_A_WORD = 1006
TOKEN_EXPIRED = 4405
NO_TOKEN = 4401
REPLACED = 4409

#: What was sent is at fault, and would be again.
SAME_AGAIN = frozenset({1002, 1003, 1007, 1009})


class Verdict(Enum):
    COME_BACK = "come back, with jitter"
    RENEW = "come back with another token"
    STAY_AWAY = "do not come back by yourself"


def verdict(code: int) -> Verdict:
    """What to do after the socket closed with `code`; 1006 where no close frame came.

    4000-4499 come back and 4500-4999 do not, whatever the number means; of these 4409 (replaced by a newer connection) waits
    for the user, or two devices of one vehicle would throw each other out for ever.
    """
    if code in (TOKEN_EXPIRED, NO_TOKEN):
        return Verdict.RENEW
    if code == REPLACED or code in SAME_AGAIN or 4500 <= code <= 4999:
        return Verdict.STAY_AWAY
    return Verdict.COME_BACK
