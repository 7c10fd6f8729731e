"""Reader of SQuAD-style JSON: SQuAD, XQuAD, TyDi QA gold passage."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from drdecr.data.schema import QuestionSet, qualified
from drdecr.retrieval.passages import titled

from .text import (
    Languages,
    has_fields,
    id_field,
    language_files,
    list_field,
    locate,
    naming,
    optional_text,
    readable,
    text_field,
)


def read_squad(
    path: str,
    languages: Languages,
    passages: str | None = None,
    every: int = 1,
    titles: bool = False,
    english: str | None = None,
    name: str = "squad",
    ids_begin_with: str = "",
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
        ids_begin_with: keep the questions of `path` whose id begins so, and the articles with such a question, which are
            counted without the others; default: all. TyDi QA publishes its languages in one file, with ids such as
            `english-12-0`.

    Raises:
        ValueError: naming the file, for another form, or if no id begins so.
        FileNotFoundError: if a file is not there.
    """
    source = str(passages or next(language_files(path, languages))[1])
    by_text: dict[str, str] = {}  # TyDi QA repeats a passage for each of its questions
    answers: dict[str, str] = {}
    of_all = "" if passages else ids_begin_with
    for number, text, questions in _squad_paragraphs(source, titles, of_all):
        document_id = by_text.setdefault(text, qualified(name, number))
        answers.update({question["id"]: document_id for question in questions})
    translations = _squad_questions(english) if english else None
    rows = []
    for code, file in language_files(path, languages):
        paragraphs = _squad_paragraphs(str(file), titles, ids_begin_with)
        questions = [question for _, _, found in paragraphs for question in found]
        if not questions and ids_begin_with:
            raise ValueError(
                f"{file}: expected questions whose id begins with {ids_begin_with!r}, got none. Take `ids_begin_with` from an id "
                "of the file."
            )
        for question in questions[::every]:
            if question["id"] not in answers:
                raise ValueError(
                    f"{file}: question {question['id']!r} has no passage in {passages}. Use files of one set."
                )
            row = {
                "query_id": qualified(f"{name}-{code}", question["id"]),
                "query": question["question"],
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
    with naming(path):
        return QuestionSet(name, Dataset.from_list(rows), {document_id: text for text, document_id in by_text.items()})


def _squad_paragraphs(
    path: str, titles: bool, ids_begin_with: str = ""
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield number, text and questions of each paragraph; of each that has such a question, if some are to be kept."""
    file = locate(path)
    with readable(file) as stream:
        text = stream.read()
    try:
        articles = json.loads(text)["data"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected SQuAD-style JSON with a 'data' list ({error}).") from error
    if not isinstance(articles, list):
        raise ValueError(
            f"{file}: expected SQuAD-style JSON with a 'data' list, got {str(articles)[:200]!r} as 'data'."
        )
    kept_articles = 0
    for article_number, article in enumerate(articles):
        kept = False
        has_fields(article, ("paragraphs",), file, article_number + 1, "article")
        title = optional_text(article, "title", file, article_number + 1, "article") if titles else None
        for number, paragraph in enumerate(list_field(article, "paragraphs", file, article_number + 1, "article")):
            place = f"{article_number + 1}, paragraph {number + 1}"
            has_fields(paragraph, ("context", "qas"), file, place, "article")
            context = text_field(paragraph, "context", file, place, "article")
            found = [
                _checked(question, file, place) for question in list_field(paragraph, "qas", file, place, "article")
            ]
            questions = [question for question in found if question["id"].startswith(ids_begin_with)]
            if ids_begin_with and not questions:
                continue
            kept = True
            yield f"{kept_articles}-{number}", titled(title, context), questions
        kept_articles += kept or not ids_begin_with


def _checked(question: Any, file: Path, place: str) -> dict[str, Any]:
    """Return a question whose id and question are texts; re-packed files may have numbers as ids."""
    kind = "a question of article"
    has_fields(question, ("id", "question"), file, place, kind)
    text = text_field(question, "question", file, place, kind).strip()
    return {**question, "id": id_field(question, "id", file, place, kind), "question": text}


def _squad_answer(question: dict[str, Any], file: Path) -> str:
    """Return the first answer: an object with a text, or in re-packed files the text itself."""
    place = repr(question["id"])
    answers = list_field(question, "answers", file, place, "question")
    if not answers:
        raise ValueError(
            f"{file}: question {question['id']!r} has no answer, so no passage is right for it. Leave such questions "
            "out."
        )
    if isinstance(answers[0], str):
        return answers[0]
    return text_field(has_fields(answers[0], ("text",), file, place, "question"), "text", file, place, "question")


def _squad_questions(path: str) -> dict[str, str]:
    paragraphs = _squad_paragraphs(path, titles=False)
    return {question["id"]: question["question"] for _, _, questions in paragraphs for question in questions}
