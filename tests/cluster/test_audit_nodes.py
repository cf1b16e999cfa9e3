"""Watches of several hubs in one audit: what one leaves open ends when it is dead, and not before."""

from collections.abc import AsyncIterator, Collection

import pytest

from tests.support.clients import Api
from tests.support.clocks import ShiftedClock
from tests.support.devices import until
from tests.support.hubs_in_process import hubs as two_hubs
from tracking.audit import GAP_MS, Action, Audit, Doer, Kind
from tracking.store import audit as store
from tracking.store.marks import Marks
from tracking.store.pool import Connection, Database

BY = Doer("passenger", "trip", "jti", None, None)


class Hubs:
    """Audits of several hubs on one database. `alive` are the boot ids of those that live."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ShiftedClock()
        self.alive: set[str] = set()

    def audit(self, node: str) -> Audit:
        async def others(_: Connection) -> Collection[str]:
            return self.alive - {node}

        self.alive.add(node)
        return Audit(self.database, self.clock, node=node, others=others)

    async def rows(self) -> list[tuple[str, bool]]:
        """Actions in order, and whether their instant is uncertain."""
        async with self.database.connection() as connection:
            found = await store.page(connection, after=None, limit=100, now=self.clock())
        return [(one.row.action, bool(one.row.detail)) for one in found]


@pytest.fixture
async def hubs(database_url: str) -> AsyncIterator[Hubs]:
    database = Database(database_url, marks=Marks(), timeout=5)
    await database.open()
    yield Hubs(database)
    await database.close()


async def test_a_hub_that_starts_ends_only_the_watches_of_dead_hubs(hubs: Hubs) -> None:
    lives, dies = hubs.audit("lives"), hubs.audit("dies")
    watch = lives.began(BY, Kind.TRIP, "trip")
    dies.began(BY, Kind.TRIP, "trip")
    for audit in (lives, dies):
        await audit.write()
    await hubs.audit("starts")._end_what_was_cut_off([])
    assert await hubs.rows() == [("watched", False)] * 2
    hubs.alive.remove("dies")
    # A hub that lives finds the dead one. Its own watches go on.
    await lives._end_what_was_cut_off(["lives"])
    assert await hubs.rows() == [("watched", False)] * 2 + [("watch_ended", True)]
    lives.left(watch)
    hubs.clock.ahead += GAP_MS + 1_000
    await lives.write()
    assert await hubs.rows() == [("watched", False)] * 2 + [("watch_ended", True), ("watch_ended", False)]


async def test_a_hub_that_was_taken_for_dead_begins_its_watches_anew(hubs: Hubs) -> None:
    away, other = hubs.audit("away"), hubs.audit("other")
    watch = away.began(BY, Kind.TRIP, "trip")
    await away.write()
    hubs.alive.remove("away")
    await other._end_what_was_cut_off(["other"])
    hubs.alive.add("away")
    await away._begin_anew()
    await away.write()
    await other._end_what_was_cut_off(["other"])
    assert await hubs.rows() == [("watched", False), ("watch_ended", True), ("watched", False)]
    # It is not begun a second time, and ends as any other.
    await away._begin_anew()
    away.left(watch)
    await away.flush()
    assert [action for action, _ in await hubs.rows()] == ["watched", "watch_ended"] * 2


async def test_an_id_that_another_hub_erased_is_not_written_here_any_more(database_url: str) -> None:
    async with two_hubs(database_url, commit_interval=0) as (one, other), Api(one.url) as api:
        _, trip_id = await api.under_way()
        audit = other.service.audit
        # One row waits when the trip is erased, and one is noted before this hub has read of it.
        audit.note(BY, Action.WATCHED, Kind.TRIP, trip_id)
        await api.advance(trip_id, "canceled")
        await api.call("DELETE", f"/trips/{trip_id}", expect=204)
        audit.note(BY, Action.WATCHED, Kind.TRIP, trip_id)
        await audit.write()
        await until(
            lambda: audit.knows_erased(Kind.TRIP, trip_id) and not other.service.safeguards.remote_erasures._waiting,
            "it is replaced",
        )
        audit.note(BY, Action.WATCHED, Kind.TRIP, trip_id)
        await audit.write()
        async with one.service.database.connection() as connection:
            found = await connection.fetch("SELECT subject FROM audit WHERE kind = 'trip' AND action = 'watched'")
        assert len(found) == 3 and all(row["subject"].startswith("~") for row in found)
