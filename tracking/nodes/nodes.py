"""This hub among the others: beats, peers, and links to them."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from tracking.metrics import (
    BROKER_CONNECTED,
    NODE_BYTES,
    NODE_DROPPED,
    NODE_GAPS,
    NODE_IGNORED,
    NODE_PACKETS,
    NODE_POSITIONS,
)
from tracking.model import Position
from tracking.nodes import messages
from tracking.nodes.backplane import Backplane
from tracking.nodes.links import NOTICE_BYTES, Arrival, FormerNumbers, Incoming, Outgoing
from tracking.nodes.listeners import Listeners
from tracking.nodes.listeners import Observer as Observer
from tracking.nodes.messages import VERSION, Beat, HandOver, HandOverAsk, Missed, Notice, Packet
from tracking.nodes.node import Node, Peer
from tracking.nodes.peers import Peers
from tracking.nodes.questions import Questions, numbers

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=Notice)

FLUSH_SECONDS = 0.04
"""How long a position may wait for others."""
CHECK_SECONDS = 0.25
"""Between two looks for dead peers."""
CHECKS_A_BEAT = 4
SETTLE_SECONDS = 0.2
"""After a beat, how long the packets that were sent before it may take to be read."""
FULL_BYTES = 2**20
"""While more than this waits for the broker, nothing is packed."""
SLICE_SECONDS = 0.002


class Nodes:
    """Sends to peers, and passes on what they tell. `run` does the work until it is cancelled.

    `now` is a clock in seconds. `confirmed` tells whether this hub has just read the change log to its end.
    """

    node: Node
    peers: Mapping[str, Peer]
    """those that are alive, by boot id"""

    def __init__(
        self,
        node: Node,
        backplane: Backplane | None = None,
        *,
        confirmed: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._backplane = backplane
        self._confirmed = confirmed
        self._now = now
        self._known = Peers()
        self.peers = self._known.alive
        self._outgoing: dict[str, Outgoing] = {}
        """Empty while there is no connection."""
        self._incoming: dict[str, Incoming] = {}
        self._former = FormerNumbers()
        self.draining = False
        """Whether this hub sends its clients to others. Told with each beat."""
        self.connections: Callable[[], int] = lambda: 0
        """Counts the open sockets of clients. Told with each beat."""
        self._life = 0
        self._lost_at = now()
        self._was_connected = False
        self._listeners = Listeners(now)
        self._questions = Questions()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._beat_due = False
        self._leaving = False
        self._left = asyncio.Event()
        self._silent = False
        self._listeners.listen(Missed, lambda peer, _: self._listeners.missed(peer))
        self._listeners.listen(HandOver, self._questions.answered)

    @property
    def enabled(self) -> bool:
        """Whether a broker is set. Without one this hub is alone, and nothing here does anything."""
        return self._backplane is not None

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._was_connected

    @property
    def away_seconds(self) -> float | None:
        """How long the broker has been away; None while it can be reached, and without a broker."""
        return None if self._backplane is None or self._was_connected else self._now() - self._lost_at

    def listen(self, kind: type[N], heard: Callable[[str, N], None]) -> None:
        """`heard` is called with the sender's boot id and each notice of this kind, after the positions of the same packet."""
        self._listeners.listen(kind, heard)

    def listen_positions(self, heard: Callable[[str, list[Position]], None]) -> None:
        """`heard` is called with the boot id of the sender and at most `POSITIONS_A_PACKET` positions."""
        self._listeners.listen_positions(heard)

    def observe(self, observer: Observer) -> None:
        self._listeners.observe(observer)

    def tell(self, peer: str, notice: Notice) -> None:
        """Sends a notice in the next step of the event loop, together with all others for the peer.

        A notice larger than `NOTICE_BYTES` is not sent. That is a fault of the caller, which must divide it.
        """
        link = self._outgoing.get(peer)
        if link is not None:
            self._tell([link], notice)

    def tell_all(self, notice: Notice) -> None:
        if self._outgoing:
            self._tell(self._outgoing.values(), notice)

    def tell_some(self, peers: Collection[str], notice: Notice) -> None:
        links = [self._outgoing[peer] for peer in peers if peer in self._outgoing]
        if links:
            self._tell(links, notice)

    def has_room(self, peer: str) -> bool:
        """Whether there is a link to the peer, with room for what may as well be told later."""
        link, backplane = self._outgoing.get(peer), self._backplane
        return link is not None and link.has_room and backplane is not None and backplane.waiting <= FULL_BYTES

    def _tell(self, links: Collection[Outgoing], notice: Notice) -> None:
        data = messages.encode(notice)
        if len(data) > NOTICE_BYTES:
            NODE_DROPPED.labels("notice").value += len(links)
            logger.error("a notice %s of %d bytes is too large and was not sent", type(notice).__name__, len(data))
            return
        for link in links:
            link.tell(data)
        self._wake.set()

    def forward(self, position: Position, peers: Collection[str]) -> None:
        """Sends a position with all others of the next 40 ms. If a link is full, only the newest of each vehicle is kept."""
        links = self._outgoing
        for peer in peers:
            link = links.get(peer)
            if link is not None:
                link.positions.append(position)
        if self._timer is None and links:
            self._flush_later()

    async def ask(self, peer: str, notice: HandOverAsk, seconds: float) -> HandOver | None:
        """The peer's answer; None if none came in time. Sets `notice.ask`."""
        notice.ask = self.next_ask()
        if peer not in self._outgoing:
            return None
        self.tell(peer, notice)
        return await self._questions.wait(peer, notice.ask, seconds)

    def next_ask(self) -> int:
        """A number for `Want.ask`, which this process never used before."""
        return next(numbers)

    def silence(self) -> None:
        """Sends and hears nothing from now on. Another object takes the place of this one in the same process."""
        self._silent = True
        self._outgoing.clear()
        self._listeners.close()

    async def leave(self) -> None:
        """Sends what waits, and tells all peers that this hub stops. `run` must be running."""
        if self._was_connected and not self._silent:
            self._leaving = True
            self._wake.set()
            await self._left.wait()

    async def run(self) -> None:
        """Beats, sends and listens until it is cancelled. Without a broker it returns at once."""
        if self._backplane is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(self._backplane))
            tasks.create_task(self._beat_steadily())
            tasks.create_task(
                self._backplane.run(self.node.node, beat=self._beat_came, packet=self._packet_came, changed=self._changed)
            )

    # Sending

    async def _send(self, backplane: Backplane) -> None:
        """Sends all that goes out, so that the numbers of a link are sent in their order."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._silent or not self._was_connected:
                continue
            if self._beat_due:
                self._beat_due = False
                await self._send_beat(backplane)
            await self._send_packets(backplane)
            if self._leaving:
                await self._send_beat(backplane)
                self._silent = True
                await backplane.flush()
                self._left.set()

    async def _send_packets(self, backplane: Backplane) -> None:
        began = time.perf_counter()
        for link in list(self._outgoing.values()):
            while link.waits:
                if backplane.waiting > FULL_BYTES and not self._leaving:
                    link.keep_newest()
                    self._flush_later()
                    break
                data, positions = link.pack()
                NODE_PACKETS.labels("out").value += 1
                NODE_BYTES.labels("out").value += len(data)
                NODE_POSITIONS.labels("out").value += positions
                await backplane.send(link.peer, data)
                if time.perf_counter() - began > SLICE_SECONDS:
                    await asyncio.sleep(0)
                    began = time.perf_counter()

    async def _send_beat(self, backplane: Backplane) -> None:
        now, links = self._now(), {}
        for peer, link in self._outgoing.items():
            link.mark_loss(now)
            links[peer] = link.number
        beat = Beat(
            *(VERSION, *self.node, self._confirmed(), self._life, links),
            *(self._leaving, self.draining, self.connections()),
        )
        data = messages.encode(beat)
        NODE_BYTES.labels("out").value += len(data)
        await backplane.send_all(data)

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._timer = None
        self._wake.set()

    async def _beat_steadily(self) -> None:
        for count in itertools.count():
            for node in self._known.dead(self._now()):
                self._went(node, "sent no beat for 3 s")
            if count % CHECKS_A_BEAT == 0:
                self.beat_soon()
            await asyncio.sleep(CHECK_SECONDS)

    def beat_soon(self) -> None:
        """Sends a beat in the next step of the event loop."""
        self._beat_due = True
        self._wake.set()

    # The connection

    def _changed(self) -> None:
        assert self._backplane is not None
        if self._silent:
            return
        connected, life = self._backplane.connected, self._backplane.life
        for link in self._outgoing.values():
            link.drop_all()
        self._outgoing.clear()
        self._former.clear()
        self._life = life
        if connected:
            self._outgoing.update({peer: Outgoing(self.node.node, peer, life, 0) for peer in self.peers})
            self.beat_soon()
        BROKER_CONNECTED.set(connected)
        if connected != self._was_connected:
            self._was_connected = connected
            self._lost_at = self._now()
            if self._leaving:
                self._left.set()  # Nobody can be told.
            self._listeners.connection_changed(connected)
        if connected:
            for peer in list(self.peers):
                self._listeners.missed(peer)

    # Hearing

    def _beat_came(self, data: bytes) -> None:
        if self._silent or not self._was_connected:
            return
        NODE_BYTES.labels("in").value += len(data)
        try:
            beat = messages.decode_beat(data)
        except messages.UNREADABLE:
            self._ignore_unreadable(data)
            return
        if beat.version != VERSION:
            NODE_IGNORED.labels("version").value += 1
        elif beat.node != self.node.node:
            self._handle_beat(beat)

    def _handle_beat(self, beat: Beat) -> None:
        if not self._known.accepts(beat):
            NODE_IGNORED.labels("foreign").value += 1
            return
        incoming = self._incoming.get(beat.node)
        if incoming is not None and beat.life < incoming.life:
            NODE_IGNORED.labels("repeated").value += 1
            return
        if beat.leaving:
            self._went(beat.node, "has stopped")
            return
        if incoming is None:
            incoming = self._incoming[beat.node] = Incoming(beat.life)
        missed = incoming.has_begun(beat.life)
        if self._known.heard(beat, self._now()):
            logger.info("another hub is here: %r (%s, version %s)", beat.name, beat.node, beat.release)
            # If it was here before in this life, a number is left out: it must notice that we forgot what it told.
            number = self._former.pop(beat.node, -1) + 1
            self._outgoing[beat.node] = Outgoing(self.node.node, beat.node, self._life, number)
            self.beat_soon()
            missed = True
        if missed:
            self._listeners.missed(beat.node)
        sent = beat.links.get(self.node.node, 0)
        if sent > incoming.number:
            # Beats and packets are read separately, so a packet of before the beat may come after it.
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._settle, beat.node, beat.life, sent)

    def _settle(self, peer: str, life: int, sent: int) -> None:
        incoming = self._incoming.get(peer)
        if incoming is not None and incoming.lacks(life, sent):
            self._lost(peer)

    def _packet_came(self, data: bytes) -> None:
        if self._silent or not self._was_connected:
            return
        NODE_BYTES.labels("in").value += len(data)
        try:
            packet = messages.decode_packet(data)
        except messages.UNREADABLE:
            self._ignore_unreadable(data)
            return
        incoming = self._incoming.get(packet.sender)
        if packet.version != VERSION:
            NODE_IGNORED.labels("version").value += 1
        elif incoming is None:
            # If it is a peer's whose beat did not come yet, the next beat shows that this is lost.
            NODE_IGNORED.labels("foreign").value += 1
        else:
            self._handle_packet(packet, incoming)

    def _handle_packet(self, packet: Packet, incoming: Incoming) -> None:
        sender, arrival = packet.sender, incoming.arrived(packet.life, packet.number)
        if arrival is Arrival.REPEATED:
            NODE_IGNORED.labels("repeated").value += 1
            return
        if arrival is Arrival.GAP:
            self._lost(sender)
        elif arrival is Arrival.FIRST:
            self._listeners.missed(sender)
        NODE_PACKETS.labels("in").value += 1
        if packet.positions:
            NODE_POSITIONS.labels("in").value += len(packet.positions)
            self._listeners.positions(sender, packet.positions)
        for raw in packet.notices:
            self._listeners.notice(sender, raw)

    def _ignore_unreadable(self, data: bytes) -> None:
        version = messages.version_of(data)
        NODE_IGNORED.labels("broken" if version in (None, VERSION) else "version").value += 1

    # What peers do

    def _lost(self, peer: str) -> None:
        NODE_GAPS.value += 1
        # What it told us must be repeated too.
        self.tell(peer, Missed())
        self._listeners.missed(peer)

    def _went(self, peer: str, why: str) -> None:
        self._incoming.pop(peer, None)
        if not self._known.left(peer):
            return
        logger.info("the hub %s %s", peer, why)
        link = self._outgoing.pop(peer, None)
        if link is not None:
            link.drop_all()
            self._former.keep(peer, link.number)
        self._questions.gone(peer)
        self._listeners.gone(peer)
