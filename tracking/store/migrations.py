"""Numbered forward-only migrations from `sql/`, each applied once, in its own transaction, under an advisory lock."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import asyncpg

from tracking.errors import MigrationError, StoreUnavailable
from tracking.store.pooler import refuse_shared

AUDIT_PARAMETER = "tracking.audit_change"
"""The functions that may change the audit set it (`0020_audit`)."""
DIRECTORY = Path(__file__).parents[2] / "sql"
_LOCK = 0x7472_6163_6B69_6E67  # "tracking"
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class Migration(NamedTuple):
    number: int
    name: str
    sql: str
    checksum: str


def read(directory: Path = DIRECTORY) -> list[Migration]:
    """The migrations of a directory in order. Raises `MigrationError` for a bad name or a gap in the numbers."""
    migrations = []
    for path in sorted(directory.glob("*.sql")):
        found = _NAME.fullmatch(path.name)
        if found is None:
            raise MigrationError(f"{path.name}: a migration is named like 0001_what_it_does.sql")
        sql = path.read_text(encoding="utf-8")
        migrations.append(Migration(int(found[1]), path.stem, sql, hashlib.sha256(sql.encode()).hexdigest()))
    expected = list(range(1, len(migrations) + 1))
    if [m.number for m in migrations] != expected:
        raise MigrationError(f"migrations must be numbered 1, 2, 3 …; found {[m.number for m in migrations]} in {directory}")
    return migrations


async def migrate(url: str, directory: Path = DIRECTORY) -> list[str]:
    """Brings the database to the newest migration and returns the names applied.

    Raises `MigrationError` if an applied migration was edited or is unknown here, `ConfigError` if the database is behind a
    pooler that cannot be used, and `StoreUnavailable` if the database cannot be reached.
    """
    migrations = read(directory)
    try:
        connection = await _connect(url)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise StoreUnavailable(f"can't reach the database to migrate it: {error or type(error).__name__}") from error
    try:
        await refuse_shared(connection, lambda: _connect(url))
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        return await _apply(connection, migrations)
    finally:
        await connection.close()


async def check(url: str, directory: Path = DIRECTORY) -> None:
    """Raises `MigrationError` if the database is not at the newest migration, `ConfigError` if it is behind a pooler that
    cannot be used, and `StoreUnavailable` if it cannot be reached.
    """
    known = len(read(directory))
    try:
        connection = await _connect(url)
        try:
            await refuse_shared(connection, lambda: _connect(url))
            applied = 0
            if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL"):
                applied = await connection.fetchval("SELECT count(*) FROM schema_migrations")
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise StoreUnavailable(f"can't reach the database: {error or type(error).__name__}") from error
    if applied > known:
        # Hubs of this release that run already go on. A new process can't know whether it understands the schema.
        raise MigrationError(
            f"the database has {applied} migrations, and this release knows {known}: it was migrated by a newer version; start"
            " that one"
        )
    if applied != known:
        raise MigrationError(f"the database has {applied} of {known} migrations: run `tracking migrate` first")


def _remedy(error: asyncpg.PostgresError) -> str:
    """What to do if a superuser has to prepare the database for a role that is none. Empty if that is not the reason."""
    if not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return ""
    # From PostgreSQL 15 on, such a role may not set a parameter of ours in a function. 14 has neither the rule nor the command.
    return (
        "; let a superuser run `CREATE EXTENSION postgis; CREATE EXTENSION pg_trgm` in this database and"
        f" `GRANT SET ON PARAMETER {AUDIT_PARAMETER} TO` the role of TRACKING_DATABASE_URL, which should own the database"
    )


async def _connect(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(url, timeout=10)


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", migrations: list[Migration]) -> list[str]:
    await connection.execute(
        """
        CREATE TABLE IF NOT EXISTS schema_migrations (
            number integer PRIMARY KEY,
            name text NOT NULL,
            checksum text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    rows = await connection.fetch("SELECT number, name, checksum FROM schema_migrations ORDER BY number")
    applied = {row["number"]: row for row in rows}
    for number in applied:
        if number > len(migrations):
            raise MigrationError(
                f"the database has migration {applied[number]['name']}, which this code does not know:"
                " it was made by a newer version; run that one"
            )
    done = []
    for migration in migrations:
        row = applied.get(migration.number)
        if row is not None:
            if row["checksum"] != migration.checksum:
                raise MigrationError(
                    f"{migration.name}.sql was edited after it was applied: put it back, and write a new migration"
                )
            continue
        async with connection.transaction():
            try:
                await connection.execute(migration.sql)
            except asyncpg.PostgresError as error:
                raise MigrationError(f"{migration.name}.sql failed and was rolled back: {error}{_remedy(error)}") from error
            await connection.execute(
                "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
        done.append(migration.name)
    return done
