"""Late parts of a line, read while a vehicle of it is erased."""

import contextlib
from collections.abc import AsyncIterator

from tests.support.clocks import SetClock
from tests.support.drives import Van, a_trip, north
from tests.support.positions import BEGIN
from tests.support.trip_feeds import Reader
from tracking.history.lines import Lines
from tracking.history.revisions import Revisions
from tracking.ingest.commit_queue import CommitQueue
from tracking.live.hub import Hub
from tracking.model import Fleet
from tracking.store import fleets, trips
from tracking.store.gathered import Gathered
from tracking.store.pool import Connection, Database
from tracking.store.positions import TrackRow


def _hub() -> Hub:
    return Hub(
        SetClock(BEGIN),
        keep_seconds=60,
        keep_bytes=10**6,
        linger=60,
        interval_watched=1,
        interval_trip=2,
        interval_idle=3,
    )


async def _nothing(_: list[int]) -> dict[int, list[TrackRow]]:
    return {}


def test_who_was_erased_is_known_to_those_who_read_meanwhile() -> None:
    hub = _hub()
    hub.vehicle_gone("before")
    with hub.erased() as outer:
        hub.vehicle_gone("first")
        with hub.erased() as inner:
            hub.vehicle_gone("second")
        hub.vehicle_gone("third")
        assert (set(outer), set(inner)) == ({"first", "second", "third"}, {"second"})
    hub.vehicle_gone("after")
    assert "after" not in outer


async def test_trust_87_a_line_that_was_read_while_a_vehicle_of_it_was_erased_is_told_without_it(database_url: str) -> None:
    hub = _hub()

    class ErasedMeanwhile(Database):
        @contextlib.asynccontextmanager
        async def reading(self) -> AsyncIterator[Connection]:
            async with super().reading() as connection:
                yield connection
                hub.vehicle_gone("first")

    database = ErasedMeanwhile(database_url)
    await database.open()
    async with database.connection() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        first, second = await Van.new(connection, "first"), await Van.new(connection, "second")
        number = await a_trip(connection, first.number, BEGIN, None)
        await first.drove(north(0, 50, 10), trip=number)
        await trips.close_span(connection, number, BEGIN + 60_000)
        await trips.open_span(connection, number, second.number, BEGIN + 60_001)
        await second.drove(north(61, 50, 10), trip=number)
        await connection.execute("UPDATE trips SET vehicle = $1", second.number)
        trip = await trips.get(connection, "trip")
    assert trip is not None
    reader = Reader()
    hub.feed(trip).queues.add(reader.queue)
    lines = Lines(database, Gathered(_nothing), lambda _: (), lambda: BEGIN, hub.erased)
    revisions = Revisions(lines, hub, CommitQueue(rows=1, limit=1))
    await revisions._revise("trip", number, BEGIN - 60_000, BEGIN + DAY)
    [revised] = reader.read()
    assert [time for _, _, time in revised["track"]] == [BEGIN + second * 1000 for second in range(61, 67)]
    await database.close()


DAY = 86_400_000
