"""Documents to an index: split, encode, commit; what it holds already is not encoded again. Indexes to smaller ones."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.encoding_drdecr import encode_in_turn

from .passages import Document, Passage, Splitter, digest_of
from .protocol import WritablePassageIndex
from .stored.index import StoredIndex
from .stored.manifest import MANIFEST_NAME, differences

PASSAGES_PER_COMMIT = 2048
"""So much work at most is lost by a kill."""


def index_metadata(model: str, digest: str, splitter: Splitter) -> dict[str, Any]:
    """Return what an index remembers of how it was made.

    Args:
        model: its folder or Hub name.
        digest: of its weights, tokenizer and settings (`encoder.model_digest`).
        splitter: cuts the documents.
    """
    return {"model": model, "model_digest": digest, **asdict(splitter)}


def open_or_create_index(
    folder: Path,
    dim: int,
    metadata: dict[str, Any],
    codec: str = "float16",
    pool_factor: int = 1,
    precision: str = "float32",
    processes: PartialState | None = None,
) -> StoredIndex:
    """Open an index to go on with, or make it.

    Args:
        folder: of the index.
        dim: width of the embeddings.
        metadata: what else must be the same, such as the model; a model of the same `model_digest` may lie elsewhere.
        codec: how tokens are stored (default float16).
        pool_factor: tokens that become one (default 1: all stay).
        precision: in which the model encodes (default float32).
        processes: those that build the index together (default: this one alone). The first opens it to commit, before the others.

    Raises:
        ValueError: if it was made with another model, splitting, precision, codec or pooling.
    """
    is_writer = processes is None or processes.is_main_process
    with processes.main_process_first() if processes else nullcontext():
        if is_writer and not (folder / MANIFEST_NAME).exists():
            return StoredIndex.create(folder, dim, codec, pool_factor, metadata, precision)
        index = StoredIndex.open(folder, writable=is_writer, verify=is_writer)
    manifest = index.manifest
    stored = {"codec": manifest.codec, "pool_factor": manifest.pool_factor}
    encoded = {**manifest.metadata, "precision": manifest.precision, "dim": manifest.dim}
    other_storage = differences(stored, {"codec": codec, "pool_factor": pool_factor})
    other = differences(encoded, {**metadata, "precision": precision, "dim": dim})
    if other_storage or other:
        index.close()
    if other_storage:
        raise ValueError(
            f"{folder}: made with {other_storage}, as by `drdecr index compress`. Encode into the folder that it was made from; "
            "the same `drdecr index compress` then brings this one up to date."
        )
    if other:
        raise ValueError(f"{folder}: made with {other}. Give the same, or another folder.")
    return index


@dataclass
class IndexedDocument:
    """What an index holds of a document.

    Args:
        digests: that its passages name; one, unless it was written in part.
        passage_ids: of its passages.
        end: the furthest character that they reach.
    """

    digests: set[str]
    passage_ids: list[str]
    end: int

    def is_same(self, document: Document) -> bool:
        """Return whether these are all passages of the document as it is.

        The digest alone does not tell: passages of a document may have been deleted one by one.
        """
        numbered = {f"{document.document_id}#{number}" for number in range(len(self.passage_ids))}
        whole = set(self.passage_ids) == numbered and not document.text[self.end :].strip()
        return whole and self.digests == {digest_of(document)}


Batch: TypeAlias = tuple[list[Passage], list[str]]
"""Passages that go into one commit, and the ids of passages that the same commit deletes."""


def build_index(
    model: DrDecrModel,
    documents: Iterable[Document],
    index: StoredIndex,
    splitter: Splitter,
    batch_size: int = 32,
    prune: bool = False,
    show_progress_bar: bool | None = None,
    processes: PartialState | None = None,
) -> dict[str, int]:
    """Bring an index to the state of a collection: encode what is new or changed, leave the rest.

    After a kill the same call goes on behind the last commit, which holds every document as it was or as it is to be.

    Args:
        model: with its processor.
        documents: read once, as a stream; by each process, of which the n-th encodes every n-th document.
        index: opened by `open_or_create_index` for the same processes.
        splitter: cuts the documents.
        batch_size: passages a forward pass.
        prune: delete documents of the index that are not among `documents` (default: they stay).
        show_progress_bar: default: on a terminal.
        processes: those that share the work, all of which make this call (default: this one alone).

    Returns:
        Counts of documents: `new`, `changed`, `unchanged`, `deleted`; and of `passages` encoded; of all processes.
    """
    rank = processes.process_index if processes else 0
    # miniters: drawn by the clock alone, also while documents are read that need no encoding.
    hidden = None if show_progress_bar is None else not show_progress_bar  # None asks tqdm to draw on a terminal only
    counts = dict.fromkeys(("new", "changed", "unchanged", "deleted", "passages"), 0)
    with tqdm(desc="encoding", unit=" passages", miniters=0, disable=hidden if rank == 0 else True) as bar:

        def read() -> Iterator[Document]:
            for number, document in enumerate(documents, start=1):
                bar.set_postfix_str(f"{number} documents read", refresh=False)
                bar.update(0)
                yield document

        share = (rank, processes.num_processes) if processes else (0, 1)
        batches = changed_documents(read(), documents_in(index), splitter, model.processor, prune, share, counts)
        while _commit(model, index, batch := next(batches, None), batch_size, bar, processes):
            counts["passages"] += len(batch[0]) if batch else 0
    of_processes = gather_object([counts]) if processes else [counts]
    return {name: sum(own_counts[name] for own_counts in of_processes) for name in counts}


def changed_documents(
    documents: Iterable[Document],
    indexed: dict[str, IndexedDocument],
    splitter: Splitter,
    processor: Any,
    prune: bool,
    share: tuple[int, int],
    counts: dict[str, int],
) -> Iterator[Batch]:
    """Yield what one process encodes, `PASSAGES_PER_COMMIT` passages or a little more at a time.

    What a document gains and what it loses stand in one batch: a reader finds it as it was, or as it is.

    Args:
        documents: the whole collection.
        indexed: what the index holds of each document, by its id.
        splitter: cuts the documents.
        processor: of the model.
        prune: also delete, by the first process, what is not among `documents`.
        share: number of this process, and of all: it takes every n-th document.
        counts: documents by what happens to them, to which this adds.
    """
    passages: list[Passage] = []
    stale_ids: list[str] = []
    absent_ids = set(indexed)
    for number, document in enumerate(documents):
        absent_ids.discard(document.document_id)
        if number % share[1] != share[0]:
            continue
        before = indexed.get(document.document_id)
        if before is not None and before.is_same(document):
            counts["unchanged"] += 1
            continue
        counts["new" if before is None else "changed"] += 1
        new_passages = splitter.passages(document, processor)
        passages += new_passages
        if before is not None:
            new_ids = {passage.passage_id for passage in new_passages}
            stale_ids += [name for name in before.passage_ids if name not in new_ids]
        if len(passages) >= PASSAGES_PER_COMMIT:
            yield passages, stale_ids
            passages, stale_ids = [], []
    if prune and share[0] == 0:
        stale_ids += [passage_id for name in absent_ids for passage_id in indexed[name].passage_ids]
        counts["deleted"] = len(absent_ids)
    if passages or stale_ids:
        yield passages, stale_ids


def _commit(
    model: DrDecrModel,
    index: StoredIndex,
    batch: Batch | None,
    batch_size: int,
    bar: Any,
    processes: PartialState | None,
) -> bool:
    """Encode a batch and commit it together with those of the other processes; return whether any of them had one."""
    passages, stale_ids = batch or ([], [])
    ids, payloads = [passage.passage_id for passage in passages], [passage.payload for passage in passages]
    embeddings = _embed(model, [passage.reads for passage in passages], batch_size, bar)
    if processes is None:
        # Behind the encoding, which takes minutes: an index whose owner goes on after an interruption has no half of it.
        index.add(ids, embeddings, payloads)
        index.delete(stale_ids)
        index.commit()
        return batch is not None
    record = index.write_segment(ids, embeddings, payloads) if passages else None
    parts = gather_object([(record, stale_ids, batch is not None)])
    if processes.is_main_process:
        index.delete([name for _, stale, _ in parts for name in stale])
        index.commit([record for record, _, _ in parts if record is not None])
    processes.wait_for_everyone()  # a commit removes segments of no commit, such as those that others write next
    return any(had_batch for _, _, had_batch in parts)


def _embed(model: DrDecrModel, texts: Sequence[str], batch_size: int, bar: Any) -> list[Tensor]:
    """Encode texts as `encode_documents` does, so that the bar moves with each."""
    encoded: dict[int, Tensor] = {}
    for number, tokens in encode_in_turn(model, model.processor.process_documents, texts, batch_size):
        encoded[number] = tokens
        bar.update()
    return [encoded[number] for number in range(len(texts))]


def documents_in(index: StoredIndex) -> dict[str, IndexedDocument]:
    """Return what an index holds of each document, by its id."""
    documents: dict[str, IndexedDocument] = {}
    for segment in index.segments:
        rows = zip(segment.table.ids(), segment.table.payloads(), segment.alive, strict=True)
        for passage_id, payload in ((passage_id, payload) for passage_id, payload, is_alive in rows if is_alive):
            document = documents.setdefault(payload["document_id"], IndexedDocument(set(), [], 0))
            document.digests.add(payload["digest"])
            document.passage_ids.append(passage_id)
            document.end = max(document.end, payload["end"])
    return documents


PASSAGES_PER_COPY = 8192


def is_index(source: str | Path) -> bool:
    """Return whether a folder holds an index."""
    return (Path(source) / MANIFEST_NAME).is_file()


def check_index(folder: str | Path) -> None:
    """Raise `FileNotFoundError`, with the cure, for what holds no index."""
    if not is_index(folder):
        raise FileNotFoundError(
            f"{folder}: expected an index, found none. Make one: drdecr index build MODEL DOCUMENTS FOLDER."
        )


def open_stored(folder: Path, writable: bool = False) -> StoredIndex:
    """Open an index on disk; `FileNotFoundError`, with the cure, if there is none."""
    check_index(folder)
    return StoredIndex.open(folder, writable=writable)


def copy_index(
    source: StoredIndex,
    target: WritablePassageIndex,
    passage_ids: list[str] | None = None,
    deleted_ids: Iterable[str] = (),
) -> int:
    """Copy passages, decoded, into another index, in commits that each hold all of a document.

    Args:
        source: what they are read from.
        target: an index of any engine, opened for writing.
        passage_ids: of the passages (default: all).
        deleted_ids: of passages that are deleted from the target, with the other passages of their document.

    Returns:
        How many were copied.
    """
    copied = _ids_by_document(source.passage_ids() if passage_ids is None else passage_ids)
    deleted = _ids_by_document(deleted_ids)
    with tqdm(total=sum(map(len, copied.values())), desc="indexing", unit=" passages", disable=None) as bar:
        pending: list[str] = []
        stale: list[str] = []
        for document_id in [*copied, *(name for name in deleted if name not in copied)]:
            pending += copied.get(document_id, [])
            stale += deleted.get(document_id, [])
            if len(pending) >= PASSAGES_PER_COPY:
                _copy_passages(source, target, pending, stale, bar)
                pending, stale = [], []
        _copy_passages(source, target, pending, stale, bar)
        return bar.total


def _copy_passages(
    source: StoredIndex, target: WritablePassageIndex, ids: list[str], stale_ids: list[str], bar: Any
) -> None:
    if ids:
        target.add(ids, source.embeddings(ids), source.payloads(ids))
    if stale_ids:
        target.delete(stale_ids)
    target.commit()
    bar.update(len(ids))


def _ids_by_document(passage_ids: Iterable[str]) -> dict[str, list[str]]:
    by_document: dict[str, list[str]] = {}
    for name in passage_ids:
        by_document.setdefault(re.sub(r"#\d+\Z", "", name), []).append(name)  # without the number of the passage
    return by_document


def compare_indexes(source: StoredIndex, target: StoredIndex) -> tuple[list[str], list[str]]:
    """Return the ids that the target lacks or has with another payload, and those that it has and the source has not.

    The payloads that `drdecr index build` writes change with every change of a document.
    """
    ids, target_ids = source.passage_ids(), set(target.passage_ids())
    shared = [name for name in ids if name in target_ids]
    pairs = zip(shared, source.payloads(shared), target.payloads(shared), strict=True)
    same = {name for name, in_source, in_target in pairs if in_source == in_target}
    return [name for name in ids if name not in same], sorted(target_ids - set(ids))


def compress_index(source: Path, folder: Path, codec: str, pool_factor: int) -> int:
    """Make an index of another; after a kill, or when the source has changed, the same call brings it up to date.

    Args:
        source: an index with codec float16, as `drdecr index build` makes it.
        folder: a new folder, or that of an unfinished call.
        codec: of the new one.
        pool_factor: tokens that become one.

    Returns:
        How many passages were added.

    Raises:
        ValueError: for a source that lost precision already, or a folder made of something else.
    """
    index = open_stored(source)
    manifest = index.manifest
    if manifest.codec != "float16" or manifest.pool_factor != 1:
        raise ValueError(
            f"{source}: expected all tokens in float16, got {manifest.codec} pooled by {manifest.pool_factor}. "
            "Give a folder that `drdecr index build` wrote, in float16."
        )
    with open_or_create_index(
        folder, manifest.dim, manifest.metadata, codec, pool_factor, manifest.precision
    ) as target:
        return copy_index(index, target, *compare_indexes(index, target))
