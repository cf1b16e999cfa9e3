"""The changes of fleets, for readers: recent ones from memory, older ones from the store.

The follower calls `add` for each row that it applied. A row is encoded once, for all readers of its fleet. Readers ask for
pages. Nothing is kept for a reader but its place, so a slow one costs no memory here.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager

from tracking.auth import Auth, Principal
from tracking.errors import ErrorCode, Refusal, StoreUnavailable
from tracking.keys import Key
from tracking.lanes import Lanes
from tracking.live.change_entries import Entry, Page
from tracking.live.change_readers import ChangeReaders, Reader
from tracking.live.recent_changes import EVENTS_AT_ONCE, RecentChanges
from tracking.model import Event
from tracking.store import changes, events
from tracking.store.changes import Row
from tracking.store.gathered import Gathered
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

PAGE_BYTES = 1024 * 1024
"""A page ends after so many bytes."""
STORED_AT_ONCE = 100
"""Rows of one question to the store."""
READINGS_AT_ONCE = 3


class ChangeFeed:
    """`applied` is the number of the last change that this hub applied. `begin` has the log be followed.

    `most_bytes` of recent changes are held. `readers` may be connected in all, and `per_token` of one token.
    """

    def __init__(
        self,
        database: Database,
        auth: Auth,
        *,
        applied: Callable[[], int],
        begin: Callable[[], Awaitable[None]],
        most_bytes: int,
        readers: int,
        per_token: int,
    ) -> None:
        self._database = database
        self._applied = applied
        self._begin = begin
        self.recent = RecentChanges(most_bytes)
        self.readers = ChangeReaders(auth, self.recent, most=readers, per_token=per_token)
        self.known: set[str] = set()
        """Fleets that are known to exist. A fleet is never deleted."""
        self._events = Gathered(self._read_events, most=EVENTS_AT_ONCE)
        self._readings = Lanes(READINGS_AT_ONCE)

    def add(self, row: Row) -> None:
        """Takes the next row that was applied."""
        try:
            fleet_id = self.recent.add(row)
        except Exception:
            # Readers get it from the store.
            logger.exception("change %d (%s) can't be shown from memory", row.number, row.kind)
            self.recent.forget_all(row.number)
        else:
            if fleet_id is not None:
                self.readers.wake(fleet_id)

    # --- pages --------------------------------------------------------------------------------------------------------

    async def begin(self) -> int:
        """The number of the last change that this hub knows of. Raises `StoreUnavailable` if there is none yet."""
        await self._begin()
        if self.recent.floor is None:
            self.recent.floor = self._applied()
        return self._applied()

    async def check(self, after: int) -> None:
        """Raises `Refusal` (`gone`) if the log ends before this cursor, so that nobody can have been given it."""
        if after > self._applied():
            with contextlib.suppress(StoreUnavailable):  # memory is shown all the same
                async with self._database.connection() as connection:
                    head = await changes.head(connection)
                # Another hub may be ahead of this one.
                if after > max(self._applied(), head.number if head is not None else 0):
                    raise _gone(f"the log ends before change {after}: the database went back to an earlier state")

    async def page(self, fleet_id: str, after: int, limit: int, holder: str, most_bytes: int = PAGE_BYTES) -> Page:
        """The first `limit` changes past `after`; fewer if they have more than `most_bytes`. `holder` is the token's id.

        Raises `Refusal` (`gone`), and `StoreUnavailable` if the first of them must be read.
        """
        while True:
            if not self.recent.is_held(fleet_id, after):
                return await self._stored(fleet_id, after, limit, holder, most_bytes)
            entries, unread, last = self.recent.collect(fleet_id, after, limit, most_bytes, self._applied())
            if not unread:
                return Page(entries, last)
            try:
                await self._read(fleet_id, unread)
            except StoreUnavailable:
                # The entries before the first unread event can be shown.
                known = [entry for entry in entries if entry.number < unread[0].number]
                if not known:
                    raise
                return Page(known, known[-1].number)

    async def _stored(self, fleet_id: str, after: int, limit: int, holder: str, most_bytes: int) -> Page:
        async with self._readings.enter(holder):
            entries: list[Entry] = []
            size = 0
            # Rows up to the last applied one are committed. Later rows come from memory.
            to = self._applied()
            last = after
            while True:
                erased = self.recent.erased(fleet_id)
                wanted = min(STORED_AT_ONCE, limit - len(entries))
                async with self._database.snapshot() as connection:
                    kept = await changes.kept_after(connection)
                    rows = await changes.of_fleet(connection, fleet_id, last, to, wanted)
                if last < kept:
                    if entries:
                        return Page(entries, last)
                    raise _gone(f"what came after change {last} is not kept any more")
                found = [Entry(fleet_id, row) for row in rows]
                read = await self._read(fleet_id, [entry for entry in found if entry.is_unread])
                if not read or erased != self.recent.erased(fleet_id):
                    continue
                for entry in found:
                    last = entry.number
                    if entry.frame is not None:
                        entries.append(entry)
                        size += len(entry.frame)
                    if size >= most_bytes:
                        return Page(entries, last)
                if len(rows) < wanted:
                    return Page(entries, max(after, to))
                if len(entries) >= limit:
                    return Page(entries, last)

    async def _read(self, fleet_id: str, entries: Sequence[Entry]) -> bool:
        """Reads the events of these entries. False: something was erased meanwhile, so they must be read again.

        An event that no longer exists is left out.
        """
        if not entries:
            return True
        erased = self.recent.erased(fleet_id)
        asked = [entry.event for entry in entries if entry.event is not None]
        found = await asyncio.gather(*(self._events.get(event) for event in asked), return_exceptions=True)
        for error in found:
            if isinstance(error, StoreUnavailable):
                raise error
        if erased != self.recent.erased(fleet_id):
            return False
        for entry, event in zip(entries, found, strict=True):
            if not entry.is_unread:
                continue  # another reader has read it
            if isinstance(event, BaseException):
                # A newer version may have written it.
                logger.error("event %s can't be read, and is left out", entry.event, exc_info=event)
            if not isinstance(event, Event):
                entry.event = None
                continue
            self.recent.show(entry, event)
        self.recent.make_room()
        return True

    async def _read_events(self, ids: list[int]) -> Mapping[int, Event]:
        async with self._database.connection() as connection:
            return await events.by_id(connection, ids)

    def is_held(self, fleet_id: str, after: int) -> bool:
        """Whether memory has all of the fleet's changes past `after`, except events that were not asked for yet."""
        return self.recent.is_held(fleet_id, after)

    # --- readers ------------------------------------------------------------------------------------------------------

    def reading(self, principal: Principal, fleet_id: str) -> AbstractContextManager[Reader]:
        """See `ChangeReaders.reading`."""
        return self.readers.reading(principal, fleet_id)

    def refuse(self, removed: Collection[Key]) -> None:
        """See `ChangeReaders.refuse`."""
        self.readers.refuse(removed)

    def close(self) -> None:
        """See `ChangeReaders.close`."""
        self.readers.close()


def _gone(what: str) -> Refusal:
    return Refusal(
        ErrorCode.GONE,
        f"{what}. Ask without `after` for where the log ends, read the fleet's vehicles and trips anew, and go on from there",
        field="after",
    )
