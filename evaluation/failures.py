"""Ranks of the first right passage, and the questions whose first passage is wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from drdecr.data.schema import QuestionSet

from .metrics import Run
from .recall_at_k_tokens.xor_retrieve import span_answers

SHOWN_PASSAGES = 3
"""Passages of a failure that are kept, and gold passages at most."""

SHOWN_CHARACTERS = 500

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
        found: the best passages, best first.
    """

    query_id: str
    language: str
    query: str
    english: str | None
    rank: int | None
    baseline_rank: int | None
    gold: list[ShownPassage]
    found: list[ShownPassage]


def right_passages(found: QuestionSet) -> IsRight:
    """Return what tells right passages: those labelled, or where none is labelled those that hold an answer as it is written."""
    qrels = found.qrels
    answers = {} if qrels else found.answers
    wanted = {query_id: span_answers(texts) for query_id, texts in answers.items()}

    def is_right(query_id: str, document_id: str) -> bool:
        if qrels:
            return qrels.get(query_id, {}).get(document_id, 0) > 0
        return any(answer in found.passages[document_id] for answer in wanted.get(query_id, ()))

    return is_right


def first_ranks(found: QuestionSet, run: Run, depth: int) -> Ranks:
    """Return the rank of every question's first right passage.

    Args:
        found: the questions; those that nothing could be right for (yes and no) are left out.
        run: what was found.
        depth: passages a question that are looked at.
    """
    is_right = right_passages(found)
    asked = list(found.qrels) or [query_id for query_id, texts in found.answers.items() if span_answers(texts)]
    ranks: Ranks = {}
    for query_id in asked:
        ids = ranked(run.get(query_id, {}))[:depth]
        ranks[query_id] = next((place for place, name in enumerate(ids, start=1) if is_right(query_id, name)), None)
    return ranks


def ranked(hits: Mapping[str, float]) -> list[str]:
    """Return document ids, best first; of equal scores the higher id first, as metrics and run files have it."""
    return sorted(hits, key=lambda name: (hits[name], name), reverse=True)


def collect_failures(found: QuestionSet, run: Run, ranks: Ranks, baseline_ranks: Ranks | None = None) -> list[Failure]:
    """Return every question whose first passage is wrong, with what should have been found and what was.

    Args:
        found: the questions and their collection.
        run: what the system found.
        ranks: its `first_ranks`.
        baseline_ranks: those of the system that it is compared with.
    """
    is_right = right_passages(found)
    qrels, answers = found.qrels, found.answers
    rows: dict[str, Any] = {row["query_id"]: row for row in found.questions}  # type: ignore[index]
    failures = []
    for query_id, rank in ranks.items():
        if rank == 1:
            continue
        hits, row = run.get(query_id, {}), rows[query_id]
        gold = [name for name, grade in qrels.get(query_id, {}).items() if grade > 0]
        shown = [ShownPassage(name, _cut(found.passages[name]), True, hits.get(name)) for name in gold[:SHOWN_PASSAGES]]
        best = [
            ShownPassage(name, _cut(found.passages[name]), is_right(query_id, name), hits[name])
            for name in ranked(hits)[:SHOWN_PASSAGES]
        ]
        english = row.get("english") if row.get("english") != row["query"] else None
        texts = shown or [ShownPassage("answer", text, True) for text in answers.get(query_id, [])[:SHOWN_PASSAGES]]
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
