"""From one index to another: other codes, pooled tokens, another engine; and opening what is to be searched."""

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from drdecr.retrieval import PassageIndex, StoredIndex
from drdecr.retrieval.centroid_candidates import CentroidCandidates
from drdecr.retrieval.manifest import NAME, Manifest
from drdecr.retrieval.two_stage import TwoStageIndex

from .encode import open_or_create
from .systems import Searchable

PASSAGES_A_COMMIT = 8192
SEARCHES = ("exact", "centroids")


def is_index(source: str | Path) -> bool:
    """Return whether a folder holds an index."""
    return (Path(source) / NAME).is_file()


def check_index(folder: str | Path) -> None:
    """Raise `FileNotFoundError`, with the cure, for what holds no index."""
    if not is_index(folder):
        raise FileNotFoundError(
            f"{folder}: expected an index, found none. Make one: drdecr encode MODEL DOCUMENTS FOLDER."
        )


def open_stored(folder: Path, writable: bool = False) -> StoredIndex:
    """Open an index on disk; `FileNotFoundError`, with the cure, if there is none."""
    check_index(folder)
    return StoredIndex.open(folder, writable=writable)


def copy_index(
    source: StoredIndex, target: PassageIndex, ids: list[str] | None = None, gone: Iterable[str] = ()
) -> int:
    """Copy passages, decoded, into another index, in commits that each hold all of a document.

    Args:
        source: what they are read from.
        target: an index of any engine, opened for writing.
        ids: of the passages (default: all).
        gone: ids of passages that are deleted from the target, with the other passages of their document.

    Returns:
        How many were copied.
    """
    ids = source.passage_ids() if ids is None else ids
    lost = _by_document(gone)
    waiting: list[str] = []
    leaving: list[str] = []
    with tqdm(total=len(ids), desc="indexing", unit=" passages", disable=None) as bar:
        for document, own in _by_document(ids).items():
            waiting += own
            leaving += lost.pop(document, [])
            if len(waiting) >= PASSAGES_A_COMMIT:
                _copy(source, target, waiting, leaving, bar)
                waiting, leaving = [], []
        _copy(source, target, waiting, [*leaving, *chain.from_iterable(lost.values())], bar)
    return len(ids)


def _copy(source: StoredIndex, target: PassageIndex, ids: list[str], gone: list[str], bar: Any) -> None:
    if ids:
        target.add(ids, source.embeddings(ids), source.payloads(ids))
    if gone:
        target.delete(gone)
    target.commit()
    bar.update(len(ids))


def _by_document(passage_ids: Iterable[str]) -> dict[str, list[str]]:
    by_document: dict[str, list[str]] = {}
    for name in passage_ids:
        by_document.setdefault(re.sub(r"#\d+\Z", "", name), []).append(name)  # without the number of the passage
    return by_document


def compared(source: StoredIndex, target: StoredIndex) -> tuple[list[str], list[str]]:
    """Return the ids that the target lacks or holds with another payload, and those that it holds and the source does not.

    The payloads that `drdecr encode` writes change with every change of a document.
    """
    ids, there = source.passage_ids(), set(target.passage_ids())
    shared = [name for name in ids if name in there]
    pairs = zip(shared, source.payloads(shared), target.payloads(shared), strict=True)
    known = {name for name, ours, theirs in pairs if ours == theirs}
    return [name for name in ids if name not in known], sorted(there - set(ids))


def build_index(source: Path, folder: Path, codec: str, pool_factor: int) -> int:
    """Make an index of another; after a kill, or when the source has changed, the same call brings it up to date.

    Args:
        source: an index with codec float16, as `drdecr encode` makes it.
        folder: a new folder, or that of an unfinished call.
        codec: of the new one.
        pool_factor: tokens that become one.

    Returns:
        How many passages were added.

    Raises:
        ValueError: for a source that lost precision already, or a folder made of something else.
    """
    check_index(source)
    manifest = Manifest.read(source)
    if manifest.codec != "float16" or manifest.pool_factor != 1:
        raise ValueError(
            f"{source}: expected all tokens in float16, got {manifest.codec} pooled by {manifest.pool_factor}. "
            "Give a folder that `drdecr encode` wrote, in float16."
        )
    index = StoredIndex.open(source)
    with open_or_create(folder, index.dim, index.about, codec, pool_factor) as target:
        return copy_index(index, target, *compared(index, target))


def open_searchable(
    folder: str | Path,
    search: str = "exact",
    num_candidates: int = 200,
    verify: bool = True,
    in_memory: bool = False,
) -> Searchable:
    """Open an index to search.

    Args:
        folder: of the index.
        search: `exact`, or where candidates come from: `centroids` (residual codes).
        num_candidates: passages a query that are scored exactly.
        verify: compare checksums.
        in_memory: hold the tokens in memory (`StoredIndex.open`).

    Raises:
        ValueError: for an unknown search, or tokens in memory for another search than `exact`.
    """
    if search not in SEARCHES:
        raise ValueError(f"search: expected one of {', '.join(SEARCHES)}, got {search!r}.")
    if in_memory and search != "exact":
        raise ValueError(
            f"in memory: expected search exact, which reads all tokens, got {search}. Leave one of them out."
        )
    index = StoredIndex.open(folder, verify=verify, in_memory=in_memory)
    if search == "exact":
        return index
    return TwoStageIndex(index, CentroidCandidates(index), num_candidates)
