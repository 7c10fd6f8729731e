"""Systems that answer questions with documents: one step (a student), or two (a translator, then an English reader).

Both have one interface, so that they can be compared on the same questions and served the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex, Hits
from drdecr.retrieval.protocol import Where


@dataclass(frozen=True)
class Found:
    """A document that was found, and its best passage.

    Args:
        document_id: the document's.
        score: MaxSim of the passage.
        passage_id: the passage's.
        title: the document's.
        text: the passage's.
        start: first character of the passage in the document.
        end: behind its last.
        metadata: what else is known of the document.
    """

    document_id: str
    score: float
    passage_id: str
    title: str = ""
    text: str = ""
    start: int = 0
    end: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)


class Searchable(Protocol):
    """An index of any engine, opened to search."""

    def __len__(self) -> int:
        """Return how many passages it holds."""
        ...

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find passages, best first."""
        ...

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        ...


class SearchSystem(Protocol):
    """What answers questions."""

    def search(self, questions: list[str], top_k: int = 10, where: Where | None = None) -> list[list[Found]]:
        """Return for each question the best documents, best first."""
        ...


class Translation(Protocol):
    """A translated text."""

    @property
    def text(self) -> str:
        """The translation."""
        ...


class Translator(Protocol):
    """What translates, such as those of `drdecr.data`."""

    def translate(self, texts: list[str], source: str, target: str = "en") -> Sequence[Translation]:
        """Translate texts of one language, one by one and in their order."""
        ...


class OneStepSystem:
    """A model that reads questions as they are asked.

    Args:
        model: with its processor.
        index: of passages that this model, or its teacher, encoded.
    """

    def __init__(self, model: DrDecrModel, index: Searchable) -> None:
        self.model, self.index = model, index

    def search(self, questions: list[str], top_k: int = 10, where: Where | None = None) -> list[list[Found]]:
        """Return for each question the best documents, best first.

        Args:
            questions: in any language; an empty list gives an empty list.
            top_k: documents a question.
            where: a filter on metadata.
        """
        return search_documents(self.index, self.model.encode_queries(questions), top_k, where)


class TwoStepSystem:
    """Questions are translated to English and then asked: the cascade that a student takes the place of (paper, section 1).

    Args:
        translator: to English.
        reader: what is asked in English, such as a `OneStepSystem` of the teacher.
        source: language of the questions, as the translator names it. English ones need no translator: leave it out.
    """

    def __init__(self, translator: Translator, reader: SearchSystem, source: str) -> None:
        self.translator, self.reader, self.source = translator, reader, source

    def search(self, questions: list[str], top_k: int = 10, where: Where | None = None) -> list[list[Found]]:
        """Return for each question the best documents, best first; arguments as of `OneStepSystem.search`.

        Raises:
            ValueError: if the translator does not return a translation a question. A blank one asks the question itself.
        """
        if not questions:
            return []
        translations = self.translator.translate(questions, source=self.source, target="en")
        if len(translations) != len(questions):
            raise ValueError(
                f"Expected {len(questions)} translations, got {len(translations)}. A translator answers text by text."
            )
        pairs = zip(translations, questions, strict=True)
        return self.reader.search([made.text if made.text.strip() else asked for made, asked in pairs], top_k, where)


def search_documents(
    index: Searchable, query_embeddings: list[Tensor], top_k: int, where: Where | None = None
) -> list[list[Found]]:
    """Find documents by their best passages.

    Args:
        index: whose payloads name `document_id`; a passage without one is a document of its own.
        query_embeddings: as of an index.
        top_k: documents a query.
        where: a filter on payloads.

    Returns:
        For each query its documents, each once, best first.
    """
    asked = 2 * top_k
    while True:
        hits = index.search(query_embeddings, top_k=asked, where=where)
        found = [_by_document(index, ids, scores) for ids, scores in zip(hits.document_ids, hits.scores, strict=True)]
        # Too few documents, and more passages to be had: a long document took many places.
        pairs = zip(found, hits.document_ids, strict=True)
        if not any(len(documents) < top_k and len(ids) == asked for documents, ids in pairs):
            return [documents[:top_k] for documents in found]
        asked *= 4


def _by_document(index: Searchable, passage_ids: list[str], scores: list[float]) -> list[Found]:
    best: dict[str, Found] = {}
    for passage_id, score, payload in zip(passage_ids, scores, index.payloads(passage_ids), strict=True):
        document_id = payload.get("document_id", passage_id)
        if document_id not in best:
            best[document_id] = _found(document_id, passage_id, score, payload)
    return list(best.values())


def _found(document_id: str, passage_id: str, score: float, payload: Mapping[str, Any]) -> Found:
    known = ("title", "text", "start", "end")
    metadata = {name: value for name, value in payload.items() if name not in (*known, "document_id", "digest")}
    own = {name: payload[name] for name in known if name in payload}
    return Found(document_id, score, passage_id, **own, metadata=metadata)


def as_run(query_ids: Sequence[str], answers: Sequence[Sequence[Found]]) -> dict[str, dict[str, float]]:
    """Return `{query_id: {document_id: score}}` of what was found: the form that metrics and TREC files take."""
    pairs = zip(query_ids, answers, strict=True)
    return {query_id: {found.document_id: found.score for found in own} for query_id, own in pairs}


class InMemoryIndex:
    """An `ExactIndex` with its texts, searched as an index on disk is.

    Args:
        index: the passages.
        texts: `{passage_id: text}`.
    """

    def __init__(self, index: ExactIndex, texts: Mapping[str, str]) -> None:
        self.index, self.texts = index, texts

    def __len__(self) -> int:
        return len(self.index)

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find passages; `ValueError` for a filter, since these have no metadata."""
        if where:
            raise ValueError("These passages have no metadata to filter by. Make an index with `drdecr encode`.")
        return self.index.search(query_embeddings, top_k)

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the texts."""
        return [{"document_id": name, "text": self.texts[name]} for name in passage_ids]
