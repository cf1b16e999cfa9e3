"""`tracking`: serve, migrate, token, demo."""

import asyncio
from importlib import import_module

import click

from tracking.auth import CLAIM_OF_ROLE, MAX_EXPIRES_IN, Auth, Role
from tracking.config import load, require_database, require_key
from tracking.errors import TrackingError

MOST_WORKERS = 64


class _Group(click.Group):
    """Print our own errors as one line, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except TrackingError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A self-hosted live tracking service. Settings come from the environment, TRACKING_…; see docs/SETTINGS.md."""


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    help="Run so many hubs on this port, with a private NATS server, and restart what dies. SIGHUP replaces them by turns.",
)
@click.option("--inherited", hidden=True, help="Of a worker: the file numbers that its supervisor left to it.")
def serve(host: str, port: int, workers: int | None, inherited: str | None) -> None:
    """Run the hub, or several."""
    # The imports are local, so that the supervisor of several hubs does not load the hub.
    if inherited is not None:
        import_module("tracking.serving").work(inherited)
    elif workers is not None:
        import_module("tracking.workers.command").run(host, port, workers)
    else:
        import_module("tracking.serving").serve(host, port)


@main.command()
def migrate() -> None:
    """Migrate the database to the newest version."""
    migrations = import_module("tracking.store.migrations")
    applied = asyncio.run(migrations.migrate(require_database(load())))
    click.echo("\n".join(f"applied {name}" for name in applied) if applied else "nothing to do: the database is up to date")


@main.command()
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]))
@click.option("--subject", help="The vehicle_id, trip_id or fleet_id that the role is about.")
@click.option(
    "--expires-in", default=30 * 86_400.0, show_default=True, type=click.FloatRange(min=1, max=MAX_EXPIRES_IN), help="Seconds."
)
def token(role: str, subject: str | None, expires_in: float) -> None:
    """Print a token on the last line."""
    settings = load()
    require_key(settings)
    claim = CLAIM_OF_ROLE[Role(role)]
    if (claim is None) != (subject is None):
        needs = f"needs --subject, its {claim}" if claim else "takes no --subject"
        raise click.UsageError(f"a token of role {role} {needs}")
    click.echo(Auth(settings).issue(Role(role), subject, expires_in).token)


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the hub; by default 8000, or the next free one.")
@click.option("--drivers", default=40, show_default=True, type=click.IntRange(1, 500), help="How many simulated drivers.")
@click.option("--workers", type=click.IntRange(1, MOST_WORKERS), help="Run so many hubs on the port, as `serve` does.")
def demo(port: int | None, drivers: int, workers: int | None) -> None:
    """Run a private database, the hub and simulated drivers, and print the links to open."""
    import_module("tracking.demo.supervisor").run(port, drivers, workers)


if __name__ == "__main__":
    main()
