"""Groups of items, each stored in one transaction. A group is retried while the database is away. If the database refuses an
item, the group is stored in halves, so that only this item is lost.

The caller says which errors are the fault of an item. Every other error is retried.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import tenacity

logger = logging.getLogger(__name__)

T = TypeVar("T")

Commit = Callable[[Sequence[T]], Awaitable[None]]
Refused = Callable[[T, Exception], Awaitable[None]]
Faults = tuple[type[Exception], ...]


def until_stored(
    is_passing: Callable[[BaseException], bool], note_failure: Callable[[tenacity.RetryCallState], None]
) -> tenacity.AsyncRetrying:
    """Retries as long as errors are passing, with pauses of 3 s at most. `note_failure` is called before each pause."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_passing),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=3),
        before_sleep=note_failure,
        reraise=True,
    )


async def store(what: str, group: Sequence[T], commit: Commit[T], faults: Faults, refused: Refused[T]) -> None:
    """Commits the group. If the database refuses some items, the others are committed, and `refused` gets each of these."""
    try:
        await commit(group)
    except faults as error:
        logger.exception("the database refused one of %d %s: storing them in halves", len(group), what)
        await _store_apart(group, error, commit, faults, refused)


async def _store_apart(group: Sequence[T], error: Exception, commit: Commit[T], faults: Faults, refused: Refused[T]) -> None:
    """Stores the group in halves. Each refused item costs a few commits."""
    if len(group) == 1:
        await refused(group[0], error)
        return
    middle = len(group) // 2
    for half in (group[:middle], group[middle:]):
        try:
            await commit(half)
        except faults as own_error:
            await _store_apart(half, own_error, commit, faults, refused)
