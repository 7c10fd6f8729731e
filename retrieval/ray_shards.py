"""Shards held by Ray's actors: each searches its own, at the same time, on this machine or on those of a cluster."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .sharded import Calls, LocalShards

OBJECT_STORE_BYTES = 2**28
"""Of a Ray that is started here: what travels are questions and hits; vectors stay in files."""


def start_ray(workers: int) -> Any:
    """Import Ray and, where none runs in this process, join `RAY_ADDRESS` or start one on this machine.

    Args:
        workers: processes that are to run at the same time.

    Raises:
        ImportError: naming the extra that brings it.
        RuntimeError: if it does not start, as on a machine so busy that it takes more than the half minute which Ray allows.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "Several workers need Ray: `pip install drdecr[ray]`. One worker (the default) does without."
        ) from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        local: dict[str, Any] = {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
        options = {} if os.environ.get("RAY_ADDRESS") else {**local, "object_store_memory": OBJECT_STORE_BYTES}
        try:
            ray.init(log_to_driver=False, logging_level="error", **options)
        except Exception as error:  # Ray raises Exception itself
            raise RuntimeError(
                f"Ray did not start: {error} Try again, or start it by itself (`ray start --head`) and set RAY_ADDRESS=auto."
            ) from error
    return ray


def start_workers(ray: Any, kind: type, workers: int, *arguments: Any) -> list[Any]:
    """Start actors of a class, each with its part of the processors and accelerators."""
    resources = ray.cluster_resources()
    share = {
        "num_cpus": max(int(resources.get("CPU", 1)) // workers, 1),
        "num_gpus": min(resources.get("GPU", 0) / workers, 1),
    }
    return [ray.remote(kind).options(**share).remote(*arguments) for _ in range(workers)]


def result_of(ray: Any, reference: Any, what: str) -> Any:
    """Wait for a worker's answer; its own error is raised as if it had happened here.

    Raises:
        RuntimeError: for a worker that is gone, killed or out of memory.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.RayError):  # an error that cannot travel; its text did
            raise RuntimeError(f"{what}: {str(error).strip().splitlines()[-1]}") from None
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(
            f"{what}: its worker is gone, killed or out of memory. Give the same command again."
        ) from error


class ShardHolder(LocalShards):
    """What an actor runs: it opens some shards and answers for them."""

    def __init__(self) -> None:
        super().__init__({})

    def open(self, open_shard: Callable[[Path], Any], folders: dict[int, Path]) -> None:
        """Open the indexes of folders, by their numbers."""
        self.indexes = {number: open_shard(folder) for number, folder in folders.items()}


class RayShards:
    """Shards held by actors, dealt out in turn.

    Args:
        open_shard: opens the index of a folder; it and its result stay with the worker.
        folders: of all shards, in order; every worker must see them under these names.
        workers: actors at most, no more than shards.
    """

    def __init__(self, open_shard: Callable[[Path], Any], folders: Sequence[Path], workers: int) -> None:
        workers = min(workers, len(folders))
        self._ray = start_ray(workers)
        absolute = [folder.resolve() for folder in folders]  # an actor may run in another folder
        dealt = [{n: absolute[n] for n in range(worker, len(folders), workers)} for worker in range(workers)]
        self._workers = start_workers(self._ray, ShardHolder, workers)
        opened = [worker.open.remote(open_shard, own) for worker, own in zip(self._workers, dealt, strict=True)]
        for reference in opened:
            result_of(self._ray, reference, "A shard")

    def ask(self, method: str, calls: Calls) -> dict[int, Any]:
        """Call a method of some shards; workers answer at the same time."""
        dealt: dict[int, dict[int, tuple[Any, ...]]] = {}
        for number, arguments in calls.items():
            dealt.setdefault(number % len(self._workers), {})[number] = arguments
        waiting = [self._workers[worker].ask.remote(method, own) for worker, own in dealt.items()]
        found: dict[int, Any] = {}
        for reference in waiting:
            found.update(result_of(self._ray, reference, "A shard"))
        return found

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []
