"""Documents to an index: split, encode, commit; what is there already is not encoded again.

`accelerate launch -m drdecr.encode MODEL DOCUMENTS FOLDER` is `drdecr encode` by several processes, which write one index.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from drdecr.data.documents import Document
from drdecr.data.passages import passage_text
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.modeling_drdecr.encoding_drdecr import encode_in_turn
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.manifest import differences
from drdecr.retrieval.splitting import split_text, token_spans

PASSAGES_A_COMMIT = 2048
"""So much work at most is lost by a kill."""
RESERVED = ("document_id", "title", "text", "start", "end", "digest")
"""Keys of a passage's payload that metadata may not have."""


@dataclass(frozen=True)
class Passage:
    """A part of a document, as it stands in an index.

    Args:
        passage_id: `document_id#number`.
        reads: what is encoded: the title, then the text.
        payload: document_id, title, text, `start` and `end` in the document's characters, digest, metadata.
    """

    passage_id: str
    reads: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Splitting:
    """How documents become passages.

    Args:
        passage_tokens: tokens a passage at most, title included; 0 for as many as the model reads.
        overlap: tokens that neighbours have in common, about; fewer than half a passage whatever is asked for.

    Raises:
        ValueError: for negative numbers.
    """

    passage_tokens: int = 0
    overlap: int = 20

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.passage_tokens < 0 or self.overlap < 0:
            raise ValueError(
                f"splitting: expected no negative tokens, got passages of {self.passage_tokens} that share {self.overlap}. Leave "
                "them out for the defaults."
            )

    def room(self, processor: Any) -> int:
        """Return how many tokens of text and title a passage has.

        Raises:
            ValueError: if these are more than the model reads: the rest of each passage would never be found.
        """
        most = room_for_text(processor)
        if self.passage_tokens > most:
            raise ValueError(
                f"passage_tokens: expected at most {most}, which the model reads beside its own signs, got {self.passage_tokens}."
                " Leave it out to take all."
            )
        return self.passage_tokens or most

    def passages(self, document: Document, processor: Any) -> list[Passage]:
        """Cut one document into passages; the title stands before each."""
        clash = next((name for name in document.metadata if name in RESERVED), None)
        if clash is not None:
            raise ValueError(
                f"document {document.document_id!r}: its metadata may not be called {clash!r}, which every passage has. "
                "Rename the field."
            )
        room = self.room(processor)
        title = token_spans(processor.tokenizer, document.title)
        heading = document.title[: title[min(len(title), room // 2) - 1][1]] if title else ""
        size = max(room - min(len(title), room // 2) - bool(heading), 1)
        spans = token_spans(processor.tokenizer, document.text)
        cuts = split_text(document.text, spans, size, min(self.overlap, (size - 1) // 2))
        digest = digest_of(document)
        return [
            Passage(
                f"{document.document_id}#{number}",
                passage_text(heading, document.text[start:end]),
                {
                    "document_id": document.document_id,
                    "title": document.title,
                    "text": document.text[start:end],
                    "start": start,
                    "end": end,
                    "digest": digest,
                    **document.metadata,
                },
            )
            for number, (start, end) in enumerate(cuts)
        ]


def about_index(
    model: str, digest: str, splitting: Splitting, precision: str = "float32", codec: str = "float16"
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


def room_for_text(processor: Any) -> int:
    """Return how many tokens of text a processor reads of a document, beside special tokens, marker and prefix."""
    before, after = processor.special_ids
    taken = len(before) + len(after) + (processor.document_marker is not None)
    return processor.document_length - taken - len(token_spans(processor.tokenizer, processor.document_prefix))


def digest_of(document: Document) -> str:
    """Return what changes when anything of a document does."""
    content = json.dumps(asdict(document), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def open_or_create(
    folder: Path, dim: int, about: dict[str, Any], codec: str, pool_factor: int, writable: bool = True
) -> StoredIndex:
    """Open an index to go on with, or make it.

    Args:
        folder: of the index.
        dim: width of the embeddings.
        about: what else must be the same, such as the model; a model of the same `model_digest` may lie elsewhere.
        codec: how tokens are kept.
        pool_factor: tokens that become one.
        writable: false for a process that writes segments and leaves the commit to another one, which opened the index first.

    Raises:
        ValueError: if it was made with another model, splitting, codec or pooling.
    """
    if writable and not (folder / "manifest.json").exists():
        return StoredIndex.create(folder, dim, codec, pool_factor, about)
    index = StoredIndex.open(folder, writable=writable, verify=writable)
    made = {"codec": index.manifest.codec, "pool_factor": index.manifest.pool_factor}
    other = differences(made, {"codec": codec, "pool_factor": pool_factor})
    if other:
        index.close()
        raise ValueError(
            f"{folder}: made with {other}, as `drdecr index` makes a smaller one. Encode into the folder that it was made from; "
            "the same `drdecr index` then brings this one up to date."
        )
    other = differences(index.about, about)
    if other or index.dim != dim:
        index.close()
        raise ValueError(f"{folder}: made with {other or f'{index.dim} dimensions'}. Give the same, or another folder.")
    return index


@dataclass
class HeldDocument:
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


def encode_collection(
    model: DrDecrModel,
    documents: Iterable[Document],
    index: StoredIndex,
    splitting: Splitting,
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
        index: open for writing; in all processes but the first opened with `writable=False`.
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
        batches = _batches(read(), documents_of(index), splitting, model.processor, prune, share, counts)
        while _commit(model, index, batch := next(batches, None), batch_size, bar, processes):
            counts["passages"] += len(batch[0]) if batch else 0
    of_processes = gather_object([counts]) if processes else [counts]
    return {name: sum(own_counts[name] for own_counts in of_processes) for name in counts}


def _batches(
    documents: Iterable[Document],
    indexed: dict[str, HeldDocument],
    splitting: Splitting,
    processor: Any,
    prune: bool,
    share: tuple[int, int],
    counts: dict[str, int],
) -> Iterator[Batch]:
    """Yield what one process encodes, `PASSAGES_A_COMMIT` passages or a little more at a time.

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
        if len(passages) >= PASSAGES_A_COMMIT:
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


def documents_of(index: StoredIndex) -> dict[str, HeldDocument]:
    """Return what an index holds of each document, by its id."""
    found: dict[str, HeldDocument] = {}
    for segment in index.segments:
        for name, payload, kept in zip(segment.ids(), segment.payloads(), segment.alive, strict=True):
            if kept:
                held = found.setdefault(payload["document_id"], HeldDocument(set(), [], 0))
                held.digests.add(payload["digest"])
                held.passage_ids.append(name)
                held.end = max(held.end, payload["end"])
    return found


if __name__ == "__main__":
    from .launched import run_launched

    run_launched("encode")
