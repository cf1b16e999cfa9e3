"""The audit: who did what, to what, when, and from which address. It holds no positions.

    await audit.record(connection, by, Action.SHARE_MADE, Kind.TRIP, trip_id)      # in the transaction of the action
    watch = audit.began(by, Kind.TRIP, trip_id); …; audit.left(watch)              # in memory; written within a second

An action with a transaction is recorded in that transaction: both are stored, or neither. Watches are held in memory and
written in groups, so thousands of clients that come back at once cost a few statements. While the database is away they
continue to watch. What waits is bounded by `MAX_WAITING`. Past it, begins are not recorded but counted (`tracking_audit_lost`).

An erased vehicle or trip stays in the audit under a pseudonym, a keyed hash of its id.
"""

import asyncio
import base64
import contextlib
import functools
import hmac
import ipaddress
import itertools
import logging
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import asyncpg

from tracking.auth import Principal
from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.metrics import AUDIT_LOST, AUDIT_WAITING
from tracking.model import Clock
from tracking.store import audit as store
from tracking.store.audit import Ending, Row
from tracking.store.pool import Connection, Database

logger = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
LOOK_SECONDS = 10.0
GROUP = 250
"""Rows written by one transaction. More would block the event loop for too long."""
MAX_WAITING = 20_000
"""Rows that may wait for the database, without the ends of what has begun."""
GAP_MS = 30_000
"""A watch continues if its client comes back within this time."""
MAX_LEFT = 20_000
"""Watches that may wait for their client like that. Past it the oldest end at once."""
MAX_ERASED = 10_000
"""Erased vehicles and trips that are remembered, for rows of them that were not written yet."""
MAX_NAME = 256
"""Characters of a token's id that are kept. Another issuer may have made an id of any length."""


Detail = str | int


class Action(StrEnum):
    """What was done."""

    TOKEN_ISSUED = "token_issued"  # noqa: S105
    TOKEN_REVOKED = "token_revoked"  # noqa: S105
    SHARE_MADE = "share_made"
    SHARE_REVOKED = "share_revoked"
    VEHICLE_ERASED = "vehicle_erased"
    TRIP_ERASED = "trip_erased"
    EXPORTED = "exported"
    EXPORT_ENDED = "export_ended"
    WATCHED = "watched"
    WATCH_ENDED = "watch_ended"


ENDS = {Action.WATCHED: Action.WATCH_ENDED, Action.EXPORTED: Action.EXPORT_ENDED}
"""Actions that last, and the actions that end them."""


class Kind(StrEnum):
    """What something was done to."""

    VEHICLE = "vehicle"
    TRIP = "trip"
    FLEET = "fleet"
    TOKEN = "token"  # noqa: S105


class Doer(NamedTuple):
    """Who did something: a principal and its address. `holder` is the subject of its token."""

    role: str
    holder: str
    jti: str
    share_id: str | None
    address: str | None


class Span:
    """Something that lasts: its begin, its number of connections, and when the last of them left."""

    __slots__ = ("begin", "connections", "left_at", "recorded")

    def __init__(self, begin: Row) -> None:
        self.begin = begin
        self.connections = 1
        self.left_at = 0
        self.recorded = False
        """Whether its begin will be written. If not, its end is not written either."""

    @property
    def key(self) -> tuple[str, str, str | None]:
        return _key(_doer(self.begin), self.begin.subject)


async def nobody(_: Connection) -> Collection[str]:
    """This hub is the only one."""
    return ()


class Audit:
    """`run` writes what waits, until it is cancelled. `flush` ends all watches and writes everything."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        addresses: bool = True,
        node: str = "",
        others: Callable[[Connection], Awaitable[Collection[str]]] = nobody,
    ) -> None:
        """Without `addresses` none is recorded. `node` is the boot id of this hub. `others` reads those of other live hubs."""
        self._database = database
        self._clock = clock
        self._addresses = addresses
        self._node = node
        self._others = others
        self._key: bytes | None = None
        self._spans: dict[tuple[str, str, str | None], Span] = {}
        self._left: OrderedDict[Span, None] = OrderedDict()
        """spans without a connection, in the order in which they lost their last one"""
        self._waiting: deque[Row | Ending] = deque()
        self._erased: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()
        """pseudonym and time of erasure by kind and id, for begins that were not written yet"""
        self._writing = asyncio.Lock()
        self._lost = 0
        self._trouble = False

    # --- clients ------------------------------------------------------------------------------------------------------------

    def doer(self, principal: Principal, host: str | None) -> Doer:
        """`host` is the client's address, as the rules for proxies have it."""
        share_id = None if principal.share_id is None else _clean(principal.share_id)
        address = _address(host) if self._addresses and host else None
        return Doer(principal.role.value, _clean(principal.subject), _clean(principal.jti), share_id, address)

    # --- what has a transaction ---------------------------------------------------------------------------------------------

    async def record(
        self,
        connection: Connection,
        by: Doer,
        action: Action,
        kind: Kind,
        subject: str,
        detail: Mapping[str, Detail] | None = None,
    ) -> None:
        """Records an action in the transaction that carries it out."""
        now = self._clock()
        await store.insert(connection, [Row(now, action, *by, kind, _clean(subject), None, detail)], now)

    async def record_erasure(self, connection: Connection, by: Doer, kind: Kind, id_: str) -> None:
        """Records that a vehicle or trip was erased, under a pseudonym. The pseudonym replaces its id in the whole audit."""
        pseudonym = await self.disguise(connection, kind, id_)
        action = Action.VEHICLE_ERASED if kind is Kind.VEHICLE else Action.TRIP_ERASED
        await self.record(connection, by, action, kind, pseudonym)

    def knows_erased(self, kind: Kind, id_: str) -> bool:
        return (kind, id_) in self._erased

    async def disguise(self, connection: Connection, kind: Kind, id_: str) -> str:
        """Replaces the id of something that was erased by its pseudonym, also in rows that wait. Returns the pseudonym."""
        pseudonym = await self._pseudonym(connection, kind, id_)
        self._erased[kind, id_] = pseudonym, self._clock()
        if len(self._erased) > MAX_ERASED:
            self._erased.popitem(last=False)
        async with self._writing:
            pass  # a group that is being written may still contain the id
        await store.disguise(connection, kind, id_, pseudonym)
        return pseudonym

    async def _pseudonym(self, connection: Connection, kind: str, id_: str) -> str:
        if self._key is None:
            self._key = await store.key(connection)
        digest = hmac.digest(self._key, f"{kind} {id_}".encode(), "sha256")
        return "~" + base64.urlsafe_b64encode(digest[:18]).decode()

    async def names_of(self, connection: Connection, id_: str, kinds: Sequence[str] = (Kind.TRIP, Kind.VEHICLE)) -> list[str]:
        """The id, and the pseudonyms that replace it after an erasure."""
        return [id_, *[await self._pseudonym(connection, kind, id_) for kind in kinds]]

    # --- without one --------------------------------------------------------------------------------------------------------

    async def record_alone(
        self, by: Doer, action: Action, kind: Kind, subject: str, detail: Mapping[str, Detail] | None = None
    ) -> None:
        """Records an action in a transaction of its own. Raises `StoreUnavailable`; the caller must not carry it out then."""
        async with self._database.transaction() as connection:
            await self.record(connection, by, action, kind, subject, detail)

    async def export_begins(self, by: Doer, kind: Kind, subject: str, detail: Mapping[str, Detail] | None = None) -> Row:
        """Records an export before its first byte is sent. Raises `StoreUnavailable`. End it with `ended`."""
        begin = Row(self._clock(), Action.EXPORTED, *by, kind, _clean(subject), uuid.uuid4(), detail)
        assert begin.span is not None
        async with self._database.transaction() as connection:
            await store.insert(connection, [begin], begin.at)
            await store.open_spans(connection, [begin.span], self._node)
        return begin

    def ended(self, begin: Row, at: int | None = None, *, detail: Mapping[str, Detail] | None = None) -> None:
        """Notes the end of something that lasts. It is written within a second."""
        assert begin.span is not None
        at = self._clock() if at is None else at
        self._waiting.append(Ending(begin.span, at, ENDS[Action(begin.action)], detail))

    def note(self, by: Doer, action: Action, kind: Kind, subject: str, detail: Mapping[str, Detail] | None = None) -> None:
        """Notes an action without a transaction. It is written within a second."""
        self._take(Row(self._clock(), action, *by, kind, _clean(subject), None, detail))

    def _take(self, row: Row) -> bool:
        if len(self._waiting) >= MAX_WAITING:
            self._lost += 1
            AUDIT_LOST.inc()
            return False
        self._waiting.append(row)
        return True

    def began(self, by: Doer, kind: Kind, subject: str) -> Span:
        """Notes a watch. Connections of one token or share from one address are one watch, also after a short break."""
        subject = _clean(subject)
        span = self._spans.get(_key(by, subject))
        if span is not None:
            span.connections += 1
            self._left.pop(span, None)
            return span
        span = Span(Row(self._clock(), Action.WATCHED, *by, kind, subject, uuid.uuid4(), None))
        span.recorded = self._take(span.begin)
        self._spans[span.key] = span
        return span

    def left(self, span: Span) -> None:
        """Notes the end of one of its connections."""
        span.connections -= 1
        if span.connections:
            return
        span.left_at = self._clock()
        self._left[span] = None
        if len(self._left) > MAX_LEFT:
            self._end(next(iter(self._left)))

    def _end(self, span: Span) -> None:
        self._left.pop(span, None)
        self._spans.pop(span.key, None)
        if span.recorded:
            self.ended(span.begin, span.left_at or self._clock())

    # --- the writer ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        begun, ended_at = False, 0.0
        while True:
            # What dead hubs left open is ended before anything new is recorded: also by a hub before us in this process.
            if not begun:
                begun = await self._tried(self._end_what_was_cut_off([]))
                ended_at = time.monotonic()
            elif time.monotonic() - ended_at >= LOOK_SECONDS:
                ended_at = time.monotonic()
                await self._tried(self._end_what_was_cut_off([self._node]))  # of hubs that have died since
            if begun:
                away = self._trouble
                if await self._tried(self.write()) and away:
                    await self._tried(self._begin_anew())
            await asyncio.sleep(WRITE_SECONDS)

    async def write(self) -> None:
        """Writes what waits, and ends watches whose client did not come back. Raises `StoreUnavailable`."""
        now = self._clock()
        while self._left and not 0 <= now - (span := next(iter(self._left))).left_at < GAP_MS:
            self._end(span)
        await self._write()
        while self._erased and not 0 <= self._clock() - next(iter(self._erased.values()))[1] < GAP_MS:
            self._erased.popitem(last=False)

    async def flush(self) -> None:
        """Ends all watches and writes everything. Raises `StoreUnavailable`."""
        for span in list(self._spans.values()):
            self._end(span)
        await self._write()

    def take_over(self, former: "Audit") -> None:
        """Takes what another audit has not written because its database went back. No connection uses that audit any more."""
        for span in list(former._spans.values()):
            former._end(span)
        self._erased.update(former._erased)
        self._waiting += former._waiting
        former._waiting.clear()

    async def _tried(self, work: Any) -> bool:
        try:
            await work
        except StoreWentBack:
            return False  # this service ends, and logs it itself
        except (StoreUnavailable, asyncpg.PostgresError) as error:
            if not self._trouble:
                logger.warning("the audit waits to be written, trying again: %s", error)
            self._trouble = True
            return False
        if self._lost:
            logger.error("the audit lacks %d entries: more than %d waited for the database", self._lost, MAX_WAITING)
        self._trouble, self._lost = False, 0
        return True

    async def _end_what_was_cut_off(self, ours: Sequence[str]) -> None:
        """Ends what hubs left open that are neither alive nor in `ours`."""
        async with self._database.transaction() as connection:
            alive = [*ours, *await self._others(connection)]
            ends = {str(begin): str(end) for begin, end in ENDS.items()}
            cut = await store.end_spans_of_dead(connection, ends, self._clock(), alive)
        if cut:
            logger.warning("%d watches and exports were cut off by the end of a hub: when they ended is uncertain", cut)

    async def _begin_anew(self) -> None:
        """Begins watches again that another hub ended, because it took this one for dead while the database was away."""
        waiting = {row.span for row in self._waiting}
        spans = {span.begin.span: span for span in self._spans.values() if span.recorded and span.begin.span not in waiting}
        async with self._database.connection() as connection:
            ended = await store.not_open(connection, [span for span in spans if span is not None])
        for number in ended:
            span = spans[number]
            if self._spans.get(span.key) is span and span.begin.span == number:
                span.begin = span.begin._replace(at=self._clock(), span=uuid.uuid4())
                span.recorded = self._take(span.begin)

    async def _write(self) -> None:
        """Writes what waits, a group at a time. A group that failed stays, and is tried again."""
        AUDIT_WAITING.set(len(self._waiting))
        while self._waiting:
            await self._write_group()
            AUDIT_WAITING.set(len(self._waiting))

    async def _write_group(self) -> None:
        async with contextlib.AsyncExitStack() as until_committed:
            # The connection is taken before the lock. An erasure has a connection and waits for the lock. If erasures had all
            # connections and we had the lock, both would wait forever.
            async with self._database.transaction() as connection:
                await until_committed.enter_async_context(self._writing)
                group = list(itertools.islice(self._waiting, GROUP))
                rows = [self._disguised(row) for row in group if isinstance(row, Row)]
                ends = [end for end in group if isinstance(end, Ending)]
                if rows:
                    await store.insert(connection, rows, self._clock())
                    await store.open_spans(connection, [row.span for row in rows if row.span is not None], self._node)
                if ends:
                    await store.end_spans(connection, ends, self._clock())
            for _ in group:
                self._waiting.popleft()

    def _disguised(self, row: Row) -> Row:
        """The row as it may be written: without the id of what was erased while it waited."""
        erased = self._erased.get((row.kind, row.subject))
        # A vehicle may have been created again with the same id. A trip never is.
        if erased is None or (row.kind == Kind.VEHICLE and row.at > erased[1]):
            return row
        return row._replace(subject=erased[0], holder=erased[0] if row.holder == row.subject else row.holder)


def _doer(row: Row) -> Doer:
    return Doer(row.role, row.holder, row.jti, row.share_id, row.address)


def _key(by: Doer, subject: str) -> tuple[str, str, str | None]:
    return by.share_id or by.jti, subject, by.address


def _clean(text: str) -> str:
    """Text that PostgreSQL can store. A token of another issuer may contain anything."""
    if len(text) <= MAX_NAME and text.isascii() and "\0" not in text:
        return text
    return text[:MAX_NAME].replace("\0", "").encode("utf-8", "replace").decode()


@functools.lru_cache(maxsize=4_096)
def _address(host: str) -> str | None:
    """An IP address as text; one that is mapped into IPv6 as IPv4. None for anything else: a proxy may pass on any text."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
