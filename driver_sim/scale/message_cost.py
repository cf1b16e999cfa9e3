"""What messages between hubs cost: `python -m driver_sim.scale.message_cost`. It needs `nats-server` and some 40 s.

Each case is a sender and receivers in processes of their own, with the code that hubs use. CPU is what the system counts.
"""

import asyncio
import itertools
import multiprocessing
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvloop

from tracking.broker_settings import BrokerSettings
from tracking.nodes.nats_backplane import NatsBackplane

FLUSH_SECONDS = 0.04
BEGIN_SECONDS = 2.0
MEASURED_SECONDS = 8.0


@dataclass(frozen=True)
class Case:
    """`messages` of `size` bytes in each flush, all at once or `spread` over it, to one hub or `apart` to one hub each."""

    title: str
    messages: int
    size: int = 2_000
    spread: bool = False
    apart: bool = False


CASES = (
    Case("1 in each flush", 1),
    Case("39 in each flush, at once", 39),
    Case("100 in each flush, at once", 100),
    Case("39 in each flush, one by one", 39, spread=True),
    Case("39 in each flush, each to another hub", 39, apart=True),
)


def main() -> None:
    program = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        raise SystemExit("nats-server is missing: `make install` brings it into .venv")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([program, "--addr", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        print(f"{'CPU, % of a core':42}{'sender':>8}{'receiver':>10}{'server':>8}")
        for case in CASES:
            sender, receiver, broker = _measure(case, port, server.pid)
            print(f"{case.title:42}{sender:8.1f}{receiver:10.1f}{broker:8.1f}", flush=True)
    finally:
        server.terminate()
        server.wait()


def _measure(case: Case, port: int, server: int) -> tuple[float, float, float]:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(case, port), daemon=True) for work in (receive, send)]
    for process in processes:
        process.start()
    time.sleep(2 * BEGIN_SECONDS)
    watched = [psutil.Process(pid) for pid in (processes[1].pid, processes[0].pid, server)]
    before, began = [_cpu(each) for each in watched], time.monotonic()
    time.sleep(MEASURED_SECONDS)
    seconds = time.monotonic() - began
    shares = [(_cpu(each) - cpu) / seconds * 100 for each, cpu in zip(watched, before, strict=True)]
    for process in processes:
        process.terminate()
        process.join()
    return shares[0], shares[1], shares[2]


def send(case: Case, port: int) -> None:
    async def run() -> None:
        backplane, task = _connect("sender", port)
        await asyncio.sleep(BEGIN_SECONDS)
        names = itertools.cycle([f"hub{number}" for number in range(_receivers(case))])
        data = bytes(case.size)
        due = time.monotonic()
        while not task.done():
            for _ in range(case.messages):
                await backplane.send(next(names), data)
                if case.spread:
                    due += FLUSH_SECONDS / case.messages
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not case.spread:
                due += FLUSH_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    uvloop.run(run())


def receive(case: Case, port: int) -> None:
    async def run() -> None:
        await asyncio.gather(*(_connect(f"hub{number}", port)[1] for number in range(_receivers(case))))

    uvloop.run(run())


def _receivers(case: Case) -> int:
    return case.messages if case.apart else 1


def _connect(name: str, port: int) -> tuple[NatsBackplane, "asyncio.Task[None]"]:
    async def cluster() -> str:
        return "cost"

    settings = BrokerSettings.model_validate({"nats_url": f"nats://127.0.0.1:{port}"})
    backplane = NatsBackplane(settings, cluster)
    receiving = backplane.run(name, beat=lambda _: None, packet=lambda _: None, changed=lambda: None)
    return backplane, asyncio.create_task(receiving)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
