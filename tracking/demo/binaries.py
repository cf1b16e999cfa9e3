"""Finds the installed PostgreSQL with PostGIS."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracking.demo.processes import output_of
from tracking.errors import ConfigError

OLDEST_VERSION = 14


@dataclass(frozen=True)
class Binaries:
    """One installed PostgreSQL with PostGIS."""

    directory: Path
    version: int

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)


def find_binaries(version: int | None = None) -> Binaries:
    """The newest PostgreSQL with PostGIS. With `version`, it must have that major version, as a data directory needs."""
    seen: list[str] = []
    fitting: list[Binaries] = []
    for directory in _bin_directories():
        major = _major_version(directory)
        if major is None:
            continue
        if not _has_postgis(directory, major):
            seen.append(f"{directory} (version {major}, without PostGIS)")
        elif major < OLDEST_VERSION or (version is not None and major != version):
            seen.append(f"{directory} (version {major})")
        else:
            fitting.append(Binaries(directory, major))
    if fitting:
        return max(fitting, key=lambda found: found.version)
    wanted = f"PostgreSQL {version}" if version is not None else f"PostgreSQL {OLDEST_VERSION} or later"
    found = f"found only {', '.join(seen)}" if seen else "found none on PATH or in the usual places"
    raise ConfigError(
        f"{wanted} with PostGIS is missing ({found}): run `make install`, which installs it, or set TRACKING_DATABASE_URL"
    )


def _bin_directories() -> Iterator[Path]:
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
        ("/usr", "pgsql-*/bin"),  # PostgreSQL's own RPMs
        ("/opt/homebrew/opt", "postgresql*/bin"),
        ("/usr/local/opt", "postgresql*/bin"),
        ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
    ):
        yield from (path for path in sorted(Path(root).glob(pattern)) if (path / "postgres").is_file())


def _major_version(directory: Path) -> int | None:
    found = re.search(r"\(PostgreSQL\) (\d+)", output_of(str(directory / "postgres"), "--version"))
    return int(found[1]) if found else None


def _has_postgis(directory: Path, major: int) -> bool:
    shares = [f"/usr/share/postgresql/{major}", str(directory.parent / "share"), str(directory.parent / "share/postgresql")]
    asked = output_of(str(directory / "pg_config"), "--sharedir")
    return any(Path(share, "extension", "postgis.control").is_file() for share in ([asked] if asked else []) + shares)
