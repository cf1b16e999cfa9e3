"""Cells and areas: what a viewport touches, on every part of the globe."""

from math import cos, log, pi, radians, tan

from hypothesis import given, settings
from hypothesis import strategies as st

from tracking.live.grid import MAX_LATITUDE, SIDE, ZOOM, Cell, Pyramid, area_of, cell_name, column_of, row_of

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


@given(latitudes, longitudes)
def test_a_place_lies_in_the_tile_that_maps_have_for_it(latitude: float, longitude: float) -> None:
    column, row = column_of(longitude), row_of(latitude)
    assert 0 <= column < SIDE
    assert 0 <= row < SIDE
    assert abs(column - (longitude + 180) / 360 * SIDE) <= 1.0000001
    if abs(latitude) < MAX_LATITUDE:
        # OpenStreetMap's wiki, "Slippy map tilenames".
        phi = radians(latitude)
        assert abs(row - (1 - log(tan(phi) + 1 / cos(phi)) / pi) / 2 * SIDE) <= 1.0000001
    else:
        assert row == (0 if latitude > 0 else SIDE - 1)


@given(latitudes, longitudes)
def test_a_cell_holds_its_places_but_for_rounding_at_its_edge(latitude: float, longitude: float) -> None:
    cell: Cell[object, object] = Cell(column_of(longitude), row_of(latitude))
    near = 1e-9
    assert cell.south - near <= latitude <= cell.north + near
    assert cell.west - near <= longitude <= cell.east + near
    assert cell.name == cell_name(cell.column, cell.row)


@given(longitudes, latitudes, st.floats(0, 360), st.floats(0, 90), st.floats(0, 1), st.floats(0, 1))
def test_an_area_touches_the_cell_of_every_place_in_its_bounds(
    west: float, south: float, width: float, height: float, across: float, up: float
) -> None:
    north = min(90.0, south + height)
    area = area_of(west, south, west + width, north)
    latitude = min(north, south + up * (north - south))
    longitude = west + across * width
    if longitude > 180.0:
        longitude -= 360.0
    assert area.touches(column_of(longitude), row_of(latitude))


@given(longitudes, st.floats(0.0, 0.05), st.floats(-80, 80))
def test_an_area_names_each_of_its_cells_once(west: float, width: float, south: float) -> None:
    area = area_of(west, south, west + width, south + 0.05)
    places = list(area.places())
    assert len(places) == len(set(places)) == area.size
    assert all(area.touches(*place) for place in places)
    assert area.size <= 5 * 40


def test_bounds_across_the_date_line_may_be_written_either_way() -> None:
    written = [area_of(*bounds) for bounds in ((179.9, -1, -179.9, 1), (179.9, -1, 180.1, 1), (-180.1, -1, -179.9, 1))]
    assert len({area.parts for area in written}) == 1
    assert len(written[0].parts) == 2
    assert area_of(179.9, -1, -179.9, 1).shows(0, 180.0)
    assert not area_of(179.9, -1, -179.9, 1).shows(0, 0.0)


def test_the_whole_world_is_one_part() -> None:
    for bounds in ((-180, -90, 180, 90), (-540, -90, 540, 90), (-200, -90, 200, 90), (10, -90, 9.99999, 90)):
        area = area_of(*bounds)
        assert area.size == SIDE * SIDE
        assert area.touches(0, 0)
        assert area.touches(SIDE - 1, SIDE - 1)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(46.0, 48.0), st.floats(-181.0, -179.0).map(lambda x: x if x > -180 else x + 360)), max_size=60
    ),
    st.lists(st.booleans(), min_size=60, max_size=60),
    st.floats(178.5, 181.5),
    st.floats(0.0, 3.0),
    st.floats(46.0, 48.0),
    st.floats(0.0, 2.0),
)
def test_a_pyramid_counts_as_one_who_looks_at_every_vehicle(
    places: list[tuple[float, float]], stay: list[bool], west: float, width: float, south: float, height: float
) -> None:
    pyramid = Pyramid()
    keys = [(column_of(longitude), row_of(latitude)) for latitude, longitude in places]
    for key, place in zip(keys, places, strict=True):
        pyramid.add(*key, place)
    for key, place, stays in zip(keys, places, stay, strict=False):
        if not stays:
            pyramid.remove(*key, place)
    left = [(key, place) for key, place, stays in zip(keys, places, stay, strict=False) if stays]
    area = area_of(west, south, west + width, south + height)
    touched = [key for key, _ in left if area.touches(*key)]
    cells = [(column, row) for column, row, _ in pyramid.cells(area)]
    assert len(cells) == len(set(cells))
    assert set(cells) == set(touched)
    counted = 0
    for column, row, count in pyramid.counted(area):
        counted += count if count is not None else sum(key == (column, row) for key, _ in left)
    assert counted == len(touched)
    for level in (0, 5, 11, ZOOM):
        tiles = pyramid.tiles(area, level)
        assert sum(tile.count for tile in tiles) >= len(touched)
        assert len(tiles) <= max(1, len(left))
    # On one side of the date line, where the middle is one: that of all who are in the tile.
    whole = pyramid.tiles(area_of(-180, -90, 180, 90), 0)
    assert [tile.count for tile in whole] == ([len(left)] if left else [])
    if left:
        assert abs(whole[0].latitudes - sum(place[0] for _, place in left)) < 1e-6
