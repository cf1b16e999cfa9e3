"""No attack: what honest clients meet with by themselves."""

import asyncio

from tests.attacks.scene import Scene


async def nothing(scene: Scene) -> None:
    await asyncio.sleep(scene.seconds)
