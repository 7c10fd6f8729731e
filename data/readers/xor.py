"""Reader of XOR-Retrieve: questions with answers, over Wikipedia passages in the form of DPR's `psgs_w100.tsv`."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from drdecr.data.passages import PassageStore
from drdecr.data.schema import QuestionSet, qualified
from drdecr.retrieval.passages import passage_text

from .beir import read_collection
from .text import (
    Languages,
    has_fields,
    id_field,
    list_field,
    locate,
    named_languages,
    naming,
    readable,
    records_of,
    text_field,
)

PASSAGE_FIELDS = ["id", "text", "title"]

COLUMNS = Features(
    {
        "query_id": Value("string"),
        "query": Value("string"),
        "language": Value("string"),
        "document_ids": List(Value("string")),
        "answers": List(Value("string")),
    }
)


def read_xor_retrieve(
    questions: str, passages: str, languages: list[str] | None = None, name: str = "xor-retrieve"
) -> QuestionSet:
    """Read XOR-Retrieve: no passage is labelled, any that holds an answer is right (`QuestionSet.answers`, R@kt).

    Args:
        questions: JSON Lines with `id`, `question`, `lang` and `answers`. Languages lose the spaces around them: in the
            train file Arabic is " ar". Answers stay as they are, yes, no and repeated ones too.
        passages: the collection, lines `id <TAB> text <TAB> title`, quoted as CSV, with or without a header, perhaps `.gz`.
        languages: codes of those to keep; default: all.
        name: of the set.

    Raises:
        ValueError: naming file, line and what was expected; or the languages, if no question is in them.
        FileNotFoundError: if a file is not there.
    """
    rows = [row for row in _questions(locate(questions)) if languages is None or row["language"] in languages]
    if not rows:
        raise ValueError(f"{questions}: expected questions in {languages or 'any language'}, got none.")
    file = locate(passages)
    return QuestionSet(name, Dataset.from_list(rows, features=COLUMNS), PassageStore(wikipedia_passages(file), file))


def xor_question_rows(path: str, name: str = "xor") -> Iterator[tuple[str, dict[str, object]]]:
    """Yield XOR-Retrieve's questions with their answers and without passages, as rows of the table `questions`."""
    for row in _questions(locate(path)):
        yield "questions", {**row, "query_id": qualified(f"{name}-{row['language']}", row["query_id"])}


def _questions(file: Path) -> Iterator[dict[str, object]]:
    for number, record in records_of(file):
        has_fields(record, ("id", "question", "lang", "answers"), file, number)
        answers = record["answers"]
        if (
            not isinstance(answers, list)
            or not answers
            or not all(isinstance(one, str) and one.strip() for one in answers)
        ):
            raise ValueError(
                f"{file}, line {number}: expected a list of texts as `answers`, got {answers!r}. Write the texts in "
                "[brackets], or drop the line."
            )
        texts = {key: record[key].strip() if isinstance(record[key], str) else "" for key in ("question", "lang")}
        if not all(texts.values()):
            raise ValueError(
                f"{file}, line {number}: expected texts as `question` and `lang`, got {record!r}. Fill them, or drop the line."
            )
        yield {
            "query_id": id_field(record, "id", file, number),
            "query": texts["question"],
            "language": texts["lang"],
            "document_ids": [],
            "answers": answers,
        }


def wikipedia_passages(file: Path) -> Iterator[tuple[Path, int, str, str]]:
    """Yield file, line number, id and text, behind its title, of passages in DPR's form: tabs between id, text and title."""
    with readable(file, newline="") as stream:
        rows = csv.reader(stream, delimiter="\t")
        start = 1
        try:
            for row in rows:
                number, start = start, rows.line_num + 1  # a quoted text may span lines
                if not row or (number == 1 and row == PASSAGE_FIELDS):
                    continue
                if len(row) != len(PASSAGE_FIELDS) or not row[0].strip():
                    raise ValueError(
                        f"{file}, line {number}: expected the fields {', '.join(PASSAGE_FIELDS)} with tabs between, got "
                        f"{len(row)}, {str(row)[:200]}. Write the missing tab, quote a text with one, or get the file again."
                    )
                yield file, number, row[0].strip(), passage_text(row[2], row[1])
        except csv.Error as error:
            raise ValueError(
                f"{file}, line {start}: expected tab-separated fields in CSV quotes ({error}). Double the quotes within a text, "
                "or get the file again."
            ) from error


MKQA_COLUMNS = Features(
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
    rows = list(_mkqa_questions(file, named_languages(questions, languages)))
    if not rows:
        raise ValueError(f"{file}: expected questions with answers that can be found, got none.")
    collection = locate(passages)
    stored = (
        PassageStore(wikipedia_passages(collection), collection)
        if ".tsv" in collection.suffixes
        else PassageStore(read_collection([collection], "_id"), collection)
    )
    with naming(file):
        return QuestionSet(name, Dataset.from_list(rows, features=MKQA_COLUMNS), stored)


def _mkqa_questions(file: Path, names: dict[str, str]) -> Iterator[dict[str, Any]]:
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
