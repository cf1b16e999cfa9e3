"""Tests that fail if the docs and the code differ."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec import Struct
from starlette.routing import Route, WebSocketRoute

from tracking.app import create_app
from tracking.config import Settings, load
from tracking.errors import CLOSE_CODES, HTTP_STATUS, CloseCode, ErrorCode
from tracking.metrics import REGISTRY
from tracking.model import EventKind, Suspicion, TripStatus, VehicleStatus
from tracking.protocol import dispatcher, driver, http, passenger, shared

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CITATION = r"(?<!bad )(?:\b[Rr]ows? |test_(?:row|rows|trust)_)(\d+(?:(?:, | and | to |_)\d+)*)"
"""How tests cite rows of TRUST.md: `row 18`, `rows 13 to 16`, `Rows 30, 77 and 90`, `test_row_36_…`, `test_trust_31_32_…`."""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    field = Settings.model_fields[name]
    settings = (DOCS / "SETTINGS.md").read_text()
    [row] = re.findall(rf"^\| `TRACKING_{name.upper()}` \| (.*?) \| (.*?) \|$", settings, re.MULTILINE)
    default = field.default
    shown = "" if default in ("", None) else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
    assert row == (shown, field.description)


def test_every_code_message_and_flag_is_in_the_reference() -> None:
    reference = (DOCS / "REFERENCE.md").read_text()
    names = [
        *(str(code.value) for code in CloseCode),
        *ErrorCode,
        *Suspicion,
        *EventKind,
        *VehicleStatus,
        *(
            str(struct.__struct_config__.tag)
            for module in (driver, passenger, dispatcher, http, shared)
            for struct in vars(module).values()
            if isinstance(struct, type) and issubclass(struct, Struct) and struct.__struct_config__.tag
        ),
        *(metric.name for metric in REGISTRY.collect() if metric.name.startswith("tracking_")),
    ]
    assert [name for name in names if f"`{name}`" not in reference] == []


def test_every_route_is_in_the_reference() -> None:
    """A route is in a row of a table with its methods, and a socket is in a heading."""
    lines = (DOCS / "REFERENCE.md").read_text().splitlines()
    app = create_app(load(database_url="postgresql:///none", jwt_secret="x" * 32))
    missing = []
    for route in app.routes:
        methods = (route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"socket"}
        if isinstance(route, Route | WebSocketRoute) and route.path.startswith("/v1/"):
            rows = [line for line in lines if re.search(rf"{re.escape(route.path)}[?`]", line)]
            missing += [f"{method} {route.path}" for method in methods if not any(method in row for row in rows)]
    assert missing == []


def test_the_pages_know_every_kind_of_event_and_every_status() -> None:
    scripts = [path for path in (ROOT / "web").rglob("*.js") if "node_modules" not in path.parts]
    code = "\n".join(path.read_text() for path in scripts)
    types = {
        name: set(re.findall(r'"(\w+)"', text)) for text, name in re.findall(r"@typedef {(.+)} (\w+)$", code, re.MULTILINE)
    }
    assert types["EventKind"] == set(EventKind)
    assert types["VehicleStatus"] == set(VehicleStatus)
    assert types["Status"] == set(TripStatus)


def test_every_code_has_its_meaning() -> None:
    assert set(CLOSE_CODES) == set(CloseCode)
    assert set(HTTP_STATUS) == set(ErrorCode)
    assert all(len(code.reason.encode()) <= 123 for code in CloseCode)
    assert all(code.may_return == (code < 4500) for code in CloseCode if code >= 4000 and code is not CloseCode.REPLACED)


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(path.read_text() for path in _pages())
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets


def test_every_link_between_the_docs_leads_somewhere() -> None:
    for path in _pages():
        for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_decision_has_one_form_and_is_listed() -> None:
    """Decisions are numbered from 1 without a gap. The index has their titles, and their files exist."""
    decisions = DOCS / "decisions"
    files = sorted(path for path in decisions.iterdir() if path.name != "README.md")
    listed = []
    for number, path in enumerate(files, 1):
        assert re.fullmatch(rf"{number:04}-[a-z-]+\.md", path.name)
        title, *headings = re.findall(r"^##? (.+)$", path.read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequence", "Files"], path.name
        listed.append((f"{number:04}", path.name, title.removeprefix(f"{number}. ")))
        named = re.findall(r"`(\S+)`", path.read_text().split("## Files")[1])
        assert [name for name in named if not (ROOT / name).is_file()] == [], path.name
        assert named, path.name
    index = (decisions / "README.md").read_text()
    assert re.findall(r"^\| \[(\d+)\]\((.+?)\) \| (.+) \|$", index, re.MULTILINE) == listed


def test_contributing_names_files_and_tests_that_exist() -> None:
    named = re.findall(r"`([^`\s]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    paths = [name for name in named if "/" in name and "NNNN" not in name and "*" not in name]
    missing = [name for name in paths if not (ROOT / name.split("::")[0]).exists()]
    tests = [name.split("::") for name in paths if "::" in name]
    missing += [test for path, test in tests if f"def {test}(" not in (ROOT / path).read_text()]
    assert tests and missing == []


def test_the_hooks_before_a_commit_call_what_make_lint_calls() -> None:
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]]
    called = " ".join(hook["entry"] for hook in hooks)
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    tools = re.findall(r"\$\(BIN\)/([a-z]+(?: [a-z]+)?)|\$\(NPM\) (--prefix web run \w+)", lint[1])
    assert len(tools) == len(hooks) == 4
    assert all("".join(tool) in called for tool in tools)
    assert all(hook["language"] == "system" for hook in hooks)


def test_the_changelog_has_the_form_of_keep_a_changelog_and_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert versions[:2] == ["Unreleased", project["version"]]
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_every_link_from_the_code_to_the_docs_leads_somewhere() -> None:
    for path in [*(ROOT / "tracking").rglob("*.py"), *(ROOT / "driver_sim").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for target in re.findall(r"\]\(([^)#:\s]+\.md)[^)]*\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_every_module_is_among_the_parts_of_the_architecture() -> None:
    """A module is named by itself or in the row of its package."""
    parts = (DOCS / "ARCHITECTURE.md").read_text().split("## Parts")[1].split("## The pages")[0]
    names = set(re.findall(r"`([a-z_]+)/?`", parts.replace("`, `", "` `")))
    for row in re.findall(r"^\| (.+?) \|", parts, re.MULTILINE):
        names.update(re.findall(r"[a-z_]+", row))
    by_subject = {"api", "store"}  # a file a subject
    modules = [
        path for path in (ROOT / "tracking").rglob("*.py") if path.name != "__init__.py" and path.parent.name not in by_subject
    ]
    assert [str(path.relative_to(ROOT)) for path in modules if path.stem not in names] == []


def test_each_step_of_both_paths_in_the_architecture_names_files_that_exist() -> None:
    text = (DOCS / "ARCHITECTURE.md").read_text()
    for path in ("a position", "a change"):
        section = text.split(f"## The path of {path}")[1].split("\n## ")[0]
        steps = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", section, re.MULTILINE)
        assert steps and [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
        assert [number for number, files in steps if not re.search(r"`[a-z_/0-9]+\.(?:py|js)`", files)] == []
    named = re.findall(r"`((?:tracking|web|sql|tests)/[^`\s]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_row_that_a_test_cites_is_in_the_trust_table_and_the_other_way_round() -> None:
    """Rows that no test cites say `not built` or `no test`."""
    table = re.findall(r"^\| (\d+) \|.*\| ([a-z ]*)\|$", (DOCS / "TRUST.md").read_text(), re.MULTILINE)
    assert [int(row) for row, _ in table] == list(range(1, len(table) + 1))
    cited: dict[int, str] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for rows in re.findall(CITATION, path.read_text()) if path != Path(__file__) else []:
            cited.update(dict.fromkeys(_numbers(rows), path.name))
    assert {row: where for row, where in cited.items() if row > len(table)} == {}
    assert {int(row) for row, state in table if not state.strip()} == set(cited)


def _numbers(rows: str) -> Iterator[int]:
    """The numbers that `13 to 16`, `30, 77 and 90` and `_31_32` mean."""
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", rows):
        yield from range(int(first), int(last or first) + 1)


def _pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "examples").glob("*.md"), *(ROOT / ".github").rglob("*.md"), *DOCS.rglob("*.md")]
