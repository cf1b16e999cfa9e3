"""`python -m driver_sim simulate`."""

import click

from driver_sim.scale.assumptions import Assumptions
from driver_sim.scale.population import Arrangement
from driver_sim.scale.report import assumptions_table, report, simulate

CELLS = 16
ARRANGEMENTS = (
    (Arrangement("40 hubs, 16 databases", 40, 16), 1),
    (Arrangement("the same, adjusted", 40, 16, dispatchers_together=True, ping_interval=90.0), 1),
    (Arrangement("16 cells of 3 hubs", 3, 1, dispatchers_together=True, ping_interval=90.0), CELLS),
    (Arrangement("16 cells of 5 hubs", 5, 1, dispatchers_together=True, ping_interval=90.0), CELLS),
)
"""What is compared, and how many of each stand side by side. Adjusted: a fleet's dispatchers on one hub, pings after 90 s."""


def run(vehicles: int, seed: int, shows_assumptions: bool) -> None:
    assumed = Assumptions()
    if shows_assumptions:
        click.echo(assumptions_table(assumed))
        return
    simulated = [simulate(assumed, arrangement, vehicles, seed, cells) for arrangement, cells in ARRANGEMENTS]
    click.echo(report(assumed, simulated, seed))
