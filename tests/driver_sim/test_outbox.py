"""The contract of every outbox, and what the one on disk adds."""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from driver_sim.outbox import KeptFix, MemoryOutbox, Outbox, Request, frame_of
from driver_sim.store import SqliteStore, StoreError
from tests.driver_sim.conftest import fix, settle
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.protocol.driver import MAX_BATCH, Report, decode_driver


def seqs(kept: list[KeptFix]) -> list[int]:
    return [one.seq for one in kept]


def test_numbers_rise_from_one(outbox: Outbox) -> None:
    assert [outbox.put(fix()) for _ in range(3)] == [1, 2, 3]
    assert outbox.last_seq == 3
    assert len(outbox) == 3


def test_a_kept_fix_comes_back_as_it_was_put(outbox: Outbox) -> None:
    reported = fix(7)
    reported.speed = 12.5
    outbox.put(reported)
    settle(outbox)
    assert outbox.unacknowledged(0, 10)[0].fix == reported


def test_unacknowledged_is_in_order_after_a_number_and_bounded(outbox: Outbox) -> None:
    for number in range(10):
        outbox.put(fix(number))
    settle(outbox)
    assert seqs(outbox.unacknowledged(0, 4)) == [1, 2, 3, 4]
    assert seqs(outbox.unacknowledged(7, 100)) == [8, 9, 10]


def test_acknowledged_fixes_leave_at_once(outbox: Outbox) -> None:
    for number in range(5):
        outbox.put(fix(number))
    settle(outbox)
    outbox.acknowledge(3)
    assert seqs(outbox.unacknowledged(0, 10)) == [4, 5]
    assert outbox.acknowledged_seq == 3
    assert len(outbox) == 2


def test_an_older_acknowledgement_changes_nothing(outbox: Outbox) -> None:
    for number in range(5):
        outbox.put(fix(number))
    settle(outbox)
    outbox.acknowledge(4)
    outbox.acknowledge(2)
    assert seqs(outbox.unacknowledged(0, 10)) == [5]


def test_a_number_never_sent_cannot_be_acknowledged(outbox: Outbox) -> None:
    outbox.put(fix())
    settle(outbox)
    with pytest.raises(ValueError, match="another device uses"):
        outbox.acknowledge(2)
    assert len(outbox) == 1


def test_renewing_changes_the_session_and_keeps_the_fixes(outbox: Outbox) -> None:
    outbox.put(fix())
    settle(outbox)
    before = outbox.session
    outbox.renew()
    assert outbox.session != before
    assert seqs(outbox.unacknowledged(0, 10)) == [1]
    assert outbox.put(fix()) == 2


def test_requests_stay_in_order_until_finished(outbox: Outbox) -> None:
    first, second = Request("a", b"{}"), Request("b", b"[]")
    outbox.put_request(first)
    outbox.put_request(second)
    assert outbox.requests() == [first, second]
    assert outbox.finish("a") == first
    assert outbox.finish("a") is None
    assert outbox.requests() == [second]


# --- frames ---------------------------------------------------------------------------------------------------------


def kept(count: int, padding: int = 0) -> list[KeptFix]:
    box = MemoryOutbox()
    for number in range(count):
        box.put(fix(number))
    fixes = box.unacknowledged(0, count)
    return [KeptFix(one.seq, one.body[:-1] + b" " * padding + b"}") for one in fixes]


def test_one_fix_is_sent_as_position() -> None:
    frame, count = frame_of(kept(1))
    assert count == 1
    assert msgspec.json.decode(frame)["type"] == "position"


@pytest.mark.parametrize("padding", [0, 100, 1_000, 70_000])
def test_a_frame_holds_as_many_fixes_as_fit(padding: int) -> None:
    fixes = kept(700, padding)
    frame, count = frame_of(fixes)
    assert count <= MAX_BATCH
    assert len(frame) <= MAX_FRAME_BYTES or count == 1
    report = decode_driver(frame)
    assert isinstance(report, Report)
    assert [msgspec.structs.asdict(fix) for fix in report.fixes] == [msgspec.structs.asdict(one.fix) for one in fixes[:count]]
    one_more = len(frame) + 1 + len(fixes[count].body)
    assert count == MAX_BATCH or one_more > MAX_FRAME_BYTES, "there was room for another"


# --- on disk --------------------------------------------------------------------------------------------------------


def test_everything_survives_reopening(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "o.sqlite")
    box = store.outbox("car-1")
    other = store.outbox("car-2")
    for number in range(4):
        box.put(fix(number))
    other.put(fix())
    settle(box)
    box.acknowledge(3)
    box.put_request(Request("a", b"{}"))
    session = box.session
    store.close()

    store = SqliteStore(tmp_path / "o.sqlite")
    again = store.outbox("car-1")
    assert (again.session, again.last_seq, again.acknowledged_seq) == (session, 4, 3)
    assert seqs(again.unacknowledged(0, 10)) == [4]
    assert again.requests() == [Request("a", b"{}")]
    assert again.put(fix()) == 5
    assert store.outbox("car-2").session == other.session != session
    store.close()


def test_numbers_continue_after_everything_was_acknowledged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "o.sqlite")
    box = store.outbox("car-1")
    box.put(fix())
    settle(box)
    box.acknowledge(1)
    store.close()
    store = SqliteStore(tmp_path / "o.sqlite")
    assert store.outbox("car-1").put(fix()) == 2
    store.close()


def test_what_is_not_yet_on_disk_is_not_handed_out(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "o.sqlite", group_delay=60.0)
    box = store.outbox("car-1")
    box.put(fix())
    assert box.kept_seq == 0
    assert box.unacknowledged(0, 10) == []
    with pytest.raises(ValueError, match="highest"):
        box.acknowledge(1)
    store.close()
    assert box.kept_seq == 1


def test_two_processes_cannot_have_one_file(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "o.sqlite")
    with pytest.raises(StoreError, match="another process"):
        SqliteStore(tmp_path / "o.sqlite")
    store.close()
    SqliteStore(tmp_path / "o.sqlite").close()


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "o.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="move it away"):
        SqliteStore(tmp_path / "o.sqlite")


_KILLED = """
import os, signal, sys
from pathlib import Path
from driver_sim.store import SqliteStore
from tests.driver_sim.conftest import fix, settle
box = SqliteStore(Path(sys.argv[1])).outbox("car-1")
for number in range(50):
    box.put(fix(number))
settle(box)
box.acknowledge(20)
print(box.session, box.kept_seq, flush=True)
for number in range(50, 60):
    box.put(fix(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_kept_fix_and_uses_no_number_twice(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "o.sqlite")], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    session, kept_seq = run.stdout.split()
    store = SqliteStore(tmp_path / "o.sqlite")
    box = store.outbox("car-1")
    assert box.session == session
    there = seqs(box.unacknowledged(20, 1000))
    assert there[: int(kept_seq) - 20] == list(range(21, int(kept_seq) + 1))
    assert box.put(fix()) == box.last_seq > int(kept_seq)
    store.close()


class OutboxMachine(RuleBasedStateMachine):
    """A fix stays in the outbox, in order, until it is acknowledged. Its number was never used before."""

    @initialize(on_disk=st.booleans())
    def begin(self, on_disk: bool) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "0.sqlite"
        self.store = SqliteStore(self.path, group_delay=0.0, idle_delay=0.05) if on_disk else None
        self.box: Outbox = self.store.outbox("car-1") if self.store else MemoryOutbox()
        self.expected: dict[int, int] = {}
        self.highest = 0
        self.session = self.box.session
        self.waiting: list[str] = []
        self.copies = self.asked = 0

    @rule(count=st.integers(1, 5))
    def put(self, count: int) -> None:
        for _ in range(count):
            time = 1_700_000_000_000 + self.highest
            reported = fix()
            reported.fix_time = time
            seq = self.box.put(reported)
            assert seq > self.highest
            self.highest = seq
            self.expected[seq] = time

    @rule(share=st.floats(0, 1))
    def acknowledge(self, share: float) -> None:
        settle(self.box)
        seq = round(self.highest * share)
        self.box.acknowledge(seq)
        self.expected = {number: time for number, time in self.expected.items() if number > seq}

    @rule()
    def ask(self) -> None:
        self.asked += 1
        client_id = f"r{self.asked}"
        self.waiting.append(client_id)
        self.box.put_request(Request(client_id, b"{}"))

    @precondition(lambda self: self.waiting)
    @rule()
    def finish(self) -> None:
        assert self.box.finish(self.waiting.pop(0)) is not None

    @rule()
    def renew(self) -> None:
        self.box.renew()
        assert self.box.session != self.session
        self.session = self.box.session

    @precondition(lambda self: self.store is not None)
    @rule()
    def reopen(self) -> None:
        assert self.store is not None
        self.store.close()
        self._open(self.path)

    @precondition(lambda self: self.store is not None)
    @rule()
    def crash(self) -> None:
        """The files as a crash leaves them."""
        assert self.store is not None
        # Changes reach the disk in their order, so this fix brings everything before it. Otherwise the writer's timing would
        # decide what a crash undoes, and Hypothesis needs runs that can be repeated.
        self.put(1)
        settle(self.box)
        self.copies += 1
        copy = self.folder / f"{self.copies}.sqlite"
        for suffix in ("", "-wal"):
            source = self.path.with_name(self.path.name + suffix)
            if source.exists():
                shutil.copy(source, copy.with_name(copy.name + suffix))
        self.store.close()
        self.path = copy
        self._open(copy)

    def _open(self, path: Path) -> None:
        self.store = SqliteStore(path, group_delay=0.0, idle_delay=0.05)
        self.box = self.store.outbox("car-1")

    @invariant()
    def nothing_is_lost(self) -> None:
        settle(self.box)
        assert self.box.session == self.session
        assert self.box.last_seq == self.highest
        assert len(self.box) == len(self.expected)
        there = self.box.unacknowledged(0, 10_000)
        assert [(one.seq, one.fix.fix_time) for one in there] == sorted(self.expected.items())
        assert [request.client_id for request in self.box.requests()] == self.waiting

    def teardown(self) -> None:
        if getattr(self, "store", None) is not None:
            assert self.store is not None
            self.store.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
