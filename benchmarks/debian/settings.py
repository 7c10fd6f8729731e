"""The tables of docs/retrieval.md over the encoded collection, of which `../retrieval/measure.py` makes the rows."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import (
    Vectors,
    exact_hits,
    interval,
    measure_candidates,
    measure_codecs,
    measure_memory,
    milliseconds,
    reciprocal_ranks,
)

from drdecr.retrieval import StoredIndex

COUNTS = (50, 200, 500)
"""Passages that are scored exactly, of those that candidates find."""


def measure(folder: Path, parts: Sequence[str], questions: int, most: int) -> None:
    """Print some of the tables.

    Args:
        folder: that `encode` wrote; an index of a part of the collection is measured as it is.
        parts: `languages` (all questions, by language), `codecs`, `candidates`, `memory`.
        questions: a language, for the other parts.
        most: documents.
    """
    torch.set_num_threads(1)
    index = StoredIndex.open(folder / "encoded", verify=False)
    asked = torch.load(folder / "questions.pt")
    if "languages" in parts:
        _languages(index, asked)
    if set(parts) - {"languages"}:
        vectors = _some(index, asked, questions, most)
        if "memory" in parts:
            measure_memory(vectors)
        if not set(parts) & {"codecs", "candidates"}:
            return
        truth = exact_hits(vectors)
        if "codecs" in parts:
            measure_codecs(vectors, truth)
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
