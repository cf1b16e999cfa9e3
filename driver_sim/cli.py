"""`python -m driver_sim`: the demo's fleet, replays of recorded drives, and the benchmarks."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
import httpx

from driver_sim.backend import Backend, BackendError
from driver_sim.client import DriverClient
from driver_sim.connection import driver_url
from driver_sim.drive import drive as drive_fleet
from driver_sim.outbox import MemoryOutbox
from driver_sim.replay import Interrupted, Recording, Summary, own_fleet, record
from driver_sim.replay import replay as replay_recording
from driver_sim.store import StoreError
from driver_sim.tracks import TrackError

TOKEN_VARIABLE = "TRACKING_SERVICE_TOKEN"  # noqa: S105  the variable's name
Result = TypeVar("Result")
BENCH_SHAPES = (
    "idle",
    "trips",
    "steps",
    "popular",
    "slow",
    "flood",
    "return",
    "fleet",
    "geofences",
    "changes",
    "start",
    "hubs",
    "hubs-change",
    "hubs-fleet",
    "roll",
    "nearest",
    "history",
)
CHANGING = 2_000
"""Passengers in `hubs-change`, at most."""
ROLLING = 1_000
"""Drivers in `roll`, at most."""
DEFAULT_HUB = "http://127.0.0.1:8000"


def _check_hub(_context: click.Context, _parameter: click.Parameter, hub: str) -> str:
    try:
        driver_url(hub)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not hub.startswith(("http://", "https://")):
        raise click.BadParameter(f"starts with http:// or https://; got {hub!r}")
    return hub


_hub = click.option("--hub", default=DEFAULT_HUB, show_default=True, callback=_check_hub, help="The hub's address.")


@click.group()
@click.option("--verbose", is_flag=True, help="Log to stderr what happens to each driver.")
def main(verbose: bool) -> None:
    """Simulated drivers for a tracking hub.

    `drive`, and `replay` without --vehicle, need a service token in the environment variable TRACKING_SERVICE_TOKEN.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("driver_sim").setLevel(logging.INFO if verbose else logging.WARNING)
    # Lost connections are normal here, and on_lost logs them. websockets would log a traceback.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)


@main.command()
@_hub
@click.option("--drivers", type=click.IntRange(1, 1000), default=12, show_default=True, help="How many vehicles.")
@click.option(
    "--standby",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="More vehicles, which wait for trips of a dispatcher.",
)
@click.option("--fleet", default="demo", show_default=True, help="The fleet to create and drive. Its vehicles are FLEET-01, …")
@click.option("--seed", type=int, default=None, help="The same seed gives the same drives.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".data/driver_sim"),
    show_default=True,
    help="Directory of the outboxes. It keeps unacknowledged fixes across restarts.",
)
@click.option("--duration", type=click.FloatRange(min=0, min_open=True), default=None, help="Seconds. Unlimited by default.")
@click.option(
    "--speed-factor",
    type=click.FloatRange(0.1, 10.0),
    default=1.0,
    show_default=True,
    help="Simulated seconds a second. The reported speeds grow with it.",
)
def drive(
    hub: str,
    drivers: int,
    standby: int,
    fleet: str,
    seed: int | None,
    state: Path,
    duration: float | None,
    speed_factor: float,
) -> None:
    """Drive a fleet through Liechtenstein until interrupted."""

    async def work(stopping: asyncio.Event) -> None:
        await drive_fleet(
            hub,
            _service_token(),
            drivers=drivers,
            standby=standby,
            fleet=fleet,
            state=state,
            stopping=stopping,
            seed=seed,
            pace=speed_factor,
            say=lambda line: click.echo(line),
        )

    _run(work, duration)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_hub
@click.option("--vehicle", default=None, help="Play the file as this vehicle; needs --token.")
@click.option("--token", envvar="TRACKING_DRIVER_TOKEN", help="A driver's token for --vehicle.")
@click.option(
    "--fleet", default="replay", show_default=True, help="Without --vehicle: the fleet to create, with vehicles and trips."
)
@click.option("--speed", default="1.0", show_default=True, help="A factor, or `max`: all at once, with the last fix now.")
@click.option(
    "--longest-gap",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds. A longer gap in which no vehicle reports is cut to this.",
)
def replay(file: Path, hub: str, vehicle: str | None, token: str | None, fleet: str, speed: str, longest_gap: float) -> None:
    """Play a recorded drive (.csv, .csv.gz or .gpx) as if it happened now."""
    if vehicle is not None and token is None:
        raise click.UsageError(
            "--vehicle needs its driver's token in --token; leave it out to make a fleet with a service token"
        )
    factor = _factor(speed)
    try:
        recording = record(file, lambda line: click.echo(line, err=True))
        if vehicle is not None:
            recording = recording.of(vehicle)
        recording = recording.shortened(longest_gap)
    except TrackError as error:
        raise click.ClickException(str(error)) from None

    async def work(stopping: asyncio.Event) -> Summary:
        if vehicle is not None and token is not None:
            clients = {vehicle: DriverClient(hub, MemoryOutbox(), token)}
            return await replay_recording(recording, clients, speed=factor, stopping=stopping)
        return await _replay_own(hub, fleet, recording, factor, stopping)

    summary = _run(work, None)
    click.echo(str(summary))
    if not summary.complete:
        raise SystemExit(1)


@main.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(BENCH_SHAPES), help="Which to run. All by default.")
@click.option(
    "--trips",
    default="1000,2000,4000",
    show_default=True,
    help="Trips in `trips`, comma-separated, one run each. `steps`, `changes` and `hubs` use the largest, `hubs-change` and"
    f" `roll` too, but {CHANGING} and {ROLLING} at most.",
)
@click.option("--idle", type=click.IntRange(100), default=4000, show_default=True, help="Drivers and passengers in `idle`.")
@click.option("--passengers", type=click.IntRange(1), default=1000, show_default=True, help="Those of `popular` and `slow`.")
@click.option("--clients", type=click.IntRange(2), default=2000, show_default=True, help="Clients in `return`.")
@click.option(
    "--fleet",
    default="500,10000",
    show_default=True,
    help="Vehicles in `fleet`, comma-separated, one run each. `hubs-fleet` uses the largest.",
)
@click.option(
    "--vehicles", type=click.IntRange(1000), default=100_000, show_default=True, help="Those of `nearest` and `start`."
)
@click.option(
    "--hubs",
    "hub_counts",
    default="1,2,4",
    show_default=True,
    help="Numbers of hubs that `hubs` compares, comma-separated. `hubs-fleet` takes those up to 2, `roll` the largest up to 3.",
)
@click.option(
    "--positions",
    type=click.IntRange(5000),
    default=20_000_000,
    show_default=True,
    help="Positions in `history`. 20 million take 5 GB and some minutes.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1),
    default=None,
    show_default="15, and 60 in `changes` and `roll`",
    help="Seconds that each run is measured.",
)
@click.option(
    "--settle",
    "settle_seconds",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="Seconds of load before each measurement. 0 for a trial.",
)
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".data/bench.json"),
    show_default=True,
    help="The file for the results.",
)
def bench(
    shapes: tuple[str, ...],
    trips: str,
    idle: int,
    passengers: int,
    clients: int,
    fleet: str,
    vehicles: int,
    hub_counts: str,
    positions: int,
    seconds: float | None,
    settle_seconds: float,
    path: Path,
) -> None:
    """Measure a hub on this machine over real sockets. It starts its own hub and database."""
    counts = {
        "idle": [idle],
        "trips": [int(count) for count in trips.split(",")],
        "steps": [max(int(count) for count in trips.split(","))],
        "popular": [passengers],
        "slow": [passengers],
        "flood": [0],
        "return": [clients],
        "geofences": [1_000],
        "fleet": [int(count) for count in fleet.split(",")],
        "changes": [max(int(count) for count in trips.split(","))],
        "start": [vehicles],
        "hubs": [max(int(count) for count in trips.split(","))],
        "hubs-change": [min(CHANGING, max(int(count) for count in trips.split(",")))],
        "hubs-fleet": [max(int(count) for count in fleet.split(","))],
        "roll": [min(ROLLING, max(int(count) for count in trips.split(",")))],
        "nearest": [vehicles],
        "history": [positions],
    }
    # Imported here, because the drivers' apps do not need it.
    chosen = [(shape, counts[shape]) for shape in shapes or BENCH_SHAPES]
    compared = tuple(int(count) for count in hub_counts.split(","))
    conditions = import_module("driver_sim.bench.environment").Conditions(settle_seconds, hubs=compared)
    import_module("driver_sim.bench.run").run(chosen, seconds, path, conditions)


@main.command()
@click.option("--vehicles", type=click.IntRange(10_000), default=10_000_000, show_default=True, help="Vehicles of all.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same result.")
@click.option(
    "--assumptions", "shows_assumptions", is_flag=True, help="Print each assumption with its source, and simulate nothing."
)
def simulate(vehicles: int, seed: int, shows_assumptions: bool) -> None:
    """Simulate millions of vehicles on many hubs, and print what falls on each hub, link and database."""
    # Imported here, because the drivers' apps do not need numpy.
    import_module("driver_sim.scale.command").run(vehicles, seed, shows_assumptions)


async def _replay_own(hub: str, fleet: str, recording: Recording, speed: float | None, stopping: asyncio.Event) -> Summary:
    async with (
        Backend(hub, _service_token(), attempts=8) as backend,
        own_fleet(backend, hub, fleet, recording, lambda line: click.echo(line, err=True), stopping) as clients,
    ):
        return await replay_recording(recording, clients, speed=speed, stopping=stopping)


def _factor(speed: str) -> float | None:
    if speed == "max":
        return None
    try:
        factor = float(speed)
    except ValueError:
        factor = 0.0
    if not 0.01 <= factor <= 1000.0:
        raise click.BadParameter(f"a factor from 0.01 to 1000, or max; got {speed!r}", param_hint="--speed")
    return factor


def _service_token() -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise click.UsageError(f"{TOKEN_VARIABLE} is not set; make a token with `tracking token --role service` and export it")
    return token


def _run(work: Callable[[asyncio.Event], Coroutine[Any, Any, Result]], duration: float | None) -> Result:
    """Run `work(stopping)`. SIGINT, SIGTERM and the end of `duration` set the event. Known failures become one line."""

    async def run() -> Result:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        if duration is not None:
            loop.call_later(duration, stopping.set)
        return await work(stopping)

    try:
        return asyncio.run(run())
    except (BackendError, StoreError, Interrupted) as error:
        raise click.ClickException(str(error)) from None
    except httpx.TransportError as error:
        raise click.ClickException(f"the hub can't be reached: {error or type(error).__name__}; is it running?") from None
