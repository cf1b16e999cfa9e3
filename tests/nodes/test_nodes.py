"""Peers, links and their gaps, on a network in the process."""

import asyncio

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from tests.nodes.network import Clock, LocalNetwork, Station, running
from tests.support.positions import a_position
from tests.support.waiting import until
from tracking.metrics import NODE_DROPPED, NODE_GAPS, NODE_IGNORED
from tracking.nodes import links, messages
from tracking.nodes.links import POSITIONS_KEPT, Outgoing
from tracking.nodes.local import LocalBackplane
from tracking.nodes.messages import MAX_BYTES, VERSION, Beat, HandOver, HandOverAsk, Packet, TripAnswer, Want
from tracking.nodes.nodes import Nodes
from tracking.nodes.peers import Peers


def two(now: Clock | None = None) -> tuple[Station, Station, LocalNetwork]:
    network = LocalNetwork()
    return Station("a", network.backplane(), now), Station("b", network.backplane(), now), network


def ignored(reason: str) -> int:
    return NODE_IGNORED.labels(reason).value


def local(station: Station) -> LocalBackplane:
    assert isinstance(station.backplane, LocalBackplane)
    return station.backplane


async def met(a: Station, b: Station) -> None:
    await until(lambda: a.knows("b") and b.knows("a") and a.missed_ == ["b"] and b.missed_ == ["a"])


async def test_hubs_meet_tell_and_part() -> None:
    a, b, _ = two(Clock())  # by which nobody dies of silence
    async with running(a, b):
        await met(a, b)
        assert a.nodes.peers["b"].name == "hub b"
        a.nodes.tell("b", Want("one", True))
        a.nodes.tell_all(Want("two", False))
        a.nodes.tell("nobody", Want("three", False))
        for seq in range(600):
            a.nodes.forward(a_position(1, 1, seq), ("b", "nobody"))
        await until(lambda: b.wants == [("a", "one"), ("a", "two")] and b.seqs == list(range(600)))
        await a.nodes.leave()
        await until(lambda: b.gone_ == ["a"] and b.knows())
    assert a.missed_ == ["b"]


async def test_alone_nothing_is_done() -> None:
    nodes = Nodes(Station("a", LocalNetwork().backplane()).nodes.node)
    nodes.tell_all(Want("trip", True))
    nodes.forward(a_position(1, 1, 1), ("b",))
    await nodes.run()
    await nodes.leave()
    assert not nodes.enabled
    assert not nodes.connected
    assert nodes.away_seconds is None
    assert await nodes.ask("b", HandOverAsk(0, 1, "v", "s"), 5) is None


async def test_a_question_is_answered_by_whom_it_was_asked() -> None:
    a, b, network = two()
    c = Station("c", network.backplane())
    asked: list[HandOverAsk] = []
    b.nodes.listen(HandOverAsk, lambda _, ask: asked.append(ask))
    async with running(a, b, c):
        await until(lambda: a.knows("b", "c") and b.knows("a", "c") and c.knows("a", "b"))
        waiting = asyncio.create_task(a.nodes.ask("b", HandOverAsk(0, 7, "v", "s"), 5))
        await until(lambda: len(asked) == 1)
        c.nodes.tell("a", HandOver(asked[0].ask, 7, b"of another"))
        b.nodes.tell("a", HandOver(asked[0].ask, 7, b"state"))
        assert await waiting == HandOver(asked[0].ask, 7, b"state")
        assert await a.nodes.ask("b", HandOverAsk(0, 7, "v", "s"), 0.001) is None
        dying = asyncio.create_task(a.nodes.ask("b", HandOverAsk(0, 7, "v", "s"), 60))
        await until(lambda: len(asked) == 3)
        await b.nodes.leave()
        assert await dying is None


async def test_who_sends_no_beat_for_three_seconds_is_dead() -> None:
    clock = Clock()
    a, b, _ = two(clock)
    async with running(a):
        async with running(b):
            await met(a, b)
        # It ended without a goodbye.
        for _ in range(3):
            clock.now += 0.9
            await checked(a, clock)
            assert a.knows("b")
        clock.now += 0.9
        await until(lambda: a.gone_ == ["b"] and a.knows())
    assert a.missed_ == ["b"]


def test_nobody_is_dead_because_this_process_stood_still() -> None:
    peers, beat = Peers(), Beat(VERSION, "b", "b", "1.0", 0, True, 1, {})
    peers.heard(beat, 10.0)
    assert peers.dead(10.1) == []
    assert peers.dead(70.0) == []  # the beats of a minute wait to be read
    assert peers.dead(70.9) == []
    assert peers.dead(71.1) == ["b"]


async def checked(station: Station, clock: Clock) -> None:
    """Returns when the hub has looked who is dead."""
    await until(lambda: station.nodes._known._checked_at == clock.now)


async def test_a_lost_packet_is_missed_by_both_and_a_lost_last_one_shows_by_the_beat() -> None:
    clock = Clock()
    a, b, _ = two(clock)
    async with running(a, b):
        await met(a, b)
        gaps = NODE_GAPS.value
        receive, lose = local(b).receive_packet, 1

        def lossy(data: bytes) -> None:
            nonlocal lose
            lose -= 1
            if lose < 0:
                receive(data)

        local(b).receive_packet = lossy  # type: ignore[method-assign]
        clock.now += 2
        a.nodes.tell("b", Want("lost", True))
        await until(lambda: lose == 0)
        a.nodes.tell("b", Want("next", True))
        await until(lambda: b.missed_ == ["a", "a"] and a.missed_ == ["b", "b"])
        assert b.wants == [("a", "next")]
        clock.now += 2
        lose = 1
        a.nodes.tell("b", Want("last", True))
        await until(lambda: b.missed_ == ["a"] * 3 and a.missed_ == ["b"] * 3)
        assert NODE_GAPS.value == gaps + 2
        a.nodes.tell("b", Want("more", True))
        await until(lambda: b.wants == [("a", "next"), ("a", "more")])
        assert NODE_GAPS.value == gaps + 2


async def test_after_a_cut_all_is_missed_and_links_begin_anew() -> None:
    clock = Clock()
    a, b, network = two(clock)
    async with running(a, b):
        await met(a, b)
        for number in range(3):
            a.nodes.tell("b", Want(str(number), True))
        await until(lambda: len(b.wants) == 3)
        gaps = NODE_GAPS.value
        network.cut()
        clock.now += 2
        a.nodes.tell("b", Want("in vain", True))
        assert a.nodes.away_seconds == 2
        assert a.knows("b")
        network.restore()
        await until(lambda: a.missed_ == ["b", "b"] and b.missed_ == ["a", "a"])
        a.nodes.tell("b", Want("again", True))
        await until(lambda: b.wants[3:] == [("a", "again")])
        assert a.connections == [True, False, True]
        assert NODE_GAPS.value == gaps


async def test_one_that_forgot_the_other_makes_both_repeat() -> None:
    """As after a pause of one of them: the other has declared it dead, and it has noticed nothing."""
    clock = Clock()
    a, b, _ = two(clock)
    async with running(a, b):
        await met(a, b)
        a.nodes.tell("b", Want("one", True))
        b.nodes.tell("a", Want("one", True))
        await until(lambda: bool(a.wants and b.wants))
        clock.now += 2
        b.nodes._went("a", "seems dead")
        await until(lambda: b.knows("a") and b.missed_ == ["a", "a"] and a.missed_ == ["b", "b"])
        a.nodes.tell("b", Want("two", True))
        b.nodes.tell("a", Want("two", True))
        await until(lambda: len(a.wants) == len(b.wants) == 2)


async def test_a_full_link_keeps_the_newest_of_each_vehicle_and_the_receiver_learns_it() -> None:
    clock = Clock()
    a, b, _ = two(clock)
    async with running(a, b):
        await met(a, b)
        dropped, gaps = NODE_DROPPED.labels("position").value, NODE_GAPS.value
        local(a).waiting = 2**21  # the broker reads nothing
        sent = 2 * POSITIONS_KEPT
        for seq in range(sent):
            a.nodes.forward(a_position(seq % 10, 1, seq), ("b",))
        await until(lambda: NODE_DROPPED.labels("position").value == dropped + sent - 10)
        local(a).waiting = 0
        clock.now += 2
        await until(lambda: len(b.seqs) == 10)
        assert sorted(b.seqs) == list(range(sent - 10, sent))
        await until(lambda: NODE_GAPS.value == gaps + 1 and b.missed_ == ["a", "a"])


def test_notices_above_the_bound_are_dropped_and_a_number_is_left_out() -> None:
    link = Outgoing("a", "b", 1, 0)
    notice = messages.encode(TripAnswer(1, "x" * 200_000))
    for _ in range(links.NOTICE_BYTES_KEPT // len(notice) + 1):
        link.tell(notice)
    assert not link.waits
    link.mark_loss(0)
    link.mark_loss(1)
    assert link.number == 1


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 240_000)), max_size=60), st.integers(1, 4_000))
@example([(False, 1)] * 300 + [(True, 240_000)], 4_000)
@example([(False, 1)] * 9 + [(True, 240_000)], 4_000)
def test_no_packet_exceeds_the_bound_and_nothing_is_lost(told: list[tuple[bool, int]], length: int) -> None:
    link = Outgoing("a", "b", 1, 0)
    expected: list[int] = []
    for number, (is_notice, size) in enumerate(told):
        if is_notice and sum(expected) + size < links.NOTICE_BYTES_KEPT:
            link.tell(messages.encode(TripAnswer(number, "x" * size)))
            expected.append(size)
        else:
            link.positions.append(a_position(1, 1, number, trip_id="x" * length))
    wanted = [position.seq for position in link.positions]
    seqs, sizes, count = [], [], 0
    while link.waits:
        data, _ = link.pack()
        count += 1
        assert len(data) <= MAX_BYTES
        packet = messages.decode_packet(data)
        assert packet.number == count
        seqs += [position.seq for position in packet.positions]
        for raw in packet.notices:
            notice = messages.decode_notice(raw)
            assert isinstance(notice, TripAnswer)
            sizes.append(len(notice.trip_id))
    assert seqs == wanted
    assert sizes == expected


async def test_foreign_broken_and_newer_messages_are_counted_and_ignored() -> None:
    a, b, _ = two()

    def fails(_: str, __: Want) -> None:
        raise RuntimeError("a fault of one listener")

    a.nodes.listen(Want, fails)
    async with running(a, b):
        await met(a, b)
        before = {reason: ignored(reason) for reason in ("broken", "version", "foreign", "repeated", "kind", "failed")}
        hear = local(a).receive_packet
        hear(b"\xc1 no msgpack")
        local(a).receive_beat(b"")
        hear(msgspec.msgpack.encode([VERSION + 1, "b", {"new": "form"}]))
        local(a).receive_beat(messages.encode(Beat(VERSION + 1, "x", "x", "x", 0, True, 1, {})))
        hear(messages.encode(Packet(VERSION, "unknown", 1, 1, [], [])))
        local(a).receive_beat(messages.encode(Beat(VERSION, "", "no boot id", "x", 0, True, 1, {})))
        hear(messages.encode(Packet(VERSION, "b", 0, 1, [], [])))
        life, known = local(b).life, msgspec.Raw(messages.encode(Want("known", True)))
        newer, wrong = msgspec.Raw(msgspec.msgpack.encode(["newer", 1])), msgspec.Raw(msgspec.msgpack.encode(["want", 1, 2]))
        hear(messages.encode(Packet(VERSION, "b", life, 1, [a_position(1, 1, 5)], [newer, wrong, known])))
        assert a.wants == [("b", "known")]
        assert a.seqs == [5]
        counted = {reason: ignored(reason) - count for reason, count in before.items()}
    assert counted == {"broken": 2, "version": 2, "foreign": 2, "repeated": 1, "kind": 2, "failed": 1}
    assert a.gone_ == []


MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(), inner, max_size=3),
    ).map(msgspec.msgpack.encode),
    st.builds(
        Beat,
        st.just(VERSION),
        st.sampled_from(["", "b", "c", "x" * 300]),
        st.text(),
        st.text(),
        st.integers(-(2**63), 2**63),
        st.booleans(),
        st.integers(-5, 2**63),
        st.dictionaries(st.sampled_from(["a", "c"]), st.integers(-(2**63), 2**63)),
        st.booleans(),
    ).map(messages.encode),
    st.builds(
        Packet,
        st.just(VERSION),
        st.sampled_from(["b", "c"]),
        st.integers(-5, 2**63),
        st.integers(-(2**63), 2**63),
        st.just([a_position(1, 1, 1)]),
        st.lists(st.just(msgspec.Raw(b"\x93\xa4want\xa1x\xc3"))),
    ).map(messages.encode),
)


@given(st.lists(st.tuples(st.booleans(), MESSAGES), max_size=20))
def test_whatever_comes_nothing_raises(received: list[tuple[bool, bytes]]) -> None:
    async def receive() -> None:
        a = Station("a", LocalNetwork().backplane())
        async with running(a):
            await until(lambda: a.nodes.connected)
            for is_beat, data in received:
                (local(a).receive_beat if is_beat else local(a).receive_packet)(data)
            await asyncio.sleep(0)

    asyncio.new_event_loop().run_until_complete(receive())


async def test_a_service_built_anew_takes_the_place_of_the_old_one_in_the_same_process() -> None:
    clock = Clock()
    a, b, network = two(clock)
    async with running(a, b):
        await met(a, b)
        clock.now += 2
        a.nodes.silence()
        anew = Station("a", network.backplane(), clock)
        async with running(anew):
            await until(lambda: anew.knows("b") and b.missed_ == ["a", "a"])
            a.nodes.tell("b", Want("of the old", True))
            anew.nodes.tell("b", Want("of the new", True))
            await until(lambda: b.wants == [("a", "of the new")])
            told = msgspec.Raw(messages.encode(Want("to the old", True)))
            local(a).receive_packet(messages.encode(Packet(VERSION, "b", local(b).life, 99, [], [told])))
    assert b.gone_ == []
    assert a.wants == []
