"""Every endpoint of the table, with every kind of token, in every status of the trip.

Only `docs/SECURITY-MODEL.md` says what is expected.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.clients import Api
from tests.support.hub_process import SECRET
from tests.support.serving import serving
from tests.trust.asking import Answer, Asking, ask, missing, sees, something_to_remove
from tests.trust.credentials import OTHER_SECRET, signed
from tests.trust.matrix import ENDPOINTS, TABLE, Cell, Endpoint
from tests.trust.worlds import MatrixHub, World, a_world
from tracking.app import create_app
from tracking.config import load
from tracking.demo.postgres import Cluster
from tracking.model import TripStatus

SEEN = {
    endpoint.name: [row for row in TABLE if row.seen and (row.method, row.path) == (endpoint.method, endpoint.path)]
    for endpoint in ENDPOINTS
}
MISSING = "missing"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

LATER: set[tuple[str, str, str]] = set()
"""Cells (endpoint, column, status or missing) that are known to be wrong. The test fails once one is right: remove it here."""


@pytest.fixture(scope="module")
async def matrix_hub(cluster: Cluster, template: str) -> AsyncIterator[MatrixHub]:
    cluster.create_database("matrix", template)
    settings = load(database_url=cluster.url("matrix"), jwt_secret=SECRET, ack_interval=0, summary_delay=0.2)
    async with serving(create_app(settings), lifespan="on") as served, Api(served.url) as api:
        *worlds, strangers = await asyncio.gather(
            *(a_world(api, served.url, status) for status in [*TripStatus, TripStatus.ENROUTE_TO_PICKUP])
        )
        for world in worlds:
            for column in ("dispatcher", "passenger"):
                world.tokens[f"other {column}"] = strangers.tokens[column]
            world.tokens["other driver"] += strangers.tokens["driver"]
        revoked = await api.call("POST", "/tokens", {"role": "service"})
        await api.call("DELETE", f"/tokens/{revoked['jti']}")
        expired = int(time.time()) - 1
        refused = {
            "expired": signed(exp=expired),
            "expired share": signed(role="passenger", trip_id=worlds[1].ids["trip_id"], share_id="s", exp=expired),
            "revoked": revoked["token"],
            "signed by somebody else": signed(OTHER_SECRET),
            "an unknown role": signed(role="viewers"),
            "no role": signed(role=None),
        }
        for world in worlds:
            if world.status.over:
                summary = f"/trips/{world.ids['trip_id']}/summary"

                async def summed_up(summary: str = summary) -> bool:
                    return (await api.http.get(summary)).status_code == 200

                while not await summed_up():
                    pass
        yield MatrixHub(served.url, api, worlds, strangers, refused)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_each_token_may_do_what_the_table_says(matrix_hub: MatrixHub, endpoint: Endpoint) -> None:
    wrong: list[str] = []
    right_now: list[str] = []

    def judge(column: str, case: str, what: str, expected: str, outcome: str) -> None:
        if (endpoint.name, column, case) in LATER:
            if outcome == expected:
                right_now.append(f"{endpoint.name} x {column} x {case}")
        elif outcome != expected:
            wrong.append(f"{what} x {column} x {case}: {outcome}, and the table says {expected}")

    async def try_in(column: str, cell: Cell, world: World, number: int, *, there: bool) -> tuple[int, str, Answer]:
        bearer = _tokens(world, column)[number]
        expected = cell.by_status[world.status] if there else _without_it(endpoint, cell)
        ids = world.ids
        if not there:
            ids = missing(ids, endpoint) or ids
        elif expected == "yes":
            ids = await something_to_remove(matrix_hub, endpoint, world)
        answer = await ask(matrix_hub, endpoint, Asking(ids, world.version, _fleet_of(matrix_hub, column, world)), bearer)
        case = world.status if there else MISSING
        judge(column, case, endpoint.name, expected, answer.outcome)
        if there:
            for row in SEEN[endpoint.name]:
                judge(column, case, row.name, row.cells[column].by_status[world.status], sees(row.seen or "", answer.said))
        return number, case, answer

    names_something = missing(matrix_hub.worlds[0].ids, endpoint) is not None
    for column, cell in endpoint.cells.items():
        # A missing thing has no status, so two worlds are enough.
        tried = await asyncio.gather(
            *(
                try_in(column, cell, world, number, there=there)
                for there, worlds in (
                    (True, matrix_hub.worlds),
                    (False, matrix_hub.not_under_way_and_under_way if names_something else []),
                )
                for world in worlds
                for number in range(len(_tokens(world, column)))
            )
        )
        alike: dict[int, dict[str, str]] = {}
        for number, case, answer in tried:
            if cell.refused and (endpoint.name, column, case) not in LATER:
                alike.setdefault(number, {})[str(answer.bytes)] = case
        wrong += [
            f"{endpoint.name} x {column}: the answers for an existing and a missing thing differ: {tell}"
            for tell in alike.values()
            if len(tell) > 1
        ]
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert not right_now, f"right now, remove them from LATER: {sorted(set(right_now))}"


def _tokens(world: World, column: str) -> list[str | None]:
    return [None] if column == "none" else [*world.tokens[column]]


def _fleet_of(matrix_hub: MatrixHub, column: str, world: World) -> str:
    """The fleet that a request puts a vehicle into. A dispatcher names its own."""
    return matrix_hub.strangers.ids["fleet_id"] if column == "other dispatcher" else world.ids["fleet_id"]


def _without_it(endpoint: Endpoint, cell: Cell) -> str:
    """What happens if the thing does not exist."""
    if cell.also_new:
        return "yes"
    if cell.refused:
        return cell.refused
    return "4502" if endpoint.method == "SOCKET" else "404"


CLOSED = {"expired": "4405", "revoked": "4503", "expired share": "4503"}
"""The close codes of these bad tokens. All others get 4500."""


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
async def test_a_bad_token_gives_no_access(matrix_hub: MatrixHub, endpoint: Endpoint) -> None:
    world = matrix_hub.worlds[1]
    public = endpoint.cells["none"].refused is None
    for ids in filter(None, (world.ids, missing(world.ids, endpoint))):
        for why, bearer in matrix_hub.refused.items():
            answer = await ask(matrix_hub, endpoint, Asking(ids, world.version, ids["fleet_id"]), bearer)
            expected = "yes" if public else CLOSED.get(why, "4500") if endpoint.method == "SOCKET" else "401"
            assert answer.outcome == expected, (endpoint.name, why)


@pytest.mark.parametrize(
    "endpoint", [endpoint for endpoint in ENDPOINTS if endpoint.method == "GET"], ids=lambda endpoint: endpoint.name
)
async def test_head_answers_like_get(matrix_hub: MatrixHub, endpoint: Endpoint) -> None:
    for world in matrix_hub.not_under_way_and_under_way:
        for column, cell in endpoint.cells.items():
            for bearer in _tokens(world, column)[:1]:
                answer = await ask(
                    matrix_hub, endpoint, Asking(world.ids, world.version, world.ids["fleet_id"]), bearer, "HEAD"
                )
                assert answer.outcome == cell.by_status[world.status], (column, world.status)
                assert answer.bytes[1] == b""


@pytest.mark.parametrize("path", sorted({endpoint.path for endpoint in ENDPOINTS if endpoint.method != "SOCKET"}))
async def test_any_other_method_is_a_405_with_any_token(matrix_hub: MatrixHub, path: str) -> None:
    world = matrix_hub.worlds[1]
    known = {endpoint.method for endpoint in ENDPOINTS if endpoint.path == path}
    for method in set(METHODS) - known - ({"HEAD"} if "GET" in known else set()):
        answers = set()
        for bearer in (None, *world.tokens["service"], *world.tokens["passenger"][:1]):
            endpoint = Endpoint(method, path, None, {})
            answer = await ask(matrix_hub, endpoint, Asking(world.ids, world.version, ""), bearer)
            assert answer.outcome == "405", method
            answers.add(str(answer.bytes))
        assert len(answers) == 1
