"""Readers of questions with their passage in JSON Lines: AfriQA, QED, CLAP NQ, and your own data."""

import logging
from collections.abc import Iterator
from typing import Any

from datasets import Dataset

from .mapped_rows import mapped_rows
from .passages import read_passages, titled
from .schema import QUESTION_COLUMNS, QuestionSet, qualified
from .text_files import Languages, has_fields, language_files, locate, records_of

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
            document_id = by_text.setdefault(
                titled(record.get("title"), record["context"]), qualified(name, len(by_text))
            )
            row = {
                "query_id": qualified(f"{name}-{code}", number),
                "query": record["question_lang"],
                "language": code,
                "document_ids": [document_id],
                "answer": next(iter(record["answer_pivot"]["text"]), ""),
            }
            rows.append(row | ({"english": record["question_translated"]} if pivot == "en" else {}))
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
    return QuestionSet(name, Dataset.from_list(rows), passages, counters)


def read_qed(path: str, name: str = "qed") -> QuestionSet:
    """Read QED: questions of Natural Questions with the Wikipedia paragraph that answers them, English."""
    fields = ("question_text", "title_text", "paragraph_text")
    records = [(number, has_fields(record, fields, path, number)) for number, record in records_of(locate(path))]
    pairs = [(record["question_text"], record["title_text"], record["paragraph_text"]) for _, record in records]
    return _english_pairs(pairs, name)


def read_clapnq(path: str, name: str = "clapnq") -> QuestionSet:
    """Read CLAP NQ: questions of Natural Questions with their Wikipedia passage, English."""
    pairs = []
    for number, record in records_of(locate(path)):
        found = has_fields(record, ("input", "passages"), path, number)["passages"]
        if not isinstance(found, list) or not found:
            raise ValueError(f"{path}, line {number}: expected a list of passages, got {found!r}. Drop the line.")
        first = has_fields(found[0], ("title", "text"), path, number)
        pairs.append((record["input"], first["title"], first["text"]))
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
    judged = dict.fromkeys(("answer", "answers", "relevance", "irrelevant_ids"), False)
    for row in _own_rows(questions):
        first = first or list(row)
        judged = {name: known or name in row for name, known in judged.items()}
    columns = dict.fromkeys([*(name for name, known in judged.items() if known), *first])
    rows = mapped_rows(lambda: _own_rows(questions), list(columns), questions) if columns else Dataset.from_list([])
    return QuestionSet(name, rows, read_passages(passages))


def _own_rows(questions: str) -> Iterator[dict[str, Any]]:
    for number, record in records_of(locate(questions)):
        ids = has_fields(record, QUESTION_COLUMNS, questions, number)["document_ids"]
        if not isinstance(ids, list):
            raise ValueError(
                f"{questions}, line {number}: expected a list of `document_ids`, got {ids!r}. Put it in [brackets]."
            )
        irrelevant = [str(one) for one in record.get("irrelevant_ids") or []]
        own = {"query_id": str(record["query_id"]), "document_ids": [str(one) for one in ids]}
        yield {**record, **own, **({"irrelevant_ids": irrelevant} if irrelevant else {})}


def read_texts(path: str, column: str) -> list[str]:
    """Read one column of JSON Lines, such as the questions of a test set that must not be trained on."""
    return [has_fields(record, (column,), path, number)[column] for number, record in records_of(locate(path))]


def _english_pairs(pairs: list[tuple[str, str, str]], name: str) -> QuestionSet:
    by_text: dict[str, str] = {}
    rows = []
    for number, (question, title, text) in enumerate(pairs):
        document_id = by_text.setdefault(titled(title, text), qualified(name, len(by_text)))
        row = {"query_id": qualified(f"{name}-en", number), "query": question, "language": "en", "answer": ""}
        rows.append({**row, "document_ids": [document_id]})
    return QuestionSet(name, Dataset.from_list(rows), {document_id: text for text, document_id in by_text.items()})
