"""One run of the bench: an environment for each shape, a table after each, the JSON at the end."""

import contextlib
import resource
from collections.abc import Sequence
from pathlib import Path

import click
import uvloop

from driver_sim.bench.environment import Conditions, environment
from driver_sim.bench.hub import EnvironmentFailed
from driver_sim.bench.load import Result
from driver_sim.bench.queries import QUERIES
from driver_sim.bench.queries import SETTINGS as SETTINGS_OF_QUERIES
from driver_sim.bench.report import table, write
from driver_sim.bench.scenarios import SHAPES
from tracking.demo.postgres import ROOT

MEASURED = Conditions()
KEEP_CLIENTS = {"TRACKING_SHED_ABOVE": "0"}
"""Clients of these shapes choose their hub. While they connect, one hub has many more than the others."""
SETTINGS = {**SETTINGS_OF_QUERIES, **dict.fromkeys(("hubs", "hubs-change", "hubs-fleet"), KEEP_CLIENTS)}
SECONDS = 15.0
SECONDS_OF = {"changes": 60.0, "roll": 60.0}
"""How long each run is measured, where nothing else is asked for; by shape, where it differs."""


def run(
    shapes: Sequence[tuple[str, Sequence[int]]], seconds: float | None, path: Path, conditions: Conditions = MEASURED
) -> None:
    """Runs the shapes with each of their counts and prints their tables. Raises `ClickException` where the environment fails.

    `seconds` is how long each run is measured; None: as long as its shape needs.
    """
    _raise_open_files()
    path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Result]] = {}
    for name, counts in shapes:
        try:
            results[name] = uvloop.run(_play(name, counts, seconds or SECONDS_OF.get(name, SECONDS), conditions))
        except EnvironmentFailed as error:
            raise click.ClickException(str(error)) from None
        click.echo(table(name, results[name]) + "\n")
        write(path, results)
    click.echo(f"As JSON: {path}")


async def _play(name: str, counts: Sequence[int], seconds: float, conditions: Conditions) -> list[Result]:
    shape = {**SHAPES, **QUERIES}[name]
    results: list[Result] = []
    async with environment(ROOT / ".data" / "bench", SETTINGS.get(name, {}), conditions) as made:
        for count in counts:
            result = await shape(made, count, seconds)
            results += result if isinstance(result, list) else [result]
    return results


def _raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
