"""Simulated drives over Liechtenstein's roads, with the faults of the messy stream. They need no data from outside.

`test_the_messy_stream` checks the filters on real tracks, which can't be part of this repository.
"""

import itertools
import random
from collections.abc import Iterator

from driver_sim.motion import Motion
from driver_sim.receiver import Receiver
from driver_sim.roads import RoadGraph
from tests.support.messy import Arrival, Truth, score

START = 1_800_000_000_000
DRIVES = 15
INTERVAL = 5.0
"""Seconds between two fixes."""
FAULTS = ("null_island", "swapped", "bad_clock", "jump", "invalid")
FAULTY = 0.05
"""The share of messages with a fault."""


def test_the_filters_find_the_faults_in_drives_over_real_roads() -> None:
    tally = score(drives(random.Random(1)))
    print(f"\n{tally}")
    assert min(tally.messages[fault] for fault in FAULTS) > 10
    assert tally.missed("null_island") == tally.missed("swapped") == tally.missed("invalid") == 0
    assert tally.missed("bad_clock") <= 1
    assert tally.share_caught("jump") >= 0.8
    assert tally.share_doubted <= 0.01
    assert tally.share_near() >= 0.995
    assert tally.messages["ok"] > 1_500


def drives(rng: random.Random) -> Iterator[Arrival]:
    """The messages of all drives, one drive after the other."""
    graph = RoadGraph.load()
    nodes = sorted(graph.nodes)
    messages = itertools.count(1)
    for session in range(1, DRIVES + 1):
        motion = Motion(graph.route(*rng.sample(nodes, 2)), haste=rng.uniform(0.8, 1.0))
        receiver = Receiver(rng)
        for seq in range(1, int(motion.duration / INTERVAL) + 2):
            moment = motion.at((seq - 1) * INTERVAL)
            reading = receiver.read(moment, INTERVAL)
            now = START + round((seq - 1) * INTERVAL * 1000)
            # The first fixes of a drive are right, so that the filters know the place.
            fault = rng.choice(FAULTS) if seq > 5 and rng.random() < FAULTY else "ok"
            latitude, longitude, fix_time = spoilt(rng, fault, reading.latitude, reading.longitude, now)
            yield Arrival(
                message=next(messages),
                now=now,
                leg=f"drive-{session}",
                session=session,
                seq=seq,
                repeat=False,
                fix_time=fix_time,
                latitude=latitude,
                longitude=longitude,
                truth=Truth(fault, "", False, moment.speed, moment.latitude, moment.longitude, now),
            )


def spoilt(
    rng: random.Random, fault: str, latitude: float, longitude: float, time: int
) -> tuple[float | None, float | None, int]:
    """Latitude, longitude and fix time of a message with this fault."""
    match fault:
        case "null_island":
            return 0.0, 0.0, time
        case "swapped":
            return longitude, latitude, time
        case "bad_clock":
            return latitude, longitude, time + rng.choice([-7 * 86_400_000, -3_600_000, 3_600_000, 86_400_000])
        case "jump":
            # 0.5 to 5 km to the north or south.
            return latitude + rng.choice([-1, 1]) * rng.uniform(0.0045, 0.045), longitude, time
        case "invalid":
            return rng.choice([None, 95.1]), longitude, time
        case _:
            return latitude, longitude, time
