"""Settings that contradict each other are refused at the start. The error names both."""

import pytest

from tracking.config import load
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
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, float], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**settings)
    assert all(name in str(caught.value) for name in named)


def test_settings_that_agree() -> None:
    assert load(outbox_high_water=2048, outbox_limit=2048, stale_after=2.0, interval_watched=1.0).outbox_limit == 2048
