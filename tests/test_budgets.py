"""Budgets: each holder spends its own, and holders that are gone leave nothing in memory."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.responses import Response
from starlette.types import Message

from tests.support.clients import Api, token
from tests.support.hub_process import HubProcess
from tracking.api.http import Large
from tracking.auth import Principal, Role
from tracking.budgets import SERVICE_SHARE, Budget, Held
from tracking.config import Rate, load
from tracking.errors import ConfigError, ErrorCode, Refusal


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


def spent(budget: Budget, holder: str, role: Role | None = None) -> int:
    """How much the holder gets until it is refused."""
    for taken in range(1_000):
        try:
            budget.spend(holder, role)
        except Refusal as refusal:
            assert refusal.code is ErrorCode.RATE_LIMITED
            assert refusal.retry_after is not None
            return taken
    raise AssertionError("never refused")


def test_each_holder_has_a_budget_of_its_own() -> None:
    budget = Budget("writes", "writing requests", Rate(5, 10), Clock())
    assert [spent(budget, "a"), spent(budget, "a"), spent(budget, "b")] == [5, 0, 5]
    assert spent(budget, "backend", Role.SERVICE) == 5 * SERVICE_SHARE


def test_a_refusal_says_what_is_spent_and_when_to_try_again() -> None:
    clock = Clock()
    budget = Budget("writes", "writing requests", Rate(5, 10), clock)
    spent(budget, "a")
    with pytest.raises(Refusal, match=r"writing requests is spent \(5/10\): try again in 2\.0 s") as refused:
        budget.spend("a")
    assert refused.value.retry_after == 2.0
    clock.now += 2_000
    budget.spend("a")


def test_a_holder_stays_known_until_its_bucket_is_full_again() -> None:
    clock = Clock()
    budget = Budget("writes", "writing requests", Rate(5, 10), clock)
    spent(budget, "a")
    for _ in range(40):
        clock.now += 500  # A quarter of the cost of one request.
        budget.spend("b", Role.SERVICE)
    assert spent(budget, "a") == 5
    clock.now += 9_000
    assert spent(budget, "a") == 4


def test_holders_that_are_gone_leave_nothing() -> None:
    clock = Clock()
    budget = Budget("writes", "writing requests", Rate(5, 10), clock)
    for number in range(1_000):
        clock.now += 100
        budget.spend(f"holder {number}")
    assert len(budget._buckets) + len(budget._former) <= 201


@pytest.mark.parametrize("text", ["", "5", "5/0", "0/5", "-5/5", "5/60/2", "5 per minute"])
def test_an_invalid_rate_is_refused_with_the_right_form(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKING_BUDGET_WRITES", text)
    with pytest.raises(ConfigError, match="TRACKING_BUDGET_WRITES must be written count/seconds, as 600/60"):
        load()


@pytest.mark.one_hub("each hub has budgets of its own")
async def test_writing_past_the_budget_is_429_with_retry_after(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(budget_writes="2/60")
    async with Api(hub.url) as service:
        fleet_id = await service.fleet()
        vehicle_id = await service.vehicle(fleet_id)
    async with Api(hub.url, token("dispatcher", fleet_id)) as one, Api(hub.url, token("dispatcher", fleet_id)) as other:
        body = {"fleet_id": fleet_id, "name": "Van 2"}
        for _ in range(2):
            await one.call("PUT", f"/vehicles/{vehicle_id}", body)
        refused = await one.http.put(f"/vehicles/{vehicle_id}", json=body)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert refused.json()["error"]["code"] == "rate_limited"
        await one.call("GET", f"/vehicles/{vehicle_id}")
        await other.call("PUT", f"/vehicles/{vehicle_id}", body)


async def test_unread_large_answers_are_bounded_for_each_token() -> None:
    held = Held("bytes of answers", 500_000)
    principal = Principal(Role.DISPATCHER, "fleet", "jti", 2**53)
    other = principal._replace(jti="another")
    read, sent = asyncio.Event(), 0

    async def send(message: Message) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        await read.wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    body = Response(b"x" * 300_000, media_type="application/json")
    answer = asyncio.create_task(Large(body, held, principal)({"type": "http"}, receive, send))
    await asyncio.sleep(0)
    with pytest.raises(Refusal, match="bytes of answers of this token are held at once"):
        Large(body, held, principal)
    Large(body, held, other)
    read.set()
    await answer
    assert sent == 300_000
    Large(body, held, principal)
