"""From one index to another: other codes, pooled tokens, another engine; and opening what is to be searched."""

from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from drdecr.retrieval import PassageIndex, StoredIndex
from drdecr.retrieval.manifest import NAME

from .systems import Searchable

PASSAGES_A_COMMIT = 8192
MUVERA = "muvera"
"""Folder, in an index, of the vectors for candidates."""
SEARCHES = ("exact", "centroids", "muvera")


def is_index(source: str | Path) -> bool:
    """Return whether a folder holds an index of any engine."""
    return any((Path(source) / name).is_file() for name in (NAME, "qdrant.json"))


def copy_index(source: StoredIndex, target: PassageIndex, known: set[str] | None = None) -> int:
    """Copy all passages, decoded, into another index, in commits; ids in `known` are left out.

    Returns:
        How many were copied.
    """
    ids = [name for name in source.passage_ids() if name not in (known or ())]
    for start in tqdm(range(0, len(ids), PASSAGES_A_COMMIT), desc="indexing", unit="block", disable=None):
        block = ids[start : start + PASSAGES_A_COMMIT]
        target.add(block, source.embeddings(block), source.payloads(block))
        target.commit()
    return len(ids)


def forget_stale(source: StoredIndex, target: StoredIndex) -> set[str]:
    """Delete from the target what the source no longer has, and return the ids that both have with the same payload.

    The payloads that `drdecr encode` writes change with every change of a document. Deletions wait for a commit.
    """
    ids, there = source.passage_ids(), target.places()
    shared = [name for name in ids if name in there]
    pairs = zip(shared, source.payloads(shared), target.payloads(shared), strict=True)
    target.delete(sorted(there.keys() - set(ids)))
    return {name for name, ours, theirs in pairs if ours == theirs}


def build_index(source: Path, folder: Path, codec: str, pool_factor: int, engine: str) -> int:
    """Make an index of another; after a kill, or when the source has changed, the same call brings it up to date.

    Args:
        source: an index with codec float16, as `drdecr encode` makes it.
        folder: a new folder, or that of an unfinished call.
        codec: of the new one, for the engine `exact`.
        pool_factor: tokens that become one.
        engine: `exact` or `qdrant-edge`.

    Returns:
        How many passages were added.

    Raises:
        ValueError: for an unknown engine, a source that lost precision already, or a folder made of something else.
    """
    found = StoredIndex.open(source)
    if found.manifest.codec != "float16" or found.manifest.pool_factor != 1:
        raise ValueError(
            f"{source}: expected all tokens in float16, got {found.manifest.codec} pooled by {found.manifest.pool_factor}. "
            "Give the folder that `drdecr encode` wrote."
        )
    if engine == "qdrant-edge":
        return _build_qdrant_edge(found, folder, codec, pool_factor)
    if engine != "exact":
        raise ValueError(f"engine: expected exact or qdrant-edge, got {engine!r}.")
    from .encode import open_or_create

    with open_or_create(folder, found.manifest.dim, found.about, codec, pool_factor) as target:
        added = copy_index(found, target, forget_stale(found, target))
        target.commit()  # of deletions alone
        return added


def _build_qdrant_edge(found: StoredIndex, folder: Path, codec: str, pool_factor: int) -> int:
    from drdecr.retrieval.qdrant_edge_index import QdrantEdgeIndex

    if codec != "float16" or pool_factor != 1:
        raise ValueError("engine qdrant-edge keeps all tokens in float16. Leave --codec and --pool out.")
    target = QdrantEdgeIndex.create(folder, found.manifest.dim, found.about)
    try:
        return copy_index(found, target)
    finally:
        target.close()


def open_searchable(
    folder: str | Path, search: str = "exact", num_candidates: int = 200, verify: bool = True
) -> Searchable:
    """Open an index to search.

    Args:
        folder: of the index.
        search: `exact`, or where candidates come from: `centroids` (residual codes) or `muvera` (`drdecr index --muvera`).
        num_candidates: passages a query that are scored exactly.
        verify: compare checksums.
    """
    if search not in SEARCHES:
        raise ValueError(f"search: expected one of {', '.join(SEARCHES)}, got {search!r}.")
    if (Path(folder) / "qdrant.json").is_file():
        from drdecr.retrieval.qdrant_edge_index import QdrantEdgeIndex

        return QdrantEdgeIndex.open(folder)
    index = StoredIndex.open(folder, verify=verify)
    if search == "exact":
        return index
    from drdecr.retrieval.two_stage import TwoStageIndex

    source: Any
    if search == "centroids":
        from drdecr.retrieval.centroid_candidates import CentroidCandidates

        source = CentroidCandidates(index)
    else:
        from drdecr.retrieval.muvera_candidates import MuveraCandidates

        source = MuveraCandidates.open(index, Path(folder) / MUVERA)
    return TwoStageIndex(index, source, num_candidates)
