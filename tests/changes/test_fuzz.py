import os

from tests.changes.judge import judge
from tests.changes.world import Station, World

async def test_fuzz(database_url: str) -> None:
    first, count = int(os.environ.get("FIRST", 0)), int(os.environ.get("COUNT", 20))
    import time
    bad = 0
    t0 = time.time()
    async with Station(database_url, f"{first}") as station:
        for n in range(first, first + count):
            t = [time.time()]
            async with World(station, f"seed {n}") as world:
                t.append(time.time())
                await world.live(40)
                t.append(time.time())
                await world.come_to_rest()
                t.append(time.time())
                wrongs = await judge(world)
                t.append(time.time())
            t.append(time.time())
            if os.environ.get("TIMES"):
                print([round(b - a, 3) for a, b in zip(t, t[1:])])
            if wrongs:
                bad += 1
                print(f"--- seed {n}")
                if os.environ.get("VERBOSE"):
                    print(*world.done, sep="\n")
                print(*wrongs[:6], sep="\n")
    print(f"{bad} bad of {count}, {(time.time() - t0) / count:.3f} s each")
    assert not bad
