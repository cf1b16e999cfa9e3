"""Who may do what: the table of `docs/SECURITY-MODEL.md`, read row by row and cell by cell."""

import re
from pathlib import Path
from typing import NamedTuple

from tracking.model import OVER, UNDER_WAY, TripStatus

PAGE = Path(__file__).parents[2] / "docs" / "SECURITY-MODEL.md"
HEADING = "## Who may do what"

CONDITIONS = {"under way": UNDER_WAY, "over": OVER}
_CLAUSE = re.compile(rf"(else )?(yes|no|\d{{3,4}})(?: ({'|'.join(CONDITIONS)}))?")


class Cell(NamedTuple):
    """What happens, by the trip's status: `yes`, `no`, or a code.

    `also_new`: a thing that does not exist is allowed as well. `of_its_own`: a refused client knows that the thing exists, and
    gets a 404 for one that does not.
    """

    by_status: dict[TripStatus, str]
    also_new: bool
    of_its_own: bool

    @property
    def refused(self) -> str | None:
        """The one code that refuses every thing in every status. None if some are allowed or known."""
        outcomes = set(self.by_status.values())
        return None if len(outcomes) > 1 or "yes" in outcomes or self.of_its_own else outcomes.pop()


class Endpoint(NamedTuple):
    """A row of the table. `method` is HTTP's, or SOCKET.

    `seen` names what the row says of the endpoint's answer. It is None in the row of the endpoint itself.
    """

    method: str
    path: str
    seen: str | None
    cells: dict[str, Cell]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}" + (f": {self.seen}" if self.seen else "")


def read_cell(text: str) -> Cell:
    """A cell like `yes`, `403`, `yes, also new` or `409 under way, else yes`. Raises `ValueError`."""
    text, also_new = text.removesuffix(", also new"), text.endswith(", also new")
    text, of_its_own = text.removesuffix(" of its own"), text.endswith(" of its own")
    by_status: dict[TripStatus, str] = {}
    for clause in text.split(", "):
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise ValueError(
                f"the cell `{text}` says `{clause}`: write yes, no or a code, then `under way` or `over`, or begin with `else`"
            )
        for status in CONDITIONS[found[3]] if found[3] else TripStatus:
            by_status.setdefault(status, found[2])
    if len(by_status) != len(TripStatus):
        raise ValueError(f"the cell `{text}` leaves out some statuses: add `, else …`")
    return Cell(by_status, also_new, of_its_own)


def read_table() -> list[Endpoint]:
    """The rows in the order of the page. Raises `ValueError` for a row that can't be read."""
    rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(encoding="utf-8").split(HEADING)[1].split("\n## ")[0], re.MULTILINE)
    columns = rows[0].split(" | ")[1:]
    endpoints: list[Endpoint] = []
    for row in rows[2:]:
        name, *cells = row.split(" | ")
        if len(cells) != len(columns):
            raise ValueError(f"the row {name} has {len(cells)} cells, the table has {len(columns)} columns")
        endpoint, seen = re.fullmatch(r"`(.+)`", name), re.fullmatch("… (.+)", name)
        if endpoint is not None:
            method, path = endpoint[1].split(" ")
        elif seen is None or not endpoints:
            raise ValueError(f"the row {name} begins with neither a method and path nor `… `")
        endpoints.append(
            Endpoint(method, path, seen[1] if seen else None, dict(zip(columns, map(read_cell, cells), strict=True)))
        )
    return endpoints


TABLE = read_table()
ENDPOINTS = [endpoint for endpoint in TABLE if endpoint.seen is None]
