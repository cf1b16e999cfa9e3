"""When a hub drains, how evenly, and what the others and its clients are told: hubs in this process."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.changes import streaming
from tests.support.clients import PLAIN, Api, Driver, Socket, token
from tests.support.devices import until
from tests.support.hub_in_process import World
from tests.support.hubs_in_process import Hubs, a_vehicle, hubs
from tracking import life
from tracking.auth import Principal, Role
from tracking.drain import Drain
from tracking.errors import CloseCode

SECONDS = 0.8


class FakeDoor:
    """Notes what was done with it."""

    def __init__(self, *, shared: bool = True) -> None:
        self.shared = shared
        self.done: list[str] = []

    async def last_answers(self) -> None:
        self.done.append("last answers")

    async def close(self, seconds: float) -> None:
        self.done.append("closed")


class FakeLink:
    """A connection that ends as soon as it is closed."""

    def __init__(self, world: World, number: int) -> None:
        role = Role.DRIVER if number % 3 == 0 else Role.PASSENGER
        self.principal = Principal(role, f"subject-{number}", f"jti-{number}", 2**60)
        self.closed: float | None = None
        self.code: CloseCode | None = None
        self._links = world.service.hub.links
        self._links.opened(self.principal.jti, self)

    def close(self, code: CloseCode) -> None:
        self.closed, self.code = time.monotonic(), code
        self._links.closed(self.principal.jti, self)


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Hubs]:
    async with hubs(database_url, drain_seconds=SECONDS) as two:
        yield two


def _open(world: World, count: int) -> list[FakeLink]:
    return [FakeLink(world, number) for number in range(count)]


def _drain(world: World) -> Drain:
    return Drain(lambda: world.service)


async def test_clients_are_closed_evenly_with_drivers_and_readers_mixed(two: Hubs) -> None:
    one, other = two
    links = _open(one, 300)
    began = time.monotonic()
    await _drain(one).run(FakeDoor())
    assert {link.code for link in links} == {CloseCode.GOING_DOWN}
    ends = sorted(link.closed - began for link in links if link.closed is not None)
    # The last tenth is for asks that come late.
    for share in (0.25, 0.5, 0.75, 1.0):
        assert ends[int(share * 299)] == pytest.approx(share * SECONDS * 0.9, abs=0.25)
    first = [link for link in links if link.closed is not None and link.closed - began < SECONDS / 2]
    drivers = sum(link.principal.role is Role.DRIVER for link in first)
    assert 0.15 < drivers / len(first) < 0.5
    assert other.service.hub.links.count == 0


async def test_few_clients_need_no_long_drain(two: Hubs) -> None:
    links = _open(two[0], 2)
    began = time.monotonic()
    await _drain(two[0]).run(FakeDoor())
    assert all(link.closed is not None and link.closed - began < SECONDS / 2 for link in links)


async def test_a_hub_that_is_alone_closes_nobody_by_and_by(database_url: str) -> None:
    async with hubs(database_url, 1, drain_seconds=SECONDS) as [one]:
        links, door = _open(one, 10), FakeDoor()
        await _drain(one).run(door)
        assert door.done == []
        assert not one.service.hub.draining
        assert [link.closed for link in links] == [None] * 10


async def test_without_seconds_there_is_no_drain(database_url: str) -> None:
    async with hubs(database_url, drain_seconds=0) as [one, _]:
        links = _open(one, 1)
        await _drain(one).run(FakeDoor())
        assert links[0].closed is None


async def test_when_all_stop_at_once_nobody_drains_to_the_end(two: Hubs) -> None:
    links = [_open(world, 300) for world in two]
    began = time.monotonic()
    await asyncio.gather(*(_drain(world).run(FakeDoor()) for world in two))
    assert time.monotonic() - began < SECONDS / 2
    assert all(sum(link.closed is None for link in some) > 150 for some in links)


async def test_a_second_signal_ends_the_drain(two: Hubs) -> None:
    drain, links = _drain(two[0]), _open(two[0], 300)
    draining = asyncio.create_task(drain.run(FakeDoor()))
    await until(lambda: any(link.closed is not None for link in links), "the first slice is closed")
    drain.end_now()
    began = time.monotonic()
    await draining
    assert time.monotonic() - began < 0.4
    assert any(link.closed is None for link in links)
    assert drain.is_over


async def test_a_hub_whose_task_failed_does_not_drain(two: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "failed", {"recorder"})
    door = FakeDoor()
    await _drain(two[0]).run(door)
    assert door.done == []


async def test_a_fault_in_the_drain_does_not_keep_the_hub_from_storing_what_it_has(
    two: Hubs, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeDoor):
        async def close(self, seconds: float) -> None:
            raise RuntimeError("it jams")

    drain = _drain(two[0])
    await drain.run(Broken())
    assert drain.is_over
    assert "it jams" in caplog.text


async def test_with_a_socket_of_its_own_it_goes_on_to_listen_for_a_while(two: Hubs) -> None:
    links, door = _open(two[0], 30), FakeDoor(shared=False)
    began = time.monotonic()
    await _drain(two[0]).run(door)
    assert door.done == ["last answers", "closed"]
    assert all(link.closed is not None and link.closed - began >= SECONDS / 4 for link in links)


async def test_a_draining_hub_says_so_at_once_to_everybody(two: Hubs) -> None:
    one, other = two
    van = await a_vehicle(one)
    links, drain = _open(one, 300), _drain(one)
    async with Driver(one.url, van) as driver:
        draining = asyncio.create_task(drain.run(FakeDoor()))
        began = time.monotonic()
        await until(lambda: other.service.nodes.peers[one.service.nodes.node.node].draining, "the other hub knows")
        assert time.monotonic() - began < 0.3
        async with httpx.AsyncClient(verify=PLAIN) as http:
            ready = await http.get(f"{one.url}/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "unready")
            assert "being stopped" in ready.json()["reasons"][0]
            fleet_id = (await http.get(f"{one.url}/v1/vehicles/{van}", headers=_service())).json()["fleet_id"]
            stream = await http.get(f"{one.url}/v1/fleets/{fleet_id}/changes?wait=1", headers=_service())
            assert (stream.status_code, stream.json()["error"]["code"]) == (503, "unavailable")
        async with Socket(f"{one.url}/v1/driver", token("driver", van)) as late:
            assert await late.closed() == 1012
        assert await driver.closed() == 1012
        await draining
    assert all(link.closed is not None for link in links)


def _service() -> dict[str, str]:
    return {"Authorization": f"Bearer {token('service')}"}


async def test_a_stream_of_changes_ends_and_goes_on_at_the_other_hub(two: Hubs) -> None:
    one, other = two
    async with Api(one.url) as api, Api(other.url) as elsewhere:
        fleet_id = await api.fleet()
        last = (await api.call("GET", f"/fleets/{fleet_id}/changes"))["last"]
        async with streaming(api, fleet_id, str(last)) as stream:
            await api.vehicle(fleet_id)
            assert (await stream.change())["type"] == "vehicle.changed"
            await _drain(one).run(FakeDoor())
            end = await stream.event()
            assert end is not None and (end[0], end[1]["code"]) == ("end", "unavailable")
            assert await stream.event() is None
        await elsewhere.vehicle(fleet_id)
        async with streaming(elsewhere, fleet_id, stream.last) as stream:
            assert (await stream.change())["type"] == "vehicle.changed"


async def test_a_service_that_is_built_anew_in_the_middle_drains_as_well(two: Hubs) -> None:
    one, other = two
    current = [one]
    links, drain = _open(one, 300), Drain(lambda: current[0].service)
    draining = asyncio.create_task(drain.run(FakeDoor()))
    await until(lambda: any(link.closed is not None for link in links), "the first slice is closed")
    async with hubs(one.database_url, 1) as [anew]:
        current[0] = anew
        await until(lambda: anew.service.hub.draining and anew.service.nodes.draining, "it admits nobody either")
        await draining
    assert not other.service.hub.draining


async def test_while_the_broker_is_away_the_database_says_whether_another_hub_runs(database_url: str) -> None:
    async with hubs(database_url, registered=True, drain_seconds=SECONDS) as two:
        one, _ = two
        await until(lambda: one.service.registry.others_alive() == 1, "the database knows both")
        two.exchange.cut()
        await until(lambda: not one.service.nodes.connected, "the broker is away")
        links = _open(one, 30)
        await _drain(one).run(FakeDoor())
        assert all(link.closed is not None for link in links)
