"""What was measured, as a table for a person and as JSON for a program."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from driver_sim.bench.load import Result


def table(name: str, results: Sequence[Result]) -> str:
    """One column a result, one row a figure; lists are left to the JSON."""
    figures = {key: value for result in results for key, value in result.items()}
    rows = [key for key, value in figures.items() if not isinstance(value, list)]
    cells = [[key, *(_shown(result.get(key)) for result in results)] for key in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for first, *others in cells:
        lines.append(" ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]))
    return "\n".join([f"== {name}", *lines])


def write(path: Path, results: dict[str, list[Result]]) -> None:
    """The results of each shape, and what they were measured on."""
    on: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    path.write_text(json.dumps({"on": on, **results}, indent=1) + "\n", encoding="utf-8")


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return str(value)
