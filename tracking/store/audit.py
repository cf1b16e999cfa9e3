"""The rows of the audit: how they are added and listed. The table refuses every other change."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tracking.store.pool import Connection

GAP_MS = 60_000
"""A transaction that took a number and did not end within this time has failed, because every statement has a limit."""


class Row(NamedTuple):
    """One row. `role`, `holder`, `jti`, `share_id` and `address` say who acted; `kind` and `subject` say on what."""

    at: int
    action: str
    role: str
    holder: str
    jti: str
    share_id: str | None
    address: str | None
    kind: str
    subject: str
    span: uuid.UUID | None
    detail: Mapping[str, Any] | None


class Ending(NamedTuple):
    """The end of a span. Its begin says who acted on what."""

    span: uuid.UUID
    at: int
    action: str
    detail: Mapping[str, Any] | None


class Numbered(NamedTuple):
    entry: int
    row: Row


class Span(NamedTuple):
    """A begin, with its end if it has one. `end_detail` holds `uncertain` if a hub was killed in between."""

    entry: int
    row: Row
    ended_at: int | None
    end_detail: Mapping[str, Any] | None


_COLUMNS = "at, action, role, holder, jti, share_id, address, kind, subject, span, detail"
_TYPES = ("timestamptz", "text", "text", "text", "text", "text", "text", "text", "text", "uuid", "text")
_INSERT = f"""
    INSERT INTO audit (recorded_at, {_COLUMNS})
    SELECT $1::timestamptz, at, action, role, holder, jti, share_id, address, kind, subject, span, detail::jsonb
    FROM unnest({", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_TYPES, 2))}) AS added ({_COLUMNS})
    ON CONFLICT (span, action) WHERE span IS NOT NULL DO NOTHING
"""
_OF_BEGIN = "{at}, {action}, b.role, b.holder, b.jti, b.share_id, b.address, b.kind, b.subject, b.span, {detail}"
"""The columns of an end, from its begin `b`."""


async def insert(connection: Connection, rows: Sequence[Row], now: int) -> None:
    """Adds rows by one statement. A row of a span that is there already is not added again."""
    *columns, details = zip(*rows, strict=True)
    await connection.execute(_INSERT, now, *columns, _as_json(details))


def _as_json(details: Iterable[Mapping[str, Any] | None]) -> list[str | None]:
    return [None if detail is None else msgspec.json.encode(detail).decode() for detail in details]


async def open_spans(connection: Connection, spans: Sequence[uuid.UUID], node: str) -> None:
    """Notes spans that the hub with this boot id holds open."""
    await connection.execute(
        "INSERT INTO audit_open (span, node) SELECT unnest($1::uuid[]), $2 ON CONFLICT DO NOTHING", spans, node
    )


async def not_open(connection: Connection, spans: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of the spans that are not open: their end is stored."""
    rows = await connection.fetch("SELECT unnest($1::uuid[]) AS span EXCEPT SELECT span FROM audit_open", spans)
    return {row["span"] for row in rows}


async def end_spans(connection: Connection, ends: Sequence[Ending], now: int) -> None:
    """Adds ends of spans. A subject that was erased meanwhile has the pseudonym of the begin."""
    spans, times, actions, details = zip(*ends, strict=True)
    await connection.execute(
        f"""
        INSERT INTO audit (recorded_at, {_COLUMNS})
        SELECT $1::timestamptz, {_OF_BEGIN.format(at="e.at", action="e.action", detail="e.detail::jsonb")}
        FROM unnest($2::uuid[], $3::timestamptz[], $4::text[], $5::text[]) AS e (span, at, action, detail)
        JOIN audit b ON b.span = e.span AND b.action <> e.action
        ON CONFLICT (span, action) WHERE span IS NOT NULL DO NOTHING
        """,
        now,
        spans,
        times,
        actions,
        _as_json(details),
    )
    await connection.execute("DELETE FROM audit_open WHERE span = ANY($1::uuid[])", spans)


async def end_spans_of_dead(connection: Connection, ends: Mapping[str, str], now: int, alive: Sequence[str]) -> int:
    """Ends spans that dead hubs left open, as uncertain, and not after `now`. Returns how many there were.

    `ends` has the action of an end by its begin's, and `alive` the boot ids of hubs whose spans go on.
    """
    cut: int = await connection.fetchval(
        f"""
        WITH cut AS (DELETE FROM audit_open WHERE node IS NULL OR node <> ALL($5::text[]) RETURNING span), added AS (
            INSERT INTO audit (recorded_at, {_COLUMNS})
            SELECT $3::timestamptz,
                {_OF_BEGIN.format(at="greatest($3::timestamptz, b.at)", action="e.ending", detail="$4::text::jsonb")}
            FROM cut JOIN audit b USING (span) JOIN unnest($1::text[], $2::text[]) AS e (beginning, ending)
                ON e.beginning = b.action
            ON CONFLICT (span, action) WHERE span IS NOT NULL DO NOTHING
        )
        SELECT count(*) FROM cut
        """,
        list(ends),
        list(ends.values()),
        now,
        '{"uncertain": true}',
        alive,
    )
    return cut


async def key(connection: Connection) -> bytes:
    """The key of the pseudonyms."""
    found: bytes = await connection.fetchval("SELECT key FROM audit_key")
    return found


async def disguise(connection: Connection, kind: str, id_: str, pseudonym: str) -> None:
    """Replaces the id by the pseudonym in all rows."""
    await connection.execute("SELECT disguise_in_audit($1, $2, $3)", kind, id_, pseudonym)


async def page(
    connection: Connection,
    *,
    after: int | None,
    limit: int,
    now: int,
    action: str | None = None,
    subjects: Sequence[str] | None = None,
) -> list[Numbered]:
    """Rows, oldest first: those after an entry, or the last ones. `subjects` are names of one thing, or a token's id.

    A transaction takes its number before it ends, so an entry may become visible after a higher one. Entries after a missing
    number are therefore held back for `GAP_MS`. A client that reads pages by `after` then misses nothing.
    """
    last = None if after is None else await _settled(connection, now)
    conditions = [
        "($1::bigint IS NULL OR entry > $1::bigint)",
        "($2::bigint IS NULL OR entry <= $2::bigint)",
        "($3::text IS NULL OR action = $3::text)",
    ]
    if subjects is not None:
        conditions.append("(subject = ANY($5::text[]) OR detail ->> 'jti' = ANY($5::text[]))")
    rows = await connection.fetch(
        f"""
        SELECT entry, {_COLUMNS} FROM audit WHERE {" AND ".join(conditions)}
        ORDER BY entry {"DESC" if after is None else ""} LIMIT $4
        """,
        after,
        last,
        action,
        limit,
        *([subjects] if subjects is not None else []),
    )
    found = [Numbered(row[0], Row(*row[1:])) for row in map(tuple, rows)]
    return found[::-1] if after is None else found


async def _settled(connection: Connection, now: int) -> int:
    """The last entry before which no other can appear any more."""
    return int(
        await connection.fetchval(
            """
            WITH recent AS (
                SELECT entry, lag(entry) OVER (ORDER BY entry) AS before FROM audit
                WHERE entry >= (SELECT coalesce(max(entry), 0) FROM audit WHERE recorded_at < $1)
            )
            SELECT coalesce(
                (SELECT min(before) FROM recent WHERE entry > before + 1), (SELECT max(entry) FROM recent), 0
            )
            """,
            now - GAP_MS,
        )
    )


async def spans_of(
    connection: Connection, subjects: Sequence[str], begin: str, end: str, *, after: int, limit: int
) -> list[Span]:
    """The spans of one thing by their begins' entries, oldest first."""
    rows = await connection.fetch(
        f"""
        SELECT b.entry, {", ".join(f"b.{column}" for column in _COLUMNS.split(", "))}, e.at, e.detail
        FROM audit b LEFT JOIN audit e ON e.span = b.span AND e.action = $3
        WHERE b.subject = ANY($1::text[]) AND b.action = $2 AND b.entry > $4 ORDER BY b.entry LIMIT $5
        """,
        subjects,
        begin,
        end,
        after,
        limit,
    )
    return [Span(row[0], Row(*row[1:-2]), *row[-2:]) for row in map(tuple, rows)]
