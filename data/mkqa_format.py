"""Reader of MKQA as a retrieval test: questions in many languages, answers in English, an English Wikipedia to search."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from .collection_formats import read_collection
from .schema import QuestionSet
from .stored_passages import StoredPassages
from .text_files import (
    Languages,
    has_fields,
    id_field,
    list_field,
    locate,
    named_languages,
    naming,
    records_of,
    text_field,
)
from .xor_format import wikipedia_passages

COLUMNS = Features(
    {
        **{name: Value("string") for name in ("query_id", "query", "english", "language")},
        **{name: List(Value("string")) for name in ("document_ids", "answers")},
    }
)

LEFT_OUT = ("unanswerable", "binary", "long_answer")
"""Kinds of answers that no passage can hold as a span; questions with one are left out, as peers do (6,619 are left)."""


def read_mkqa_retrieval(questions: str, passages: str, languages: Languages, name: str = "mkqa") -> QuestionSet:
    """Read MKQA's questions with their English answers, and what is searched.

    Args:
        questions: `mkqa.jsonl` (or `.gz`): a line has `example_id`, `queries` by language, and `answers` by language, lists
            of `type`, `text` and perhaps `aliases`.
        passages: BEIR's `corpus.jsonl` of its set nq, or `psgs_w100.tsv` (each perhaps `.gz`).
        languages: codes, or own codes with MKQA's (`{zh: zh_cn}`).
        name: of the set.

    Returns:
        A set whose ids are `example_id-language`, without labelled passages: `answers` say what is right.

    Raises:
        ValueError: naming file, line and what was expected; or if no question is left.
        FileNotFoundError: if a file is not there.
    """
    file = locate(questions)
    rows = list(_questions(file, named_languages(questions, languages)))
    if not rows:
        raise ValueError(f"{file}: expected questions with answers that can be found, got none.")
    collection = locate(passages)
    stored = (
        StoredPassages(wikipedia_passages(collection), collection)
        if ".tsv" in collection.suffixes
        else StoredPassages(read_collection([collection], "_id"), collection)
    )
    with naming(file):
        return QuestionSet(name, Dataset.from_list(rows, features=COLUMNS), stored)


def _questions(file: Path, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    for number, record in records_of(file):
        has_fields(record, ("example_id", "queries", "answers"), file, number)
        queries, answers = (_by_language(record, field, file, number) for field in ("queries", "answers"))
        missing = next((code for code in ["en", *names.values()] if code not in queries), None)
        if missing is not None or "en" not in answers:
            raise ValueError(
                f"{file}, line {number}: expected queries in {missing or 'en'!r} and answers in 'en', got queries in "
                f"{', '.join(queries)} and answers in {', '.join(answers)}."
            )
        found = [
            has_fields(one, (), file, number, "an answer of line") for one in list_field(answers, "en", file, number)
        ]
        if any(answer.get("type") in LEFT_OUT for answer in found):
            continue
        texts = [text for one in found for text in [one.get("text"), *list_field(one, "aliases", file, number)]]
        kept = list(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))
        if not kept:
            continue
        for code, theirs in names.items():
            yield {
                "query_id": f"{id_field(record, 'example_id', file, number)}-{code}",
                "query": text_field(queries, theirs, file, number),
                "english": text_field(queries, "en", file, number),
                "language": code,
                "document_ids": [],
                "answers": kept,
            }


def _by_language(record: dict[str, Any], field: str, file: Path, number: int) -> dict[str, Any]:
    found = record[field]
    if not isinstance(found, dict):
        raise ValueError(
            f"{file}, line {number}: expected {field} by language, got {str(found)[:200]!r}. Write `{{language: ...}}`."
        )
    return found
