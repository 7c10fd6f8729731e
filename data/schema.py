"""One schema for every source: what a row of parallel text, a question and a passage must hold."""

import difflib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, Value

from .passages import TWO_TEXTS, PassageStore
from .prepare.cleaning import text_key

BATCH = 1000
"""Rows that are looked at together."""

PARALLEL_COLUMNS = ("query", "english", "language")
"""A text in another language (or a question), the same in English, and the language's code."""

CANDIDATE_COLUMNS = ("query", "english", "language", "document_ids", "teacher_scores", "teacher_query_tokens")
"""A question, its candidates, what the teacher thinks of each, and how many query tokens its scores sum over.

0 query tokens: the scores are no such sums (a cross-encoder's); `score_scale` leaves them as they are.
"""

QUESTION_COLUMNS = ("query_id", "query", "language", "document_ids")
"""A question and the ids of the passages that answer it.

Beside them may stand `english`, `answer` (a text) or `answers` (several), and what graded judgements say: `relevance`, whole
numbers from 1 up, one for each of `document_ids`, and `irrelevant_ids`, passages that were judged and do not answer.
"""


@dataclass
class QuestionSet:
    """Questions with the passages that answer them, and the collection that is searched.

    Labelled English sets, labelled cross-lingual sets and retrieval test sets all have this form.

    Args:
        name: of the set, as it stands in tables and logs.
        questions: columns `query_id`, `query`, `language`, `document_ids` and, where known, those of `QUESTION_COLUMNS`.
            `document_ids` may be empty where `answers` are not: any passage that holds one is right (XOR-Retrieve).
        passages: `{document_id: text}`, the whole collection.
        left_out: what the reader could not use, counted by the reason.

    Raises:
        ValueError: naming set, row and column, for a missing column, an empty text, a repeated query id, a judged passage
            that is not in the collection, or grades that do not fit the passages.
    """

    name: str
    questions: Dataset
    passages: Mapping[str, str] = field(repr=False)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the rows."""
        check_rows(self.questions, QUESTION_COLUMNS, self.name)
        if not isinstance(self.passages, PassageStore):  # which holds no blank text
            empty = next(
                (name for name, text in self.passages.items() if not isinstance(text, str) or not text.strip()), None
            )
            if empty is not None:
                raise ValueError(f"{self.name}: passage {empty!r} is empty. Drop it from the collection.")
        keys = array("q")
        for query_id, document_ids, answers, relevance, irrelevant_ids in self._judgements():
            place = f"{self.name}: question {query_id!r}"
            keys.append(text_key(str(query_id)))
            if isinstance(answers, str):
                raise ValueError(f"{place}: expected a list of `answers`, got {answers!r}. Put it in [brackets].")
            if not document_ids and not answers:
                raise ValueError(f"{place} names no passage. Drop it: nothing could be right for it.")
            if relevance is not None and not _are_grades(relevance, len(document_ids)):
                raise ValueError(
                    f"{place} needs a relevance from 1 up for each of {len(document_ids)} passages, got {relevance}. "
                    "Put passages that do not answer into `irrelevant_ids`."
                )
            both = next((name for name in irrelevant_ids if name in document_ids), None)
            if both is not None:
                raise ValueError(f"{place} has passage {both!r} as relevant and irrelevant. Decide for one.")
            unknown = next((name for name in [*document_ids, *irrelevant_ids] if name not in self.passages), None)
            if unknown is not None:
                raise ValueError(
                    f"{place} names passage {unknown!r}, which is not among the {len(self.passages)} passages. "
                    "Give the collection that the labels belong to."
                )
        self._check_ids(np.frombuffer(keys, dtype=np.int64))

    def _check_ids(self, keys: npt.NDArray[np.int64]) -> None:
        """Refuse a query id that stands twice."""
        repeated = _repeated(keys)
        counted = Counter(name for name in column_of(self.questions, "query_id") if text_key(str(name)) in repeated)
        for query_id, number in counted.items() if repeated else ():
            if number > 1:
                raise ValueError(
                    f"{self.name}: query_id {query_id!r} stands twice. Give each question an id of its own."
                )

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Judgements `{query_id: {document_id: relevance}}`, 0 for passages that were judged and do not answer.

        Questions without a relevant passage, which have answers only, are absent.
        """
        return {
            query_id: {
                **dict(zip(document_ids, relevance or [1] * len(document_ids), strict=True)),
                **dict.fromkeys(irrelevant_ids, 0),
            }
            for query_id, document_ids, _, relevance, irrelevant_ids in self._judgements()
            if document_ids
        }

    @property
    def answers(self) -> dict[str, list[str]]:
        """Answers `{query_id: texts}` as the source gives them, for R@kt; questions without one are absent."""
        return {query_id: answers for query_id, _, answers, _, _ in self._judgements() if answers}

    def _judgements(self) -> Iterator[tuple[str, list[str], list[str], list[int] | None, list[str]]]:
        """Yield each question's id, relevant passages, answers, their relevance if graded, and irrelevant passages."""
        names = ("query_id", "document_ids", "answers", "answer", "relevance", "irrelevant_ids")
        known = [name for name in names if name in self.questions.column_names]
        for batch in self.questions.select_columns(known).iter(BATCH):
            columns = [batch.get(name) or [None] * len(batch["query_id"]) for name in names]
            for query_id, document_ids, answers, answer, relevance, irrelevant_ids in zip(*columns, strict=True):
                texts = answers or ([answer] if answer else [])
                yield query_id, document_ids or [], texts, relevance, irrelevant_ids or []

    @property
    def languages(self) -> dict[str, str]:
        """The language of each question, by its id."""
        return dict(zip(self.questions["query_id"][:], self.questions["language"][:], strict=True))


def check_query_ids(sets: Sequence[QuestionSet]) -> None:
    """Check that no question id stands in two sets, with eight bytes a question in memory.

    Raises:
        ValueError: naming both sets and the id.
    """
    keys = array("q", (text_key(str(name)) for found in sets for name in column_of(found.questions, "query_id")))
    repeated = _repeated(np.frombuffer(keys, dtype=np.int64))
    homes: dict[str, str] = {}
    for found in sets if repeated else ():
        for query_id in map(str, column_of(found.questions, "query_id")):
            if text_key(query_id) not in repeated:
                continue
            if query_id in homes:
                raise ValueError(
                    f"{homes[query_id]}, {found.name}: both hold a question {query_id!r}. Give one a `name:` that differs, or "
                    "other ids."
                )
            homes[query_id] = found.name


def _repeated(keys: npt.NDArray[np.int64]) -> set[int]:
    in_order = np.sort(keys)
    return set(in_order[1:][in_order[1:] == in_order[:-1]].tolist())


@dataclass
class CandidateSet:
    """Questions with candidates and the teacher's scores (n-way), and the passages that the candidates are.

    Args:
        name: of the set.
        rows: columns `CANDIDATE_COLUMNS`.
        passages: `{document_id: text}`.

    Raises:
        ValueError: naming set, row and column, for a missing column, an empty text, candidates without a score each, or a
            candidate that is not among the passages.
    """

    name: str
    rows: Dataset
    passages: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        """Check the rows."""
        check_rows(self.rows, CANDIDATE_COLUMNS, self.name)
        pairs = zip(column_of(self.rows, "document_ids"), column_of(self.rows, "teacher_scores"), strict=True)
        for number, (document_ids, scores) in enumerate(pairs, start=1):
            if len(document_ids) != len(scores):
                raise ValueError(
                    f"{self.name}, row {number}: expected a score for each of {len(document_ids)} candidates, got "
                    f"{len(scores)}. Annotate it again."
                )
            unknown = next((name for name in document_ids if name not in self.passages), None)
            if unknown is not None:
                raise ValueError(
                    f"{self.name}, row {number}: candidate {unknown!r} is not among the {len(self.passages)} passages. "
                    "Give the passages that the candidates were taken from."
                )


def _are_grades(relevance: Any, number: int) -> bool:
    """Whether these are so many numbers from 1 up."""
    is_list = isinstance(relevance, list) and len(relevance) == number
    return is_list and all(isinstance(grade, int | float) and grade >= 1 for grade in relevance)


def joined_passages(sets: Iterable[QuestionSet | CandidateSet]) -> dict[str, str]:
    """Join the passages of several sets into one collection; the same passage may stand in several of them.

    Args:
        sets: whose passages are joined, in this order.

    Returns:
        `{document_id: text}`.

    Raises:
        ValueError: naming both sets, where one id stands for two texts.
    """
    joined: dict[str, str] = {}
    homes: dict[str, str] = {}
    for found in sets:
        for document_id, text in found.passages.items():
            if joined.setdefault(document_id, text) != text:
                told = {"document_id": document_id, "first": homes[document_id], "second": found.name}
                raise ValueError(TWO_TEXTS.format(**told))
            homes.setdefault(document_id, found.name)
    return joined


def parallel_set(rows: Iterable[Mapping[str, str]], name: str) -> Dataset:
    """Make a parallel set of rows with `query`, `english` and `language`.

    Raises:
        ValueError: naming set and row, for a missing column or an empty text.
    """
    rows = list(rows)
    missing = [column for column in PARALLEL_COLUMNS if rows and column not in rows[0]]
    if missing:
        raise ValueError(f"{name}: expected the columns {', '.join(PARALLEL_COLUMNS)}; missing {', '.join(missing)}.")
    dataset = Dataset.from_list([{column: row.get(column) for column in PARALLEL_COLUMNS} for row in rows])
    check_rows(dataset, PARALLEL_COLUMNS, name)
    return dataset


def check_keys(content: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Check that a mapping has no other keys than these.

    Raises:
        ValueError: naming the nearest known key.
    """
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" Known are {', '.join(sorted(names)[:40])}."
            raise ValueError(f"{where}: unknown key {key!r}.{hint}")


def check_rows(dataset: Dataset, columns: Iterable[str], name: str) -> None:
    """Check that a dataset has the columns, and a text in each row of `query`, `english` and `language`.

    Raises:
        ValueError: naming what is wrong and where.
    """
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected rows, got none. Look at the path and at the filters.")
    missing = [column for column in columns if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"{name}: expected the columns {', '.join(columns)}, got {', '.join(dataset.column_names)}; missing "
            f"{', '.join(missing)}. Rename them with `columns:` in the recipe."
        )
    for column in (name for name in ("query", "english", "language") if name in columns):
        for number, text in enumerate(column_of(dataset, column)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"{name}, row {number + 1}: expected a text in {column!r}, got {text!r}. Drop or fill the row."
                )


def require_english(rows: Dataset, name: str) -> Dataset:
    """Return the rows with an English text in each; a question in English is its own.

    Args:
        rows: with `query`, `language` and perhaps `english`.
        name: of the set, for the error.

    Raises:
        ValueError: for a row in another language without its English: a teacher would read the foreign text as English.
    """
    if not len(rows):
        return rows
    filled = fill_english(rows)
    columns = zip(*(column_of(filled, column) for column in ("english", "language", "query")), strict=True)
    for number, (english, language, query) in enumerate(columns, start=1):
        if english is None:
            raise ValueError(
                f"{name}, row {number}: expected `english` beside a question in {language!r}, got none ({query[:60]!r}). "
                "Translate the set (`drdecr data translate`), drop the row, or write `language: en` if it is English."
            )
    return filled


def fill_english(rows: Dataset) -> Dataset:
    """Return the rows with a column `english`: of questions in English their own text where there is no other, else None."""
    english = list(column_of(rows, "english")) if "english" in rows.column_names else [None] * len(rows)
    pairs = zip(english, column_of(rows, "query"), column_of(rows, "language"), strict=True)
    texts = [
        text if text and text.strip() else query if is_english(language) else None for text, query, language in pairs
    ]
    rows = rows.remove_columns("english") if "english" in rows.column_names else rows
    return rows.add_column("english", texts, feature=Value("string"))


def is_english(language: str) -> bool:
    """Whether a language's code is that of English: `en`, `eng`, `en-US`, `en_XX`, `eng_Latn`."""
    return language.replace("_", "-").partition("-")[0].lower() in ("en", "eng")


def column_of(dataset: Dataset, name: str) -> Iterator[Any]:
    """Yield a column's values, `BATCH` rows at once: by rows it takes a hundred times as long, and whole it fills memory."""
    for batch in dataset.select_columns(name).iter(BATCH):
        yield from batch[name]


def qualified(prefix: str, value: Any) -> str:
    """Return an id that is unique across sets."""
    return f"{prefix}/{value}"
