"""A change is answered when the other hubs have applied it, or after a fifth of a second."""

import asyncio

import pytest

from tests.cluster.hubs import cluster, until
from tracking.cluster import commit_notices


async def test_a_change_is_answered_when_the_other_hub_has_applied_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_notices, "CONFIRM_SECONDS", 30.0)
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        notices = there.service.safeguards.commit_notices
        await until(lambda: all(peer.confirmed for peer in here.service.nodes.peers.values()), "the other one reads the log")
        fleet_id = await hubs.api.fleet()
        for number in range(5):
            with there.not_following():
                asking = asyncio.create_task(hubs.api.call("PUT", f"/fleets/{fleet_id}", {"name": f"Fleet {number}"}))
                await until(lambda: bool(notices._asked), "the other one was asked")
                assert not asking.done()
                there.follow_again()
                await asking
            assert there.service.follower.applied == here.service.follower.applied


async def test_a_hub_that_stands_still_or_goes_does_not_hold_changes_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        notices = here.service.safeguards.commit_notices
        await until(lambda: all(peer.confirmed for peer in here.service.nodes.peers.values()), "the other one reads the log")
        fleet_id = await hubs.api.fleet()
        with there.not_following():
            await hubs.api.call("PUT", f"/fleets/{fleet_id}", {"name": "It stands still"})
            assert notices._unconfirmed == {}
            monkeypatch.setattr(commit_notices, "CONFIRM_SECONDS", 30.0)
            asking = asyncio.create_task(hubs.api.call("PUT", f"/fleets/{fleet_id}", {"name": "It goes"}))
            await until(lambda: bool(notices._unconfirmed), "it is waited for")
            await there.service.nodes.leave()
            await asking
        assert notices._unconfirmed == {}
