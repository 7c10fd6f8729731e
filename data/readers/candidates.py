"""Readers of training sets for retrieval that are too large for memory: MS MARCO, mMARCO, n-way scores, DPR's NQ.

Each yields `(table, row)`: the passages, and the questions that name them.
Queries are held in memory, and 64 bits of each passage's id; passages and triples are not.
"""

import json
import math
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from drdecr.data.prepare.cleaning import text_key
from drdecr.data.schema import qualified
from drdecr.retrieval.passages import passage_text

from .text import has_fields, lines_of, list_field, locate, optional_text, readable, text_field, texts_field
from .xor import wikipedia_passages

Item = tuple[str, dict[str, Any]]
"""A table (`parallel`, `questions`, `candidates` or `passages`) and a row of it."""


def id_triple_rows(
    triples: str, queries: str, passages: str, language: str, english: str | None = None, name: str = "triples"
) -> Iterator[Item]:
    """Yield triples of ids with what they stand for (`triples.train.ids.small.tsv` of mMARCO, `qidpidtriples` of MS MARCO).

    Args:
        triples: lines `query id <TAB> id of a passage that answers <TAB> id of one that does not`.
        queries: lines `id <TAB> text`, in the language.
        passages: lines `id <TAB> text`, English for cross-lingual training.
        language: code of the queries' language.
        english: the same queries in English, for the teacher; default: there are none, or the queries are English.
        name: of the set, and prefix of its ids.

    Raises:
        ValueError: naming file and line, for a line of another form, an unknown query, or a passage that the collection lacks.
    """
    texts, translations = _queries(queries), _queries(english) if english else None
    file, known = locate(triples), _KnownIds()
    yield from _collection(passages, name, known)
    for number, line in lines_of(file):
        parts = line.split("\t")
        if len(parts) != 3 or not all(part.strip() for part in parts):
            raise ValueError(
                f"{file}, line {number}: expected three ids with tabs between them, got {parts}. Get the file again."
            )
        query_id, positive, negative = (part.strip() for part in parts)
        row = _question(texts, translations, query_id, language, file, number)
        known.check((positive, negative), file, number)
        ids = {"document_ids": [qualified(name, positive)], "irrelevant_ids": [qualified(name, negative)]}
        yield "questions", {"query_id": qualified(f"{name}-{language}", number), **row, **ids}


def scored_rows(
    scores: str, queries: str, passages: str, language: str, english: str | None = None, name: str = "scored"
) -> Iterator[Item]:
    """Yield n-way sets with a teacher's scores, in ColBERT's form: lines `[query id, [passage id, score], ...]`.

    The scores are no sums over query tokens: `teacher_query_tokens` is 0.

    Args:
        scores: JSON Lines, perhaps `.gz`.
        queries: lines `id <TAB> text`, in the language.
        passages: lines `id <TAB> text`.
        language: code of the queries' language.
        english: the same queries in English; they may be left out where the language is English (`en`).
        name: of the set, and prefix of its ids.

    Raises:
        ValueError: as of `id_triple_rows`, for a score that is no finite number, or for queries without their English.
    """
    file, known = locate(scores), _KnownIds()
    if not english and language != "en":
        raise ValueError(
            f"{file}: expected the queries in `english` beside those in {language!r}, got none. Give the file that the set has."
        )
    texts, translations = _queries(queries), _queries(english) if english else None
    yield from _collection(passages, name, known)
    for number, line in lines_of(file):
        query_id, pairs = _scored(line, file, number)
        row = _question(texts, translations, query_id, language, file, number)
        known.check((document_id for document_id, _ in pairs), file, number)
        yield (
            "candidates",
            {
                **row,
                "english": row.get("english") or row["query"],
                "document_ids": [qualified(name, document_id) for document_id, _ in pairs],
                "teacher_scores": [score for _, score in pairs],
                "teacher_query_tokens": 0,
            },
        )


def text_triple_rows(path: str, language: str = "en", name: str = "triples") -> Iterator[Item]:
    """Yield triples of texts (`triples.train.small.tsv` of MS MARCO): question, passage that answers, passage that does not."""
    file = locate(path)
    for number, line in lines_of(file):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3 or not all(parts):
            raise ValueError(
                f"{file}, line {number}: expected three texts with tabs between them, got {len(parts)}. Get it again."
            )
        ids = [qualified(name, f"{text_key(text) & (2**64 - 1):016x}") for text in parts[1:]]
        yield from (("passages", {"document_id": key, "text": text}) for key, text in zip(ids, parts[1:], strict=True))
        row = {"query_id": qualified(f"{name}-{language}", number), "query": parts[0], "language": language}
        yield "questions", {**row, "document_ids": ids[:1], "irrelevant_ids": ids[1:]}


def dpr_rows(path: str, num_negatives: int = 8, name: str = "nq") -> Iterator[Item]:
    """Yield DPR's training sets (`biencoder-nq-train.json`, perhaps `.gz`), an object at a time.

    Args:
        path: a JSON list of `question`, `answers`, `positive_ctxs` and `hard_negative_ctxs`.
        num_negatives: hard negatives kept of each question (default 8).
        name: of the set, and prefix of its ids.
    """
    file = locate(path)
    for number, record in _json_list(file):
        place = f"{file}, item {number}"
        has_fields(record, ("question", "positive_ctxs"), file, number, "item")
        found: list[list[str]] = []
        for field, limit in (("positive_ctxs", 1), ("hard_negative_ctxs", num_negatives)):
            ids = []
            for passage in list_field(record, field, file, number, "item")[:limit]:
                told = (file, number, "a passage of item")
                has_fields(passage, ("text",), *told)
                text = passage_text(optional_text(passage, "title", *told), text_field(passage, "text", *told))
                ids.append(qualified(name, f"{text_key(text) & (2**64 - 1):016x}"))
                yield "passages", {"document_id": ids[-1], "text": text}
            found.append(ids)
        if not isinstance(record["question"], str) or not found[0]:
            raise ValueError(
                f"{place}: expected a question with a passage that answers it, got {str(record)[:200]}. Drop the item."
            )
        row = {"query_id": qualified(f"{name}-en", number), "query": record["question"], "language": "en"}
        answers = texts_field(record, "answers", file, number, "item")
        yield "questions", {**row, "document_ids": found[0], "irrelevant_ids": found[1], "answers": answers}


def passage_rows(path: str, name: str = "wikipedia") -> Iterator[Item]:
    """Yield a collection in DPR's form (`psgs_w100.tsv`, `enwiki_20190201_w100.tsv`, perhaps `.gz`): id, text and title."""
    for _, _, document_id, text in wikipedia_passages(locate(path)):
        yield "passages", {"document_id": qualified(name, document_id), "text": text}


class _KnownIds:
    """Ids of a collection, 64 bits each: MS MARCO's 8.8 million take 70 MB."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._sorted: np.ndarray | None = None

    def add(self, document_id: str) -> None:
        self._keys.append(text_key(document_id))

    def check(self, document_ids: Iterable[str], file: Path, number: int) -> None:
        """Refuse an id that was not added."""
        if self._sorted is None:
            self._sorted = np.sort(np.array(self._keys, dtype=np.int64))
        for document_id in document_ids:
            key = text_key(document_id)
            place = int(np.searchsorted(self._sorted, key))
            if place == len(self._sorted) or self._sorted[place] != key:
                raise ValueError(
                    f"{file}, line {number}: passage {document_id!r} is not among the {len(self._sorted)} passages with text. "
                    "Give those of the set, or drop the line."
                )


def _collection(path: str, name: str, known: _KnownIds) -> Iterator[Item]:
    for document_id, text in _pairs(path):
        if text:
            known.add(document_id)
        yield "passages", {"document_id": qualified(name, document_id), "text": text}


def _queries(path: str) -> dict[str, str]:
    return dict(_pairs(path))


def _pairs(path: str) -> Iterator[tuple[str, str]]:
    file = locate(path)
    for number, line in lines_of(file):
        key, tab, text = line.partition("\t")
        if not tab or not key.strip() or "\t" in text:
            raise ValueError(
                f"{file}, line {number}: expected an id and a text with a tab between them, got {line[:200]!r}. Get it again."
            )
        yield key.strip(), text.strip()


def _question(
    texts: dict[str, str], translations: dict[str, str] | None, query_id: str, language: str, file: Path, number: int
) -> dict[str, Any]:
    for known in (texts, translations):
        if known is not None and query_id not in known:
            raise ValueError(
                f"{file}, line {number}: query {query_id!r} is not among the {len(known)} queries. Give those of the set."
            )
    row = {"query": texts[query_id], "language": language}
    return row if translations is None else {**row, "english": translations[query_id]}


def _scored(line: str, file: Path, number: int) -> tuple[str, list[tuple[str, float]]]:
    try:
        query_id, *pairs = json.loads(line)
        found = [(str(document_id), float(score)) for document_id, score in pairs]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file}, line {number}: expected `[query id, [passage id, score], ...]`, got {line[:200]!r} ({error}). Get the file "
            "again."
        ) from error
    if len(found) < 2:
        raise ValueError(
            f"{file}, line {number}: expected at least two passages with scores, got {len(found)}. Drop the line."
        )
    wrong = next((pair for pair in found if not math.isfinite(pair[1])), None)
    if wrong is not None:
        raise ValueError(
            f"{file}, line {number}: expected finite scores, got {wrong[1]} for passage {wrong[0]!r}. Score it again, or drop it."
        )
    return str(query_id), found


def _json_list(file: Path, block: int = 2**20) -> Iterator[tuple[int, Any]]:
    """Yield the items of a JSON list without reading it whole, each with its number."""
    decoder, text, number = json.JSONDecoder(), "", 0
    with readable(file) as stream:
        if stream.read(1) != "[":
            raise ValueError(f"{file}, item 1: expected a JSON list, got something else. Get it again.")
        while True:
            text = text.lstrip().removeprefix(",").lstrip()
            try:
                item, end = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                more = stream.read(block)
                if more:
                    text += more
                    continue
                if text.strip() == "]":
                    return
                raise ValueError(
                    f"{file}, item {number + 1}: expected a whole JSON list ({error}). Get it again."
                ) from error
            number += 1
            yield number, item
            text = text[end:]
