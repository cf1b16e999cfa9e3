"""The settings of how clients move from one hub to others. `config.Settings` has them with all others."""

from pydantic import Field
from pydantic_settings import BaseSettings


class MovingSettings(BaseSettings):
    """How long a stopping hub takes to send its clients to other hubs."""

    drain_seconds: float = Field(
        20.0,
        ge=0,
        le=600,
        description="Seconds over which a stopping hub sends its clients to other hubs, if one is alive; 0: all at once",
    )
