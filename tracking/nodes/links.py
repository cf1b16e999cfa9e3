"""Numbered packets between two hubs: what goes out is packed and bounded, and what comes in is checked for gaps."""

from enum import Enum, auto

import msgspec

from tracking.metrics import NODE_DROPPED
from tracking.model import Position
from tracking.nodes import messages
from tracking.nodes.messages import MAX_BYTES, VERSION, Packet

POSITIONS_A_PACKET = 250
"""A packet is encoded, and its positions are handled, in one step of the event loop."""
NOTICES_A_PACKET = 250
POSITIONS_KEPT = 2_000
"""If more wait, only the newest of each vehicle is kept."""
NOTICE_BYTES = MAX_BYTES - 4 * 1024
"""The largest notice. The rest is for what else a packet holds."""
NOTICE_BYTES_A_PACKET = 64 * 1024
"""A packet takes no further notice above this."""
NOTICE_BYTES_KEPT = 4 * 2**20
"""If more wait, all are dropped. The receiver then notices a gap, and what it must know is told again."""
ROOM_BYTES = 256 * 1024
"""While more notices wait, the link has no room for what may as well be told later."""
FORMER_KEPT = 1_000
LOSS_MARK_SECONDS = 5.0
"""The least time between two gaps that tell the receiver of dropped messages. To repair a gap costs messages too."""


class Outgoing:
    """What waits to be sent to one peer, and the number of what was sent."""

    __slots__ = (
        "_dropped",
        "_loss_marked_at",
        "_notice_bytes",
        "_notices",
        "_sender",
        "_shorten_above",
        "life",
        "number",
        "peer",
        "positions",
    )

    def __init__(self, sender: str, peer: str, life: int, number: int) -> None:
        self.peer = peer
        self.life = life
        self.number = number
        """the last one given to a packet"""
        self.positions: list[Position] = []
        self._sender = sender
        self._notices: list[bytes] = []
        self._notice_bytes = 0
        self._dropped = False
        self._loss_marked_at = float("-inf")
        self._shorten_above = POSITIONS_KEPT

    @property
    def waits(self) -> bool:
        return bool(self.positions or self._notices)

    @property
    def has_room(self) -> bool:
        return self._notice_bytes <= ROOM_BYTES

    def tell(self, notice: bytes) -> None:
        self._notices.append(notice)
        self._notice_bytes += len(notice)
        if self._notice_bytes > NOTICE_BYTES_KEPT:
            self._drop(len(self._notices), "notice")
            self._notices, self._notice_bytes = [], 0

    def keep_newest(self) -> None:
        """Keeps the newest position of each vehicle, if too many wait."""
        if len(self.positions) > self._shorten_above:
            newest = list({position.vehicle: position for position in self.positions}.values())
            if len(newest) < len(self.positions):
                self._drop(len(self.positions) - len(newest), "position")
                self.positions[:] = newest
            # This work is not repeated before as many have come again.
            self._shorten_above = max(POSITIONS_KEPT, 2 * len(newest))

    def drop_all(self) -> None:
        """The peer or the connection is gone. It is known elsewhere that messages were lost."""
        NODE_DROPPED.labels("position").value += len(self.positions)
        NODE_DROPPED.labels("notice").value += len(self._notices)
        self.positions.clear()
        self._notices, self._notice_bytes = [], 0

    def mark_loss(self, now: float) -> None:
        """Leaves out a number if messages were dropped, so that the receiver notices."""
        if self._dropped and not self.waits and now - self._loss_marked_at >= LOSS_MARK_SECONDS:
            self._dropped = False
            self._loss_marked_at = now
            self.number += 1

    def pack(self) -> tuple[bytes, int]:
        """The next packet, and how many positions it holds. Positions come first: what is said of them follows."""
        positions = self.positions[:POSITIONS_A_PACKET]
        notices = self._notices_of_packet() if len(positions) == len(self.positions) else []
        self.number += 1
        data = self._encoded(positions, notices)
        while len(data) > MAX_BYTES:
            # Only positions with very long ids lead here. Notices alone always fit.
            positions, notices = positions[: len(positions) // 2], notices if len(positions) < 2 else []
            data = self._encoded(positions, notices)
        del self.positions[: len(positions)]
        if notices:
            del self._notices[: len(notices)]
            self._notice_bytes -= sum(map(len, notices))
        return data, len(positions)

    def _notices_of_packet(self) -> list[bytes]:
        size = count = 0
        for notice in self._notices[:NOTICES_A_PACKET]:
            if count and size + len(notice) > NOTICE_BYTES_A_PACKET:
                break
            size += len(notice)
            count += 1
        return self._notices[:count]

    def _encoded(self, positions: list[Position], notices: list[bytes]) -> bytes:
        raw = [msgspec.Raw(notice) for notice in notices]
        return messages.encode(Packet(VERSION, self._sender, self.life, self.number, positions, raw))

    def _drop(self, count: int, what: str) -> None:
        NODE_DROPPED.labels(what).value += count
        self._dropped = True


class FormerNumbers(dict[str, int]):
    """The last numbers of links, in one life, to peers that went. They may come back."""

    def keep(self, peer: str, number: int) -> None:
        self[peer] = number
        if len(self) > FORMER_KEPT:
            del self[next(iter(self))]


class Arrival(Enum):
    NEXT = auto()
    FIRST = auto()
    """of a new life of the sender, with nothing lost in it"""
    GAP = auto()
    """Messages before it were lost."""
    REPEATED = auto()
    """It must be ignored: it was handled or given up before, or it is of a life that is over."""


class Incoming:
    """What has come from one peer."""

    __slots__ = ("life", "number")

    def __init__(self, life: int) -> None:
        self.life = life
        self.number = 0

    def arrived(self, life: int, number: int) -> Arrival:
        """Judges a packet by its number, and remembers it."""
        if life < self.life or (life == self.life and number <= self.number):
            return Arrival.REPEATED
        expected, new = self.number + 1, life > self.life
        if new:
            self.life, expected = life, 1
        self.number = number
        if number != expected:
            return Arrival.GAP
        return Arrival.FIRST if new else Arrival.NEXT

    def has_begun(self, life: int) -> bool:
        """Notes the life that a beat names. Returns whether it is new."""
        if life <= self.life:
            return False
        self.life, self.number = life, 0
        return True

    def lacks(self, life: int, number: int) -> bool:
        """Whether messages up to this number of a life were sent and have not come. They are given up then."""
        if life != self.life or number <= self.number:
            return False
        self.number = number
        return True
