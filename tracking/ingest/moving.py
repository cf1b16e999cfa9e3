"""Moves the sessions of a group of fixes, in the transaction that stores it. This decides which of the fixes are stored."""

from collections.abc import Container, Iterable, Sequence

from tracking.ingest.commit_queue import Entry
from tracking.ingest.vehicles import Home, Session
from tracking.model import Position
from tracking.store import homes, sessions
from tracking.store.pool import Connection


async def move(
    connection: Connection, group: Sequence[Entry], handled: dict[Session, int]
) -> tuple[list[Position], dict[Home, homes.Home | None]]:
    """Raises what the store holds as handled. `handled` has the last seq of each session in the group.

    Returns the positions that are not stored yet, and the homes that are lost, with their rows. Nothing of a lost home may be
    stored. Needs an open transaction, in which no other hub can take over a vehicle of the group from now on.
    """
    others, refused = await sessions.move(
        connection,
        [s.number for s in handled],
        list(handled.values()),
        [s.handled for s in handled],
        [s.home.term for s in handled],
    )
    if not others and not refused:
        return [e.position for e in group if e.position is not None], {}
    # A seq up to the row's was committed by an attempt whose answer was lost.
    # A session whose row is missing and can't be put back is of an erased vehicle: this transaction has found that the store
    # did not go back. Its fixes must not be stored again.
    if None in others.values():
        refused |= await _put_back(connection, group, handled, others)
    lost = await _lost(connection, handled, refused) if refused else {}
    fresh = [e.position for e in group if e.position is not None and e.session.home not in lost and _is_fresh(e, others)]
    return fresh, lost


async def _put_back(
    connection: Connection, group: Sequence[Entry], handled: dict[Session, int], others: dict[int, int | None]
) -> set[tuple[int, int]]:
    """Restores missing rows of sessions in `others` whose vehicle exists, and notes what each had handled before this group.

    A session with rejections alone is left out. Its row is not needed before it brings a position. Returns the
    `(session, term)` of those whose home is lost.
    """
    gone = {e.session: e.position.vehicle for e in group if e.position is not None and others.get(e.session.number, 0) is None}
    if not gone:
        return set()
    rows = [(session.number, vehicle, session.name, handled[session], session.home.term) for session, vehicle in gone.items()]
    back, refused = await sessions.put_back(connection, rows)
    others |= {session.number: session.handled for session in gone if session.number in back}
    return {(session.number, session.home.term) for session in gone if session.number in refused}


async def _lost(
    connection: Connection, handled: Iterable[Session], refused: Container[tuple[int, int]]
) -> dict[Home, homes.Home | None]:
    """The homes of sessions that were `refused`, with their rows."""
    lost = {session.home for session in handled if (session.number, session.home.term) in refused}
    rows = await homes.of(connection, [home.vehicle for home in lost])
    return {home: rows.get(home.vehicle) for home in lost}


def _is_fresh(entry: Entry, others: dict[int, int | None]) -> bool:
    number = entry.session.number
    if number not in others:
        return True
    before = others[number]
    return before is not None and entry.seq > before
