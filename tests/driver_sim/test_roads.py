import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver_sim.roads import Edge, NoRoute, RoadGraph, _edges, metres

GRAPH = RoadGraph.load()
NODES = sorted(GRAPH.nodes)
nodes = st.sampled_from(NODES)


def edge(start: int, end: int, length: float = 100.0, limit: float = 10.0, name: str = "") -> Edge:
    points = ((47.0 + start / 1000, 9.5), (47.0 + end / 1000, 9.5))
    return Edge(start, end, points, length, limit, name, "residential", False, False)


def cheapest(start: int, end: int) -> float:
    """The algorithm of Bellman and Ford, which uses no heuristic."""
    best = {start: 0.0}
    changed = True
    while changed:
        changed = False
        for node, seconds in list(best.items()):
            for one in GRAPH.leaving[node]:
                if seconds + one.seconds < best.get(one.end, float("inf")) - 1e-9:
                    best[one.end] = seconds + one.seconds
                    changed = True
    return best[end]


@settings(max_examples=40, deadline=None)
@given(nodes, nodes)
def test_a_route_is_connected_from_start_to_end(start: int, end: int) -> None:
    way = GRAPH.route(start, end)
    if start == end:
        assert way == []
        return
    assert (way[0].start, way[-1].end) == (start, end)
    for before, after in itertools.pairwise(way):
        assert before.end == after.start
        assert before.points[-1] == after.points[0]


@settings(max_examples=40, deadline=None)
@given(nodes, nodes)
def test_a_route_respects_one_way_streets(start: int, end: int) -> None:
    for one in GRAPH.route(start, end):
        assert one in GRAPH.leaving[one.start]


def test_one_way_streets_have_one_direction() -> None:
    features = [
        {
            "properties": {"u": 1, "v": 2, "oneway": oneway, "highway": "residential"},
            "geometry": {"coordinates": [[9.5, 47.0], [9.5, 47.1]]},
        }
        for oneway in (0, 1, -1)
    ]
    assert [(one.start, one.end) for one in _edges(features[0])] == [(1, 2), (2, 1)]
    assert [(one.start, one.end) for one in _edges(features[1])] == [(1, 2)]
    (against,) = _edges(features[2])
    assert (against.start, against.end, against.points[0]) == (2, 1, (47.1, 9.5))


def test_no_route_is_slower_than_the_best() -> None:
    rng = random.Random(7)
    start, end = rng.sample(NODES, 2)
    assert sum(one.seconds for one in GRAPH.route(start, end)) == pytest.approx(cheapest(start, end))


def test_a_place_that_cannot_be_reached() -> None:
    graph = RoadGraph([edge(1, 2), edge(3, 2)])
    with pytest.raises(NoRoute, match="junction 1 to junction 3"):
        graph.route(1, 3)


def test_the_faster_road_wins_over_the_shorter() -> None:
    graph = RoadGraph([edge(1, 2, 200.0, 2.0), edge(1, 3, 200.0, 20.0), edge(3, 2, 200.0, 20.0)])
    assert [one.end for one in graph.route(1, 2)] == [3, 2]


@settings(max_examples=40, deadline=None)
@given(st.floats(47.05, 47.26), st.floats(9.47, 9.62))
def test_the_nearest_junction_is_the_nearest(latitude: float, longitude: float) -> None:
    nearest = GRAPH.nodes[GRAPH.nearest(latitude, longitude)]
    closest = min(metres(point, (latitude, longitude)) for point in GRAPH.nodes.values())
    assert metres(nearest, (latitude, longitude)) == closest


def test_lengths_agree_with_the_data() -> None:
    """The data's own `length_m` add up to 351.9 km in both directions, with one-way streets once."""
    total = sum(one.length for edges in GRAPH.leaving.values() for one in edges) / 1000
    assert total == pytest.approx(2 * 351.9, rel=0.03)


def test_limits_come_from_the_map_or_the_class_of_the_road() -> None:
    limits = {round(one.limit * 3.6) for edges in GRAPH.leaving.values() for one in edges}
    assert limits <= {20, 30, 40, 50, 60, 80}


def test_a_street_has_its_name() -> None:
    assert GRAPH.name_at(GRAPH.nearest(47.141, 9.521))
