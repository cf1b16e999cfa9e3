"""Running services for tests of ingest."""

from collections.abc import AsyncIterator

import pytest

from tests.ingest.direct import MakeService, services


@pytest.fixture
async def make_service(database_url: str) -> AsyncIterator[MakeService]:
    async with services(database_url) as make:
        yield make
