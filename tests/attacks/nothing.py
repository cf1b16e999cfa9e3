"""No attack: what honest clients measure without one."""

import asyncio

from tests.attacks.scene import Scene


async def nothing(scene: Scene) -> None:
    await asyncio.sleep(scene.seconds)
