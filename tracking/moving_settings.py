"""The settings of how clients move from one hub to others. `config.Settings` has them with all others."""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

LEAST_ABOVE = 1.05
MOST_ABOVE = 100.0


class MovingSettings(BaseSettings):
    """How long a stopping hub takes to send its clients to other hubs, and when a hub that has too many sends some."""

    drain_seconds: float = Field(
        20.0,
        ge=0,
        le=600,
        description="Seconds over which a stopping hub sends its clients to other hubs, if one is alive; 0: all at once",
    )
    shed_above: float = Field(
        1.25,
        description="Times the mean of all hubs. A hub with more connections sends 1 to 2 % of them away each second; 0: none",
    )

    @field_validator("shed_above")
    @classmethod
    def _is_above_the_mean(cls, above: float) -> float:
        if above and not LEAST_ABOVE <= above <= MOST_ABOVE:
            raise ValueError(f"must be 0, or from {LEAST_ABOVE:g} to {MOST_ABOVE:g}: hubs never have the same number")
        return above
