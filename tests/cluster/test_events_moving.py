"""Events of a vehicle that changes hubs in a geofence: the geofence changes too, its home dies, or it changes with each fix."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.clients import Api, Driver, Message, fix, now_ms
from tests.support.devices import until
from tests.support.geofence_drives import ELSEWHERE, INSIDE, OUTSIDE, YARD, listed, put_fence, quiet_fleet
from tests.support.hub_in_process import World
from tests.support.hubs_in_process import Hubs, hubs
from tracking.cluster.hand_over_answers import HandOverAnswers
from tracking.errors import StoreUnavailable
from tracking.nodes.messages import HandOver, Notice

STEP_MS = 60_000


@pytest.fixture
async def three(database_url: str) -> AsyncIterator[Hubs]:
    async with hubs(database_url, 3, commit_interval=0, stop_timeout=0.5) as made:
        yield made


class Way:
    """One vehicle, whose driver says hello to a hub for some fixes. All fixes are a minute apart, the last one is now."""

    def __init__(self, made: Hubs, api: Api, fleet_id: str, van: str, fixes: int) -> None:
        self.made = made
        self.api = api
        self.fleet_id = fleet_id
        self.van = van
        self._begin = now_ms() - fixes * STEP_MS
        self.seq = 0
        self.session: str | None = None
        self.dead: World | None = None

    @classmethod
    async def new(cls, made: Hubs, api: Api, fixes: int = 50) -> "Way":
        fleet_id = await quiet_fleet(api)
        return cls(made, api, fleet_id, await api.vehicle(fleet_id), fixes)

    def time(self, seq: int) -> int:
        return self._begin + seq * STEP_MS

    def fixes(self, *places: Message) -> list[Message]:
        """The next fixes."""
        made = []
        for place in places:
            self.seq += 1
            made.append(self.fix(self.seq, place))
        return made

    def fix(self, seq: int, place: Message) -> Message:
        # A position that is repeated exactly is a frozen receiver's.
        moved = {**place, "latitude": place["latitude"] + seq * 1e-5}
        return fix(seq, fix_time=self.time(seq), **moved)

    async def at(self, hub: World, *places: Message) -> None:
        """Reports the places to this hub, one after the other, and waits until all are acknowledged."""
        async with Driver(hub.url, self.van, self.session) as driver:
            self.session = driver.session
            for one in self.fixes(*places):
                await driver.report(one)
            await driver.acknowledged(self.seq)

    async def told(self, *expected: tuple[str, str, int]) -> None:
        """Waits until exactly these events are listed: kind, geofence, and the number of the fix."""
        wanted = sorted((kind, geofence_id, self.time(seq)) for kind, geofence_id, seq in expected)

        async def are_there() -> bool:
            return len(await self._listed()) >= len(wanted)

        with contextlib.suppress(AssertionError):
            await until(are_there, f"{len(wanted)} events", 10.0)  # what is missing is said below
        for world in self.made:
            if world is not self.dead:
                await world.service.monitor.flush()
        assert await self._listed() == wanted

    async def _listed(self) -> list[tuple[str, str, int]]:
        events = await listed(self.api, self.fleet_id)
        return sorted((event["kind"], event.get("geofence_id", ""), event["fix_time"]) for event in events)


async def _knows(world: World, fleet_id: str, condition: Callable[[dict[str, Any]], bool], failure: str) -> None:
    fences = world.service.monitor.fences
    await until(lambda: condition(fences.of(fleet_id).by_id), failure)


async def test_a_geofence_is_edited_and_one_deleted_while_a_vehicle_changes_hubs_inside(three: Hubs) -> None:
    one, other, third = three
    async with Api(one.url) as api, Api(third.url) as elsewhere:
        way = await Way.new(three, api)
        for world in three:
            assert await world.service.loader.load(way.fleet_id) is not None
        for geofence_id in ("kept", "moved", "gone"):
            await put_fence(api, way.fleet_id, YARD, geofence_id, dwell_after=150)
        await way.at(one, OUTSIDE, INSIDE)
        # While it is between two hubs.
        await put_fence(elsewhere, way.fleet_id, YARD, "kept", dwell_after=150, name="another name")
        await elsewhere.call("DELETE", f"/fleets/{way.fleet_id}/geofences/gone", expect=204)
        await way.at(other, INSIDE)
        # And while it is connected to one that is not asked: its home compares where it stands, and nobody else does.
        async with Driver(other.url, way.van, way.session):
            await put_fence(elsewhere, way.fleet_id, ELSEWHERE, "moved")
            await _knows(other, way.fleet_id, lambda by_id: by_id["moved"].shape.bounds[0] > 10, "it is moved")
            await put_fence(elsewhere, way.fleet_id, YARD, "new", dwell_after=1e6)
            await _knows(other, way.fleet_id, lambda by_id: "new" in by_id, "it is there")
        await way.at(third, INSIDE, INSIDE, OUTSIDE)
        await way.told(
            *(("enter", geofence_id, 2) for geofence_id in ("gone", "kept", "moved")),
            ("exit", "moved", 3),
            ("enter", "new", 3),
            ("dwell", "kept", 5),
            ("exit", "kept", 6),
            ("exit", "new", 6),
        )


async def test_a_vehicle_that_changes_hubs_with_each_fix_tells_each_crossing_once(three: Hubs) -> None:
    async with Api(three[0].url) as api:
        way = await Way.new(three, api)
        await put_fence(api, way.fleet_id)
        places = [INSIDE if number % 4 in (1, 2) else OUTSIDE for number in range(36)]
        for number, place in enumerate(places):
            await way.at(three[number % 3], place)
        crossings = [n for n in range(1, len(places)) if places[n] is not places[n - 1]]
        await way.told(*(("enter" if places[n] is INSIDE else "exit", "yard", n + 1) for n in crossings))


async def test_two_devices_of_one_vehicle_on_two_hubs_tell_each_crossing_once(three: Hubs) -> None:
    one, other, third = three
    async with Api(one.url) as api:
        way = await Way.new(three, api)
        await put_fence(api, way.fleet_id)
        devices = [(one, [OUTSIDE, INSIDE]), (other, [INSIDE, OUTSIDE]), (third, [OUTSIDE, INSIDE]), (one, [OUTSIDE])]
        older: Driver | None = None
        for hub, places in devices:
            # Each is another session. The one before is connected still, and is sent away.
            fixes = way.fixes(*places)
            driver = Driver(hub.url, way.van)
            await driver.__aenter__()
            for number, one_fix in enumerate(fixes, 1):
                await driver.report({**one_fix, "seq": number})
            await driver.acknowledged(len(fixes))
            if older is not None:
                assert await older.closed() == 4409
            older = driver
        assert older is not None
        await older.connection.close()
        await way.told(("enter", "yard", 2), ("exit", "yard", 4), ("enter", "yard", 6), ("exit", "yard", 7))


@pytest.mark.parametrize("when", ["before its commit", "before its answer", "after its answer"])
async def test_a_home_that_dies_while_it_hands_over_loses_nothing_that_was_acknowledged(
    three: Hubs, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other, _ = three
    async with Api(other.url) as api:
        way = await Way.new(three, api)
        await put_fence(api, way.fleet_id)
        await way.at(home, OUTSIDE, INSIDE, OUTSIDE)
        async with Driver(home.url, way.van, way.session) as driver:
            # It tells no event any more, and acknowledges one fix more.
            way.dead = home
            _store_no_events(home)
            await driver.report(*way.fixes(INSIDE))
            await driver.acknowledged(way.seq)
            if when == "before its commit":
                _store_nothing(home)
                monkeypatch.setattr(HandOverAnswers, "_commit", _for_ever)
            elif when == "before its answer":
                _say_nothing(home)
            await driver.report(*way.fixes(OUTSIDE, INSIDE))
            async with Driver(other.url, way.van, way.session) as again:
                assert again.handled >= 4
                assert (when == "before its commit") is (again.handled == 4)
                sent = [way.fix(seq, OUTSIDE if seq % 2 else INSIDE) for seq in range(again.handled + 1, 8)]
                way.seq = 7
                await again.report(*sent)
                await again.acknowledged(7)
        await way.told(
            *(("enter" if seq % 2 == 0 else "exit", "yard", seq) for seq in range(2, 8)),
        )


def _store_no_events(world: World) -> None:
    async def never(_: object) -> list[Any]:
        await asyncio.Event().wait()
        return []

    world.service.events._number = never  # type: ignore[assignment]


def _store_nothing(world: World) -> None:
    async def fail(*_: object) -> int:
        raise StoreUnavailable("dead")

    world.service.recorder._store = fail  # type: ignore[method-assign, assignment]


def _say_nothing(world: World) -> None:
    tell = world.service.nodes.tell

    def told(peer: str, notice: Notice) -> None:
        if not isinstance(notice, HandOver):
            tell(peer, notice)

    world.service.nodes.tell = told  # type: ignore[method-assign]


async def _for_ever(*_: object) -> None:
    await asyncio.Event().wait()
