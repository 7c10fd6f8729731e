"""Documents to an index: split, encode, commit; what is there already is not encoded again.

`accelerate launch -m drdecr.encode MODEL DOCUMENTS FOLDER`: `drdecr encode`, each process with shards of its own.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from drdecr.data.documents import Document
from drdecr.data.passages import passage_text
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.manifest import differences
from drdecr.retrieval.shard_manifest import PART
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
        overlap: tokens that neighbours have in common, about.
    """

    passage_tokens: int = 0
    overlap: int = 20

    def passages(self, document: Document, processor: Any) -> list[Passage]:
        """Cut one document into passages; the title stands before each."""
        clash = next((name for name in document.metadata if name in RESERVED), None)
        if clash is not None:
            raise ValueError(
                f"document {document.document_id!r}: its metadata may not be called {clash!r}, which every passage has. "
                "Rename the field."
            )
        room = self.passage_tokens or room_for_text(processor)
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


def about_index(model: str, digest: str, splitting: Splitting) -> dict[str, Any]:
    """Return what an index, or shards, remember of how they were made.

    Args:
        model: its folder or Hub name.
        digest: of its weights, tokenizer and settings (`data.digests.model_digest`).
        splitting: how documents are cut.
    """
    return {"model": model, "model_digest": digest, **asdict(splitting)}


def room_for_text(processor: Any) -> int:
    """Return how many tokens of text a processor reads of a document, beside special tokens, marker and prefix."""
    before, after = processor.special_ids
    taken = len(before) + len(after) + (processor.document_marker is not None)
    return processor.document_length - taken - len(token_spans(processor.tokenizer, processor.document_prefix))


def digest_of(document: Document) -> str:
    """Return what changes when anything of a document does."""
    content = json.dumps(asdict(document), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def open_or_create(folder: Path, dim: int, about: dict[str, Any], codec: str, pool_factor: int) -> StoredIndex:
    """Open an index to go on with, or make it.

    Args:
        folder: of the index.
        dim: width of the embeddings.
        about: what else must be the same, such as the model; a model of the same `model_digest` may lie elsewhere.
        codec: how tokens are kept.
        pool_factor: tokens that become one.

    Raises:
        ValueError: if it was made with another model, splitting, codec or pooling, or is one of several shards.
    """
    if not (folder / "manifest.json").exists():
        return StoredIndex.create(folder, dim, codec, pool_factor, about)
    index = StoredIndex.open(folder, writable=True)
    made = {**index.about, "codec": index.manifest.codec, "pool_factor": index.manifest.pool_factor}
    if PART in made and PART not in about:
        index.close()
        raise ValueError(f"{folder}: one of several shards, which get their documents together. Give {folder.parent}.")
    other = differences(made, {**about, "codec": codec, "pool_factor": pool_factor})
    if other or index.dim != dim:
        index.close()
        raise ValueError(f"{folder}: made with {other or f'{index.dim} dimensions'}. Give the same, or another folder.")
    return index


def encode_collection(
    model: DrDecrModel,
    documents: Iterable[Document],
    index: StoredIndex,
    splitting: Splitting,
    batch_size: int = 32,
    prune: bool = False,
    show_progress_bar: bool | None = None,
) -> dict[str, int]:
    """Bring an index to the state of a collection: encode what is new or changed, leave the rest.

    After a kill the same call goes on behind the last commit.

    Args:
        model: with its processor.
        documents: read once, as a stream.
        index: open for writing.
        splitting: how documents are cut.
        batch_size: passages a forward pass.
        prune: delete documents of the index that are not among `documents` (default: they stay).
        show_progress_bar: default: on a terminal.

    Returns:
        Counts of documents: `new`, `changed`, `unchanged`, `deleted`; and of `passages` encoded.
    """
    there = _documents_of(index)
    counts = dict.fromkeys(("new", "changed", "unchanged", "deleted", "passages"), 0)
    seen: set[str] = set()

    def fresh() -> Iterator[Passage]:
        for document in tqdm(documents, desc="documents", unit="", disable=_hidden(show_progress_bar)):
            seen.add(document.document_id)
            digest, passage_ids = there.get(document.document_id, (None, []))
            if digest == digest_of(document):
                counts["unchanged"] += 1
                continue
            counts["new" if digest is None else "changed"] += 1
            passages = splitting.passages(document, model.processor)
            index.delete([name for name in passage_ids if name not in {passage.passage_id for passage in passages}])
            yield from passages

    waiting: list[Passage] = []
    for passage in fresh():
        # A document's passages are committed together, so that one with a digest is whole.
        starts_document = passage.payload["start"] == 0 or passage.passage_id.endswith("#0")
        if starts_document and len(waiting) >= PASSAGES_A_COMMIT:
            counts["passages"] += _commit(model, index, waiting, batch_size)
            waiting = []
        waiting.append(passage)
    if prune:
        gone = [name for name in there if name not in seen]
        index.delete([passage_id for name in gone for passage_id in there[name][1]])
        counts["deleted"] = len(gone)
    counts["passages"] += _commit(model, index, waiting, batch_size)
    return counts


def _hidden(show_progress_bar: bool | None) -> bool | None:
    return None if show_progress_bar is None else not show_progress_bar  # None asks tqdm to draw on a terminal only


def _commit(model: DrDecrModel, index: StoredIndex, passages: Sequence[Passage], batch_size: int) -> int:
    texts = [passage.reads for passage in passages]
    embeddings = model.encode_documents(texts, batch_size, show_progress_bar=False)
    index.add([passage.passage_id for passage in passages], embeddings, [passage.payload for passage in passages])
    index.commit()
    return len(passages)


def _documents_of(index: StoredIndex) -> dict[str, tuple[str, list[str]]]:
    """Return `{document_id: (digest, passage ids)}` of what an index holds."""
    found: dict[str, tuple[str, list[str]]] = {}
    for segment in index.segments:
        for name, payload, kept in zip(segment.ids(), segment.payloads(), segment.alive, strict=True):
            if kept:
                found.setdefault(payload["document_id"], (payload["digest"], []))[1].append(name)
    return found


if __name__ == "__main__":
    from .launched import run_launched

    run_launched("encode")
