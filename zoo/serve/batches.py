"""Images that are asked about at the same time go through the network together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch
from torch import Tensor

WAIT = 0.005  # seconds that the first image of a batch waits for others
LARGEST = 32  # images a batch


class Batches:
    """A queue in front of a network.

    Args:
        network: images uint8 [n, C, H, W] to a row of numbers for each; called by one thread at a time.
        wait: seconds that the first image waits for others.
        largest: images in a batch.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], wait: float = WAIT, largest: int = LARGEST) -> None:
        self.network, self.wait, self.largest = network, wait, largest
        self.queue: asyncio.Queue[tuple[Tensor, asyncio.Future[Tensor]]] = asyncio.Queue()

    async def ask(self, image: Tensor) -> Tensor:
        """What the network says of one image, uint8 [C, H, W]."""
        answer = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((image, answer))
        return await answer

    async def run(self) -> None:
        """Serve the queue until canceled."""
        while True:
            asked = [await self.queue.get()]
            if self.queue.qsize() + 1 < self.largest:
                await asyncio.sleep(self.wait)
            while len(asked) < self.largest and not self.queue.empty():
                asked.append(self.queue.get_nowait())
            await self._answer(asked)

    async def _answer(self, asked: list[tuple[Tensor, asyncio.Future[Tensor]]]) -> None:
        asked = [(image, answer) for image, answer in asked if not answer.done()]  # who has hung up needs none
        if not asked:
            return
        try:
            rows = await asyncio.to_thread(self.network, torch.stack([image for image, _ in asked]))
        except Exception as error:  # is told to those who asked, and the queue goes on
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), row in zip(asked, rows, strict=True):
            if not answer.done():
                answer.set_result(row)
