"""The intake on real PostgreSQL, without a socket: outcomes of fixes, receipts after COMMIT, and budgets of vehicles."""

import asyncio

import pytest

from tests.ingest.direct import VAN, MakeService, a_fix, asked, nothing_is_stored, opened, stored, take
from tests.support.clients import Api, Driver, fix, now_ms
from tests.support.hub_process import SECRET
from tests.support.serving import serving
from tracking.app import create_app
from tracking.config import load
from tracking.errors import ErrorCode, Refusal, StoreUnavailable, StoreWentBack
from tracking.ingest.intake import Held, Outcome, Result, Taken, clock_advice
from tracking.ingest.vehicles import Session
from tracking.protocol.driver import Unreadable
from tracking.service import Service


def outcomes(results: list[Result]) -> list[tuple[int | None, str]]:
    return [(result.seq, result.outcome.value) for result in results]


async def test_a_receipt_comes_after_commit(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    async with nothing_is_stored(database_url):
        taken = take(service, vehicle, session, a_fix(1), a_fix(2))
        assert outcomes(taken.results()) == [(1, "accepted"), (2, "accepted")]
        receipt = asyncio.create_task(service.intake.committed(taken))
        await asked(service)
        assert not receipt.done()
        assert await stored(database_url) == []
    assert outcomes(await receipt) == [(1, "accepted"), (2, "accepted")]
    assert await stored(database_url) == [1, 2]
    assert session.handled == 2


async def test_repeats_are_told_from_new_fixes_and_have_a_receipt_of_their_own(
    make_service: MakeService, database_url: str
) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    async with nothing_is_stored(database_url):
        take(service, vehicle, session, a_fix(1), a_fix(2))
        again = take(service, vehicle, session, a_fix(2), a_fix(1), a_fix(3), a_fix(3))
        assert outcomes(again.results()) == [(2, "repeat"), (1, "repeat"), (3, "accepted"), (3, "repeat")]
        assert not again.repeated, "none of them is handled yet"
        receipts = [
            asyncio.create_task(service.intake.committed(one)) for one in (again, take(service, vehicle, session, a_fix(1)))
        ]
        await asked(service)
        assert not any(receipt.done() for receipt in receipts)
    await asyncio.gather(*receipts)
    assert await stored(database_url) == [1, 2, 3]
    last = take(service, vehicle, session, a_fix(3))
    assert last.repeated
    assert outcomes(await service.intake.committed(last)) == [(3, "repeat")]
    assert await stored(database_url) == [1, 2, 3]


async def test_each_fix_has_the_reason_why_it_was_not_accepted(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    bad = Unreadable(3, ErrorCode.BAD_FIELD, "`speed` is a text")
    nameless = Unreadable(None, ErrorCode.BAD_SEQ, "`seq` is missing")
    taken = take(service, vehicle, session, a_fix(1), a_fix(2, latitude=95.0), bad, nameless, a_fix(4))
    assert taken.unreadable
    results = await service.intake.committed(taken)
    assert outcomes(results) == [(1, "accepted"), (2, "rejected"), (3, "rejected"), (None, "unreadable"), (4, "accepted")]
    assert [result.code for result in results] == [None, "out_of_range", "bad_field", "bad_seq", None]
    assert "latitude" in (results[1].detail or "")
    assert results[2].detail == bad.detail
    assert await stored(database_url) == [1, 4]


async def test_the_receipt_names_what_the_database_refused(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    taken = take(service, vehicle, session, a_fix(1))
    await service.intake.committed(taken)
    bad = a_fix(3)
    async with service.database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO positions (vehicle, session, seq, fix_time, server_time, point)
            VALUES ($1, $2, 3, $3, $3, ST_SetSRID(ST_MakePoint(9.5, 47.1), 4326))
            """,
            vehicle.number,
            session.number,
            bad.fix_time,
        )
    taken = take(service, vehicle, session, a_fix(2), bad, a_fix(4))
    results = await service.intake.committed(taken)
    assert outcomes(results) == [(2, "accepted"), (3, "rejected"), (4, "accepted")]
    assert "database refused" in (results[1].detail or "")


async def test_fixes_beyond_a_full_queue_are_shown_and_must_be_sent_again(make_service: MakeService, database_url: str) -> None:
    service = await make_service(queue_limit=3)
    vehicle, session = await opened(service)
    shown: list[int] = []
    service.intake._publish = lambda position: shown.append(position.seq)
    fixes = [a_fix(seq) for seq in range(1, 6)]
    async with nothing_is_stored(database_url):
        taken = take(service, vehicle, session, *fixes)
        expected = [(1, "accepted"), (2, "accepted"), (3, "accepted"), (4, "full"), (5, "full")]
        assert outcomes(taken.results()) == expected
        assert taken.refused_from is fixes[3]
        assert outcomes(take(service, vehicle, session, a_fix(2), a_fix(6)).results()) == [(2, "repeat"), (6, "full")]
        assert shown == [1, 2, 3, 4, 5, 6]
    assert outcomes(await service.intake.committed(taken)) == expected
    assert await stored(database_url) == [1, 2, 3]
    await service.intake.committed(take(service, vehicle, session, *(a_fix(seq) for seq in (4, 5, 6))))
    assert await stored(database_url) == [1, 2, 3, 4, 5, 6]
    assert shown == [1, 2, 3, 4, 5, 6], "what was shown is not shown again"


async def test_a_session_has_one_order_over_all_interfaces(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    assert (await opened(service))[1] is session
    async with nothing_is_stored(database_url):
        first, second, third = (take(service, vehicle, session, a_fix(seq)) for seq in (2, 1, 5))
        assert outcomes(second.results()) == [(1, "repeat")], "its seq is behind"
        receipts = [asyncio.create_task(service.intake.committed(taken)) for taken in (third, first, second)]
        await asked(service)
        assert not any(receipt.done() for receipt in receipts)
    await receipts[0]
    assert await stored(database_url) == [2, 5], "no later one is committed before an earlier one"
    await asyncio.gather(*receipts)


async def test_waiting_callers_get_an_error_when_the_hub_stops(make_service: MakeService, database_url: str) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    async with nothing_is_stored(database_url):
        receipt = asyncio.create_task(service.intake.committed(take(service, vehicle, session, a_fix(1))))
        gone = asyncio.create_task(service.intake.committed(take(service, vehicle, session, a_fix(2))))
        await asked(service)
        gone.cancel()
        await asyncio.wait({gone})
        service.recorder.give_up(StoreUnavailable("the hub goes down, and what waits is not stored: send it again"))
        with pytest.raises(StoreUnavailable, match="send it again"):
            await receipt
        with pytest.raises(StoreUnavailable, match="send it again"):
            await service.intake.committed(take(service, vehicle, session, a_fix(3)))
    assert not service.recorder._awaited


async def test_waiting_callers_get_an_error_when_the_store_went_back(make_service: MakeService, database_url: str) -> None:
    # When the service stops, it tries in vain to store the last fix.
    service = await make_service(stop_timeout=0.2)
    vehicle, session = await opened(service)
    await service.intake.committed(take(service, vehicle, session, a_fix(1)))
    async with service.recording._acquired() as connection:
        await connection.execute("DELETE FROM hub_marks")
    with pytest.raises(StoreWentBack):
        await service.intake.committed(take(service, vehicle, session, a_fix(2)))
    with pytest.raises(StoreWentBack, match="send them again"):
        # It was committed, to a store that went back since.
        await service.intake.committed(take(service, vehicle, session, a_fix(1)))


async def test_a_vehicle_has_one_budget_for_all_interfaces(database_url: str) -> None:
    settings = load(
        database_url=database_url, jwt_secret=SECRET, ack_interval=0, budget_fixes="10/1000", budget_backlog="5/1000"
    )
    app = create_app(settings)
    async with serving(app, lifespan="on") as served, Api(served.url) as api:
        service: Service = app.state.service
        vehicle_id = await api.vehicle(await api.fleet())
        async with Driver(served.url, vehicle_id) as driver:
            vehicle = service.ingest_vehicles.get(vehicle_id)
            assert vehicle is not None
            session = await service.intake.open_session(vehicle, "phone")
            assert session is not None
            await driver.report(*(fix(seq) for seq in range(1, 5)))
            await driver.acknowledged(4)
            assert not take(service, vehicle, session, *(a_fix(seq) for seq in range(1, 5))).held
            held = take(service, vehicle, session, *(a_fix(seq) for seq in range(5, 9)))
            assert outcomes(held.results()) == [(seq, "held") for seq in range(5, 9)]
            assert held.last() == 0
            part = service.intake.take_part(vehicle, session, held.fixes, 4, now_ms())
            assert isinstance(part, Taken), "of the budget of backlogs"
            assert outcomes(await service.intake.committed(part)) == [(seq, "accepted") for seq in range(5, 9)]
            part = service.intake.take_part(vehicle, session, [a_fix(9), a_fix(10), a_fix(11)], 3, now_ms())
            assert isinstance(part, Held)
            assert part.refusal.code is ErrorCode.RATE_LIMITED
            assert part.total == part.wait > 10
            # The socket has the same budgets, though it spent none of the backlogs' budget itself.
            await driver.report(*(fix(seq) for seq in range(5, 9)))
            assert (await driver.expect("error"))["code"] == "rate_limited"
            assert await driver.closed() == 4013
        assert session.handled == 8


async def test_frames_and_sessions_of_all_interfaces_count_for_the_vehicle(make_service: MakeService) -> None:
    service = await make_service(driver_frames_at_once=20, driver_frames_per_second=0.001, budget_sessions="2/1000")
    vehicle, session = await opened(service)
    prepaid = service.intake.prepaid(vehicle)
    assert prepaid.take_frame(now_ms())
    take(service, vehicle, session, a_fix(1), prepaid=prepaid)
    assert prepaid.take_frame(now_ms())
    assert prepaid.covered, "it was paid in advance"
    assert [service.intake.take_frame(vehicle) for _ in range(4)] == [True, True, True, False]
    prepaid.give_back()
    assert service.intake.take_frame(vehicle), "unused frames that were paid in advance come back"
    await opened(service, "second")
    with pytest.raises(Refusal, match="new sessions of its vehicle"):
        await opened(service, "third")
    assert (await opened(service))[1] is session


async def test_a_wrong_clock_is_found_and_reported_to_driver_and_fleet(make_service: MakeService) -> None:
    service = await make_service()
    vehicle, session = await opened(service)
    service.hub.fleets.know(vehicle.vehicle)
    taken = take(service, vehicle, session, a_fix(1, fix_time=now_ms() + 45_000))
    assert abs(taken.skew - 45_000) < 1_000
    assert service.hub.fleets.vehicles[VAN].clock_skew == taken.skew
    assert "45 s ahead" in clock_advice(taken.skew).detail
    assert take(service, vehicle, session, a_fix(2)).skew == 0
    assert service.hub.fleets.vehicles[VAN].clock_skew == 0


def test_outcomes_are_computed_on_request_alone() -> None:
    session = Session(1, "", 0)
    assert Taken(session, (), 0, 0).results() == []
    assert Taken(session, [a_fix(1)], 1, now_ms()).results() == [Result(1, Outcome.REPEAT)]
