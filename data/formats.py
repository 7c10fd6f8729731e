"""Readers of the public file formats, each into the one schema (`schema.py`).

A path may hold `{language}`, which stands for each of the `languages`, and environment variables such as
`$DRDECR_DATA`.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, load_dataset

from .schema import (
    CANDIDATE_COLUMNS,
    PARALLEL_COLUMNS,
    QUESTION_COLUMNS,
    CandidateSet,
    QuestionSet,
    check_rows,
    parallel_set,
    qualified,
)
from .token_cache import TokenCache

logger = logging.getLogger(__name__)

Languages = list[str] | dict[str, str]
"""Language codes; or, where a source has names of its own, `{code: name in the path}`."""


def read_tsv(path: str, languages: Languages) -> Dataset:
    """Read tab-separated pairs, other language first, then English (XOR-TyDi questions, Tatoeba, TICO-19, PUD).

    A line with an empty field is left out with a warning: the public XOR-TyDi questions hold one.
    """
    rows = []
    for code, file in _files(path, languages):
        for number, line in _lines(file):
            parts = line.split("\t")
            if len(parts) != 2:
                raise ValueError(
                    f"{file}, line {number}: expected two fields with a tab between them, got {len(parts)}."
                )
            if not all(part.strip() for part in parts):
                logger.warning("%s, line %d: left out, it has a text in one language only.", file, number)
                continue
            rows.append({"query": parts[0].strip(), "english": parts[1].strip(), "language": code})
    return parallel_set(rows, path)


def read_lines(path: str, english: str, languages: Languages) -> Dataset:
    """Read two line-aligned files a language (NTREX, FLORES). A line that is blank in both is left out."""
    english_lines = _all_lines(locate(english))
    rows = []
    for code, file in _files(path, languages):
        lines = _all_lines(file)
        if len(lines) != len(english_lines):
            raise ValueError(
                f"{file}: expected {len(english_lines)} lines, as many as {english} has, got {len(lines)}. The files "
                "must be aligned line by line."
            )
        for number, (line, translation) in enumerate(zip(lines, english_lines, strict=True), start=1):
            if bool(line) != bool(translation):
                raise ValueError(
                    f"{file}, line {number}: blank in one language only, got {line!r} and {translation!r}. Fill the "
                    "line, or delete it in both files."
                )
            if line:
                rows.append({"query": line, "english": translation, "language": code})
    return parallel_set(rows, path)


def read_mkqa(path: str, languages: Languages) -> Dataset:
    """Read MKQA questions in several languages as parallel text (its answers are not used)."""
    names = _named_languages(path, languages)
    rows = []
    for number, record in _records(locate(path)):
        missing = next((name for name in ["en", *names.values()] if name not in record), None)
        if missing is not None:
            raise ValueError(f"{path}, line {number}: expected a question in {missing!r}, got {', '.join(record)}.")
        rows += [{"query": record[name], "english": record["en"], "language": code} for code, name in names.items()]
    return parallel_set(rows, path)


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
    source = str(passages or next(_files(path, languages))[1])
    by_text: dict[str, str] = {}  # TyDi QA repeats a passage for each of its questions
    answers: dict[str, str] = {}
    for number, text, questions in _squad_paragraphs(source, titles):
        document_id = by_text.setdefault(text, qualified(name, number))
        answers.update({question["id"]: document_id for question in questions})
    translations = _squad_questions(english) if english else None
    rows = []
    for code, file in _files(path, languages):
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


def read_afriqa(path: str, languages: Languages, name: str = "afriqa") -> QuestionSet:
    """Read AfriQA: questions in languages of Africa with their English translation and English gold passage.

    Questions whose passage is null are left out with a warning: one in twenty has none.
    """
    by_text: dict[str, str] = {}
    rows = []
    for code, file in _files(path, languages):
        for number, record in _records(file):
            if record.get("context", "") is None:
                logger.warning("%s, line %d: left out, it has no passage.", file, number)
                continue
            _has(record, ("context", "question_lang", "question_translated", "answer_pivot"), file, number)
            document_id = by_text.setdefault(
                _titled(record.get("title"), record["context"]), qualified(name, len(by_text))
            )
            rows.append(
                {
                    "query_id": qualified(f"{name}-{code}", number),
                    "query": record["question_lang"],
                    "english": record["question_translated"],
                    "language": code,
                    "document_ids": [document_id],
                    "answer": next(iter(record["answer_pivot"]["text"]), ""),
                }
            )
    return QuestionSet(name, Dataset.from_list(rows), {document_id: text for text, document_id in by_text.items()})


def read_qed(path: str, name: str = "qed") -> QuestionSet:
    """Read QED: questions of Natural Questions with the Wikipedia paragraph that answers them, English."""
    fields = ("question_text", "title_text", "paragraph_text")
    records = [(number, _has(record, fields, path, number)) for number, record in _records(locate(path))]
    pairs = [(record["question_text"], record["title_text"], record["paragraph_text"]) for _, record in records]
    return _english_pairs(pairs, name)


def read_clapnq(path: str, name: str = "clapnq") -> QuestionSet:
    """Read CLAP NQ: questions of Natural Questions with their Wikipedia passage, English."""
    pairs = []
    for number, record in _records(locate(path)):
        found = _has(record, ("input", "passages"), path, number)["passages"]
        if not isinstance(found, list) or not found:
            raise ValueError(f"{path}, line {number}: expected a list of passages, got {found!r}. Drop the line.")
        first = _has(found[0], ("title", "text"), path, number)
        pairs.append((record["input"], first["title"], first["text"]))
    return _english_pairs(pairs, name)


def read_jsonl(questions: str, passages: str, name: str = "own") -> QuestionSet:
    """Read your own data in this package's schema.

    Args:
        questions: JSON Lines with `query_id`, `query`, `language`, `document_ids` and perhaps `english`.
        passages: JSON Lines with `document_id`, `text` and perhaps `title`.
        name: of the set.
    """
    rows = []
    for number, record in _records(locate(questions)):
        ids = _has(record, QUESTION_COLUMNS, questions, number)["document_ids"]
        if not isinstance(ids, list):
            raise ValueError(
                f"{questions}, line {number}: expected a list of `document_ids`, got {ids!r}. Put it in [brackets]."
            )
        rows.append({**record, "query_id": str(record["query_id"]), "document_ids": [str(one) for one in ids]})
    return QuestionSet(name, Dataset.from_list(rows), read_passages(passages))


def read_passages(path: str) -> dict[str, str]:
    """Read a collection `{document_id: text}` from JSON Lines with `document_id`, `text` and perhaps `title`."""
    return _collection(_records(locate(path)), path)


def read_hub_parallel(
    name: str,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Dataset:
    """Read a parallel set from the Hub, or from a folder that `datasets.load_dataset` opens.

    Args:
        name: the dataset's Hub name or folder.
        columns: `{its column: ours}` for columns named otherwise than `query`, `english`, `language`.
        language: the code, where the dataset has no language column.
        config: its configuration.
        split: its split (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    dataset = _load(_hub_source(name), config, split=split, revision=revision).rename_columns(dict(columns or {}))
    if language is not None:
        dataset = dataset.add_column("language", [language] * len(dataset))
    check_rows(dataset, PARALLEL_COLUMNS, name)
    return dataset.select_columns(list(PARALLEL_COLUMNS))


def read_hub_questions(
    name: str,
    questions: str = "questions",
    passages: str = "passages",
    split: str = "train",
    passages_split: str = "train",
    revision: str | None = None,
) -> QuestionSet:
    """Read a question set from the Hub, or from a folder that `datasets.load_dataset` opens.

    Args:
        name: the dataset's Hub name or folder, with two configurations in this package's schema.
        questions: the configuration of the questions: `query_id`, `query`, `language`, `document_ids`, perhaps
            `english`.
        passages: the configuration of the passages: `document_id`, `text`, perhaps `title`.
        split: of the questions (default train).
        passages_split: of the passages (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    source = _hub_source(name)
    rows = _load(source, questions, split=split, revision=revision)
    documents = _load(source, passages, split=passages_split, revision=revision)
    check_rows(documents, ("document_id", "text"), f"{name}, {passages}")
    return QuestionSet(name, rows, _collection(enumerate(documents, start=1), f"{name}, {passages}"))


def read_hub_candidates(
    name: str,
    config: str = "unlabelled_candidates",
    passages: str = "passages",
    split: str = "train",
    passages_split: str = "train",
    revision: str | None = None,
) -> CandidateSet:
    """Read questions with candidates and teacher scores, as `drdecr export-data` writes them.

    Args:
        name: the dataset's Hub name or folder.
        config: the configuration of the rows (default `unlabelled_candidates`).
        passages: the configuration of the passages: `document_id`, `text`.
        split: of the rows (default train).
        passages_split: of the passages (default train).
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    source = _hub_source(name)
    rows = _load(source, config, split=split, revision=revision)
    documents = _load(source, passages, split=passages_split, revision=revision)
    check_rows(documents, ("document_id", "text"), f"{name}, {passages}")
    found = CandidateSet(f"{name}, {config}", rows, _collection(enumerate(documents, start=1), f"{name}, {passages}"))
    found.rows = rows.select_columns(list(CANDIDATE_COLUMNS))
    return found


def read_hub_tokens(
    name: str, config: str = "teacher_queries", split: str = "train", revision: str | None = None
) -> TokenCache:
    """Read the teacher's token embeddings, as `drdecr export-data --tokens` writes them.

    Args:
        name: the dataset's Hub name or folder.
        config: `teacher_queries` (default) or `teacher_passages`.
        split: default train.
        revision: branch, tag or commit; name one for a run that can be repeated.
    """
    rows = _load(_hub_source(name), config, split=split, revision=revision)
    check_rows(rows, ("text", "embeddings", "text_flags"), f"{name}, {config}")
    return TokenCache.from_dataset(rows)


def read_texts(path: str, column: str) -> list[str]:
    """Read one column of JSON Lines, such as the questions of a test set that must not be trained on."""
    return [_has(record, (column,), path, number)[column] for number, record in _records(locate(path))]


def locate(path: str | Path) -> Path:
    """Resolve environment variables in a path and check that the file is there.

    Raises:
        ValueError: if a variable is not set.
        FileNotFoundError: if there is no such file or folder, with the cure.
    """
    resolved = os.path.expandvars(os.path.expanduser(str(path)))
    if "$" in resolved:
        variable = resolved[resolved.index("$") + 1 :].split("/")[0].strip("{}")
        raise ValueError(
            f"{path}: the environment variable {variable} is not set. Set it to the folder that holds the data."
        )
    if not Path(resolved).exists():
        raise FileNotFoundError(
            f"{resolved}: no such file or folder. Check the path in the recipe, or set DRDECR_DATA."
        )
    return Path(resolved)


def _files(path: str, languages: Languages) -> Iterator[tuple[str, Path]]:
    names = _named_languages(path, languages)
    if len(names) > 1 and "{language}" not in path:
        raise ValueError(
            f"{path}: expected {{language}} in the path of {len(names)} languages, else each would read the same file. "
            "Write it where the files' names differ."
        )
    for code, name in names.items():
        yield code, locate(path.replace("{language}", name))  # not format(), to which ${DRDECR_DATA} is a field


def _named_languages(path: str, languages: Languages) -> dict[str, str]:
    if not languages or isinstance(languages, str):
        raise ValueError(f"{path}: expected a list of at least one language code, got {languages!r}.")
    return languages if isinstance(languages, dict) else {code: code for code in languages}


def _load(source: str, config: str | None, split: str, revision: str | None) -> Dataset:
    # `load_dataset` knows a local folder by its name, not by what is in it: what it kept may be older than the folder.
    mode = "force_redownload" if Path(source).is_dir() else None
    return load_dataset(source, config, split=split, revision=revision, download_mode=mode)


def _hub_source(name: str) -> str:
    return str(locate(name)) if "$" in name else name


@contextmanager
def _readable(file: Path) -> Iterator[TextIO]:
    """Open a text file; one that is not UTF-8 is called by its name."""
    try:
        with file.open(encoding="utf-8") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in UTF-8 ({error.reason}). Convert the file.") from error


def _all_lines(file: Path) -> list[str]:
    """Return all lines, blank ones too: leaving them out of each file by itself would shift the pairs."""
    with _readable(file) as stream:
        return [line.strip() for line in stream]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with _readable(file) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line.rstrip("\n")


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(file):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: expected one JSON object a line ({error}).") from error
        if not isinstance(record, dict):
            raise ValueError(f"{file}, line {number}: expected one JSON object a line, got {type(record).__name__}.")
        yield number, record


def _has(
    record: dict[str, Any], fields: tuple[str, ...], file: str | Path, number: int | str, kind: str = "line"
) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"{file}, {kind} {number}: expected an object with {', '.join(fields)}, got {record!r}.")
    missing = [name for name in fields if record.get(name) is None]
    if missing:
        raise ValueError(
            f"{file}, {kind} {number}: expected the fields {', '.join(fields)}, got {', '.join(map(str, record))}; missing "
            f"{', '.join(missing)}. Rename or fill them."
        )
    return record


def _collection(records: Iterable[tuple[int, dict[str, Any]]], source: str) -> dict[str, str]:
    collection: dict[str, str] = {}
    for number, record in records:
        _has(record, ("document_id", "text"), source, number)
        document_id, text = str(record["document_id"]), record["text"]
        if document_id in collection:
            raise ValueError(
                f"{source}, line {number}: document_id {document_id!r} stands twice. Give each passage an id of its own."
            )
        if not isinstance(text, str):
            raise ValueError(
                f"{source}, line {number}: expected a text, got {text!r}. Put it in quotes, or drop the line."
            )
        collection[document_id] = _titled(record.get("title"), text)
    return collection


def _squad_paragraphs(path: str, titles: bool) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    file = locate(path)
    try:
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected SQuAD-style JSON with a 'data' list ({error}).") from error
    for article_number, article in enumerate(articles):
        for number, paragraph in enumerate(
            _has(article, ("paragraphs",), file, article_number + 1, "article")["paragraphs"]
        ):
            place = f"{article_number + 1}, paragraph {number + 1}"
            _has(paragraph, ("context", "qas"), file, place, "article")
            for question in paragraph["qas"]:
                _has(question, ("id", "question"), file, place, "a question of article")
            text = _titled(article.get("title") if titles else None, paragraph["context"])
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


def _english_pairs(pairs: list[tuple[str, str, str]], name: str) -> QuestionSet:
    by_text: dict[str, str] = {}
    rows = []
    for number, (question, title, text) in enumerate(pairs):
        document_id = by_text.setdefault(_titled(title, text), qualified(name, len(by_text)))
        row = {"query_id": qualified(f"{name}-en", number), "query": question, "language": "en", "answer": ""}
        rows.append({**row, "document_ids": [document_id]})
    return QuestionSet(name, Dataset.from_list(rows), {document_id: text for text, document_id in by_text.items()})


def _titled(title: str | None, text: str) -> str:
    """Put the title before the text, as DPR's passages have it. Wikipedia file names have underscores for spaces."""
    return f"{title.replace('_', ' ')}. {text.strip()}" if title else text.strip()
