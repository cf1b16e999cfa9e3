"""Storing in groups: a group is one transaction, tried again until the database takes it. What it refuses is stored apart.

The caller says what is a fault of an item itself. Every other error is the database's, and is waited out.
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
    """Tries again for as long as an error is passing, at most 3 s later each time. `note_failure` is told before each pause."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(is_passing),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=3),
        before_sleep=note_failure,
        reraise=True,
    )


async def store(what: str, group: Sequence[T], commit: Commit[T], faults: Faults, refused: Refused[T]) -> None:
    """Commits the group. Where the database refuses some of it, the rest is committed, and `refused` gets each of those."""
    try:
        await commit(group)
    except faults as error:
        logger.exception("the database refused one of %d %s: storing them by halves", len(group), what)
        await _store_apart(group, error, commit, faults, refused)


async def _store_apart(group: Sequence[T], error: Exception, commit: Commit[T], faults: Faults, refused: Refused[T]) -> None:
    """Each that is refused costs a few commits, and takes no others with it."""
    if len(group) == 1:
        await refused(group[0], error)
        return
    middle = len(group) // 2
    for half in (group[:middle], group[middle:]):
        try:
            await commit(half)
        except faults as own_error:
            await _store_apart(half, own_error, commit, faults, refused)
