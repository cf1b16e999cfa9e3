from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.browser.browser import launch


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One process for all; each page has a fresh profile."""
    async with launch() as browser:
        yield browser
