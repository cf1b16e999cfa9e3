"""A store with a fleet, for tests of the work on history."""

from collections.abc import AsyncIterator

import pytest

from tests.support.drives import store_with_fleet
from tracking.store.pool import Connection, Database


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Database]:
    async with store_with_fleet(database_url) as store:
        yield store


@pytest.fixture
async def connection(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        yield connection
