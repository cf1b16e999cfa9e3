"""The trip that a fix belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.ingest.vehicles import (
    GRACE_MS,
    MAX_SPANS,
    TRIP_UNKNOWN,
    Filed,
    IngestVehicle,
    Window,
    earliest_difference,
    filed_anew,
    span_at,
)
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
        # The grace of the second trip reaches back to the end of the first, and no further.
        (1_100_001, "second"),
        (1_200_000, "second"),
        (1_200_001, None),
        (1_969_999, None),
        (1_970_000, "third"),
        (9_999_999, "third"),
    ],
)
def test_a_fix_belongs_to_the_trip_under_way_at_its_time(instant: int, trip: str | None) -> None:
    vehicle = IngestVehicle(1, Vehicle("van-1", "fleet"), SPANS)
    span = span_at(vehicle.windows, instant)
    assert (span.trip_id if span is not None else None) == trip


def test_a_deleted_trip_still_bounds_the_next_one() -> None:
    spans = [SPANS[0]._replace(trip_id=None), SPANS[1]]
    vehicle = IngestVehicle(1, Vehicle("van-1", "fleet"), spans)
    assert [span_at(vehicle.windows, instant) for instant in (1_050_000, 1_100_000, 1_100_001)] == [None, None, SPANS[1]]


def test_a_vehicle_without_trips_has_no_span() -> None:
    assert span_at(IngestVehicle(1, Vehicle("van-1", "fleet")).windows, 5) is None


STEP = 5_000
"""Every start, end and grace is a multiple of this, so that nothing starts or ends between two multiples."""


@st.composite
def some_spans(draw: st.DrawFn, most: int = MAX_SPANS + 3) -> list[Span]:
    """A vehicle's spans, oldest first; a trip may have several, and may have been removed."""
    edges = sorted(draw(st.lists(st.integers(0, 60), max_size=2 * most)))
    spans = [
        Span(trip, None if draw(st.integers(0, 5)) == 0 else f"trip-{trip}", start * STEP, end * STEP)
        for start, end in zip(edges[::2], edges[1::2], strict=False)
        for trip in [draw(st.integers(1, 4))]
    ]
    still_under_way: bool = draw(st.booleans())
    if spans and still_under_way:
        spans[-1] = spans[-1]._replace(ended_at=None)
    return spans


@st.composite
def a_change(draw: st.DrawFn) -> tuple[list[Span], list[Span]]:
    """Spans before and after a change: a new one, an ended one, one of a removed trip, dropped ones, or any."""
    spans = draw(some_spans())
    kind = draw(st.sampled_from(["end", "start", "remove", "let go", "any"]))
    if kind == "any" or not spans:
        return spans, draw(some_spans())
    last = spans[-1]
    if kind == "end" and last.ended_at is None:
        return spans, [*spans[:-1], last._replace(ended_at=last.started_at + draw(st.integers(0, 9)) * STEP)]
    if kind == "start" and last.ended_at is not None:
        return spans, [*spans, Span(9, "trip-9", last.ended_at + draw(st.integers(0, 9)) * STEP, None)]
    if kind == "remove":
        number = draw(st.integers(0, len(spans) - 1))
        return spans, [*spans[:number], spans[number]._replace(trip_id=None), *spans[number + 1 :]]
    return spans, spans[draw(st.integers(0, len(spans))) :]


def _windows(spans: list[Span]) -> list[Window]:
    return IngestVehicle(1, Vehicle("van-1", "fleet"), spans).windows


def _belongs(windows: list[Window], instant: int) -> int | None:
    """The trip of a fix, searched from the oldest window on; `TRIP_UNKNOWN` if memory does not have it."""
    if not windows or instant < windows[-1].start:
        return TRIP_UNKNOWN
    trip: int | None = None
    for start, end, span in reversed(windows):
        if start <= instant:
            trip = span.trip if span.trip_id is not None and (end is None or instant <= end) else None
    return trip


@given(a_change())
def test_the_earliest_difference_is_the_first_instant_with_another_trip(change: tuple[list[Span], list[Span]]) -> None:
    old, new = map(_windows, change)
    instants = [number * STEP + offset for number in range(-GRACE_MS // STEP - 2, 80) for offset in (-1, 0, 1)]
    found = []
    for instant in instants:
        span = span_at(old, instant)
        before, after = span.trip if span is not None else None, _belongs(new, instant)
        if before != after and TRIP_UNKNOWN not in (before, after):
            found.append(instant)
    assert earliest_difference(old, new) == (found[0] if found else None)
    assert earliest_difference(new, new) is None


@given(a_change(), st.integers(-10, 80), st.integers(-10, 80), st.sampled_from([-STEP, 0, STEP]))
def test_a_position_is_filed_anew_if_it_was_accepted_after_the_change(
    change: tuple[list[Span], list[Span]], fixed: int, accepted: int, ahead: int
) -> None:
    old, new = map(_windows, change)
    fix_time, server_time = fixed * STEP, accepted * STEP
    span = span_at(old, fix_time)
    before, after = span.trip if span is not None else None, _belongs(new, fix_time)
    filed = filed_anew(new, fix_time, server_time, before, ahead)
    if before == after or TRIP_UNKNOWN in (before, after):
        assert filed is None
        return
    since = earliest_difference(old, new)
    assert since is not None
    assert since <= fix_time, "nothing is filed anew that is older than the difference"
    by_database = server_time + ahead
    if after is not None:
        started_at = max(span.started_at for span in change[1] if span.trip == after and span.started_at - GRACE_MS <= fix_time)
        if by_database >= started_at:
            assert filed == Filed(after, f"trip-{after}")
        else:
            # It has no trip, or keeps its trip.
            assert filed in (None, Filed(None, None))
    elif filed is not None:
        assert filed == Filed(None, None)


def test_fixes_before_a_start_keep_their_trip_and_later_ones_get_the_new_trip() -> None:
    windows = _windows(SPANS)
    start = 2_000_000
    assert filed_anew(windows, start - GRACE_MS, start, None) == Filed(3, "third")
    assert filed_anew(windows, start - GRACE_MS, start - 1, None) is None
    assert filed_anew(windows, start - GRACE_MS, start - 1, None, ahead=1) == Filed(3, "third")
    assert filed_anew(windows, start - GRACE_MS - 1, start, None) is None
    assert filed_anew(windows, 1_200_001, 1_200_001, 2) == Filed(None, None)
    assert filed_anew(windows, 1_200_001, 1_199_999, 2) is None
    assert filed_anew(windows, 1_200_000, 1_200_000, 2) is None
    # It was filed to a trip that had ended when it arrived, before the next trip began.
    assert filed_anew(windows, start - 1, start - 2, 2) == Filed(None, None)
