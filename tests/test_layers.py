"""Imports point downwards and run in no circle, and modules and functions stay short. A failure says what to do."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]

LAYERS = """
    errors
    broker_settings bucket caps child_processes geo logs metrics model moving_settings numbers origins
    config geojson keys lag lanes routes sockets.listening
    auth demo protocol workers
    access budgets downloads store
    audit change_upkeep erasure gpx nodes sockets.limits
    live
    ingest monitor
    history live_state services
    refiling
    cluster forgetting
    service
    assembly readiness
    api sockets
    life
    app drain
    serving
    cli
"""
"""From bottom to top. What is in one row does not import each other; modules of one package may."""


MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8


def test_every_name_in_the_layers_is_there() -> None:
    places = [(name, ROOT / "tracking" / name.replace(".", "/")) for name in LAYERS.split()]
    assert [name for name, place in places if not place.is_dir() and not place.with_suffix(".py").is_file()] == []


def test_no_import_points_upwards() -> None:
    wrong = []
    for module, imported in _imports():
        above, below = _layer(module), _layer(imported)
        if above < below:
            wrong.append(f"{module} imports {imported}, which is above it: move what it needs to a layer below")
        elif above == below and module.split(".")[1] != imported.split(".")[1]:
            wrong.append(f"{module} imports {imported}, which is beside it: move what both need to a layer below")
    assert not wrong, "\n".join(wrong)


def test_no_imports_run_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in _imports():
        graph.setdefault(module, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError("imports run in a circle: " + " <- ".join(error.args[1])) from None


def test_nothing_is_too_long_to_be_read_at_once() -> None:
    wrong = []
    for path in _sources():
        text = path.read_text()
        if text.count("\n") > MAX_MODULE_LINES:
            wrong.append(f"{path.relative_to(ROOT)} has over {MAX_MODULE_LINES} lines: take what is another noun out of it")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            if (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES:
                wrong.append(f"{place} has over {MAX_FUNCTION_LINES} lines: divide it by its steps")
            if node.name == "__init__" and len(node.args.args) + len(node.args.kwonlyargs) - 1 > MAX_ARGUMENTS:
                wrong.append(f"{place} takes over {MAX_ARGUMENTS} arguments: put those that belong together into one")
    assert not wrong, "\n".join(wrong)


def test_no_test_module_imports_another() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.rpartition(".")[2].startswith("test_"):
                wrong.append(f"{path.relative_to(ROOT)} imports {node.module}: put what both need into tests/support")
    assert not wrong, "\n".join(wrong)


def _sources() -> list[Path]:
    return sorted(path for folder in ("tracking", "driver_sim", "tests", "examples") for path in (ROOT / folder).rglob("*.py"))


def _layer(module: str) -> int:
    """Of its own row, or of its package's."""
    names = [frozenset(row.split()) for row in LAYERS.strip().splitlines()]
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        for number, row in enumerate(names):
            if ".".join(parts[:length]) in row:
                return number
    raise AssertionError(f"{module} has no layer: give it a row in LAYERS")


def _imports() -> Iterator[tuple[str, str]]:
    """Every import between modules of `tracking`, also inside functions and for type checkers alone."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "tracking").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: write imports in full"
                found = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [name if name in modules else str(node.module) for name in found]
            else:
                continue
            yield from ((module, name) for name in found if name in modules and name != "tracking")
