"""Dynamic batching of concurrent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch
from torch import Tensor

WAIT = 0.005  # seconds that the first image of a batch waits for others
LARGEST = 32  # images per batch


class Batches:
    """A queue that batches images.

    Args:
        network: maps uint8 [n, C, H, W] to [n, ...]; called from one thread at a time.
        wait: seconds that the first image waits for others.
        largest: maximum batch size.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], wait: float = WAIT, largest: int = LARGEST) -> None:
        self.network, self.wait, self.largest = network, wait, largest
        self.queue: asyncio.Queue[tuple[Tensor, asyncio.Future[Tensor]]] = asyncio.Queue()

    async def ask(self, image: Tensor) -> Tensor:
        """Predict one image, uint8 [C, H, W]."""
        answer = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((image, answer))
        return await answer

    async def run(self) -> None:
        """Serve the queue until canceled."""
        while True:
            batch = [await self.queue.get()]
            if self.queue.qsize() + 1 < self.largest:
                await asyncio.sleep(self.wait)
            while len(batch) < self.largest and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            await self._answer(batch)

    async def _answer(self, batch: list[tuple[Tensor, asyncio.Future[Tensor]]]) -> None:
        batch = [(image, answer) for image, answer in batch if not answer.done()]  # skip canceled requests
        if not batch:
            return
        try:
            rows = await asyncio.to_thread(self.network, torch.stack([image for image, _ in batch]))
        except Exception as error:  # goes to the requests of this batch; the queue continues
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), row in zip(batch, rows, strict=True):
            if not answer.done():
                answer.set_result(row)
