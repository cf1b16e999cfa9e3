"""A connected driver with its own vehicle, and what the hub stored of it."""

import json
from dataclasses import dataclass
from typing import Any

from tests.support.clients import Api, Driver, Message, fix


@dataclass
class Bench:
    url: str
    api: Api
    driver: Driver
    fleet_id: str
    vehicle_id: str

    async def stored(self) -> list[int]:
        """The seqs of all stored fixes of the vehicle, suspect ones included."""
        rows = await self.api.track(f"/vehicles/{self.vehicle_id}/track", suspect="true")
        return sorted(int(row["seq"]) for row in rows)

    async def error(self, frame: str) -> Message:
        """Send this frame, and return the error that answers it."""
        await self.driver.send_text(frame)
        return await self.driver.expect("error", "ack")

    async def goes_on(self, *, stored: list[int] | None = None, seq: int = 1) -> None:
        """The connection still works. Only the next fix, `seq`, and the fixes in `stored` are stored."""
        await self.driver.report(fix(seq))
        assert await self.driver.acknowledged(seq) == []
        assert await self.stored() == sorted([*(stored or []), seq])


def position(**fields: Any) -> str:
    """A `position` frame. Its fields may be raw JSON text, which `json.dumps` would not write."""
    return frame("position", **fields)


def fix_frame(**fields: Any) -> str:
    """A `position` frame with a good fix of seq 1, apart from these fields."""
    return position(**{**fix(1), **fields})


def frame(kind: str, **fields: Any) -> str:
    message = {name: value if isinstance(value, Raw) else json.dumps(value) for name, value in fields.items()}
    return "{" + ",".join([f'"type":"{kind}"', *(f'"{name}":{value}' for name, value in message.items())]) + "}"


class Raw(str):
    """JSON text that is sent as it is."""

    __slots__ = ()


def is_error(message: Message, code: str) -> bool:
    """Whether this is an `error` with this code and a detail."""
    return message["type"] == "error" and message["code"] == code and bool(message["detail"])
