"""From one index to another: other codes, pooled tokens, another engine; and opening what is to be searched."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tqdm.auto import tqdm

from drdecr.retrieval import PassageIndex, ShardedIndex, StoredIndex
from drdecr.retrieval.manifest import NAME, Manifest, differences
from drdecr.retrieval.shard_manifest import NAME as SHARDS_NAME
from drdecr.retrieval.shard_manifest import (
    PART,
    ShardManifest,
    about_shard,
    collect_shards,
    document_of,
    plan_shards,
    shard_folder,
    shard_of,
)
from drdecr.retrieval.sharded import check_collected

from .systems import Searchable

if TYPE_CHECKING:
    from drdecr.retrieval.qdrant_edge_index import QdrantEdgeIndex

PASSAGES_A_COMMIT = 8192
MUVERA = "muvera"
"""Folder, in an index, of the vectors for candidates."""
QDRANT = "qdrant.json"
"""File that an index of Qdrant's engine has."""
SEARCHES = ("exact", "centroids", "muvera")

Stored: TypeAlias = StoredIndex | ShardedIndex
"""What an index can be made of."""


def is_index(source: str | Path) -> bool:
    """Return whether a folder holds an index of any engine, or shards."""
    return any((Path(source) / name).is_file() for name in (NAME, SHARDS_NAME, QDRANT))


def check_index(folder: str | Path) -> None:
    """Raise `FileNotFoundError`, with the cure, for what holds no index."""
    if not is_index(folder):
        raise FileNotFoundError(
            f"{folder}: expected an index, found none. Make one: drdecr encode MODEL DOCUMENTS FOLDER."
        )


def check_stored(folder: Path) -> None:
    """Raise `FileNotFoundError` or `ValueError`, with the cure, for what is neither an index on disk nor shards of such."""
    check_index(folder)
    if (folder / QDRANT).is_file():
        raise ValueError(
            f"{folder}: expected an index that `drdecr encode` wrote, or one of the engine exact, got one of Qdrant's. Give the "
            "folder that it was made from."
        )


def is_sharded(folder: Path) -> bool:
    """Return whether a folder holds shards."""
    return (folder / SHARDS_NAME).is_file()


def open_stored(folder: Path, writable: bool = False) -> Stored:
    """Open an index on disk or shards of such; errors as of `check_stored`."""
    check_stored(folder)
    if is_sharded(folder):
        return ShardedIndex.open(folder, writable=writable)
    return StoredIndex.open(folder, writable=writable)


def open_to_delete(folder: Path) -> "Stored | QdrantEdgeIndex":
    """Open an index of any engine, or shards, so that passages can be deleted; errors as of its class, or `check_index`."""
    if (folder / QDRANT).is_file():
        from drdecr.retrieval.qdrant_edge_index import QdrantEdgeIndex

        return QdrantEdgeIndex.open(folder)
    return open_stored(folder, writable=True)


def parts_of(folder: Path) -> list[Path]:
    """Return the folders of the shards; of one index, its own. Errors as of `check_stored`."""
    check_stored(folder)
    if not is_sharded(folder):
        return [folder]
    return [shard_folder(folder, number) for number in range(ShardManifest.read(folder).num_shards)]


def compact_index(folder: Path) -> None:
    """Rewrite an index, or each shard, as one segment; shard after shard, of which all at once may be too many open files.

    A shard that is one segment already, as after a call that was killed, is left alone.

    Raises:
        ValueError: for shards that are not all made, and as of `check_stored`.
    """
    parts = parts_of(folder)
    if is_sharded(folder):
        check_collected(folder, warn=False)  # the rest of what a killed call made compact
    for part in parts:
        with StoredIndex.open(part, writable=True) as writing:
            records = [segment.record for segment in writing.segments]
            if not is_sharded(folder) or len(records) > 1 or any(record.deleted for record in records):
                writing.compact()
    if is_sharded(folder):
        collect_shards(folder)


def size_of(folder: Path, verify: bool = True) -> tuple[int, int, int]:
    """Return passages, segments and bytes of an index or shards, opened one after another.

    Args:
        folder: of it; errors as of `check_stored`.
        verify: compare checksums.
    """
    sizes = [(0, 0, 0)]
    for part in parts_of(folder):
        one = StoredIndex.open(part, verify=verify)
        sizes.append((len(one), len(one.segments), one.num_bytes()))
    passages, segments, size = (sum(column) for column in zip(*sizes, strict=True))
    return passages, segments, size


def copy_index(source: Stored, target: PassageIndex, ids: list[str] | None = None, gone: Iterable[str] = ()) -> int:
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


def _copy(source: Stored, target: PassageIndex, ids: list[str], gone: list[str], bar: Any) -> None:
    if ids:
        target.add(ids, source.embeddings(ids), source.payloads(ids))
    if gone:
        target.delete(gone)
    target.commit()
    bar.update(len(ids))


def _by_document(passage_ids: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in passage_ids:
        found.setdefault(document_of(name), []).append(name)
    return found


def compared(source: Stored, target: "StoredIndex | QdrantEdgeIndex", ids: list[str]) -> tuple[list[str], list[str]]:
    """Return which of `ids` the target lacks or holds with another payload, and what it holds that is not among them.

    The payloads that `drdecr encode` writes change with every change of a document.
    """
    there = set(target.passage_ids())
    shared = [name for name in ids if name in there]
    pairs = zip(shared, source.payloads(shared), target.payloads(shared), strict=True)
    known = {name for name, ours, theirs in pairs if ours == theirs}
    return [name for name in ids if name not in known], sorted(there - set(ids))


def build_index(source: Path, folder: Path, codec: str, pool_factor: int, engine: str, shards: int = 0) -> int:
    """Make an index of another; after a kill, or when the source has changed, the same call brings it up to date.

    Args:
        source: an index with codec float16, as `drdecr encode` makes it, or shards of such.
        folder: a new folder, or that of an unfinished call.
        codec: of the new one, for the engine `exact`.
        pool_factor: tokens that become one.
        engine: `exact` or `qdrant-edge`.
        shards: of the new one, for the engine `exact` (default 0: as many as the source has); 1: one index.

    Returns:
        How many passages were added.

    Raises:
        ValueError: for an unknown engine, a source that lost precision already, or a folder made of something else.
    """
    check_stored(source)
    # Of shards the first one's, which is like the others.
    form = check_collected(source, warn=False)[0] if is_sharded(source) else Manifest.read(source)
    if form.codec != "float16" or form.pool_factor != 1:
        raise ValueError(
            f"{source}: expected all tokens in float16, got {form.codec} pooled by {form.pool_factor}. "
            "Give a folder that `drdecr encode` wrote, in float16."
        )
    if engine == "exact" and is_sharded(source):
        plan = ShardManifest.read(source)
        if plan.num_shards > 1 and shards in (0, plan.num_shards):
            return _build_each(source, plan, folder, codec, pool_factor)
    found = open_stored(source)
    if engine == "qdrant-edge":
        if shards > 1:
            raise ValueError(f"engine qdrant-edge makes one index, got {shards} shards. Leave --shards out.")
        return _build_qdrant_edge(found, form.dim, folder, codec, pool_factor)
    if engine != "exact":
        raise ValueError(f"engine: expected exact or qdrant-edge, got {engine!r}.")
    shards = shards or (found.num_shards if isinstance(found, ShardedIndex) else 1)
    if shards == 1:
        return _build_stored(found, form.dim, folder, found.about, codec, pool_factor, lambda name: True)
    plan_shards(folder, shards, found.about)
    added = 0
    for number in range(shards):
        own, about = shard_folder(folder, number), about_shard(found.about, number, shards)
        is_own = partial(_belongs, number=number, num_shards=shards)
        added += _build_stored(found, form.dim, own, about, codec, pool_factor, is_own)
    collect_shards(folder)
    return added


def _build_each(source: Path, plan: ShardManifest, folder: Path, codec: str, pool_factor: int) -> int:
    """Make of each shard one of the same number: of a billion passages nobody reads all ids for every shard."""
    check_collected(source)
    plan_shards(folder, plan.num_shards, plan.about)
    added = 0
    for number in range(plan.num_shards):
        found, about = StoredIndex.open(shard_folder(source, number)), about_shard(plan.about, number, plan.num_shards)
        own = shard_folder(folder, number)
        added += _build_stored(found, found.dim, own, about, codec, pool_factor, lambda name: True)
    collect_shards(folder)
    return added


def _belongs(passage_id: str, number: int, num_shards: int) -> bool:
    return shard_of(document_of(passage_id), num_shards) == number


def _build_stored(
    found: Stored,
    dim: int,
    folder: Path,
    about: dict[str, Any],
    codec: str,
    pool_factor: int,
    is_own: Callable[[str], bool],
) -> int:
    from .encode import open_or_create

    ids = [name for name in found.passage_ids() if is_own(name)]
    with open_or_create(folder, dim, about, codec, pool_factor) as target:
        return copy_index(found, target, *compared(found, target, ids))


def _build_qdrant_edge(found: Stored, dim: int, folder: Path, codec: str, pool_factor: int) -> int:
    from drdecr.retrieval.qdrant_edge_index import QdrantEdgeIndex

    if codec != "float16" or pool_factor != 1:
        raise ValueError("engine qdrant-edge keeps all tokens in float16. Leave --codec and --pool out.")
    if not (folder / QDRANT).is_file():
        target = QdrantEdgeIndex.create(folder, dim, found.about)
    else:
        target = QdrantEdgeIndex.open(folder)
        other = differences({**target.about, "dim": target.dim}, {**found.about, "dim": dim})
        if other:
            target.close()
            raise ValueError(f"{folder}: made with {other}. Give the same source, or another folder.")
    with target:
        return copy_index(found, target, *compared(found, target, found.passage_ids()))


def open_searchable(
    folder: str | Path,
    search: str = "exact",
    num_candidates: int = 200,
    verify: bool = True,
    workers: int = 1,
    in_memory: bool = False,
) -> Searchable:
    """Open an index to search.

    Args:
        folder: of the index, or of shards.
        search: `exact`, or where candidates come from: `centroids` (residual codes) or `muvera` (`drdecr index --muvera`).
        num_candidates: passages a query that are scored exactly, of each shard.
        verify: compare checksums.
        workers: processes that search shards at the same time (default 1: this one; more need Ray).
        in_memory: hold the tokens in memory (`StoredIndex.open`).

    Raises:
        ValueError: for an unknown search, candidates of Qdrant's engine, several workers for what has no shards, or tokens in
            memory for another search than `exact` or another engine than the index on disk.
    """
    if search not in SEARCHES:
        raise ValueError(f"search: expected one of {', '.join(SEARCHES)}, got {search!r}.")
    if in_memory and search != "exact":
        raise ValueError(
            f"in memory: expected search exact, which reads all tokens, got {search}. Leave one of them out."
        )
    if is_sharded(Path(folder)):
        opener = partial(
            open_searchable, search=search, num_candidates=num_candidates, verify=verify, in_memory=in_memory
        )
        return ShardedIndex.open(folder, open_shard=opener, workers=workers)
    if workers > 1:
        raise ValueError(
            f"{folder}: one index, which one worker searches. Spread it: drdecr index {folder} NEW --shards N."
        )
    if (Path(folder) / QDRANT).is_file():
        from drdecr.retrieval.qdrant_edge_index import QdrantEdgeIndex

        if search != "exact":
            raise ValueError(
                f"{folder}: Qdrant's engine scores every passage and has no candidates by {search}. Leave --by out, or search "
                "the folder that it was made from."
            )
        if in_memory:
            raise ValueError(f"{folder}: Qdrant's engine keeps its own memory. Leave --in-memory out.")
        return QdrantEdgeIndex.open(folder)
    index = StoredIndex.open(folder, verify=verify, in_memory=in_memory)
    if search == "exact" or not len(index):  # of shards some may be empty, for which no vectors are made
        return index
    return with_candidates(index, search, num_candidates)


def with_candidates(
    index: StoredIndex, search: str, num_candidates: int = 200, factory: str | None = None
) -> Searchable:
    """Search an open index by candidates.

    Args:
        index: whose last commit is searched.
        search: `centroids` or `muvera`.
        num_candidates: passages a query that are scored exactly.
        factory: faiss's description of MUVERA's vectors, which are made where the index keeps none; default: expect them.
    """
    from drdecr.retrieval.two_stage import TwoStageIndex

    source: Any
    if search == "centroids":
        from drdecr.retrieval.centroid_candidates import CentroidCandidates

        source = CentroidCandidates(index)
    else:
        from drdecr.retrieval.muvera_candidates import MuveraCandidates

        kept = index.folder / MUVERA
        if factory is None and not (kept / "muvera.json").is_file():
            whole = index.folder.parent if PART in index.about else index.folder
            raise FileNotFoundError(
                f"{index.folder}: candidates by MUVERA need its vectors, found none. Make them with `drdecr index {whole} "
                "--muvera`."
            )
        source = (
            MuveraCandidates.open(index, kept)
            if factory is None
            else MuveraCandidates.open_or_build(index, kept, factory)
        )
    return TwoStageIndex(index, source, num_candidates)
