"""Rows of the change log, applied to a live state that was read before or after them."""

import pytest

from tests.support.hub_in_process import SETTINGS
from tests.support.live_state import NothingElse
from tests.support.monitoring import BEGIN, FLEET, Monitored
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.config import load
from tracking.live.follower import NotRead
from tracking.live.hub import Hub
from tracking.live_state.applying import LiveState
from tracking.live_state.reading import State
from tracking.model import Fleet, Place, Trip, TripStatus, Vehicle
from tracking.service import Service
from tracking.store.changes import ChangeKind, Row


def test_a_change_of_a_fleet_that_came_into_memory_since_is_read_by_itself(world_of: LiveState, monitored: Monitored) -> None:
    row = Row(7, 1, 0, 1, FLEET, None, ChangeKind.FLEET_CHANGED, FLEET, None, None)
    with pytest.raises(NotRead):
        world_of.apply(row, State(), 7)
    monitored.fleets.feeds[FLEET].as_of = 7
    world_of.apply(row, State(), 7)
    asked = State()
    asked.asked_fleets.add(FLEET)
    asked.fleets[FLEET] = Fleet(FLEET, "Newer")
    world_of.apply(row, asked, 7)
    assert monitored.fleets.feeds[FLEET].fleet.name == "Fleet"
    world_of.apply(row, asked, 8)
    assert monitored.fleets.feeds[FLEET].fleet.name == "Newer"


def test_a_name_is_read_for_whoever_watches_a_trip_though_its_fleet_is_not_in_memory(world_of: LiveState, hub_of: Hub) -> None:
    place = Place(47.0, 9.5)
    trip = Trip(1, "trip", "other", Vehicle("taxi", "other"), TripStatus.NEW, 1, place, place, (), None, BEGIN, None, None)
    row = Row(7, 1, 0, 1, "other", 5, ChangeKind.VEHICLE_CHANGED, "taxi", None, None)
    state = State(hub_of.begun)
    world_of.apply(row, state, 7)
    # The feed was begun after what the row concerns was read.
    feed = hub_of.feed(trip, 6)
    with pytest.raises(NotRead):
        world_of.apply(row, state, 7)
    feed.as_of = 7
    world_of.apply(row, state, 7)


@pytest.fixture
def monitored() -> Monitored:
    return Monitored()


@pytest.fixture
def service_of(monitored: Monitored) -> Service:
    settings = load(database_url="postgresql://nowhere", **SETTINGS)
    service = assemble(settings, "postgresql://nowhere", Auth(settings, lambda: BEGIN), lambda: BEGIN)
    service.hub.fleets = monitored.fleets
    return service


@pytest.fixture
def hub_of(service_of: Service) -> Hub:
    return service_of.hub


@pytest.fixture
def world_of(service_of: Service, monitored: Monitored) -> LiveState:
    return LiveState(
        service_of.ingest_vehicles,
        service_of.hub,
        monitored.monitor,
        service_of.loader,
        service_of.auth,
        lambda: BEGIN,
        NothingElse(),
        NothingElse(),
    )
