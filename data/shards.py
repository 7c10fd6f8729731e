"""What a run needs to know of the processes that a launcher started, before and after there is a process group."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from .files import KEY_BYTES, SUMS, broken_shard, check_sums, clear_unfinished, write_atomically

PATIENCE = timedelta(days=7)
"""How long one process waits for another: a share of a large collection takes hours."""


def is_main_process() -> bool:
    """Tell whether this process writes the run's folder; known from the launcher, without a process group."""
    return int(os.environ.get("RANK", "0")) == 0


def num_launched() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> PartialState:
    """Return this process's place among those that `accelerate launch` or torchrun started to share a work.

    Raises:
        ValueError: if they do not work together.
    """
    state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    check_processes(state.num_processes)
    return state


def check_processes(world_size: int | None) -> None:
    """Check that the processes which a launcher started work together.

    Args:
        world_size: that of the training arguments; None for a stage that trains nothing, which one process does.

    Raises:
        ValueError: if they do not: each would train by itself and write into the same folder.
    """
    started = num_launched()
    if world_size is not None and started != world_size:
        raise ValueError(
            f"Expected {started} processes that work together, as many as the launcher started, got a group of "
            f"{world_size}: each would train by itself. On CPUs add `--training.use_cpu true` after the recipe, or set "
            "ACCELERATE_USE_CPU=true."
        )


Shard = dict[str, Tensor]

PLAN = "plan.json"

CURE = (
    f"Copy it again. Or, in a folder of kept tokens, delete it and the {SUMS} beside it, and give the command again that made "
    "it: it makes this shard anew. In a finished data set (with facts.json), delete the whole data set and make it again."
)


class ShardFolder:
    """Shards of rows, each row with a key, on their way to completeness.

    Args:
        folder: made if it is not there; its parent too.
        facts: what the rows depend on beside their keys, such as the model that makes them; values that JSON can hold.
        keys: one of `text_key` a row, in order.
        rows_a_shard: rows a file (default 1024); what a kill can lose of one process's work.

    Raises:
        ValueError: for no row, or a folder that was planned for other facts, keys or sizes.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], keys: Sequence[bytes], rows_a_shard: int = 1024) -> None:
        if not keys or rows_a_shard < 1:
            raise ValueError(
                f"{folder}: expected rows, and at least one a shard, got {len(keys)} rows and {rows_a_shard} a shard."
            )
        self.folder, self.keys, self.rows_a_shard = folder, keys, rows_a_shard
        digest = hashlib.sha256(b"".join(keys)).hexdigest()
        self.plan = {"facts": dict(facts), "keys": digest, "rows": len(keys), "rows_a_shard": rows_a_shard}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / PLAN).exists():
            self._check_plan()
        else:  # every process may write it: it is the same
            write_atomically(folder / PLAN, (json.dumps(self.plan, indent=1, sort_keys=True) + "\n").encode())

    @property
    def names(self) -> list[str]:
        """Return the file names of all shards."""
        number = -(-len(self.keys) // self.rows_a_shard)
        return [f"{index:05d}-of-{number:05d}.safetensors" for index in range(number)]

    def make(self, compute: Callable[[range], Shard], process: int = 0, processes: int = 1, what: str = "rows") -> None:
        """Make the shards of one process that are not there yet: every `processes`-th, from number `process` on.

        Args:
            compute: gives the tensors of rows `start` to `stop`; must depend on nothing but these rows, so that a resumed
                folder holds the same bytes as one that was made at once.
            process: number of this process (default 0).
            processes: how many share the work (default 1).
            what: is made, for the progress bar.
        """
        if is_complete(self.folder):
            return
        missing = [
            number for number in range(process, len(self.names), processes) if not self._sums_of(self.names[number])
        ]
        for number in tqdm(missing, desc=what, unit="shard", disable=None if len(missing) > 1 else True):
            start = number * self.rows_a_shard
            rows = range(start, min(start + self.rows_a_shard, len(self.keys)))
            keys = torch.from_numpy(np.frombuffer(b"".join(self.keys[row] for row in rows), dtype=np.uint8).copy())
            content = save({**compute(rows), "keys": keys.view(len(rows), KEY_BYTES)})
            name = self.names[number]
            write_atomically(self.folder / name, content)
            line = f"{hashlib.sha256(content).hexdigest()}  {name}\n"
            write_atomically(self.folder / f"{name}.sha256", line.encode())

    def finish(self) -> None:
        """Check every shard and write down that the folder is complete; by one process, when all have done their part.

        Raises:
            ValueError: naming the shard that is missing or not as it was written.
        """
        if not is_complete(self.folder):
            lines = {name: self._sums_of(name) for name in self.names}
            missing = next((name for name, line in lines.items() if not line), None)
            if missing is not None:
                raise ValueError(f"{self.folder / missing}: this shard is not made yet. Give the same command again.")
            check_sums(self.folder, "".join(lines.values()), cure=CURE)
            write_atomically(self.folder / SUMS, "".join(lines.values()).encode())
        clear_unfinished(self.folder)

    def _sums_of(self, name: str) -> str:
        """Return the line that was written after the shard; nothing if the shard is to be made (again)."""
        line = self.folder / f"{name}.sha256"
        return line.read_text() if line.exists() and (self.folder / name).exists() else ""

    def _check_plan(self) -> None:
        found = _read_plan(self.folder)
        for key, value in self.plan.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.folder}: expected shards of {key} {value!r}, got {found.get(key)!r} in {PLAN}. Choose another "
                    "folder, or delete it."
                )


def is_complete(folder: Path) -> bool:
    """Tell whether all shards of a folder were made and checked."""
    return (folder / SUMS).exists()


def open_shards(folder: Path, check: bool = True) -> tuple[dict[str, Any], list[Shard]]:
    """Open a complete folder; tensors are mapped from the files, so that memory holds what is being read.

    Args:
        folder: of shards.
        check: compare the checksums (default True): every byte is read once, about a second a GB.

    Returns:
        The plan's facts, and the tensors of each shard in order.

    Raises:
        ValueError: naming what is missing, cut off or changed.
    """
    if not is_complete(folder):
        raise ValueError(f"{folder}: expected a complete folder of shards, with {SUMS}, got none. Make it first.")
    lines = (folder / SUMS).read_text()
    if check:
        check_sums(folder, lines, cure=CURE)
    shards = []
    for line in lines.splitlines():
        file = folder / line.split("  ")[1]
        try:
            with safe_open(file, "pt") as stream:
                shards.append({name: stream.get_tensor(name) for name in stream.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(broken_shard(file, CURE)) from error
    return _read_plan(folder)["facts"], shards


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / PLAN}: expected the plan of the shards ({error}). Delete the folder.") from error
