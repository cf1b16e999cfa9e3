"""The long tests. The same seed gives the same run, as far as the machine allows."""

import click

from tests.soak.attacks import attacks
from tests.soak.changed_hubs import changed_hubs
from tests.soak.changes import changes
from tests.soak.churn import churn
from tests.soak.hubs import hubs
from tests.soak.kills import kills
from tests.soak.messy import messy


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Long tests of real hubs on a real database. Each starts its own, and removes it at the end."""


main.add_command(attacks)
main.add_command(changed_hubs)
main.add_command(changes)
main.add_command(churn)
main.add_command(hubs)
main.add_command(kills)
main.add_command(messy)
main()
