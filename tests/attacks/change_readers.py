"""1,000 readers of the changes of 50 fleets, half by long polling and half by a stream: how soon all have a change.

    python -m tests.attacks.change_readers [--readers 1000] [--fleets 50] [--rounds 20]

It starts its own database and hub on the loopback.
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
    """Readers with raw sockets, which cost less than HTTP clients."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.told: dict[int, float] = {}
        self.all_told = asyncio.Event()
        self.expected = 0
        self.connected = 0
        self.lines: list[asyncio.StreamWriter] = []

    def expect(self, readers: int) -> None:
        """Forget who was told, and wait for so many."""
        self.told.clear()
        self.all_told.clear()
        self.expected = readers

    async def last_told(self) -> float:
        """Wait until all are told. Returns the seconds from COMMIT to the last of them."""
        async with asyncio.timeout(30):
            await self.all_told.wait()
        return max(self.told.values())

    def receive(self, reader: int, change: dict[str, str]) -> None:
        """Note how long ago it was committed. All processes here share one clock."""
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
                self.receive(reader, json.loads(line[5:]))
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
                # This process was too slow, and the hub closed the connection as idle.
                incoming, outgoing = await asyncio.open_connection("127.0.0.1", self.hub.port)
                self.lines.append(outgoing)
                continue
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            answer = json.loads(await incoming.readexactly(length))
            after = answer["last"]
            if answer["changes"]:
                self.receive(reader, answer["changes"][-1])

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
    """The quantile of the values, in ms."""
    found = sorted(values)[min(len(values) - 1, math.ceil(len(values) * share) - 1)]
    return f"p{share * 100:.0f} {found * 1000:.1f}"


async def measure(hub: HubProcess, readers: int, fleets: int, rounds: int) -> None:
    async with Api(hub.url) as api:
        fleet_ids = [await api.fleet() for _ in range(fleets)]
        begin = (await api.call("GET", f"/fleets/{fleet_ids[0]}/changes"))["last"]
        print(f"memory before: {memory_of(hub):.1f} MB")
        crowd = Crowd(hub)
        tasks = await _connect(crowd, fleet_ids, readers, begin)
        await asyncio.sleep(2)
        print(f"memory with {readers} readers: {memory_of(hub):.1f} MB")
        await _change_all(crowd, api, fleet_ids, readers, rounds)
        await _change_one(crowd, api, fleet_ids, readers, rounds)
        print(f"memory after {rounds} rounds: {memory_of(hub):.1f} MB")
        _check(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for line in crowd.lines:
            line.close()
        headers = {"Authorization": f"Bearer {token('service')}"}
        async with asyncio.timeout(30):
            while "tracking_change_readers 0.0" not in (await api.http.get(f"{hub.url}/metrics", headers=headers)).text:
                await asyncio.sleep(0.1)
        print(f"memory when they have left: {memory_of(hub):.1f} MB")


async def _connect(crowd: Crowd, fleet_ids: list[str], readers: int, begin: int) -> list[asyncio.Task[None]]:
    """Half of the readers ask with `wait`, half read a stream."""
    tasks: list[asyncio.Task[None]] = []
    for reader in range(readers):
        fleet_id = fleet_ids[reader // 2 % len(fleet_ids)]
        work = crowd.stream(reader, fleet_id) if reader % 2 else crowd.poll(reader, fleet_id, begin)
        tasks.append(asyncio.create_task(work))
        # Only some connect at a time. On a busy machine the hub would close a connection before its request arrives.
        async with asyncio.timeout(60):
            while crowd.connected < reader - 20:
                await asyncio.sleep(0.01)
                _check(tasks)
    return tasks


async def _change_all(crowd: Crowd, api: Api, fleet_ids: list[str], readers: int, rounds: int) -> None:
    """A change in every fleet at once."""
    each: list[float] = []
    until_all: list[float] = []
    for _ in range(rounds):
        crowd.expect(readers)
        await asyncio.gather(*(api.vehicle(fleet_id) for fleet_id in fleet_ids))
        until_all.append(await crowd.last_told())
        each += crowd.told.values()
        await asyncio.sleep(0.3)
    print(f"{len(fleet_ids)} changes at once, from COMMIT to each of its readers, in ms:", of(each, 0.5), of(each, 0.99))
    print(f"… to the last of the {readers} readers:", of(until_all, 0.5), of(until_all, 0.99))


async def _change_one(crowd: Crowd, api: Api, fleet_ids: list[str], readers: int, rounds: int) -> None:
    """A change in one fleet after the other."""
    fleets = len(fleet_ids)
    each: list[float] = []
    until_all: list[float] = []
    for number in range(rounds):
        crowd.expect(sum(reader // 2 % fleets == number % fleets for reader in range(readers)))
        await api.vehicle(fleet_ids[number % fleets])
        until_all.append(await crowd.last_told())
        each += crowd.told.values()
    print(f"one change, from COMMIT to each of {crowd.expected} readers, in ms:", of(each, 0.5), of(each, 0.99))
    print("… to the last of them:", of(until_all, 0.5), of(until_all, 0.99))


def _check(tasks: list[asyncio.Task[None]]) -> None:
    failed = [task.exception() for task in tasks if task.done()]
    assert not failed, failed[:3]


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
