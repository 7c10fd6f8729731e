"""Labelled n-way rows from rankings: positives, hard negatives, and what must not be taken for a negative."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from datasets import Dataset, Features, List, Value

from .scorers import Row

Ranking = Mapping[str, float]
"""`{document_id: score}` of one question, best first."""

Score = Callable[[list[Row]], list[list[float]]]
"""Scores of `document_ids` of rows with `english`, as `TeacherScorer.score` gives them."""

COUNTED = (
    "questions read",
    "questions without a positive",
    "questions with too few negatives",
    "candidates read",
    "candidates that answer",
    "candidates too close to the positive",
    "rows",
)


@dataclass(frozen=True)
class NegativeSettings:
    """How many, and which.

    Args:
        num_candidates: candidates a row, the positive first (default 2, the paper's triples).
        num_positives: passages that hold an answer, at most, each in rows of its own (default 3, the paper's).
        num_negatives: negatives of a question, at most (default 100, the paper's); they are dealt out to its rows.
        max_share: drop candidates that the teacher scores above this share of the lowest positive's score (default 0.95, as
            `TopK-PercPos` of NV-Retriever, arXiv 2407.15831); 1 keeps all below the positive.
        min_margin: or: candidates must score this much below it, in the teacher's own unit (its `TopK-MarginPos`).

    Raises:
        ValueError: for numbers that leave no row.
    """

    num_candidates: int = 2
    num_positives: int = 3
    num_negatives: int = 100
    max_share: float = 0.95
    min_margin: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.num_candidates < 2 or self.num_positives < 1 or self.num_negatives < self.num_candidates - 1:
            raise ValueError(
                "Expected at least two candidates, one positive and as many negatives as a row has, got num_candidates "
                f"{self.num_candidates}, num_positives {self.num_positives}, num_negatives {self.num_negatives}."
            )
        if self.max_share > 1:
            raise ValueError(f"max_share: expected at most 1, the positive's own score, got {self.max_share}.")


ROW_FEATURES = {
    **{name: Value("string") for name in ("query", "english", "language")},
    "document_ids": List(Value("string")),
    "teacher_scores": List(Value("float32")),
    "teacher_query_tokens": Value("int64"),
    "query_id": Value("string"),
}
"""Columns of the rows."""


def rows_with_negatives(
    questions: Iterable[Mapping[str, Any]],
    rankings: Iterable[Ranking],
    passages: Mapping[str, str],
    settings: NegativeSettings,
    score: Score | None = None,
    query_tokens: Mapping[str, int] | None = None,
) -> tuple[Dataset, dict[str, int]]:
    """Choose positives and negatives from rankings.

    A positive is a passage that the question is labelled with (`document_ids`) or, without labels, the first of its ranking
    that hold one of its `answers` (`has_answer`). A negative is a ranked passage that holds no answer and, where a teacher
    scores, is not too close to the positive.

    Args:
        questions: `query_id`, `query`, `english`, `language`, and `document_ids`, `answers` or `answer`.
        rankings: of each question, over the pool; with the scores of its labelled passages, if no teacher scores.
        passages: `{document_id: text}` of the pool.
        settings: how many, and which.
        score: the teacher's; default: the ranking's scores stand for them, and nothing is dropped for its score.
        query_tokens: how many query tokens the teacher's scores sum over, by English text.

    Returns:
        Rows of `CANDIDATE_COLUMNS` and `query_id`, all of `num_candidates` candidates, hardest negatives first; and what was
        counted, `COUNTED`.
    """
    counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    rows: list[dict[str, Any]] = []
    for question, ranking in zip(questions, rankings, strict=True):
        counts["questions read"] += 1
        positives, negatives, scores = _chosen(question, ranking, passages, settings, score, counts)
        if not positives:
            counts["questions without a positive"] += 1
            continue
        if len(negatives) < settings.num_candidates - 1:
            counts["questions with too few negatives"] += 1
            continue
        tokens = (query_tokens or {}).get(question["english"], 0)
        rows += _dealt(question, positives, negatives, scores, settings.num_candidates, tokens)
    counts["rows"] = len(rows)
    columns = {name: [row[name] for row in rows] for name in ROW_FEATURES}  # from_list loses the columns of no rows
    return Dataset.from_dict(columns, features=Features(ROW_FEATURES)), {name: counts[name] for name in COUNTED}


def _chosen(
    question: Mapping[str, Any],
    ranking: Ranking,
    passages: Mapping[str, str],
    settings: NegativeSettings,
    score: Score | None,
    counts: Counter[str],
) -> tuple[list[str], list[str], dict[str, float]]:
    """Return the positives, the negatives from the hardest on, and the scores of both."""
    answers = searchable(question.get("answers") or ([question["answer"]] if question.get("answer") else []))
    labelled = list(question.get("document_ids") or [])
    holding = {name for name in ranking if has_answer(passages[name], answers)} if answers else set()
    positives = (labelled or [name for name in ranking if name in holding])[: settings.num_positives]
    candidates = [name for name in ranking if name not in labelled]
    counts["candidates read"] += len(candidates)
    if not positives:
        return [], [], {}
    negatives = [name for name in candidates if name not in holding]
    counts["candidates that answer"] += len(candidates) - len(negatives)
    if score is None:
        return positives, negatives[: settings.num_negatives], dict(ranking)
    names = [*positives, *negatives]
    scores = dict(zip(names, score([{**question, "document_ids": names}])[0], strict=True))
    lowest = min(scores[name] for name in positives)
    limit = (
        lowest - settings.min_margin
        if settings.min_margin is not None
        else lowest - (1 - settings.max_share) * abs(lowest)
    )
    kept = [name for name in negatives if scores[name] <= limit]
    counts["candidates too close to the positive"] += len(negatives) - len(kept)
    return positives, kept[: settings.num_negatives], scores


def _dealt(
    question: Mapping[str, Any],
    positives: list[str],
    negatives: list[str],
    scores: Mapping[str, float],
    num_candidates: int,
    tokens: int,
) -> list[dict[str, Any]]:
    """Return rows of one positive and its share of the negatives; what does not fill a row is left out."""
    size = num_candidates - 1
    hands = [negatives[start : start + size] for start in range(0, len(negatives) - size + 1, size)]
    columns = {name: question[name] for name in ("query_id", "query", "english", "language")}
    return [
        {
            **columns,
            "document_ids": [positive, *hand],
            "teacher_scores": [scores[name] for name in (positive, *hand)],
            "teacher_query_tokens": tokens,
        }
        for positive in positives
        for hand in hands
    ]


WORDS = re.compile(r"\w+|[^\w\s]")

NO_SPANS = frozenset({"yes", "no"})
"""Answers that no passage can be searched for."""


def words_of(text: str) -> list[str]:
    """Return a text's words and signs in Unicode's decomposed form, in lower case."""
    return WORDS.findall(unicodedata.normalize("NFD", text).lower())


def searchable(answers: Iterable[str]) -> list[str]:
    """Return the answers that a passage may hold: not yes, no or blank.

    >>> searchable(["Yes", "", "Paris"])
    ['Paris']
    """
    return [answer for answer in answers if answer.strip() and answer.strip().lower() not in NO_SPANS]


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """Tell whether the words of one of the answers stand in the text, one after the other.

    Whole words are matched: `art` is not in `party`. Case, blanks and the form of accents do not count.

    >>> has_answer("It was built by J. R. Miller.", ["j.r. miller"]), has_answer("a party", ["art"])
    (True, False)
    """
    words = _spaced(text)
    return any(f" {' '.join(found)} " in words for answer in answers if (found := words_of(answer)))


@lru_cache(maxsize=8192)
def _spaced(text: str) -> str:
    """Return a text's words with a blank around each; passages are looked at for many questions."""
    return f" {' '.join(words_of(text))} "
