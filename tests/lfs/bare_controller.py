"""The controller on a bare event loop, without Ray: trainers are handles that die when they are told to."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from ray.exceptions import RayActorError

from lfs.controller import Controller


class Actor:
    """A trainer's handle: `alive` is pending until the trainer dies."""

    def __init__(self) -> None:
        self.death = asyncio.get_running_loop().create_future()
        self.alive = self

    def remote(self) -> "asyncio.Future[int]":
        return self.death

    def die(self) -> None:
        self.death.set_exception(RayActorError())


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 20))


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def closed(made: Controller, generations: int) -> None:
    """Until so many generations are closed, which in part happens in threads."""
    while made.search.state.generation < generations:
        await asyncio.sleep(0.001)
