"""Random sequences of changes, fixes, loads, kills and cuts on hubs in one process, compared with what a new hub reads.

    python -m tests.soak changes --sequences 2000
    python -m tests.soak changes --broken         # break each rule of the change log on purpose, and see that it is noticed

Exits with 1 if a sequence found an error, or, with `--broken`, if none did.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from tqdm import tqdm

from tests.changes.fuzz import PER_STATION, STEPS, Outcome, fuzz
from tests.changes.mutations import MUTATIONS, Mutation
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate

TEMPLATE = "template_tracking"


async def _run(
    cluster: Cluster, seed: int, sequences: int, steps: int, mutation: Mutation | None, *, most: int
) -> list[Outcome]:
    """The outcomes of sequences that found an error, at most so many."""
    wrong: list[Outcome] = []
    with tqdm(total=sequences, desc=getattr(mutation, "__name__", "sequences"), unit="", mininterval=5.0) as bar:
        for first in range(0, sequences, PER_STATION):
            count = min(PER_STATION, sequences - first)
            name = f"changes_{first}"
            cluster.create_database(name, TEMPLATE)
            seeds = [f"{seed}.{number}" for number in range(first, first + count)]
            async with contextlib.aclosing(fuzz(cluster.url(name), seeds, steps=steps, mutation=mutation)) as outcomes:
                async for outcome in outcomes:
                    bar.update()
                    if outcome.wrongs:
                        wrong.append(outcome)
                        if len(wrong) >= most:
                            break
            cluster.drop_database(name)
            if len(wrong) >= most:
                break
    return wrong


@contextlib.contextmanager
def _cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        cluster = Cluster(Path(temporary) / "pg", die_with_parent=True)
        try:
            cluster.start()
            cluster.create_database(TEMPLATE)
            asyncio.run(migrate(cluster.url(TEMPLATE)))
            yield cluster
        finally:
            cluster.remove()


@click.command()
@click.option("--sequences", default=2_000, show_default=True, type=click.IntRange(min=1))
@click.option("--steps", default=STEPS, show_default=True, type=click.IntRange(min=1), help="Steps of a sequence.")
@click.option("--seed", default=1, show_default=True)
@click.option("--broken", is_flag=True, help="Break each rule on purpose. The sequences must notice.")
@click.option("--rule", "rules", multiple=True, type=click.Choice(list(MUTATIONS)), help="With --broken: only this rule.")
def changes(sequences: int, steps: int, seed: int, broken: bool, rules: tuple[str, ...]) -> None:
    """Play random sequences of changes against a model, or check that they notice broken rules."""
    began = time.monotonic()
    unnoticed = []
    with _cluster() as cluster:
        if not broken:
            wrong = asyncio.run(_run(cluster, seed, sequences, steps, None, most=10))
            for outcome in wrong:
                click.echo(f"{outcome}\n")
            click.echo(f"{sequences} sequences in {time.monotonic() - began:.0f} s: {len(wrong)} wrong")
            sys.exit(1 if wrong else 0)
        for name in rules or MUTATIONS:
            noticed = asyncio.run(_run(cluster, seed, sequences, steps, MUTATIONS[name], most=1))
            if noticed:
                click.echo(f"{name}: noticed by sequence {noticed[0].seed}: {noticed[0].wrongs[0][:300]}")
            else:
                click.echo(f"{name}: not noticed by {sequences} sequences")
                unnoticed.append(name)
    sys.exit(1 if unnoticed else 0)
