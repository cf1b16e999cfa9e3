"""Settings that contradict each other are refused at the start. A variable that is no setting is warned of."""

from collections.abc import Callable

import pytest

from tests.support.hub_process import HubProcess
from tracking.config import load, unknown_variables
from tracking.errors import ConfigError


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"outbox_high_water": 4096, "outbox_limit": 2048}, ("TRACKING_OUTBOX_HIGH_WATER", "TRACKING_OUTBOX_LIMIT")),
        ({"outbox_limit": 2048}, ("TRACKING_OUTBOX_HIGH_WATER", "TRACKING_OUTBOX_LIMIT")),
        ({"outbox_high_water": 2**21}, ("TRACKING_OUTBOX_HIGH_WATER", "TRACKING_OUTBOX_LIMIT")),
        ({"stale_after": 1.0}, ("TRACKING_STALE_AFTER", "TRACKING_INTERVAL_WATCHED")),
        ({"interval_watched": 60.0}, ("TRACKING_STALE_AFTER", "TRACKING_INTERVAL_WATCHED")),
        ({"outbox_limit": 0}, ("TRACKING_OUTBOX_LIMIT",)),
        ({"shed_above": 1.0}, ("TRACKING_SHED_ABOVE", "from 1.05 to 100")),
        ({"shed_above": float("nan")}, ("TRACKING_SHED_ABOVE",)),
        ({"drain_seconds": -1.0}, ("TRACKING_DRAIN_SECONDS",)),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, float], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**settings)
    assert all(name in str(caught.value) for name in named)


def test_settings_that_agree() -> None:
    assert load(outbox_high_water=2048, outbox_limit=2048, stale_after=2.0, interval_watched=1.0).outbox_limit == 2048


def test_a_variable_that_is_no_setting_is_told_with_what_was_meant() -> None:
    of_kubernetes = ("TRACKING_SERVICE_PORT_HTTP", "TRACKING_PORT_8000_TCP_ADDR", "TRACKING_PORT")
    right = ("TRACKING_COMMIT_INTERVAL", "TRACKING_interval_idle", "TRACKING_SERVICE_TOKEN", "PATH")
    environment = ("TRACKING_COMIT_INTERVAL", "tracking_comit_rows", "TRACKING_X", *right, *of_kubernetes)
    assert unknown_variables(environment) == [
        "TRACKING_COMIT_INTERVAL is no setting and has no effect: did you mean TRACKING_COMMIT_INTERVAL?",
        "TRACKING_COMIT_ROWS is no setting and has no effect: did you mean TRACKING_COMMIT_ROWS?",
        "TRACKING_X is no setting and has no effect: docs/SETTINGS.md lists the settings",
    ]


def test_the_hub_warns_of_a_variable_that_is_no_setting(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(retention_day="30")
    assert (
        "TRACKING_RETENTION_DAY is no setting and has no effect: did you mean TRACKING_RETENTION_DAYS?" in hub.log.read_text()
    )
