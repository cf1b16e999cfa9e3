"""The rules of the change log, each broken on purpose. The tests of the log must detect each."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from unittest import mock

import asyncpg

from tracking.ingest.vehicles import IngestVehicle
from tracking.live import follower
from tracking.live.fleet import LiveVehicle
from tracking.live.follower import Follower, NotRead
from tracking.live.hub import Hub
from tracking.live.loading import Loading
from tracking.live.transaction import Transaction
from tracking.live.trips import TripFeed
from tracking.live_state.applying import LiveState
from tracking.live_state.reading import State
from tracking.model import Position
from tracking.store import changes
from tracking.store.changes import Cursor, Row
from tracking.store.pool import Connection

Mutation = Callable[[str], AbstractAsyncContextManager[None]]
"""Breaks a rule while it is open, for hubs that begin then, on the database with this URL."""


@contextlib.asynccontextmanager
async def marks_are_not_compared(_: str) -> AsyncIterator[None]:
    async def read(connection: Connection, cursor: Cursor, limit: int) -> list[Row]:
        rows = await connection.fetch(
            f"SELECT {changes._COLUMNS} FROM changes WHERE number > $1 ORDER BY number LIMIT $2", cursor.number, limit
        )
        return [Row(*row) for row in rows]

    with mock.patch.object(changes, "read", read):
        yield


@contextlib.asynccontextmanager
async def rows_are_applied_though_nothing_was_read_for_them(_: str) -> AsyncIterator[None]:
    apply = LiveState.apply

    def unread(self: LiveState, row: Row, state: State, as_of: int) -> Awaitable[None] | None:
        try:
            return apply(self, row, state, as_of)
        except NotRead:
            return None

    with mock.patch.object(LiveState, "apply", unread):
        yield


@contextlib.asynccontextmanager
async def what_was_loaded_is_kept_though_it_changed(_: str) -> AsyncIterator[None]:
    with mock.patch.object(Loading, "is_current", lambda *_: True):
        yield


@contextlib.asynccontextmanager
async def as_of_is_too_high(_: str) -> AsyncIterator[None]:
    apply = LiveState.apply

    def later(self: LiveState, row: Row, state: State, as_of: int) -> Awaitable[None] | None:
        return apply(self, row, state, as_of + row.number % 3 * 7)

    with mock.patch.object(LiveState, "apply", later):
        yield


@contextlib.asynccontextmanager
async def as_of_of_what_is_loaded_is_too_high(_: str) -> AsyncIterator[None]:
    head = changes.head

    async def later(connection: Connection) -> Cursor | None:
        found = await head(connection)
        # Not of the snapshot: the follower's own question is for its cursor.
        task = asyncio.current_task()
        if found is None or (task is not None and "Follower" in repr(task.get_coro())):
            return found
        return Cursor(found.number + 5, found.mark)

    with mock.patch.object(changes, "head", later):
        yield


@contextlib.asynccontextmanager
async def an_older_state_takes_the_place_of_a_newer(_: str) -> AsyncIterator[None]:
    class Low(int):
        """Always lower than the number of the applied row."""

        def __lt__(self, other: int) -> bool:
            return True

    class AlwaysLow:
        def __init__(self, slot: Any) -> None:
            self._slot = slot

        def __get__(self, thing: object, owner: type) -> int:
            return Low(self._slot.__get__(thing, owner))

        def __set__(self, thing: object, value: int) -> None:
            self._slot.__set__(thing, int(value))

    with contextlib.ExitStack() as stack:
        for kind in (IngestVehicle, LiveVehicle, TripFeed):
            stack.enter_context(mock.patch.object(kind, "as_of", AlwaysLow(kind.__dict__["as_of"])))
        stack.enter_context(mock.patch.object(Hub, "trip_changed", _tell_any_version))
        yield


def _tell_any_version(self: Hub, trip: Any) -> None:
    feed = self.feeds.get(trip.trip_id)
    if feed is not None and trip != feed.trip:
        feed.publish_trip(trip)


@contextlib.asynccontextmanager
async def the_log_is_not_asked_without_notice(_: str) -> AsyncIterator[None]:
    with mock.patch.object(follower, "POLL_SECONDS", 3_600.0):
        yield


@contextlib.asynccontextmanager
async def the_log_is_not_asked_after_listening_again(_: str) -> AsyncIterator[None]:
    listen = Follower.listen

    async def deaf_to_what_was_missed(self: Follower[Any]) -> None:
        wake, real = self.wake, self._database.listening

        def listening(channel: str, heard: Callable[[], None]) -> Any:
            return real(channel, wake)

        with (
            mock.patch.object(self, "wake", lambda: None),
            mock.patch.object(self._database, "listening", listening),
        ):
            await listen(self)

    async with the_log_is_not_asked_without_notice(""):
        with mock.patch.object(Follower, "listen", deaf_to_what_was_missed):
            yield


@contextlib.asynccontextmanager
async def numbers_do_not_rise_with_commits(url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url)
    source = await connection.fetchval("SELECT pg_get_functiondef('log_changes'::regproc)")
    lock = "PERFORM pg_advisory_xact_lock(hashtext('tracking.changes'));"
    assert lock in source
    # What may pass between a number and its COMMIT where the disk is slow.
    broken = source.replace(lock, "").replace("PERFORM pg_notify", "PERFORM pg_sleep(random() * 0.01); PERFORM pg_notify")
    await connection.execute(broken)
    yield
    await connection.execute(source)
    await connection.close()


@contextlib.asynccontextmanager
async def nobody_waits_for_their_own_transaction(_: str) -> AsyncIterator[None]:
    with mock.patch.object(follower, "WAIT_SECONDS", 0.0):
        yield


@contextlib.asynccontextmanager
async def one_row_of_a_transaction_is_all_of_it(_: str) -> AsyncIterator[None]:
    done = Follower._done

    def tell_each(self: Follower[Any], row: Row, work: Awaitable[None] | None = None) -> None:
        done(self, row, work)
        self._tell()

    with mock.patch.object(Follower, "_done", tell_each):
        yield


@contextlib.asynccontextmanager
async def a_feed_takes_positions_of_any_vehicle(_: str) -> AsyncIterator[None]:
    def publish(self: Hub, position: Position) -> None:
        if position.live:
            feed = self.feeds.get(position.trip_id or "")
            if feed is not None:
                feed.publish_position(position)
            self.fleets.publish(position)

    with mock.patch.object(Hub, "publish", publish):
        yield


@contextlib.asynccontextmanager
async def a_row_that_cannot_be_applied_ends_the_follower(_: str) -> AsyncIterator[None]:
    def give_up(self: Follower[Any], row: Row, error: Exception) -> None:
        raise asyncio.CancelledError

    with mock.patch.object(Follower, "_give_up", give_up):
        yield


@contextlib.asynccontextmanager
async def nothing_of_a_row_that_cannot_be_applied_is_read_anew(_: str) -> AsyncIterator[None]:
    with mock.patch.object(LiveState, "give_up", lambda *_: None):
        yield


@contextlib.asynccontextmanager
async def changes_are_not_told_to_the_log(_: str) -> AsyncIterator[None]:
    tell = Transaction.tell

    def forgetful(self: Transaction, kind: Any, subject: str, **said: Any) -> None:
        if kind != changes.ChangeKind.VEHICLE_TRIPS:
            tell(self, kind, subject, **said)

    with mock.patch.object(Transaction, "tell", forgetful):
        yield


MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        rows_are_applied_though_nothing_was_read_for_them,
        what_was_loaded_is_kept_though_it_changed,
        as_of_is_too_high,
        as_of_of_what_is_loaded_is_too_high,
        an_older_state_takes_the_place_of_a_newer,
        the_log_is_not_asked_without_notice,
        numbers_do_not_rise_with_commits,
        nobody_waits_for_their_own_transaction,
        one_row_of_a_transaction_is_all_of_it,
        a_feed_takes_positions_of_any_vehicle,
        changes_are_not_told_to_the_log,
    )
}
"""Mutations that random sequences must detect. The others have tests of their own."""
