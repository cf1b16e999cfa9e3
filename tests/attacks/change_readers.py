"""1,000 readers of the changes of 50 fleets, half of them held answers and half streams: how long until all have a change.

    python -m tests.attacks.change_readers [--readers 1000] [--fleets 50] [--rounds 20]

It brings a database and a hub of its own, on the loopback.
"""

import argparse
import asyncio
import json
import math
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.clients import Api, token
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster
from tracking.store.migrations import migrate


class Crowd:
    """Readers by raw sockets, so that what is measured is the hub and not the clients."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.told: dict[int, float] = {}
        self.wanted: dict[str, int] = {}
        self.all_told = asyncio.Event()
        self.expected = 0
        self.connected = 0
        self.lines: list[asyncio.StreamWriter] = []

    def heard(self, reader: int, change: dict[str, str]) -> None:
        """Notes how long ago it was committed, by the clock that all share here."""
        if reader not in self.told:
            self.told[reader] = time.time() - datetime.fromisoformat(change["timestamp"]).timestamp()
            if len(self.told) >= self.expected:
                self.all_told.set()

    async def stream(self, reader: int, fleet_id: str) -> None:
        incoming, outgoing = await asyncio.open_connection("127.0.0.1", self.hub.port)
        self.lines.append(outgoing)
        outgoing.write(self._head(fleet_id, "", "text/event-stream"))
        status = await incoming.readline()
        if not status:
            return await self.stream(reader, fleet_id)
        assert status.startswith(b"HTTP/1.1 200"), status
        while line := await incoming.readline():
            if line.startswith(b"retry:"):
                self.connected += 1
            elif line.startswith(b"data:"):
                self.heard(reader, json.loads(line[5:]))
            elif line.startswith(b"event: end"):
                raise ConnectionError("ended")

    async def poll(self, reader: int, fleet_id: str, after: int) -> None:
        incoming, outgoing = await asyncio.open_connection("127.0.0.1", self.hub.port)
        self.lines.append(outgoing)
        self.connected += 1
        while True:
            outgoing.write(self._head(fleet_id, f"?after={after}&wait=30", "application/json"))
            try:
                head = await incoming.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                # This process was so slow that the connection was closed as idle.
                incoming, outgoing = await asyncio.open_connection("127.0.0.1", self.hub.port)
                self.lines.append(outgoing)
                continue
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            answer = json.loads(await incoming.readexactly(length))
            after = answer["last"]
            if answer["changes"]:
                self.heard(reader, answer["changes"][-1])

    def _head(self, fleet_id: str, query: str, accept: str) -> bytes:
        bearer = token("dispatcher", fleet_id)
        return (
            f"GET /v1/fleets/{fleet_id}/changes{query} HTTP/1.1\r\nHost: hub\r\nAccept: {accept}\r\n"
            f"Authorization: Bearer {bearer}\r\n\r\n"
        ).encode()


def memory_of(hub: HubProcess) -> float:
    """MB of the hub's process."""
    assert hub.process is not None
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def of(values: list[float], share: float) -> str:
    """So many of the values, in ms, are at most this."""
    found = sorted(values)[min(len(values) - 1, math.ceil(len(values) * share) - 1)]
    return f"p{share * 100:.0f} {found * 1000:.1f}"


async def measure(hub: HubProcess, readers: int, fleets: int, rounds: int) -> None:
    async with Api(hub.url) as api:
        fleet_ids = [await api.fleet() for _ in range(fleets)]
        begin = (await api.call("GET", f"/fleets/{fleet_ids[0]}/changes"))["last"]
        print(f"memory before: {memory_of(hub):.1f} MB")
        crowd = Crowd(hub)
        tasks = []
        for reader in range(readers):
            fleet_id = fleet_ids[reader // 2 % fleets]
            work = crowd.stream(reader, fleet_id) if reader % 2 else crowd.poll(reader, fleet_id, begin)
            tasks.append(asyncio.create_task(work))
            # Some at a time: on a busy machine a connection would be closed before its request has come.
            async with asyncio.timeout(60):
                while crowd.connected < reader - 20:
                    await asyncio.sleep(0.01)
                    failed = [task.exception() for task in tasks if task.done()]
                    assert not failed, failed[:3]
        await asyncio.sleep(2)
        print(f"memory with {readers} readers: {memory_of(hub):.1f} MB")
        each: list[float] = []
        until_all: list[float] = []
        for _ in range(rounds):
            crowd.told.clear()
            crowd.all_told.clear()
            crowd.expected = readers
            await asyncio.gather(*(api.vehicle(fleet_id) for fleet_id in fleet_ids))
            async with asyncio.timeout(30):
                await crowd.all_told.wait()
            until_all.append(max(crowd.told.values()))
            each += crowd.told.values()
            await asyncio.sleep(0.3)
        print(f"{fleets} changes at once, from each one's COMMIT to each of its readers, in ms:", of(each, 0.5), of(each, 0.99))
        print(f"… to the last of the {readers} readers:", of(until_all, 0.5), of(until_all, 0.99))
        each, until_all = [], []
        for number in range(rounds):
            fleet_id = fleet_ids[number % fleets]
            crowd.told.clear()
            crowd.all_told.clear()
            crowd.expected = sum(reader // 2 % fleets == number % fleets for reader in range(readers))
            await api.vehicle(fleet_id)
            async with asyncio.timeout(30):
                await crowd.all_told.wait()
            until_all.append(max(crowd.told.values()))
            each += crowd.told.values()
        print(f"one change, from COMMIT to each of {crowd.expected} readers, in ms:", of(each, 0.5), of(each, 0.99))
        print("… to the last of them:", of(until_all, 0.5), of(until_all, 0.99))
        print(f"memory after {rounds} rounds: {memory_of(hub):.1f} MB")
        failed = [task.exception() for task in tasks if task.done()]
        assert not failed, failed[:3]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in crowd.lines:
            line.close()
        async with asyncio.timeout(30):
            while (
                "tracking_change_readers 0.0"
                not in (await api.http.get(f"{hub.url}/metrics", headers={"Authorization": f"Bearer {token('service')}"})).text
            ):
                await asyncio.sleep(0.1)
        print(f"memory when they have gone: {memory_of(hub):.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, default in (("readers", 1_000), ("fleets", 50), ("rounds", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory) / "pg", die_with_parent=True)
        cluster.start()
        try:
            cluster.create_database("readers")
            asyncio.run(migrate(cluster.url("readers")))
            hub = HubProcess(cluster.url("readers"), Path(directory) / "log").start()
            try:
                asyncio.run(measure(hub, given.readers, given.fleets, given.rounds))
            except BaseException:
                print(hub.log.read_text()[-2_000:])
                raise
            finally:
                hub.stop()
        finally:
            cluster.remove()


if __name__ == "__main__":
    main()
