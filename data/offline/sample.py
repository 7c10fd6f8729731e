"""The sample data: passages, questions and sentences written for this project, in English and seven more languages."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from datasets import Dataset

from drdecr.data.schema import QuestionSet, parallel_set

LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
"""The languages of XOR-TyDi. English stands beside each."""

SPLITS = ("train", "dev", "test")


def read_sample_sentences(split: str = "train", languages: list[str] | None = None) -> Dataset:
    """Return the parallel sentences of a split: columns `query`, `english`, `language`."""
    rows = [
        {"query": record[code], "english": record["en"], "language": code}
        for record in _records("sentences.jsonl", split)
        for code in _checked(languages)
    ]
    return parallel_set(rows, f"sample sentences, {split}")


def read_sample_questions(split: str = "train", languages: list[str] | None = None) -> QuestionSet:
    """Return the questions of a split, each with its English form, over all passages of all splits.

    The collection is whole in every split, as a user's would be; no passage answers questions of two splits.

    Args:
        split: train, dev or test.
        languages: codes of the questions' languages, `en` among them if wanted; default: the seven.
    """
    passages = {record["document_id"]: f"{record['title']}. {record['text']}" for record in _records("passages.jsonl")}
    rows = [
        {
            "query_id": f"{record['question_id']}-{code}",
            "query": record[code],
            "english": record["en"],
            "language": code,
            "document_ids": [record["document_id"]],
            "answer": record["answer"],
        }
        for record in _records("questions.jsonl", split)
        for code in _checked(languages)
    ]
    return QuestionSet(f"sample questions, {split}", Dataset.from_list(rows), passages)


def _checked(languages: list[str] | None) -> Sequence[str]:
    unknown = [code for code in languages or () if code not in ("en", *LANGUAGES)]
    if unknown or languages == []:
        raise ValueError(f"languages: expected some of en, {', '.join(LANGUAGES)}, got {languages}.")
    return languages or LANGUAGES


def _records(file: str, split: str | None = None) -> list[dict[str, Any]]:
    if split is not None and split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}.")
    text = files("drdecr.data.offline").joinpath("sample_texts", file).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [record for record in records if split is None or record["split"] == split]
