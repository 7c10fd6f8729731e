"""Long work in shards: several processes share it, and a killed call goes on with the shards that are not there yet.

```
FOLDER/plan.json             what the rows depend on: another call with other facts is refused
FOLDER/00000-of-00012.parquet    rows of one shard, whole or not there; of tensors `.safetensors`
FOLDER/SHA256SUMS            all shards are there
```
"""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .files import SUMS, broken_shard, check_sums, clear_unfinished, read_json, whole_file, write_json, write_sums
from .provenance import PeakMemory, in_words

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=7)
"""How long one process waits for another: a share of a large collection takes hours."""

PLAN, LOCK = "plan.json", "running.lock"

SIZES = ("rows", "rows_per_shard")
"""What `map_in_shards` notes beside the facts."""

COUNTS = b"counts"
"""Key in a parquet shard's metadata: what was counted when its rows were made."""

CURE = (
    f"Copy it again. Or, in a folder of kept tokens, delete it and the {SUMS} beside it, and give the command again that made "
    "it: it makes this shard anew. In a finished data set (with facts.json), delete the whole data set and make it again."
)

Shard = Mapping[str, Tensor]


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


def map_in_shards(
    num_rows: int,
    function: Callable[[range], pa.Table | Shard],
    folder: Path,
    facts: Mapping[str, Any],
    rows_per_shard: int = 1024,
    description: str = "rows",
) -> list[Path]:
    """Apply a function to parts of the rows and keep each result in a file, written whole or not at all.

    Processes that `accelerate launch` or torchrun started share the shards: number `i` is made by process `i mod n`, and all
    wait for each other at the end. A shard that is there is not made again, so that a killed call loses one a process.

    Args:
        num_rows: rows in all.
        function: gives a table (parquet) or tensors (safetensors) for some rows. It must depend on nothing but these rows
            and `facts`, so that a resumed folder holds the bytes of one that was made at once.
        folder: of the shards; made if it is not there.
        facts: what the shards depend on, such as the model's digest; values that JSON can hold.
        rows_per_shard: default 1024.
        description: what is made, for the progress bar.

    Returns:
        The shards' files, in the order of the rows.

    Raises:
        ValueError: for no row, or a folder that was begun with other facts or sizes.
    """
    if num_rows < 1 or rows_per_shard < 1:
        raise ValueError(
            f"{folder}: expected rows, and at least one a shard, got {num_rows} rows and {rows_per_shard} a shard."
        )
    state = PartialState()
    claim_folder(folder, {**facts, **dict(zip(SIZES, (num_rows, rows_per_shard), strict=True))})
    count = -(-num_rows // rows_per_shard)
    names = [f"{number:05d}-of-{count:05d}" for number in range(count)]
    if not is_complete(folder):
        present = {file.stem for file in _shards_in(folder)}
        missing = [n for n in range(state.process_index, count, state.num_processes) if names[n] not in present]
        is_hidden = None if len(missing) > 1 and state.is_main_process else True
        for number in tqdm(missing, desc=description, unit="shard", disable=is_hidden):
            start = number * rows_per_shard
            _write_shard(folder / names[number], function(range(start, min(start + rows_per_shard, num_rows))))
        state.wait_for_everyone()
        if state.is_main_process:
            clear_unfinished(folder)
            write_sums(folder)
        state.wait_for_everyone()
    return _shards_in(folder)


def claim_folder(folder: Path, facts: Mapping[str, Any]) -> None:
    """Note in a folder what its content depends on; every process may, for it writes the same.

    Raises:
        ValueError: naming what differs, if the folder was begun with other facts, or holds files of another kind.
    """
    facts = json.loads(json.dumps(facts))
    if (folder / PLAN).exists():
        begun = read_json(folder / PLAN)
        differing = [name for name in dict.fromkeys([*facts, *begun]) if begun.get(name) != facts.get(name)]
        if differing:
            raise ValueError(
                f"{folder} was begun with something else (what differs: {', '.join(differing)}). Choose another folder, or "
                "delete it."
            )
        return
    if folder.exists() and any(file.name != LOCK and not file.name.startswith(".") for file in folder.iterdir()):
        raise ValueError(f"{folder}: expected no folder, or unfinished work, got files of another kind. Move them.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, facts)


@contextmanager
def unfinished_work(output: Path, facts: Mapping[str, Any], is_cheap: bool = False) -> Iterator[Path]:
    """Give `OUTPUT.parts`, where a command keeps its shards until its output is there; a killed call goes on in it.

    It is deleted at the end. Of a call that failed before a shard was there nothing is left, so that other settings may mend it.

    Args:
        output: of the command.
        facts: its settings and the digests of what it reads.
        is_cheap: leave nothing of a call that failed, even if a shard was there (default False).

    Raises:
        ValueError: if it was begun with other facts, or another call is at work there.
    """
    folder = work_folder(output)
    state, memory = PartialState(), PeakMemory()
    claim_folder(folder, facts)
    lock = hold(folder) if state.is_main_process else None
    try:
        yield folder
        if state.is_main_process:
            shutil.rmtree(folder)
    except Exception:
        if state.num_processes == 1 and (is_cheap or not any(_is_shard(file) for file in folder.rglob("*"))):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            lock.release()
    state.wait_for_everyone()
    if state.is_main_process and (peaks := in_words(memory.peaks)):
        logger.info("%s: %s.", output, peaks)


def remove_work(output: Path) -> None:
    """Say that an output is there already, and delete what a call has left that was killed when all but this was done."""
    if is_main_process():
        logger.warning("%s is there already, made with these settings.", output)
        shutil.rmtree(work_folder(output), ignore_errors=True)


def work_folder(output: Path) -> Path:
    """Return where a command's unfinished work is: `OUTPUT.parts`."""
    return output.with_name(f"{output.name}.parts")


def hold(folder: Path) -> FileLock:
    """Keep other calls out of a folder of unfinished work, until what is returned is released or this process ends.

    Raises:
        ValueError: if another call is at work there.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{folder}: another call is at work there. Wait for it, or end it.") from error
    return lock


def is_complete(folder: Path) -> bool:
    """Tell whether all shards of a folder were made."""
    return (folder / SUMS).exists()


def read_shards(shards: Sequence[Path]) -> Dataset:
    """Return the rows of parquet shards as a data set that lies beside them on disk."""
    # All rows of a shard may have been dropped, and the reader takes its batches to be as large as the first shard.
    filled = [str(file) for file in shards if pq.read_metadata(file).num_rows]
    if not filled:
        return Dataset(pq.read_table(shards[0]))
    rows = Dataset.from_parquet(filled, cache_dir=str(shards[0].parent / "cache"))
    assert isinstance(rows, Dataset)  # noqa: S101 - for the type checker
    return rows


def with_counts(table: pa.Table, counts: Mapping[str, int]) -> pa.Table:
    """Return a table that carries what was counted when it was made, for `sum_counts`."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), COUNTS: json.dumps(dict(counts))})


def sum_counts(shards: Iterable[Path]) -> dict[str, int]:
    """Return what was counted in all parquet shards."""
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(json.loads((pq.read_schema(shard).metadata or {}).get(COUNTS, b"{}")))
    return dict(counts)


def open_shards(folder: Path, check: bool = True) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
    """Open a complete folder of tensors; they are mapped from the files, so that memory holds what is being read.

    Args:
        folder: of shards.
        check: compare the checksums (default True): every byte is read once, about a second a GB.

    Returns:
        The facts, and the tensors of each shard in order.

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
    plan = read_json(folder / PLAN)
    return {name: plan[name] for name in plan if name not in SIZES}, shards


def _shards_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _is_shard(file))


def _is_shard(file: Path) -> bool:
    return file.suffix in (".parquet", ".safetensors") and not file.name.startswith(".")


def _write_shard(place: Path, content: pa.Table | Shard) -> None:
    suffix = ".parquet" if isinstance(content, pa.Table) else ".safetensors"
    with whole_file(place.with_name(place.name + suffix)) as unfinished:
        if isinstance(content, pa.Table):
            pq.write_table(content, unfinished)
        else:
            save_file(dict(content), unfinished)
