"""Reader of SQuAD-style JSON: SQuAD, XQuAD, TyDi QA gold passage."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from .passages import titled
from .schema import QuestionSet, qualified
from .text_files import Languages, has_fields, language_files, locate, readable


def read_squad(
    path: str,
    languages: Languages,
    passages: str | None = None,
    every: int = 1,
    titles: bool = False,
    english: str | None = None,
    name: str = "squad",
) -> QuestionSet:
    """Read SQuAD-style JSON (SQuAD, XQuAD, TyDi QA gold passage).

    Args:
        path: the questions; with `{language}` one file a language over the same passages (XQuAD).
        languages: codes of the questions' languages.
        passages: a SQuAD-style file whose passages form the collection, with the same question ids (XQuAD is searched
            over the whole SQuAD dev set); default: the passages of `path`.
        every: keep each n-th question (default 1: all).
        titles: whether the article's title stands before each passage (default False: the passages as they are).
        english: a SQuAD-style file with the same questions in English, by id, for the teacher (XQuAD).
        name: of the set, and prefix of its ids.
    """
    source = str(passages or next(language_files(path, languages))[1])
    by_text: dict[str, str] = {}  # TyDi QA repeats a passage for each of its questions
    answers: dict[str, str] = {}
    for number, text, questions in _squad_paragraphs(source, titles):
        document_id = by_text.setdefault(text, qualified(name, number))
        answers.update({question["id"]: document_id for question in questions})
    translations = _squad_questions(english) if english else None
    rows = []
    for code, file in language_files(path, languages):
        questions = [question for _, _, found in _squad_paragraphs(str(file), titles) for question in found]
        for question in questions[::every]:
            if question["id"] not in answers:
                raise ValueError(
                    f"{file}: question {question['id']!r} has no passage in {passages}. Use files of one set."
                )
            row = {
                "query_id": qualified(f"{name}-{code}", question["id"]),
                "query": question["question"].strip(),
                "language": code,
                "document_ids": [answers[question["id"]]],
                "answer": _squad_answer(question, file),
            }
            if translations is not None:
                if question["id"] not in translations:
                    raise ValueError(
                        f"{english}: question {question['id']!r} of {file} is missing. Use files of one set."
                    )
                row["english"] = translations[question["id"]]
            rows.append(row)
    return QuestionSet(name, Dataset.from_list(rows), {document_id: text for text, document_id in by_text.items()})


def _squad_paragraphs(path: str, titles: bool) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    file = locate(path)
    with readable(file) as stream:
        text = stream.read()
    try:
        articles = json.loads(text)["data"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected SQuAD-style JSON with a 'data' list ({error}).") from error
    for article_number, article in enumerate(articles):
        for number, paragraph in enumerate(
            has_fields(article, ("paragraphs",), file, article_number + 1, "article")["paragraphs"]
        ):
            place = f"{article_number + 1}, paragraph {number + 1}"
            has_fields(paragraph, ("context", "qas"), file, place, "article")
            for question in paragraph["qas"]:
                has_fields(question, ("id", "question"), file, place, "a question of article")
            text = titled(article.get("title") if titles else None, paragraph["context"])
            yield f"{article_number}-{number}", text, paragraph["qas"]


def _squad_answer(question: dict[str, Any], file: Path) -> str:
    """Return the first answer: an object with a text, or in re-packed files the text itself."""
    if not question.get("answers"):
        raise ValueError(
            f"{file}: question {question['id']!r} has no answer, so no passage is right for it. Leave such questions "
            "out."
        )
    first = question["answers"][0]
    return first if isinstance(first, str) else first["text"]


def _squad_questions(path: str) -> dict[str, str]:
    paragraphs = _squad_paragraphs(path, titles=False)
    return {question["id"]: question["question"].strip() for _, _, questions in paragraphs for question in questions}
