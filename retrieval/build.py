"""Documents to an index: split, encode, commit; what is there already is not encoded again."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.encoding_drdecr import encode_in_turn

from .passages import Document, Passage, Splitter, digest_of
from .protocol import PassageIndex
from .stored.index import StoredIndex
from .stored.manifest import MANIFEST_NAME, Manifest, differences

PASSAGES_PER_COMMIT = 2048
"""So much work at most is lost by a kill."""


def about_index(
    model: str, digest: str, splitting: Splitter, precision: str = "float32", codec: str = "float16"
) -> dict[str, Any]:
    """Return what an index remembers of how it was made.

    Args:
        model: its folder or Hub name.
        digest: of its weights, tokenizer and settings (`data.digests.model_digest`).
        splitting: how documents are cut.
        precision: in which they are encoded; float32, as all were once, is not written down.
        codec: how they are kept; nor is float16, and a smaller copy remembers what it was made from.
    """
    about = {"model": model, "model_digest": digest, **asdict(splitting)}
    others = {"precision": (precision, "float32"), "codec": (codec, "float16")}
    return about | {name: value for name, (value, usual) in others.items() if value != usual}


def open_or_create_index(
    folder: Path, dim: int, about: dict[str, Any], codec: str, pool_factor: int, processes: PartialState | None = None
) -> StoredIndex:
    """Open an index to go on with, or make it.

    Args:
        folder: of the index.
        dim: width of the embeddings.
        about: what else must be the same, such as the model; a model of the same `model_digest` may lie elsewhere.
        codec: how tokens are kept.
        pool_factor: tokens that become one.
        processes: those that build the index together (default: this one alone). The first opens it to commit, before the others.

    Raises:
        ValueError: if it was made with another model, splitting, codec or pooling.
    """
    is_writer = processes is None or processes.is_main_process
    with processes.main_process_first() if processes else nullcontext():
        if is_writer and not (folder / MANIFEST_NAME).exists():
            return StoredIndex.create(folder, dim, codec, pool_factor, about)
        index = StoredIndex.open(folder, writable=is_writer, verify=is_writer)
    made = {"codec": index.manifest.codec, "pool_factor": index.manifest.pool_factor}
    other = differences(made, {"codec": codec, "pool_factor": pool_factor})
    if other:
        index.close()
        raise ValueError(
            f"{folder}: made with {other}, as by `drdecr index compress`. Encode into the folder that it was made from; the "
            "same `drdecr index compress` then brings this one up to date."
        )
    other = differences(index.about, about)
    if other or index.dim != dim:
        index.close()
        raise ValueError(f"{folder}: made with {other or f'{index.dim} dimensions'}. Give the same, or another folder.")
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
    splitting: Splitter,
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
        splitting: how documents are cut.
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
        batches = _batches(read(), documents_in(index), splitting, model.processor, prune, share, counts)
        while _commit(model, index, batch := next(batches, None), batch_size, bar, processes):
            counts["passages"] += len(batch[0]) if batch else 0
    of_processes = gather_object([counts]) if processes else [counts]
    return {name: sum(own_counts[name] for own_counts in of_processes) for name in counts}


def _batches(
    documents: Iterable[Document],
    indexed: dict[str, IndexedDocument],
    splitting: Splitter,
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
        splitting: how documents are cut.
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
        new_passages = splitting.passages(document, processor)
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
    found: dict[str, IndexedDocument] = {}
    for segment in index.segments:
        for name, payload, kept in zip(segment.ids(), segment.payloads(), segment.alive, strict=True):
            if kept:
                held = found.setdefault(payload["document_id"], IndexedDocument(set(), [], 0))
                held.digests.add(payload["digest"])
                held.passage_ids.append(name)
                held.end = max(held.end, payload["end"])
    return found


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
            if len(waiting) >= PASSAGES_PER_COPY:
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

    The payloads that `drdecr index build` writes change with every change of a document.
    """
    ids, there = source.passage_ids(), set(target.passage_ids())
    shared = [name for name in ids if name in there]
    pairs = zip(shared, source.payloads(shared), target.payloads(shared), strict=True)
    known = {name for name, ours, theirs in pairs if ours == theirs}
    return [name for name in ids if name not in known], sorted(there - set(ids))


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
    check_index(source)
    manifest = Manifest.read(source)
    if manifest.codec != "float16" or manifest.pool_factor != 1:
        raise ValueError(
            f"{source}: expected all tokens in float16, got {manifest.codec} pooled by {manifest.pool_factor}. "
            "Give a folder that `drdecr index build` wrote, in float16."
        )
    index = StoredIndex.open(source)
    with open_or_create_index(folder, index.dim, index.about, codec, pool_factor) as target:
        return copy_index(index, target, *compared(index, target))
