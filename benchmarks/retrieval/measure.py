"""Recall, bytes and processor time of index settings.

Times are processor seconds of this process: a machine that others use does not change them much.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from drdecr.retrieval import ExactIndex, Hits, StoredIndex
from drdecr.retrieval.centroid_candidates import CentroidCandidates
from drdecr.retrieval.codecs import CODECS
from drdecr.retrieval.muvera import FixedDimensionalEncoding
from drdecr.retrieval.two_stage import TwoStageIndex

SEED, TOP = 12345, 10
SETTINGS = [
    ("float16", 1),
    ("int8", 1),
    ("residual4", 1),
    ("residual2", 1),
    ("float16", 2),
    ("float16", 3),
    ("residual4", 2),
]


def measure_codecs(vectors: dict[str, Any]) -> None:
    """Print recall of the exact best ten, MRR and bytes a passage of each codec and pooling."""
    truth = ExactIndex(vectors["ids"], vectors["passages"]).search(vectors["queries"], top_k=TOP)
    tokens = sum(map(len, vectors["passages"])) / len(vectors["passages"])
    print(f"{len(vectors['ids'])} passages of {tokens:.0f} tokens, {len(vectors['queries'])} questions, seed {SEED}\n")
    print("| setting | recall@10 of the exact best | same first | MRR@10 | bytes a passage | written, s |")
    print("|---|---:|---:|---:|---:|---:|")
    _row("float32, in memory", vectors, truth, truth, 4 * tokens * vectors["queries"][0].shape[1], 0)
    for codec, pool in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            index, written = _written(Path(folder) / "index", vectors, codec, pool)
            hits = index.search(vectors["queries"], top_k=TOP)
            size = index.num_bytes() / len(index)
            name = codec + (f", {pool} tokens to one" if pool > 1 else "")
            _row(name, vectors, truth, hits, size, written)


def measure_candidates(vectors: dict[str, Any]) -> None:
    """Print recall against scoring every passage of the same index, and how many passages are scored."""
    from drdecr.retrieval.muvera_candidates import MuveraCandidates

    print("\n| candidates | scored exactly | recall@10 of the exact best | same first | MRR@10 | a query, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        index, _ = _written(Path(folder) / "index", vectors, "residual4", 1)
        truth = index.search(vectors["queries"], top_k=TOP)
        dim = index.manifest.dim
        sources: dict[str, Any] = {f"centroids, {n} probes": CentroidCandidates(index, n) for n in (1, 2, 4)}
        for repetitions, planes in ((20, 3), (20, 4)):
            encoding = FixedDimensionalEncoding(dim, repetitions, planes, 16, SEED)
            name = f"MUVERA, {encoding.width} numbers in 8 bit"
            sources[name] = MuveraCandidates.build(index, Path(folder) / name, encoding=encoding)
        for name, source in sources.items():
            for count in (20, 50):
                search = TwoStageIndex(index, source, count)
                hits, seconds = _timed(lambda search=search: search.search(vectors["queries"], top_k=TOP))
                cells = [*_found(vectors, truth, hits), f"{1000 * seconds / len(vectors['queries']):.1f}"]
                print(f"| {name} | {count} | {' | '.join(cells)} |", flush=True)


def measure_speed(vectors: dict[str, Any]) -> None:
    """Print milliseconds a query over 512 passages, one query at a time, of each codec."""
    print("\n| 512 passages, one query | ms, median of 20 |")
    print("|---|---:|")
    few = {**vectors, "ids": vectors["ids"][:512], "passages": vectors["passages"][:512]}
    memory = ExactIndex(few["ids"], few["passages"])
    _speed("float32, in memory", few, lambda query: memory.search([query]))
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as folder:
            index, _ = _written(Path(folder) / "index", few, codec, 1)
            _speed(codec, few, lambda query, index=index: index.search([query]))


def _speed(name: str, vectors: dict[str, Any], search: Callable[[Tensor], Hits]) -> None:
    times = [_timed(lambda query=query: search(query))[1] for query in vectors["queries"][:20]]
    print(f"| {name} | {1000 * np.median(times):.1f} |")


def _written(folder: Path, vectors: dict[str, Any], codec: str, pool: int) -> tuple[StoredIndex, float]:
    def write() -> None:
        with StoredIndex.create(folder, vectors["passages"][0].shape[1], codec, pool) as index:
            index.add(vectors["ids"], vectors["passages"])
            index.commit()

    _, seconds = _timed(write)
    return StoredIndex.open(folder, verify=False), seconds


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    made = function()
    return made, time.process_time() - start


def _row(name: str, vectors: dict[str, Any], truth: Hits, hits: Hits, size: float, written: float) -> None:
    cells = [*_found(vectors, truth, hits), f"{size:,.0f}", f"{written:.1f}"]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _found(vectors: dict[str, Any], truth: Hits, hits: Hits) -> list[str]:
    pairs = list(zip(truth.document_ids, hits.document_ids, strict=True))
    recall = [len(set(best) & set(found)) / len(best) for best, found in pairs]
    first = [float(best[0] == found[0]) if found else 0.0 for best, found in pairs]
    ranks = [
        1 / (1 + found.index(gold)) if gold in found else 0.0
        for gold, found in zip(vectors["gold"], hits.document_ids, strict=True)
    ]
    return [_interval(recall), _interval(first), _interval(ranks)]


def _interval(values: list[float]) -> str:
    """Return the mean with its 95 % bootstrap interval over questions."""
    draw = np.random.default_rng(SEED)
    means = np.array(values)[draw.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"
