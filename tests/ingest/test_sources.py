"""Whose trip a fix belongs to."""

import pytest

from tracking.ingest.sources import Source, span_at
from tracking.model import Vehicle
from tracking.store.trips import Span

SPANS = [
    Span(1, "first", 1_000_000, 1_100_000),
    Span(2, "second", 1_110_000, 1_200_000),
    Span(3, "third", 2_000_000, None),
]


@pytest.mark.parametrize(
    ("instant", "trip"),
    [
        (969_999, None),
        (970_000, "first"),
        (1_100_000, "first"),
        # The grace of the second reaches back to the end of the first, not further.
        (1_100_001, "second"),
        (1_200_000, "second"),
        (1_200_001, None),
        (1_969_999, None),
        (1_970_000, "third"),
        (9_999_999, "third"),
    ],
)
def test_a_fix_belongs_to_the_trip_under_way_at_its_time(instant: int, trip: str | None) -> None:
    source = Source(1, Vehicle("van-1", "fleet"), SPANS)
    span = span_at(source.windows, instant)
    assert (span.trip_id if span is not None else None) == trip


def test_a_deleted_trip_still_bounds_the_next_one() -> None:
    spans = [SPANS[0]._replace(trip_id=None), SPANS[1]]
    source = Source(1, Vehicle("van-1", "fleet"), spans)
    assert [span_at(source.windows, instant) for instant in (1_050_000, 1_100_000, 1_100_001)] == [None, None, SPANS[1]]


def test_no_trip_no_span() -> None:
    assert span_at(Source(1, Vehicle("van-1", "fleet")).windows, 5) is None
