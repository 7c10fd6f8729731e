"""What settings of an index cost and find: recall of the exact best, MRR, bytes, seconds to build, milliseconds a query.

Building is told in processor seconds of this process, which others on the machine do not change much; a query by the clock, the
least and the median of twenty.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drdecr.retrieval import ExactIndex, Hits, StoredIndex
from drdecr.retrieval.stored.codecs import CODECS
from drdecr.retrieval.stored.in_memory import PACKED_CODECS, packed_bytes
from drdecr.retrieval.two_stage import CentroidCandidates, TwoStageIndex

SEED, TOP, TIMED = 12345, 10, 20
SETTINGS = [*((codec, 1) for codec in CODECS), ("float16", 2), ("float16", 3), ("residual4", 2)]
PROBES = (1, 2, 4)
HEAD = "recall@10 of the exact best | same first | MRR@10 | bytes a passage | built, s | 1 thread, ms | 2 threads, ms |"

Vectors = dict[str, Any]
"""`ids` and `passages`, `queries` and `gold` (the id of the passage that answers each)."""


def measure_codecs(vectors: Vectors, truth: Hits) -> None:
    """Print a row of each codec and pooling; all passages are scored."""
    _heading("setting")
    for codec, pool in SETTINGS:
        with _written(vectors, codec, pool) as (index, seconds):
            name = codec + (f", {pool} tokens to one" if pool > 1 else "")
            _row(name, vectors, truth, index.search, index.num_bytes(), seconds)


def measure_memory(vectors: Vectors, rounds: int = 5) -> None:
    """Print what all passages cost a question from files and from memory: every way in turn, question by question."""
    tokens = sum(map(len, vectors["passages"]))
    ways: dict[str, Callable[..., Hits]] = {}
    with ExitStack() as stack:
        for codec in PACKED_CODECS:
            index, _ = stack.enter_context(_written(vectors, codec, 1))
            held, seconds = _timed(lambda index=index: StoredIndex.open(index.folder, verify=False, in_memory=True))
            size = packed_bytes(tokens, index.dim) / 1e6
            ways |= {codec: index.search, f"{codec}, in memory ({size:,.0f} MB, made in {seconds:.1f} s)": held.search}
        print(
            "\n| all passages scored | threads | least, ms | median, ms | ratio of medians |\n|---|---:|---:|---:|---:|"
        )
        for threads in (1, 2):
            times = _in_turn(ways, vectors["queries"][:TIMED], threads, rounds)
            files = list(times.values())[0::2]
            for number, (name, found) in enumerate(times.items()):
                ratio = np.median(files[number // 2]) / np.median(found)
                print(f"| {name} | {threads} | {min(found):.1f} | {np.median(found):.1f} | {ratio:.2f} |", flush=True)


def _in_turn(
    ways: dict[str, Callable[..., Hits]], queries: list[Tensor], threads: int, rounds: int
) -> dict[str, list[float]]:
    """Return the milliseconds of questions that are asked one by one, of each way in turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number, query in enumerate(queries[:1] + queries * rounds):
        for name, search in ways.items():
            start = time.perf_counter()
            search([query], top_k=TOP)
            if number:  # the first wakes everything up
                times[name].append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(before)
    return times


def measure_candidates(vectors: Vectors, counts: tuple[int, ...]) -> None:
    """Print recall against scoring every passage of the same index, for `counts` passages that are scored exactly."""
    with _written(vectors, "residual4", 1) as (index, seconds):
        truth = index.search(vectors["queries"], top_k=TOP)
        _heading("candidates | scored exactly", 9)
        _row("every passage | all", vectors, truth, index.search, index.num_bytes(), seconds)
        for probes in PROBES:
            source, more = _timed(lambda probes=probes: CentroidCandidates(index, probes))
            for count in counts:
                search = TwoStageIndex(index, source, count).search
                _row(f"centroids, {probes} probes | {count}", vectors, truth, search, index.num_bytes(), more)


def exact_hits(vectors: Vectors, top_k: int = TOP) -> Hits:
    """Score every passage in float32, in memory; print what that costs and finds."""
    index, seconds = _timed(lambda: ExactIndex(vectors["ids"], vectors["passages"]))
    hits = index.search(vectors["queries"], top_k=top_k)
    tokens = sum(map(len, vectors["passages"]))
    print(
        f"{len(vectors['ids'])} passages of {tokens / len(vectors['ids']):.0f} tokens, {len(hits.scores)} questions of ",
        end="",
    )
    print(f"{np.mean([len(query) for query in vectors['queries']]):.0f}, seed {SEED}")
    _heading("exact")
    size = 4 * tokens * vectors["passages"][0].shape[1]
    _row("float32, in memory", vectors, hits, index.search, size, seconds)
    return hits


@contextmanager
def _written(vectors: Vectors, codec: str, pool: int) -> Iterator[tuple[StoredIndex, float]]:
    """Write an index into a folder of its own and open it; also the processor seconds that it took."""

    def write() -> None:
        with StoredIndex.create(Path(folder) / "index", vectors["passages"][0].shape[1], codec, pool) as index:
            index.add(vectors["ids"], vectors["passages"])
            index.commit()

    with tempfile.TemporaryDirectory() as folder:
        _, seconds = _timed(write)
        yield StoredIndex.open(Path(folder) / "index", verify=False), seconds


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    made = function()
    return made, time.process_time() - start


def _heading(first: str, columns: int = 8) -> None:
    print(f"\n| {first} | {HEAD}\n|{'---|' * columns}", flush=True)


def _row(name: str, vectors: Vectors, truth: Hits, search: Callable[..., Hits], size: float, seconds: float) -> None:
    hits = search(vectors["queries"], top_k=TOP)
    speed = [milliseconds(search, vectors["queries"][:TIMED], threads) for threads in (1, 2)]
    cells = [*_found(vectors, truth, hits), f"{size / len(vectors['ids']):,.0f}", f"{seconds:.1f}", *speed]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def milliseconds(search: Callable[..., Hits], queries: list[Tensor], threads: int) -> str:
    """Return the least and the median milliseconds of queries that are asked one by one."""
    times = _in_turn({"": search}, queries, threads, rounds=1)[""]
    return f"{min(times):.1f} ({np.median(times):.1f})"


def _found(vectors: Vectors, truth: Hits, hits: Hits) -> list[str]:
    pairs = list(zip(truth.document_ids, hits.document_ids, strict=True))
    recall = [len(set(best) & set(found)) / len(best) for best, found in pairs]
    first = [float(best[0] == found[0]) if found else 0.0 for best, found in pairs]
    return [interval(recall), interval(first), interval(reciprocal_ranks(vectors["gold"], hits))]


def reciprocal_ranks(gold: list[str], hits: Hits) -> list[float]:
    """Return one over the rank of what answers each question, 0 where it is not among those found."""
    return [
        1 / (1 + found.index(wanted)) if wanted in found else 0.0
        for wanted, found in zip(gold, hits.document_ids, strict=True)
    ]


def interval(values: list[float]) -> str:
    """Return the mean with its 95 % bootstrap interval over questions."""
    draw = np.random.default_rng(SEED)
    means = np.array(values)[draw.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
