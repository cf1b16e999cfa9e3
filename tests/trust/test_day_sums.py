"""Row 83: sums of days are made once for all who ask, in turns, and within a budget."""

import asyncio
from typing import Any

from tests.attacks.exports import drive
from tests.support.clients import Api, now_ms, token
from tests.trust.export_hub import ExportHub, MakeExportHub
from tracking.history import sums
from tracking.store.days import DAY_MS


async def today(export_hub: ExportHub, rows: int) -> str:
    """A vehicle with so many fixes today."""
    vehicle_id = await export_hub.api.vehicle(export_hub.fleet_id)
    await drive(export_hub.settings.database_url, vehicle_id, None, rows, begin=now_ms() // DAY_MS * DAY_MS, step=1)
    return vehicle_id


async def test_row_83_a_day_is_summed_up_once_for_all_who_ask(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(rows=1)
    vehicle_id = await today(export_hub, 50_000)
    path = f"/vehicles/{vehicle_id}/days"
    first = await export_hub.api.call("GET", path)
    assert first["days"][-1]["positions"] == 50_000
    export_hub.clock.ahead += sums.KEPT_MS
    made = []
    original = export_hub.service.sums._make

    async def counted(vehicle: int, day: int, since: int) -> Any:
        made.append((vehicle, day))
        return await original(vehicle, day, since)

    export_hub.service.sums._make = counted  # type: ignore[method-assign]
    answers = await asyncio.gather(*(export_hub.api.call("GET", path) for _ in range(12)))
    assert answers == [first] * 12
    assert len(made) == len(set(made))
    # The sum is kept for a minute.
    await drive(export_hub.settings.database_url, vehicle_id, None, 1, begin=now_ms() // DAY_MS * DAY_MS + 100_000)
    assert await export_hub.api.call("GET", path) == first
    export_hub.clock.ahead += sums.KEPT_MS
    assert (await export_hub.api.call("GET", path))["days"][-1]["positions"] == 50_001


async def test_row_83_requests_for_many_days_take_turns_with_others(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(rows=1)
    day = now_ms() // DAY_MS
    order: list[str] = []

    async def ask(holder: str, vehicle: int) -> None:
        await export_hub.service.sums.day(holder, vehicle, day)
        order.append(holder)

    async with asyncio.TaskGroup() as group:
        for vehicle in range(1_000, 1_006):
            group.create_task(ask("greedy", vehicle))
        for vehicle in (2_000, 2_001):
            group.create_task(ask("other", vehicle))
    assert order == ["greedy", "other", "greedy", "other", *["greedy"] * 4]


async def test_row_83_an_erased_vehicle_leaves_no_sum(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(rows=1)
    vehicle_id = await today(export_hub, 10)
    await export_hub.api.call("GET", f"/vehicles/{vehicle_id}/days")
    assert export_hub.service.sums._kept
    await export_hub.api.call("DELETE", f"/vehicles/{vehicle_id}")
    assert not export_hub.service.sums._kept
    assert not export_hub.service.sums._waited
    await export_hub.api.call("GET", f"/vehicles/{vehicle_id}/days", expect=404)


async def test_row_83_a_token_has_a_budget_of_sums(make_export_hub: MakeExportHub) -> None:
    export_hub = await make_export_hub(rows=1, budget_sums="4/60")
    async with Api(export_hub.url, token("dispatcher", export_hub.fleet_id)) as dispatcher:
        vehicles = [await today(export_hub, 1) for _ in range(3)]
        for vehicle_id in vehicles[:2]:
            for _ in range(3):
                await dispatcher.call("GET", f"/vehicles/{vehicle_id}/days")
        refused = await dispatcher.http.get(f"/vehicles/{vehicles[2]}/days")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        # Stored sums cost nothing.
        await dispatcher.call("GET", f"/vehicles/{vehicles[2]}/days", to="2026-01-01")
