"""Retrievers answer questions with documents: a student in one step, or a translator before an English model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from drdecr.modeling_drdecr import DrDecrModel

from .protocol import Filter, PassageIndex, check_count
from .stored.index import StoredIndex
from .stored.manifest import MANIFEST_NAME, Manifest, differences
from .two_stage import CentroidCandidates, TwoStageIndex


@dataclass(frozen=True)
class RetrievedDocument:
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


@dataclass(frozen=True)
class RetrievalResult:
    """What was found for a question.

    Args:
        documents: best first.
        searched_for: the text that was searched for in place of the question: its translation; None: the question itself.
    """

    documents: list[RetrievedDocument]
    searched_for: str | None = None


class Retriever(Protocol):
    """What answers questions, and encodes texts as it does so: all that a server needs."""

    @property
    def num_passages(self) -> int:
        """How many passages are searched."""
        ...

    def answer(self, questions: list[str], top_k: int = 10, where: Filter | None = None) -> list[RetrievalResult]:
        """Return for each question the best documents, and what was searched for."""
        ...

    def search(
        self, questions: list[str], top_k: int = 10, where: Filter | None = None
    ) -> list[list[RetrievedDocument]]:
        """Return for each question the best documents, best first."""
        ...

    def encode_queries(self, texts: list[str]) -> list[Tensor]:
        """Return the vectors that questions are searched with: one `(tokens, dim)` tensor each."""
        ...

    def encode_documents(self, texts: list[str]) -> list[Tensor]:
        """Return the vectors of passages: one `(tokens, dim)` tensor each."""
        ...

    def scores(self, question: str, passages: list[str]) -> list[float]:
        """Return MaxSim of each passage with a question."""
        ...

    def refresh(self) -> bool:
        """Go to the last commit of the index, if its engine can, and return whether there was a newer one."""
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


class TranslationError(RuntimeError):
    """Questions were not translated."""


class DirectRetriever:
    """A model that reads questions as they are asked.

    Args:
        model: with its processor.
        index: of passages that this model, or its teacher, encoded.
    """

    def __init__(self, model: DrDecrModel, index: PassageIndex) -> None:
        self.model, self.index = model, index
        self._manifest_state: tuple[int, ...] | None = None

    @property
    def num_passages(self) -> int:
        """How many passages are searched."""
        return len(self.index)

    def search(
        self, questions: list[str], top_k: int = 10, where: Filter | None = None
    ) -> list[list[RetrievedDocument]]:
        """Return for each question the best documents, best first.

        Args:
            questions: in any language; an empty list gives an empty list.
            top_k: documents a question.
            where: a filter on metadata.
        """
        return search_documents(self.index, self.model.encode_queries(questions), top_k, where)

    def answer(self, questions: list[str], top_k: int = 10, where: Filter | None = None) -> list[RetrievalResult]:
        """Return the same, each question's as a `RetrievalResult`."""
        return [RetrievalResult(documents) for documents in self.search(questions, top_k, where)]

    def encode_queries(self, texts: list[str]) -> list[Tensor]:
        """Return the vectors that questions are searched with: one `(tokens, dim)` tensor each."""
        return self.model.encode_queries(texts)

    def encode_documents(self, texts: list[str]) -> list[Tensor]:
        """Return the vectors of passages: one `(tokens, dim)` tensor each."""
        return self.model.encode_documents(texts)

    def scores(self, question: str, passages: list[str]) -> list[float]:
        """Return MaxSim of each passage with a question."""
        scores = self.model.score(self.encode_queries([question]), self.encode_documents(passages))
        return [float(score) for score in scores[0]]

    def refresh(self) -> bool:
        """Go to the last commit of a `StoredIndex` and return whether there was a newer one. Not while a search is under way.

        Between commits it costs a look at the manifest's time. An index of another engine, or one with candidates, whose
        vectors belong to one commit, stays as it was opened.

        Raises:
            OSError or ValueError: if the folder has an index of another model now, a damaged one, or none. The commit that was
                open stays so, and is not tried again before the next one.
        """
        index = self.index
        if not isinstance(index, StoredIndex):
            return False
        try:
            stat = (index.folder / MANIFEST_NAME).stat()
        except FileNotFoundError:  # taken away; what is open can still be read
            return False
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._manifest_state == state:
            return False
        self._manifest_state = state  # before it is read: what is committed meanwhile has another one
        manifest = Manifest.read(index.folder)
        other = differences({**manifest.metadata, "dim": manifest.dim}, {**index.metadata, "dim": index.dim})
        if other:
            raise ValueError(f"{index.folder}: holds another index now ({other}). Start again to search it.")
        return index.refresh()


class TranslateTestRetriever:
    """Questions are translated to English and then asked: the cascade that a student takes the place of (paper, section 1).

    Args:
        translator: to English.
        reader: what is asked in English, such as a `DirectRetriever` of the teacher.
        source: language of the questions, as the translator names it. English ones need no translator: leave it out.
    """

    def __init__(self, translator: Translator, reader: Retriever, source: str) -> None:
        self.translator, self.reader, self.source = translator, reader, source

    @property
    def num_passages(self) -> int:
        """How many passages are searched."""
        return self.reader.num_passages

    def search(
        self, questions: list[str], top_k: int = 10, where: Filter | None = None
    ) -> list[list[RetrievedDocument]]:
        """Return for each question the best documents, best first; arguments as of `DirectRetriever.search`.

        Raises:
            TranslationError: if the translator fails.
            ValueError: if it refuses, or does not return a translation a question. A blank one asks the question itself.
        """
        return self.reader.search(self.in_english(questions), top_k, where)

    def answer(self, questions: list[str], top_k: int = 10, where: Filter | None = None) -> list[RetrievalResult]:
        """Return the same, each question's as a `RetrievalResult` with its translation."""
        english = self.in_english(questions)
        documents = self.reader.search(english, top_k, where)
        return [RetrievalResult(best, text) for best, text in zip(documents, english, strict=True)]

    def encode_queries(self, texts: list[str]) -> list[Tensor]:
        """Return the vectors of the questions' translations: one `(tokens, dim)` tensor each."""
        return self.reader.encode_queries(self.in_english(texts))

    def encode_documents(self, texts: list[str]) -> list[Tensor]:
        """Return the vectors of passages, which are not translated: one `(tokens, dim)` tensor each."""
        return self.reader.encode_documents(texts)

    def scores(self, question: str, passages: list[str]) -> list[float]:
        """Return MaxSim of each passage with the question's translation."""
        return self.reader.scores(self.in_english([question])[0], passages)

    def refresh(self) -> bool:
        """Go to the last commit of the index; see `DirectRetriever.refresh`."""
        return self.reader.refresh()

    def in_english(self, questions: list[str]) -> list[str]:
        """Translate questions; one whose translation is blank stays as it is. Errors as of `search`."""
        if not questions:
            return []
        try:
            translations = self.translator.translate(questions, source=self.source, target="en")
        except ValueError:
            raise
        except Exception as error:  # of a program or a model that is not ours
            raise TranslationError(
                f"The questions were not translated ({error}). Ask again, or search without translation."
            ) from error
        if len(translations) != len(questions):
            raise ValueError(
                f"Expected {len(questions)} translations, got {len(translations)}. A translator answers text by text."
            )
        pairs = zip(translations, questions, strict=True)
        return [translation.text if translation.text.strip() else question for translation, question in pairs]


def search_documents(
    index: PassageIndex, query_embeddings: list[Tensor], top_k: int, where: Filter | None = None
) -> list[list[RetrievedDocument]]:
    """Find documents by their best passages.

    Args:
        index: whose payloads name `document_id`; a passage without one is a document of its own.
        query_embeddings: as of an index.
        top_k: documents a query.
        where: a filter on payloads.

    Returns:
        For each query its documents, each once, best first.
    """
    check_count("top_k", top_k)
    num_passages = 2 * top_k
    while True:
        hits = index.search(query_embeddings, top_k=num_passages, where=where)
        pairs = list(zip(hits.document_ids, hits.scores, strict=True))
        documents = [_best_passages(index, ids, scores) for ids, scores in pairs]
        # Too few documents, and more passages to be had: a long document took many places.
        is_short = [
            len(best) < top_k and len(ids) == num_passages for best, (ids, _) in zip(documents, pairs, strict=True)
        ]
        if not any(is_short):
            return [best[:top_k] for best in documents]
        num_passages *= 4


def _best_passages(index: PassageIndex, passage_ids: list[str], scores: list[float]) -> list[RetrievedDocument]:
    best: dict[str, RetrievedDocument] = {}
    for passage_id, score, payload in zip(passage_ids, scores, index.payloads(passage_ids), strict=True):
        document_id = payload.get("document_id", passage_id)
        if document_id not in best:
            best[document_id] = _retrieved(document_id, passage_id, score, payload)
    return list(best.values())


def _retrieved(document_id: str, passage_id: str, score: float, payload: Mapping[str, Any]) -> RetrievedDocument:
    fields = ("title", "text", "start", "end")
    metadata = {name: value for name, value in payload.items() if name not in (*fields, "document_id", "digest")}
    known = {name: payload[name] for name in fields if payload.get(name) is not None}
    return RetrievedDocument(document_id, score, passage_id, **known, metadata=metadata)


def as_run(query_ids: Sequence[str], answers: Sequence[Sequence[RetrievedDocument]]) -> dict[str, dict[str, float]]:
    """Return `{query_id: {document_id: score}}` of what was found: the form that metrics and TREC files take."""
    pairs = zip(query_ids, answers, strict=True)
    return {query_id: {document.document_id: document.score for document in best} for query_id, best in pairs}


SEARCHES = ("exact", "centroids")


def open_index(
    folder: str | Path,
    search: str = "exact",
    num_candidates: int = 200,
    verify: bool = True,
    in_memory: bool = False,
) -> PassageIndex:
    """Open an index to search.

    Args:
        folder: of the index.
        search: `exact`, or where candidates come from: `centroids` (residual codes).
        num_candidates: passages a query that are scored exactly.
        verify: compare checksums.
        in_memory: copy the tokens to memory (`StoredIndex.open`).

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
