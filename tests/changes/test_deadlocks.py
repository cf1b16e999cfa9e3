"""A change that the database rolled back because of a deadlock is tried again."""

from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import asyncpg
import pytest

from tests.changes.station import PLACES, Station
from tracking.auth import Principal, Role
from tracking.live.transaction import Transaction
from tracking.model import Fleet


@pytest.fixture
async def station(database_url: str) -> AsyncIterator[Station]:
    async with Station(database_url, "deadlocks", hubs=1) as station:
        yield station


async def test_messages_shares_and_revocations_begin_anew(station: Station) -> None:
    service = station.hubs[0].service
    await service.fleets.put(Fleet("fleet", ""), may_create=True)
    trip = await service.trips.create(
        fleet_id="fleet", vehicle_id=None, pickup=PLACES[0], dropoff=PLACES[1], stops=(), route=None
    )
    sender = Principal(Role.PASSENGER, trip.trip_id, "someone", station.clock() + 60_000)
    given_up: list[str] = []
    tell = Transaction.tell

    def tell_later(self: Transaction, kind: Any, subject: str, **said: Any) -> None:
        if kind not in given_up:
            given_up.append(kind)
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        tell(self, kind, subject, **said)

    async def record(*_: object) -> None:
        if "share" not in given_up:
            given_up.append("share")
            raise asyncpg.DeadlockDetectedError("deadlock detected")

    with mock.patch.object(Transaction, "tell", tell_later):
        await service.messages.from_passenger(sender, trip.trip_id, "client", "text")
        share, _ = await service.access.share(trip, 60, record)
        await service.access.revoke_token("other", record)
        given_up.remove("token.revoked")
        await service.access.revoke_share(share.share_id, allowed=lambda _: True, record=record)
    assert given_up == ["message.posted", "share", "token.revoked"]
    assert await station.witness.fetchval("SELECT count(*) FROM messages") == 1
    assert service.auth.revoked == {"other", share.jti}
