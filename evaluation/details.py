"""What systems found question by question, kept as one file beside their results: what a report shows besides means."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .json_files import read_json, write_json
from .metrics import PerQuery
from .results import Difference

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


@dataclass(frozen=True)
class TokenAlignment:
    """The tokens of one question beside those of its English, and which were paired.

    Attributes:
        query_id: of the question.
        language: its code.
        query: as it was asked.
        english: the same in English.
        query_tokens: that score, by the student.
        english_tokens: that score, by the teacher.
        cosines: `(english_tokens, query_tokens)`.
        pairs: `[english token, query token]`, the pairs of the alignment that the student is trained with.
    """

    query_id: str
    language: str
    query: str
    english: str
    query_tokens: list[str]
    english_tokens: list[str]
    cosines: list[list[float]]
    pairs: list[list[int]]


@dataclass(frozen=True)
class Details:
    """What one set of systems found.

    Attributes:
        systems: labels in the order of the table.
        system: the one that is looked at closely.
        baseline: the one it is compared with; None: none.
        teacher: the upper bound that distances are measured to; None: none.
        measure: of the distances, such as `RR@10`.
        depth: passages a question that ranks are known for.
        languages: `query_id -> language`.
        ranks: of system and baseline, by label.
        scores: `label -> measure -> query_id -> score`, of which distances to another file's system are made; {}: not kept.
        gaps: `label -> language or "avg" -> Difference`, label minus teacher, of baseline and system.
        gains: `language or "avg" -> Difference`, system minus baseline.
        failures: of the system; not always all of them.
        num_failures: how many there are.
        alignment: of one question; None where no teacher reads English.
        made_of: what tells these runs from others; nothing is gathered again while it stays.
    """

    systems: list[str]
    system: str
    baseline: str | None = None
    teacher: str | None = None
    measure: str = "RR@10"
    depth: int = 10
    languages: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, Ranks] = field(default_factory=dict)
    scores: dict[str, PerQuery] = field(default_factory=dict)
    gaps: dict[str, dict[str, Difference]] = field(default_factory=dict)
    gains: dict[str, Difference] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    num_failures: int = 0
    alignment: TokenAlignment | None = None
    made_of: str = ""

    def to_json(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> "Details":
        """Read what `to_json` wrote.

        Raises:
            ValueError: for a file that is damaged or holds something else; the message names it.
        """
        content = read_json(path, "systems", "system", "failures")
        try:
            content["gaps"] = {label: _differences(rows) for label, rows in content["gaps"].items()}
            content["gains"] = _differences(content["gains"])
            content["failures"] = [_failure(row) for row in content["failures"]]
            if content["alignment"] is not None:
                content["alignment"] = TokenAlignment(**content["alignment"])
            return cls(**content)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds no details of an evaluation: {error}. Measure again.") from error


def _differences(rows: Mapping[str, Any]) -> dict[str, Difference]:
    return {name: Difference(**row) for name, row in rows.items()}


def _failure(row: dict[str, Any]) -> Failure:
    passages = {name: [ShownPassage(**passage) for passage in row[name]] for name in ("gold", "found")}
    return Failure(**{**row, **passages})


def rank_changes(baseline: Mapping[str, int | None], system: Mapping[str, int | None], depth: int) -> dict[str, int]:
    """Return how many places each question's first right passage rose (above 0) or fell.

    Args:
        baseline: `query_id -> rank`.
        system: the same questions.
        depth: one that was not found counts as standing right after so many.
    """
    last = depth + 1
    return {query_id: (baseline[query_id] or last) - (rank or last) for query_id, rank in system.items()}
