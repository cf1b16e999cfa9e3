"""What a new home tells of moves that the former one may have judged."""

from tests.support.positions import a_position
from tracking.model import EventKind
from tracking.monitor.replay import Replay
from tracking.monitor.rules import Alert
from tracking.store.last_moves import ToldEvent

STORED = [a_position(1, 1, number) for number in (1, 2, 3)]
LATER = [a_position(1, 1, number) for number in (4, 5, 6)]
"""They were judged, and not stored. The device sends them again, and filters that began anew may judge them otherwise."""


def test_an_alert_up_to_the_last_told_of_its_kind_is_told() -> None:
    replay = Replay(STORED, [ToldEvent(EventKind.SPEEDING, None, LATER[1].fix_time)])
    told = [replay.is_told(position, Alert(EventKind.SPEEDING)) for position in (*STORED[1:], *LATER)]
    assert told == [True, True, True, True, False]
    assert not replay.is_told(LATER[0], Alert(EventKind.IDLE))


def test_what_was_not_told_of_the_last_moves_is_told_now() -> None:
    assert not Replay(STORED, []).is_told(STORED[2], Alert(EventKind.SPEEDING))
