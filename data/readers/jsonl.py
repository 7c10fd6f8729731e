"""Readers of questions with their passage in JSON Lines: AfriQA, QED, CLAP NQ, and your own data."""

import logging
from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from drdecr.data.corpus import read_passages
from drdecr.data.passages import mapped_rows
from drdecr.data.schema import QUESTION_COLUMNS, QuestionSet, qualified
from drdecr.retrieval.passages import titled

from .text import (
    Languages,
    has_fields,
    id_field,
    ids_field,
    language_files,
    list_field,
    locate,
    naming,
    optional_text,
    records_of,
    text_field,
    texts_field,
)

logger = logging.getLogger(__name__)


def read_afriqa(path: str, languages: Languages, name: str = "afriqa", pivot: str = "en") -> QuestionSet:
    """Read AfriQA's gold passages (train, dev, test): questions in languages of Africa, their translation and passage.

    Questions whose passage is null or empty are left out, with a warning that counts them: one in twenty has none.

    Args:
        path: with `{language}`, JSON Lines (though called `.json`); the passages of all lines form the collection.
        languages: codes of the questions' languages.
        name: of the set, and prefix of its ids.
        pivot: code of the translations' and passages' language (default en; fr for Fon and Wolof). The column `english`
            is there for en only.
    """
    by_text: dict[str, str] = {}
    rows = []
    left_out = 0
    for code, file in language_files(path, languages):
        without_passage = []
        for number, record in records_of(file):
            if "context" in record and not str(record["context"] or "").strip():
                without_passage.append(number)
                continue
            has_fields(record, ("context", "question_lang", "question_translated", "answer_pivot"), file, number)
            passage = titled(optional_text(record, "title", file, number), text_field(record, "context", file, number))
            answer = has_fields(record["answer_pivot"], ("text",), file, number)
            row = {
                "query_id": qualified(f"{name}-{code}", number),
                "query": text_field(record, "question_lang", file, number),
                "language": code,
                "document_ids": [by_text.setdefault(passage, qualified(name, len(by_text)))],
                "answer": next(iter(texts_field(answer, "text", file, number)), ""),
            }
            translation = text_field(record, "question_translated", file, number)
            rows.append(row | ({"english": translation} if pivot == "en" else {}))
        if without_passage:
            left_out += len(without_passage)
            logger.warning(
                "%s: %d questions left out that have no passage, the first in line %d.",
                file,
                len(without_passage),
                without_passage[0],
            )
    passages = {document_id: text for text, document_id in by_text.items()}
    counters = {"without a passage": left_out} if left_out else {}
    with naming(path):
        return QuestionSet(name, Dataset.from_list(rows), passages, counters)


def read_qed(path: str, name: str = "qed") -> QuestionSet:
    """Read QED: questions of Natural Questions with the Wikipedia paragraph that answers them, English."""
    fields = ("question_text", "title_text", "paragraph_text")
    pairs = []
    for number, record in records_of(locate(path)):
        has_fields(record, fields, path, number)
        question, title, text = (text_field(record, field, path, number) for field in fields)
        pairs.append((question, title, text))
    with naming(path):
        return _english_pairs(pairs, name)


def read_clapnq(path: str, name: str = "clapnq") -> QuestionSet:
    """Read CLAP NQ: questions of Natural Questions with their Wikipedia passage, English."""
    pairs = []
    for number, record in records_of(locate(path)):
        found = has_fields(record, ("input", "passages"), path, number)["passages"]
        if not isinstance(found, list) or not found:
            raise ValueError(f"{path}, line {number}: expected a list of passages, got {found!r}. Drop the line.")
        first = has_fields(found[0], ("title", "text"), path, number)
        title, text = (text_field(first, field, path, number) for field in ("title", "text"))
        pairs.append((text_field(record, "input", path, number), title, text))
    with naming(path):
        return _english_pairs(pairs, name)


def read_jsonl(questions: str, passages: str, name: str = "own") -> QuestionSet:
    """Read your own data in this package's schema; questions and passages lie in temporary files, which are mapped.

    Args:
        questions: JSON Lines with `query_id`, `query`, `language`, `document_ids` and perhaps `english`; `answers`,
            `relevance` and `irrelevant_ids` (see `QuestionSet`) may stand in some lines only.
        passages: JSON Lines with `document_id`, `text` and perhaps `title`.
        name: of the set.
    """
    first: list[str] = []
    optional = dict.fromkeys(("answer", "answers", "relevance", "irrelevant_ids", "english"), False)
    for row in _own_rows(questions):  # all lines: the first one may lack what others have
        first = first or list(row)
        optional = {name: known or name in row for name, known in optional.items()}
    columns = dict.fromkeys([*(name for name, known in optional.items() if known), *first])
    rows = mapped_rows(lambda: _own_rows(questions), list(columns), questions) if columns else Dataset.from_list([])
    collection = read_passages(passages)
    with naming(f"{questions}, with the passages of {passages}"):
        return QuestionSet(name, rows, collection)


def _own_rows(questions: str) -> Iterator[dict[str, Any]]:
    for number, record in records_of(locate(questions)):
        has_fields(record, QUESTION_COLUMNS, questions, number)
        for field in ("query", "language"):
            text_field(record, field, questions, number)
        for field in ("english", "answer"):
            optional_text(record, field, questions, number)
        if not all(answer.strip() for answer in texts_field(record, "answers", questions, number)):
            raise ValueError(  # every passage holds a blank
                f"{questions}, line {number}: expected `answers` with text, got {record['answers']!r}. Drop the blank one."
            )
        list_field(record, "relevance", questions, number)
        irrelevant = ids_field(record, "irrelevant_ids", questions, number)
        ids = ids_field(record, "document_ids", questions, number)
        own = {"query_id": id_field(record, "query_id", questions, number), "document_ids": ids}
        yield {**record, **own, **({"irrelevant_ids": irrelevant} if irrelevant else {})}


def read_texts(path: str, column: str = "question") -> list[str]:
    """Read one column of JSON Lines, such as the questions of a test set that must not be trained on.

    Raises:
        ValueError: naming file and line, for a line without a text there; or if there is no line.
    """
    texts = []
    for number, record in records_of(locate(path)):
        texts.append(text_field(has_fields(record, (column,), path, number), column, path, number))
    if not texts:
        raise ValueError(f"{path}: expected lines with {column!r}, got none. Look at the path.")
    return texts


def _english_pairs(pairs: list[tuple[str, str, str]], name: str) -> QuestionSet:
    by_text: dict[str, str] = {}
    rows = []
    for number, (question, title, text) in enumerate(pairs):
        document_id = by_text.setdefault(titled(title, text), qualified(name, len(by_text)))
        row = {"query_id": qualified(f"{name}-en", number), "query": question, "language": "en", "answer": ""}
        rows.append({**row, "document_ids": [document_id]})
    return QuestionSet(name, Dataset.from_list(rows), {document_id: text for text, document_id in by_text.items()})
