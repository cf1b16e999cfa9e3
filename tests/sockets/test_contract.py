"""One contract for both wires: our own protocols, and plain ASGI under any server."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
import websockets

from tests.support.clients import Api, Driver, Message, Passenger, Socket, fix, now_ms, token
from tests.support.hub_process import HubProcess, Process, run_module
from tests.support.offsets import assert_contiguous
from tests.support.raw import TEXT, RawSocket, framed
from tracking.demo.postgres import Cluster

HIGH_WATER = "4096"


class PlainHubProcess(HubProcess):
    """The same application in plain uvicorn."""

    def _launch(self) -> Process:
        return run_module("tests.sockets.plain_hub", [str(self.port)], self.environment, self.log)


@pytest.fixture(scope="module", params=[HubProcess, PlainHubProcess], ids=["own", "plain"])
def either(
    request: pytest.FixtureRequest, cluster: Cluster, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubProcess]:
    """A hub with either wire."""
    name = f"contract_{request.param.__name__.lower()}"
    cluster.create_database(name, template)
    log = tmp_path_factory.mktemp(name) / "log"
    process = request.param(cluster.url(name), log, None, outbox_high_water=HIGH_WATER)
    process.start()
    yield process
    process.kill()
    # Neither may have met anything that it does not know.
    assert "Traceback" not in log.read_text()


@pytest.fixture
async def either_api(either: HubProcess) -> AsyncIterator[Api]:
    async with Api(either.url) as api:
        yield api


@pytest.fixture
async def vehicle_id(either_api: Api) -> str:
    return await either_api.vehicle(await either_api.fleet())


async def test_a_driver_reports_and_is_acknowledged(either: HubProcess, either_api: Api, vehicle_id: str) -> None:
    async with Driver(either.url, vehicle_id) as driver:
        await driver.report(fix(1))
        await driver.report(*(fix(seq) for seq in range(2, 200)))
        await driver.report(fix(200, latitude=91))
        [rejected] = await driver.acknowledged(200)
    assert (rejected["seq"], rejected["code"]) == (200, "out_of_range")
    assert len(await either_api.track(f"/vehicles/{vehicle_id}/track", suspect="true")) == 199


async def test_what_comes_while_the_connection_is_being_opened_waits_in_order(
    either: HubProcess, either_api: Api, vehicle_id: str
) -> None:
    hello: Message = {"type": "hello", "session": str(uuid.uuid4())}
    reports = [{"type": "position", **fix(seq)} for seq in range(1, 101)]
    async with RawSocket(either.port, "/v1/driver", token("driver", vehicle_id)) as raw:
        await raw.send(*(framed(TEXT, json.dumps(message)) for message in (hello, *reports)))
        messages: list[Message] = []
        while not messages or messages[-1].get("seq") != 100:
            messages.append(json.loads(await raw.text()))
    assert messages[0]["type"] == "welcome"
    assert messages[1] == {"type": "ack", "seq": 0}
    assert {message["type"] for message in messages[1:]} == {"ack"}
    seqs = [message["seq"] for message in messages[1:]]
    assert seqs == sorted(seqs)
    rows = await either_api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
    assert [int(row["seq"]) for row in rows] == list(range(1, 101))


async def test_a_passenger_who_comes_back_misses_nothing(either: HubProcess, either_api: Api) -> None:
    vehicle_id, trip_id = await either_api.under_way()
    async with Driver(either.url, vehicle_id) as driver:
        async with Passenger(either.url, trip_id) as passenger:
            snapshot = await passenger.receive()
            await driver.report(fix(1))
            seen = [await passenger.receive()]
        for seq in (2, 3):
            await driver.report(fix(seq))
        await driver.acknowledged(3)
        query = f"?epoch={snapshot['epoch']}&offset={seen[-1]['offset']}"
        async with Passenger(either.url, trip_id, query=query) as passenger:
            assert (await passenger.receive())["type"] == "resumed"
            await driver.report(fix(4))
            seen += [await passenger.receive() for _ in range(3)]
    assert_contiguous(snapshot["offset"], seen)
    assert [message["latitude"] for message in seen] == [fix(seq)["latitude"] for seq in (1, 2, 3, 4)]


async def test_a_slow_passenger_is_told_what_it_missed_and_gets_the_newest(either: HubProcess, either_api: Api) -> None:
    vehicle_id, trip_id = await either_api.under_way()
    path, count, batch = f"/v1/trips/{trip_id}/live", 20_000, 500
    async with (
        RawSocket(either.port, path, token("passenger", trip_id), room=4096) as slow,
        Driver(either.url, vehicle_id) as driver,
    ):
        shown: list[Message] = [json.loads(await slow.text())]
        begin = now_ms() - count
        for first in range(1, count, batch):
            await driver.report(*(fix(seq, fix_time=begin + seq, latitude=47.1) for seq in range(first, first + batch)))
        await driver.acknowledged(count)
        while shown[-1].get("fix_time") != begin + count:
            shown.append(json.loads(await slow.text()))
    assert any(message["type"] == "skipped" for message in shown)
    assert len(shown) < count
    assert_contiguous(shown[0]["offset"], shown[1:])


async def test_messages_and_status_changes_are_answered(either: HubProcess, either_api: Api) -> None:
    vehicle_id, trip_id = await either_api.under_way()
    async with Driver(either.url, vehicle_id) as driver, Passenger(either.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await passenger.send({"type": "message", "text": "Städtle 5", "client_id": "p"})
        assert await passenger.expect("done") == {"type": "done", "client_id": "p"}
        assert (await driver.expect("message"))["text"] == "Städtle 5"
        await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "canceled", "client_id": "d"})
        assert await driver.expect("done") == {"type": "done", "client_id": "d"}
        assert (await passenger.expect("trip"))["trip"]["status"] == "canceled"
        assert await passenger.closed() == 4506


async def test_a_binary_frame_ends_the_connection(either: HubProcess, vehicle_id: str) -> None:
    async with Driver(either.url, vehicle_id) as driver:
        await driver.connection.send(b'{"type":"none"}')
        assert await driver.closed() == 1003


@pytest.mark.parametrize(("frame", "code"), [(b"\x81\x02{}", 1002), (b"\x81\xff" + b"\x01" * 8, 1009)])
async def test_what_breaks_the_protocol_is_refused(either: HubProcess, vehicle_id: str, frame: bytes, code: int) -> None:
    async with RawSocket(either.port, "/v1/driver", token("driver", vehicle_id)) as raw:
        await raw.text()
        await raw.send(frame)
        assert await raw.closed() == code


async def test_a_foreign_origin_is_refused(either: HubProcess, vehicle_id: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with Driver(either.url, vehicle_id, origin="https://elsewhere.example"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_revoked_token_ends_its_sockets(either: HubProcess, either_api: Api, vehicle_id: str) -> None:
    issued = await either_api.call("POST", "/tokens", {"role": "driver", "vehicle_id": vehicle_id})
    async with Socket(f"{either.url}/v1/driver", issued["token"]) as driver:
        await driver.expect("welcome")
        await either_api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
        assert await driver.closed() == 4503
    async with Socket(f"{either.url}/v1/driver", issued["token"]) as again:
        assert await again.closed() == 4503


async def test_a_token_that_expires_ends_its_socket(either: HubProcess, vehicle_id: str) -> None:
    async with Socket(f"{either.url}/v1/driver", token("driver", vehicle_id, expires_in=2)) as driver:
        await driver.expect("welcome")
        assert await driver.closed() == 4405


async def test_a_newer_connection_replaces_the_older(either: HubProcess, vehicle_id: str) -> None:
    async with Driver(either.url, vehicle_id) as older, Driver(either.url, vehicle_id, older.session) as newer:
        assert await older.closed() == 4409
        await newer.report(fix(1))
        await newer.acknowledged(1)


async def test_fifty_errors_end_the_connection(either: HubProcess, vehicle_id: str) -> None:
    async with Driver(either.url, vehicle_id) as driver:
        for _ in range(50):
            await driver.send_text("[")
        for _ in range(50):
            assert (await driver.receive())["type"] == "error"
        assert await driver.closed() == 4501


async def test_a_hub_that_goes_down_says_so(either: HubProcess, either_api: Api) -> None:
    vehicle_id, trip_id = await either_api.under_way()
    async with Driver(either.url, vehicle_id) as driver, Passenger(either.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await driver.report(fix(1))
        await passenger.expect("position")
        either.stop()
        assert await driver.closed() == 1012
        assert await passenger.closed() == 1012
    either.start()
    assert [row["seq"] for row in await either_api.track(f"/vehicles/{vehicle_id}/track")] == ["1"]
