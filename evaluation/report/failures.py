"""Ranks of the first right passage, and the questions whose first passage is wrong."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from drdecr.data.schema import QuestionSet
from drdecr.evaluation.metrics import Run, ranked
from drdecr.evaluation.recall_at_k_tokens.xor_retrieve import span_answers

SHOWN_PASSAGES = 3
"""Passages of a failure that are kept, and gold passages at most."""

SHOWN_CHARACTERS = 500

ALIGNED_CHARACTERS = 70
"""A question whose tokens are shown side by side is not longer, so that the picture fits."""

KEPT_FAILURES = 200
"""Failures that are listed at most: a file that a phone opens."""

IsRight = Callable[[str, str], bool]
"""`(query_id, document_id)`: whether the passage answers."""

Ranks = dict[str, int | None]
"""`query_id -> rank of the first right passage`, from 1; None where none was among those kept."""


@dataclass(frozen=True)
class ShownPassage:
    """A passage as people read it: its text may be cut. `score` is None for a gold passage that was not found."""

    document_id: str
    text: str
    is_right: bool
    score: float | None = None


@dataclass(frozen=True)
class Failure:
    """A question whose first passage is wrong.

    Attributes:
        query_id: of the question.
        language: its code.
        query: as it was asked.
        english: the same in English; None where the set has none.
        rank: of the first right passage; None: not among those kept.
        baseline_rank: the baseline's; None: not among those kept, or no baseline.
        gold: right passages, or the answers where no passage is labelled.
        retrieved: the best passages, best first.
    """

    query_id: str
    language: str
    query: str
    english: str | None
    rank: int | None
    baseline_rank: int | None
    gold: list[ShownPassage]
    retrieved: list[ShownPassage]


def right_passages(question_set: QuestionSet) -> IsRight:
    """Return what tells right passages: those labelled, or where none is labelled those that hold an answer as it is written."""
    qrels = question_set.qrels
    answers = {} if qrels else question_set.answers
    spans = {query_id: span_answers(texts) for query_id, texts in answers.items()}

    def is_right(query_id: str, document_id: str) -> bool:
        if qrels:
            return qrels.get(query_id, {}).get(document_id, 0) > 0
        return any(answer in question_set.passages[document_id] for answer in spans.get(query_id, ()))

    return is_right


def first_ranks(question_set: QuestionSet, run: Run, depth: int) -> Ranks:
    """Return the rank of every question's first right passage.

    Args:
        question_set: the questions; those that nothing could be right for (yes and no) are left out.
        run: what was found.
        depth: passages a question that are looked at.
    """
    is_right = right_passages(question_set)
    query_ids = list(question_set.qrels) or [
        query_id for query_id, texts in question_set.answers.items() if span_answers(texts)
    ]
    ranks: Ranks = {}
    for query_id in query_ids:
        ids = ranked(run.get(query_id, {}))[:depth]
        ranks[query_id] = next((place for place, name in enumerate(ids, start=1) if is_right(query_id, name)), None)
    return ranks


def collect_failures(
    question_set: QuestionSet, run: Run, ranks: Ranks, baseline_ranks: Ranks | None = None
) -> list[Failure]:
    """Return every question whose first passage is wrong, with what should have been found and what was.

    Args:
        question_set: the questions and their collection.
        run: what the system found.
        ranks: its `first_ranks`; of other sets' questions too, which are passed over.
        baseline_ranks: those of the system that it is compared with.
    """
    is_right = right_passages(question_set)
    qrels, answers = question_set.qrels, question_set.answers
    rows: dict[str, Any] = {row["query_id"]: row for row in question_set.questions}  # type: ignore[index]
    failures = []
    for query_id, rank in ranks.items():
        if rank == 1 or query_id not in rows:
            continue
        hits, row = run.get(query_id, {}), rows[query_id]
        gold = [name for name, grade in qrels.get(query_id, {}).items() if grade > 0]
        labelled = [
            ShownPassage(name, _cut(question_set.passages[name]), True, hits.get(name))
            for name in gold[:SHOWN_PASSAGES]
        ]
        best = [
            ShownPassage(name, _cut(question_set.passages[name]), is_right(query_id, name), hits[name])
            for name in ranked(hits)[:SHOWN_PASSAGES]
        ]
        english = row.get("english") if row.get("english") != row["query"] else None
        texts = labelled or [ShownPassage("answer", text, True) for text in answers.get(query_id, [])[:SHOWN_PASSAGES]]
        baseline = (baseline_ranks or {}).get(query_id)
        failures.append(Failure(query_id, row["language"], row["query"], english, rank, baseline, texts, best))
    return failures


def worst_of_each_language(failures: Sequence[Failure], limit: int = KEPT_FAILURES) -> list[Failure]:
    """Choose failures evenly over the languages, and in each those that the baseline had right, then the worst, first."""
    by_language: dict[str, list[Failure]] = {}
    for failure in sorted(failures, key=_badness, reverse=True):
        by_language.setdefault(failure.language, []).append(failure)
    turns = zip_longest(*(by_language[code] for code in sorted(by_language)))
    return [failure for failure in chain.from_iterable(turns) if failure is not None][:limit]


def _badness(failure: Failure) -> tuple[bool, float, str]:
    return failure.baseline_rank == 1, failure.rank or float("inf"), failure.query_id


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rsplit(" ", 1)[0] + " …"


def write_failures(failures: Iterable[Failure], path: Path) -> None:
    """Write JSON Lines, one failure each."""
    lines = [json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures]
    path.write_text("".join(lines), encoding="utf-8")


def clearest_question(
    sets: Iterable[QuestionSet], ranks: Ranks, baseline_ranks: Ranks, depth: int
) -> dict[str, Any] | None:
    """Choose a short question in another language that the system has right and the baseline, if possible, has not.

    Args:
        sets: the questions; those without their English are left out.
        ranks: of the system's first right passages.
        baseline_ranks: the same of the baseline.
        depth: passages that were looked at.

    Returns:
        A row of a set; None where no question fits.
    """
    rows: Iterable[Any] = chain.from_iterable(questions.questions for questions in sets)
    usable = [
        row
        for row in rows
        if row.get("english")
        and row["language"] != "en"
        and row["query"] != row["english"]
        and max(len(row["query"]), len(row["english"])) <= ALIGNED_CHARACTERS
        and row["query_id"] in ranks
    ]

    def clearness(row: Mapping[str, Any]) -> tuple[int, int, str]:
        query_id = row["query_id"]
        return -(ranks[query_id] or depth + 1), baseline_ranks.get(query_id) or depth + 1, query_id

    return max(usable, key=clearness, default=None)
