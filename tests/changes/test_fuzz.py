"""Random sequences of changes, fixes, loads, kills and cuts: afterwards hubs know what one that begins then reads, and nobody
was told what they may not know. `make soak ARGS='changes'` carries out thousands.
"""

import contextlib
import os
import random

import pytest

from tests.changes.fuzz import fuzz

SEQUENCES = int(os.environ.get("CHANGES_SEQUENCES", "60"))


@pytest.mark.timeout(600)  # where other tests run beside it
async def test_hubs_know_what_is_stored_whatever_happened(database_url: str) -> None:
    run = random.randrange(1_000_000)
    async with contextlib.aclosing(fuzz(database_url, (f"{run}.{number}" for number in range(SEQUENCES)))) as outcomes:
        async for outcome in outcomes:
            assert not outcome.wrongs, outcome
