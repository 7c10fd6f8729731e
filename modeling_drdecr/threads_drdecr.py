"""Independent pieces of work on a CPU: a thread each, instead of all threads for one after another."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def a_thread_each(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield what is made of each item, in their order, without gradients.

    A piece of work has more in it than its matrix products, and little of the rest is shared out well by torch, which
    divides every operation by itself. Where there are fewer items than threads, each has all threads, one after another.

    Args:
        work: of one item; as many run at once as there are threads.
        items: read as they are needed, by the caller's thread.
        threads: as `torch.get_num_threads()` says of the caller's thread; 1: no other is begun.

    Raises:
        Exception: what `work` raises, in the order of the items; what has not begun is left.
    """
    items = iter(items)
    first = list(islice(items, threads))
    if threads == 1 or len(first) < threads:
        for item in chain(first, items):
            with torch.no_grad():  # not around the yield, where it would be the caller's too
                result = work(item)
            yield result
        return
    autocast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def as_the_caller(item: Item) -> Result:
        with torch.no_grad(), torch.autocast("cpu", *autocast):  # a thread knows neither
            return work(item)

    # torch's setting is a thread's own, and that of all that begin later: it is put back.
    pool = ThreadPoolExecutor(threads, "drdecr", torch.set_num_threads, (1,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in chain(first, items):
            waiting.append(pool.submit(as_the_caller, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
