"""The tables of docs/retrieval.md over the encoded collection, of which `../retrieval/measure.py` makes the rows."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measure import (
    Vectors,
    exact_hits,
    interval,
    measure_candidates,
    measure_codecs,
    measure_edge,
    measure_memory,
    milliseconds,
    reciprocal_ranks,
)
from torch import Tensor

from drdecr.indexing import copy_index
from drdecr.retrieval import ShardedIndex, StoredIndex

COUNTS = (50, 200, 500)
"""Passages that are scored exactly, of those that candidates find."""


def measure(folder: Path, parts: Sequence[str], questions: int, most: int) -> None:
    """Print some of the tables.

    Args:
        folder: that `encode` wrote; an index of a part of the collection is measured as it is.
        parts: `languages` (all questions, by language), `codecs`, `edge`, `candidates`, `memory`, `workers` (needs Ray).
        questions: a language, for the other parts.
        most: documents.
    """
    torch.set_num_threads(1)
    index = StoredIndex.open(folder / "encoded", verify=False)
    asked = torch.load(folder / "questions.pt")
    if "languages" in parts:
        _languages(index, asked)
    if "workers" in parts:
        _workers(index, asked["embeddings"])
    if set(parts) - {"languages", "workers"}:
        vectors = _some(index, asked, questions, most)
        if "memory" in parts:
            measure_memory(vectors)
        if not set(parts) & {"codecs", "edge", "candidates"}:
            return
        truth = exact_hits(vectors)
        if "codecs" in parts:
            measure_codecs(vectors, truth)
        if "edge" in parts:
            measure_edge(vectors, truth)
        if "candidates" in parts:
            measure_candidates(vectors, COUNTS)


def _languages(index: StoredIndex, asked: Vectors) -> None:
    hits = index.search(asked["embeddings"], top_k=10)
    ranks = reciprocal_ranks([row["document_id"] for row in asked["rows"]], hits)
    by_language: dict[str, list[float]] = defaultdict(list)
    for row, rank in zip(asked["rows"], ranks, strict=True):
        by_language[row["language"]].append(rank)
    print(
        f"{len(index)} documents in {len(index.segments)} segments, {index.num_bytes() / 1e6:.0f} MB in float16; a query takes ",
        end="",
    )
    speed = [milliseconds(index.search, asked["embeddings"][:20], threads) for threads in (1, 2)]
    print(f"{speed[0]} ms with one thread, {speed[1]} with two\n")
    print("| language | questions | MRR@10 | found among 10 |\n|---|---:|---:|---:|")
    for language, own in {**by_language, "all": ranks}.items():
        print(
            f"| {language} | {len(own)} | {interval(own)} | {interval([float(rank > 0) for rank in own])} |", flush=True
        )


def _workers(index: StoredIndex, asked: list[Tensor], rounds: int = 5) -> None:
    """Print what two workers, with a shard and a thread each, gain over one process."""
    with tempfile.TemporaryDirectory() as folder:
        with ShardedIndex.create(folder, index.dim, num_shards=2) as shards:
            copy_index(index, shards)
            shards.compact()
        one = ShardedIndex.open(folder, verify=False)
        two = ShardedIndex.open(folder, verify=False, workers=2)
        ways = {"one process, 1 thread": (one, 1), "one process, 2 threads": (one, 2), "two workers": (two, 1)}
        times: dict[tuple[str, int], list[float]] = defaultdict(list)
        for number in range(rounds + 1):
            for name, (shown, threads) in ways.items():
                torch.set_num_threads(threads)
                for count in (1, 64):
                    start = time.perf_counter()
                    shown.search(asked[number * 64 : number * 64 + count])
                    if number:  # the first wakes everything up
                        times[name, count].append(1000 * (time.perf_counter() - start))
        two.close()
    print("\n| | one question, ms | 64 at once, questions/s |\n|---|---:|---:|")
    for name in ways:
        single, many = (float(np.median(times[name, count])) for count in (1, 64))
        print(f"| {name} | {single:.0f} | {64_000 / many:.1f} |", flush=True)


def _some(index: StoredIndex, asked: Vectors, questions: int, most: int) -> Vectors:
    """Return the first documents, and the first questions of each language whose document is among them."""
    ids = sorted(index.passage_ids())
    wanted = {row["document_id"] for row in asked["rows"]}
    ids = sorted(ids, key=lambda name: name not in wanted)[:most]
    there, counts = set(ids), defaultdict(int)
    queries, gold = [], []
    for row, tokens in zip(asked["rows"], asked["embeddings"], strict=True):
        if row["document_id"] in there and counts[row["language"]] < questions and len(tokens):
            counts[row["language"]] += 1
            queries.append(tokens)
            gold.append(row["document_id"])
    # The first that are asked are timed: all languages take turns.
    order = sorted(range(len(queries)), key=lambda number: (number % questions, number))
    return {
        "ids": ids,
        "passages": index.embeddings(ids),
        "queries": [queries[number] for number in order],
        "gold": [gold[number] for number in order],
    }
