"""Marks: every query and transaction notices a database that lacks commits. A database that has them is not doubted."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.model import Fleet
from tracking.store import fleets
from tracking.store.marks import Mark, Marks
from tracking.store.pool import Database


@pytest.fixture
async def marks() -> Marks:
    return Marks()


@pytest.fixture
async def stores(database_url: str, marks: Marks) -> AsyncIterator[tuple[Database, Database]]:
    """Two pools of one hub."""
    pools = Database(database_url, marks=marks), Database(database_url, marks=marks)
    for pool in pools:
        await pool.open()
    yield pools
    for pool in pools:
        await pool.close()


async def _by_hand(database_url: str, statement: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


_LOSSES = {
    "none of ours is there": "DELETE FROM hub_marks",
    "the last ones are lost": "UPDATE hub_marks SET number = number - 1",
}


@pytest.mark.parametrize("loss", _LOSSES)
async def test_a_store_that_went_back_takes_nothing_any_more(
    stores: tuple[Database, Database], marks: Marks, database_url: str, loss: str
) -> None:
    one, other = stores
    async with one.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
    await _by_hand(database_url, _LOSSES[loss])
    with pytest.raises(StoreWentBack):
        async with other.transaction() as connection:
            await fleets.put(connection, Fleet("another", "Fleet"))
    assert marks.went_back.is_set()
    for pool in stores:
        with pytest.raises(StoreWentBack):
            async with pool.connection() as connection:
                await fleets.get(connection, "fleet")
    fresh = Database(database_url)
    await fresh.open()
    async with fresh.connection() as connection:
        assert await fleets.get(connection, "another") is None
    await fresh.close()


async def test_who_only_reads_asks_for_the_marks(stores: tuple[Database, Database], database_url: str) -> None:
    one, other = stores
    async with one.connection() as connection:
        await fleets.get(connection, "fleet")
    await other.check_marks()
    await _by_hand(database_url, "DELETE FROM hub_marks")
    with pytest.raises(StoreWentBack):
        await other.check_marks()


async def test_transactions_side_by_side_and_those_that_fail_leave_the_marks_standing(
    stores: tuple[Database, Database], database_url: str
) -> None:
    one, other = stores
    for _ in range(3):
        async with one.transaction() as first, other.transaction() as second:
            await fleets.put(first, Fleet("first", ""))
            await fleets.put(second, Fleet("second", ""))
        with pytest.raises(ZeroDivisionError):
            async with one.transaction() as connection:
                await fleets.put(connection, Fleet("third", ""))
                raise ZeroDivisionError
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with one.transaction() as connection:
                await connection.execute("SELECT 1 / 0")
        # Its COMMIT is not answered, so nobody knows whether it was done.
        with pytest.raises(StoreUnavailable):
            async with one.transaction() as connection:
                connection.terminate()
        await other.check_marks()
    async with one.connection() as connection:
        assert await fleets.get(connection, "second") is not None
        assert await fleets.get(connection, "third") is None


async def test_no_row_is_raised_for_ever_and_few_are_kept(database_url: str) -> None:
    store = Database(database_url, marks=Marks(raises=3))
    await store.open()
    for _ in range(20):
        async with store.transaction(), store.transaction():
            pass
    async with store.connection() as connection:
        slots = {row["slot"] for row in await connection.fetch("SELECT slot FROM hub_marks")}
    await store.check_marks()
    await store.close()
    assert len(slots) <= 6
    assert min(slots) > 8


async def test_no_row_goes_that_a_statement_on_its_way_is_held_against() -> None:
    marks = Marks(raises=1)
    marks.committed(marks.claim())
    late = marks.claim()
    [(slot, _)] = late.standing.items()
    with marks.asked(late.standing):
        # Other transactions begin and end before the database gets that one.
        for _ in range(3):
            mark = marks.claim()
            assert slot not in mark.worn
            marks.committed(mark)
    assert slot in marks.claim().worn


async def test_a_statement_that_failed_unseen_is_no_commit(stores: tuple[Database, Database]) -> None:
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        async with stores[0].transaction() as connection:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.execute("SELECT 1 / 0")


async def test_a_commit_is_durable_whatever_the_session_says(stores: tuple[Database, Database]) -> None:
    async with stores[0].connection() as connection:
        await connection.execute("SET synchronous_commit TO off")
    async with stores[0].transaction() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


class MarksMachine(RuleBasedStateMachine):
    """Concurrent transactions: if the database loses its last commits, the marks tell so if one of them was answered, and only
    then."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = Marks(raises=3)
        self.log: list[Mark] = []
        """The transactions that the database committed."""
        self.claimed: list[tuple[Mark, contextlib.ExitStack]] = []
        """Their BEGIN is on the way."""
        self.open: list[Mark] = []
        self.unanswered: list[Mark] = []
        """They are committed, and their answers are on the way."""
        self.told: list[Mark] = []

    def stands(self, known: dict[int, int], log: list[Mark]) -> bool:
        rows: dict[int, int] = {}
        for mark in log:
            for slot in mark.worn:
                rows.pop(slot, None)
            rows[mark.slot] = mark.number
        return all(rows.get(slot, 0) >= number for slot, number in known.items())

    @rule()
    def claim(self) -> None:
        mark = self.marks.claim()
        asked = contextlib.ExitStack()
        asked.enter_context(self.marks.asked(mark.standing))
        self.claimed.append((mark, asked))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        mark, asked = self.claimed.pop(data.draw(st.integers(0, len(self.claimed) - 1)))
        with asked:
            assert self.stands(mark.standing, self.log)
        self.open.append(mark)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        mark = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.log.append(mark)
        self.unanswered.append(mark)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        self.marks.rolled_back(self.open.pop(data.draw(st.integers(0, len(self.open) - 1))))

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data(), arrives=st.booleans())
    def answer(self, data: st.DataObject, arrives: bool) -> None:
        mark = self.unanswered.pop(data.draw(st.integers(0, len(self.unanswered) - 1)))
        if arrives:
            self.told.append(mark)
            self.marks.committed(mark)

    @invariant()
    def marks_fall_with_what_was_committed(self) -> None:
        for kept in range(len(self.log) + 1):
            left = self.log[:kept]
            there = {id(mark) for mark in left}
            assert self.stands(self.marks.known, left) is all(id(mark) in there for mark in self.told)

    @invariant()
    def no_transaction_waits_for_another(self) -> None:
        rows = [
            slot
            for mark in [*(mark for mark, _ in self.claimed), *self.open, *self.unanswered]
            for slot in (mark.slot, *mark.worn)
        ]
        assert len(rows) == len(set(rows))


MarksMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
test_marks_in_any_order = MarksMachine.TestCase
