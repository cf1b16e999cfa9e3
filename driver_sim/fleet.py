"""The demo's vehicles and where they are at home."""

import random

from driver_sim.roads import Point
from tracking.model import Vehicle

VADUZ: Point = (47.141, 9.521)

#: Villages the vehicles are spread over, and how far around each they look for passengers (metres).
HOMES: tuple[tuple[str, Point, float], ...] = (
    ("Vaduz", VADUZ, 1500.0),
    ("Schaan", (47.165, 9.509), 1500.0),
    ("Triesen", (47.107, 9.528), 1500.0),
    ("Balzers", (47.066, 9.502), 1500.0),
    ("Eschen", (47.211, 9.522), 1500.0),
    ("Mauren", (47.218, 9.544), 1500.0),
    ("Triesenberg", (47.118, 9.543), 1500.0),
    ("Ruggell", (47.238, 9.527), 1500.0),
    ("Gamprin", (47.220, 9.508), 1500.0),
    ("Nendeln", (47.197, 9.543), 1500.0),
    ("Schellenberg", (47.231, 9.546), 1500.0),
)

_KINDS = (
    ("car", ("VW Passat", "Skoda Octavia", "Tesla Model 3", "Toyota Prius", "Mercedes E 200", "Volvo V60")),
    ("van", ("VW Caravelle", "Mercedes Vito", "Ford Tourneo", "Renault Trafic")),
    ("bus", ("Mercedes Sprinter", "Iveco Daily")),
)
_COLOURS = ("white", "silver", "black", "blue", "red", "green", "grey")


def vehicles(fleet_id: str, count: int, rng: random.Random) -> list[Vehicle]:
    """`<fleet>-01`, `<fleet>-02`, …, each with a model, a kind and a plate of its own."""
    plates = rng.sample(range(1_000, 47_000), count)
    chosen = []
    for number, plate in enumerate(plates, start=1):
        kind, models = rng.choices(_KINDS, weights=(7, 2, 1))[0]
        if number == 1:
            kind, models = _KINDS[0]
        name = f"{rng.choice(models)} {rng.choice(_COLOURS)}"
        chosen.append(Vehicle(f"{fleet_id}-{number:02d}", fleet_id, name, kind, f"FL {plate}"))
    return chosen
