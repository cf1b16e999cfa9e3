"""The pace of acks: drivers that report steadily get few, and all others get theirs at once."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.support.clients import Api, Driver, fix
from tests.support.hub_process import SECRET, HubProcess
from tests.support.serving import serving
from tracking.app import create_app
from tracking.config import load
from tracking.ingest.acks import MAX_OWED, STEP, Acks, settle
from tracking.ingest.vehicles import Session
from tracking.protocol.driver import Rejected

INTERVAL = 0.3


class Receiver:
    """Records each ack and its time."""

    def __init__(self) -> None:
        self.acks: list[tuple[int, float]] = []

    def acknowledge(self, session: Session, rejected: Sequence[Rejected]) -> None:
        self.acks.append((session.handled, asyncio.get_running_loop().time()))

    @property
    def seqs(self) -> list[int]:
        return [seq for seq, _ in self.acks]


def a_session() -> tuple[Session, Receiver]:
    session, receiver = Session(1, "", 0), Receiver()
    session.receiver = receiver
    return session, receiver


def handle(acks: Acks, session: Session, seq: int, *rejected: Rejected) -> None:
    session.handled = session.seen = seq
    acks.handled(session, rejected)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_first_ack_is_sent_at_once_and_the_next_covers_all_until_then() -> None:
    acks, (session, receiver) = Acks(INTERVAL), a_session()
    handle(acks, session, 1)
    assert receiver.seqs == [1]
    for seq in (2, 3, 4):
        handle(acks, session, seq)
    assert receiver.seqs == [1]
    await until(lambda: len(receiver.acks) == 2)
    (_, first), (last, second) = receiver.acks
    assert last == 4
    assert INTERVAL <= second - first < INTERVAL + 2 * STEP + 0.1


async def test_a_device_that_waits_for_each_ack_waits_half_the_interval() -> None:
    acks, (session, receiver) = Acks(1.0), a_session()
    handle(acks, session, 1)
    for seq in (2, 3):
        handle(acks, session, seq)
        await until(lambda seq=seq: receiver.seqs[-1] == seq)  # type: ignore[misc]
    times = [time for _, time in receiver.acks]
    for before, after in itertools.pairwise(times):
        assert 0.5 <= after - before < 0.5 + 2 * STEP + 0.1


async def test_a_rejection_is_sent_at_once_with_an_ack_of_all_before_it() -> None:
    acks, (session, receiver) = Acks(INTERVAL), a_session()
    handle(acks, session, 1)
    handle(acks, session, 2)
    handle(acks, session, 3, Rejected(3, "too_old", ""))
    assert receiver.seqs == [1, 3]
    assert not session.owed


async def test_a_backlog_is_acknowledged_group_by_group() -> None:
    acks, (session, receiver) = Acks(INTERVAL), a_session()
    handle(acks, session, 1)
    session.prompt = 500
    for seq in (200, 400, 500):
        handle(acks, session, seq)
    assert receiver.seqs == [1, 200, 400, 500]
    handle(acks, session, 501)
    assert receiver.seqs[-1] == 500, "the backlog is over: what follows is live"


async def test_no_device_has_to_keep_many_fixes() -> None:
    acks, (session, receiver) = Acks(60), a_session()
    for seq in range(1, 3 * MAX_OWED + 1):
        handle(acks, session, seq)
    assert receiver.seqs == [1, 1 + MAX_OWED, 1 + 2 * MAX_OWED]


async def test_an_owed_ack_is_sent_before_a_close_and_only_once() -> None:
    acks, (session, receiver) = Acks(60), a_session()
    handle(acks, session, 1)
    settle(session, 0.0)
    assert receiver.seqs == [1]
    handle(acks, session, 2)
    settle(session, 0.0)
    settle(session, 0.0)
    assert receiver.seqs == [1, 2]


async def test_a_driver_gets_few_acks_while_it_drives_and_the_rest_when_it_is_closed(
    own_hub: Callable[..., HubProcess],
) -> None:
    """Over a real socket: one ack at once, a rejection and a backlog at once, and the last one before the hub stops."""
    hub = own_hub(ack_interval="60")
    async with Api(hub.url) as api:
        vehicle_id = await api.vehicle(await api.fleet())
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1))
            assert (await driver.expect("ack"))["seq"] == 1
            await driver.report(fix(2))
            await driver.report(fix(3, latitude=91.0))
            assert (await driver.expect("ack"))["seq"] == 3
            await driver.send({"type": "positions", "positions": [fix(seq) for seq in (4, 5)]})
            assert (await driver.expect("ack"))["seq"] == 5
            await driver.report(fix(6))
            track = f"/vehicles/{vehicle_id}/track"
            async with asyncio.timeout(5):
                while (await api.track(track, **{"from": 0, "to": 2**42}))[-1]["seq"] != "6":
                    await asyncio.sleep(0.01)
            hub.stop()
            assert (await driver.expect("ack"))["seq"] == 6
            assert await driver.closed() == 1012


async def test_a_commit_to_a_store_that_went_back_is_not_acknowledged(database_url: str) -> None:
    """The last ack before the connection is closed does not do so either. A store without its marks has gone back."""
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=60))
    async with serving(app, lifespan="on") as served, Api(served.url) as api:
        vehicle_id = await api.vehicle(await api.fleet())
        async with Driver(served.url, vehicle_id) as driver:
            await driver.report(fix(1))
            assert (await driver.expect("ack"))["seq"] == 1
            await driver.report(fix(2))
            vehicle = app.state.service.ingest_vehicles.get(vehicle_id)
            await until(lambda: vehicle.sessions[driver.session].handled == 2)
            async with app.state.service.exports.connection() as connection:
                await connection.execute("DELETE FROM hub_marks")
            with pytest.raises(ConnectionClosedError) as closed:
                await driver.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
