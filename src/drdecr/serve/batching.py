"""Requests that arrive at the same time, answered together: a batch of queries costs an encoder little more than one."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any


class BusyError(RuntimeError):
    """More waits than is allowed to."""


class Batcher:
    """Calls a function with all that waits, in one thread beside the event loop.

    Args:
        function: takes a list of items, returns an answer for each; an exception in the place of an answer is raised to
            whoever sent the item.
        max_batch: items of one call.
        max_waiting: items that may wait; more are refused with `BusyError`.
        wait: seconds that the first item waits for company.
        closing_seconds: time for what still waits when the batcher is closed.

    `sizes` counts the batches by their sizes, `refused` the items that were refused.
    """

    def __init__(
        self,
        function: Callable[[list[Any]], list[Any]],
        max_batch: int = 32,
        max_waiting: int = 256,
        wait: float = 0.005,
        closing_seconds: float = 5.0,
    ) -> None:
        self.function, self.max_batch, self.max_waiting, self.wait = function, max_batch, max_waiting, wait
        self.closing_seconds = closing_seconds
        self.sizes: Counter[int] = Counter()
        self.refused = 0
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drdecr-batch")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Batcher":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Answer what still waits, then end; a function that hangs is left behind."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), self.closing_seconds)
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False)

    @property
    def num_waiting(self) -> int:
        """How many items wait for their batch."""
        return self._queue.qsize()

    async def submit(self, item: Any) -> Any:
        """Return the answer to an item.

        Raises:
            BusyError: if too many wait already.
        """
        if self._queue.qsize() >= self.max_waiting:
            self.refused += 1
            raise BusyError(f"{self._queue.qsize()} requests wait already. Try again in a moment.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((item, future))
        return await future

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            if self._queue.empty():
                await asyncio.sleep(self.wait)
            while len(batch) < self.max_batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            open_items = [(item, future) for item, future in batch if not future.done()]  # the others' senders left
            if open_items:
                self.sizes[len(open_items)] += 1
                await self._answer(open_items)
            for _ in batch:
                self._queue.task_done()

    async def _answer(self, batch: list[tuple[Any, "asyncio.Future[Any]"]]) -> None:
        try:
            items = [item for item, _ in batch]
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self.function, items)
        except Exception as error:  # noqa: BLE001  # whoever sent an item is told; the loop must go on for the others
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():  # its sender is gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
