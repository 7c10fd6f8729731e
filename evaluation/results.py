"""What an evaluation found, per measure and language, with intervals; and the file it is kept in."""

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from drdecr.data.files import check_survives_json, read_json_object, write_json_exactly
from drdecr.data.schema import QuestionSet

from .metrics import PerQuery, Qrels, per_query_scores
from .runs import read_qrels, read_run
from .significance import (
    DEFAULT_RESAMPLES,
    Floats,
    bootstrap_interval,
    bootstrap_macro_interval,
    holm,
    paired_differences,
    randomisation_p_value,
)

AVERAGE = "avg"
"""The key of the macro average: the mean of the languages' means, each language weighing the same.

Queries whose ids differ in the language alone (`question_key`) are one question in several languages: intervals and tests of
the average draw them together.
"""

PerQueryScores = Mapping[str, Mapping[str, float]]
"""`measure -> query_id -> score`, as `metrics.per_query_scores` gives."""


@dataclass(frozen=True)
class Score:
    """A mean in the unit of the measure, the ends of its bootstrap interval, and how many queries it is of."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """System minus baseline on the same queries: mean, interval of the difference, n, and two-sided p-values.

    `p_adjusted` is Holm's correction over the languages of the measure. The average is one test by itself: there both
    p-values are the same.
    """

    mean: float
    low: float
    high: float
    n: int
    p_value: float
    p_adjusted: float


Row = TypeVar("Row", Score, Difference)


@dataclass(frozen=True)
class EvaluationResult:
    """One system's scores.

    Attributes:
        scores: `measure -> language or "avg" -> Score`.
        metadata: what the numbers depend on; only what JSON holds without loss. `summarize` sets collection,
            data_version, seed, resamples, command and the languages in the average.
    """

    scores: dict[str, dict[str, Score]]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        check_survives_json("metadata", self.metadata)

    def to_json(self, path: str | Path) -> None:
        """Write the file whole or not at all: an interrupted write leaves the old file as it was.

        Args:
            path: file to write; its folder must exist.
        """
        write_json_exactly(path, asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> "EvaluationResult":
        """Read what `to_json` wrote; the result equals the one written, to the last bit.

        Args:
            path: file to read.

        Raises:
            ValueError: for a file that is damaged or holds something else; the message names it.
        """
        content = read_json_object(path, "scores", "metadata")
        return cls(_rows(content["scores"], Score, path), content["metadata"])


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same queries: `measure -> language or "avg" -> Difference`, and metadata as above."""

    differences: dict[str, dict[str, Difference]]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        check_survives_json("metadata", self.metadata)

    def to_json(self, path: str | Path) -> None:
        """Write the file whole or not at all; see `EvaluationResult.to_json`."""
        write_json_exactly(path, asdict(self))

    @classmethod
    def from_json(cls, path: str | Path) -> "Comparison":
        """Read what `to_json` wrote; see `EvaluationResult.from_json`."""
        content = read_json_object(path, "differences", "metadata")
        return cls(_rows(content["differences"], Difference, path), content["metadata"])


def summarize(
    per_query: PerQueryScores,
    languages: Mapping[str, str],
    *,
    collection: str,
    data_version: str,
    command: str = "",
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    average_over: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Gather per-query scores into means with 95 % bootstrap intervals, per language and as macro average.

    Args:
        per_query: `measure -> query_id -> score`.
        languages: `query_id -> language`; white space around a language is dropped (XOR-TyDi has " ar"). Queries
            without a score (such as the yes/no questions of XOR-Retrieve) are left out.
        collection: the passages searched, such as "SQuAD dev, 2,067 passages": the same questions score differently
            over another collection.
        data_version: version of questions and judgements.
        command: how the run was made.
        seed: of the bootstrap, default 0.
        resamples: of the bootstrap, default 10,000.
        average_over: languages in the average; default all. Leave English out for a cross-lingual average.
        notes: further metadata, such as `AnswerRecallResult.notes()`.

    Returns:
        The result, languages sorted, the average last.

    Raises:
        ValueError: for no scores, a scored query without language, a language called "avg", or an unknown language in
            `average_over`.
    """
    scores: dict[str, dict[str, Score]] = {}
    for measure, by_query in per_query.items():
        ids = _by_language(by_query, languages)
        groups = {language: _values(by_query, own) for language, own in ids.items()}
        scores[measure] = {
            language: Score(*bootstrap_interval(values, resamples, seed), n=len(values))
            for language, values in groups.items()
        }
        averaged = _averaged(groups, average_over)
        interval = bootstrap_macro_interval(
            list(averaged.values()), resamples, seed, questions=_questions(ids, averaged)
        )
        scores[measure][AVERAGE] = Score(*interval, n=sum(len(values) for values in averaged.values()))
    about = {"collection": collection, "data_version": data_version, "command": command}
    return EvaluationResult(scores, {**(notes or {}), **about, **_settings(seed, resamples, average_over)})


def compare(
    baseline: PerQueryScores,
    system: PerQueryScores,
    languages: Mapping[str, str],
    *,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    average_over: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Comparison:
    """Compare two runs on the same queries: paired bootstrap interval and paired randomisation test.

    Args:
        baseline: `measure -> query_id -> score`.
        system: the same measures and queries.
        languages: as in `summarize`.
        seed: of bootstrap and randomisation, default 0.
        resamples: of each, default 10,000.
        average_over: as in `summarize`.
        notes: metadata, such as the names of the two systems.

    Returns:
        System minus baseline per language and on average, p-values also Holm-corrected over the languages.

    Raises:
        ValueError: when measures or queries differ, and as in `summarize`.
    """
    if set(baseline) != set(system):
        raise ValueError(
            f"Both runs need the same measures, got {sorted(baseline)} and {sorted(system)}. Score both alike."
        )
    differences = {}
    for measure, old in baseline.items():
        new = system[measure]
        if set(old) != set(new):
            odd = sorted(set(old) ^ set(new))
            raise ValueError(
                f"{measure}: both runs need the same queries, {len(odd)} are in one only, the first {odd[0]!r}. "
                "Score both against the same qrels."
            )
        ids = _by_language(old, languages)
        groups = {language: paired_differences(_values(old, own), _values(new, own)) for language, own in ids.items()}
        averaged = _averaged(groups, average_over)
        rows = _compare_languages(groups, seed, resamples)
        values, questions = list(averaged.values()), _questions(ids, averaged)
        p_average = randomisation_p_value(values, resamples, seed, questions)
        interval = bootstrap_macro_interval(values, resamples, seed, questions=questions)
        rows[AVERAGE] = Difference(*interval, sum(map(len, values)), p_average, p_average)
        differences[measure] = rows
    return Comparison(differences, {**(notes or {}), **_settings(seed, resamples, average_over)})


def _compare_languages(groups: Mapping[str, Floats], seed: int, resamples: int) -> dict[str, Difference]:
    p_values = {language: randomisation_p_value([values], resamples, seed) for language, values in groups.items()}
    adjusted = holm(p_values)
    return {
        language: Difference(
            *bootstrap_interval(values, resamples, seed), len(values), p_values[language], adjusted[language]
        )
        for language, values in groups.items()
    }


def question_key(query_id: str, language: str) -> str:
    """Return what a query's id says of its question: the id without its language.

    >>> question_key("xquad-ar:56beb4", "ar"), question_key("s12-te", "te"), question_key("7421", "fi")
    ('xquad-*:56beb4', 's12-*', '7421')
    """
    return re.sub(rf"(?<![^\W_]){re.escape(language)}(?![^\W_])", "*", query_id, count=1)


def _questions(ids: Mapping[str, Sequence[str]], averaged: Mapping[str, Floats]) -> list[list[str]]:
    return [[question_key(query_id, language) for query_id in ids[language]] for language in averaged]


def _by_language(scored: Mapping[str, float], languages: Mapping[str, str]) -> dict[str, list[str]]:
    """Group the ids of scored queries by language; ids sorted, so that the order of a file moves no interval."""
    groups: dict[str, list[str]] = {}
    for query_id in sorted(scored):
        language = languages.get(query_id, "").strip()
        if not language or language == AVERAGE:
            raise ValueError(
                f"Query {query_id!r} needs a language other than {AVERAGE!r}, got {languages.get(query_id)!r}. "
                "Name the language of every scored query."
            )
        groups.setdefault(language, []).append(query_id)
    if not groups:
        raise ValueError("Nothing to summarise: no query has a score. Check that run and qrels share their query ids.")
    return dict(sorted(groups.items()))


def _values(by_query: Mapping[str, float], query_ids: Sequence[str]) -> Floats:
    return np.array([by_query[query_id] for query_id in query_ids], dtype=np.float64)


def _averaged(groups: Mapping[str, Floats], average_over: Sequence[str] | None) -> dict[str, Floats]:
    chosen = list(groups) if average_over is None else sorted(average_over)
    unknown = [language for language in chosen if language not in groups]
    if unknown or not chosen:
        raise ValueError(
            f"average_over must name scored languages ({', '.join(list(groups)[:20])}), got {chosen}. Correct the list."
        )
    return {language: groups[language] for language in chosen}


def _settings(seed: int, resamples: int, average_over: Sequence[str] | None) -> dict[str, Any]:
    averaged = "all" if average_over is None else sorted(average_over)
    return {"seed": seed, "resamples": resamples, "average_over": averaged}


def _rows(content: Mapping[str, Any], row_class: type[Row], path: str | Path) -> dict[str, dict[str, Row]]:
    try:
        return {measure: {name: row_class(**row) for name, row in rows.items()} for measure, rows in content.items()}
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no rows of {row_class.__name__}: {error}. Make it again.") from error


logger = logging.getLogger(__name__)


def compare_runs(
    baseline: Path,
    system: Path,
    qrels: Path,
    measures: list[str],
    languages: Path | None = None,
    collection: str | None = None,
) -> Comparison:
    """Compare two TREC runs; a judged query without a line in a run scores 0 in it.

    Args:
        baseline: run that is compared with.
        system: the other run.
        qrels: judgements.
        measures: names as ir_measures writes them.
        languages: file with lines of query id, tab, language; default: all queries are one group, `all`.
        collection: what was searched, in words; default: not said.

    Returns:
        The comparison; its metadata tell each file by path and by content, since another can come to lie under the path.

    Raises:
        ValueError: for a file of another form, a run without any judged query, or a judged query without a language.
    """
    judged = read_qrels(qrels)
    by_query = dict.fromkeys(judged, "all") if languages is None else _read_languages(languages, judged)
    old, new = (_scores(file, judged, measures) for file in (baseline, system))
    files = {"baseline": baseline, "system": system, "qrels": qrels, "languages": languages}
    notes: dict[str, Any] = {} if collection is None else {"collection": collection}
    for name, file in files.items():
        if file is not None:
            notes |= {name: str(file), f"{name}_sha256": _digest(file)}
    return compare(old, new, by_query, notes=notes)


def _read_languages(file: Path, judged: Qrels) -> dict[str, str]:
    by_query: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        query_id, *languages = line.split("\t")
        if len(languages) != 1:
            raise ValueError(f"{file}, line {number}: expected query id, tab, language, got {line!r}.")
        if query_id in by_query:
            raise ValueError(f"{file}, line {number}: query {query_id!r} stands twice. Keep one of its lines.")
        by_query[query_id] = languages[0].strip()
    missing = [query_id for query_id in judged if by_query.get(query_id, "") in ("", AVERAGE)]
    if missing:
        raise ValueError(
            f"{file}: expected a language other than {AVERAGE!r} for each of {len(judged)} judged queries, got "
            f"{by_query.get(missing[0])!r} for {missing[0]!r} ({len(missing)} such queries). Give each a line."
        )
    return by_query


def _scores(file: Path, judged: Qrels, measures: list[str]) -> PerQuery:
    run = read_run(file)
    unjudged = [query_id for query_id in run if query_id not in judged]
    if unjudged:
        logger.warning("%s: %d queries are not judged and left out, the first %s.", file, len(unjudged), unjudged[0])
    missing = [query_id for query_id in judged if query_id not in run]
    if len(missing) == len(judged):
        raise ValueError(
            f"{file}: expected lines of the {len(judged)} judged queries, such as {missing[0]!r}, got none. Check that run and "
            "qrels share their query ids."
        )
    if missing:
        logger.warning(
            "%d of %d judged queries have no line in %s and score 0, the first %s.",
            len(missing),
            len(judged),
            file,
            missing[0],
        )
    return per_query_scores({name: hits for name, hits in run.items() if name in judged}, judged, measures)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


MEASURES = ("RR@10", "R@10")
BATCH = 32


@dataclass
class ComparedSystems:
    """What was measured, by label in the order of the table.

    Args:
        results: quality.
        comparisons: with the first system, by the other's label.
        wall: `label -> part or "total" -> seconds` of each question that was asked by itself.
        processor: processor seconds a question, all questions asked in batches.
        num_bytes: of the models on disk; None where a part is not known.
        runs: what each found.
        questions: and their judgements.
        metadata: what the numbers depend on.
    """

    results: dict[str, EvaluationResult]
    comparisons: dict[str, Comparison]
    wall: dict[str, dict[str, list[float]]]
    processor: dict[str, float]
    num_bytes: dict[str, int | None]
    runs: dict[str, dict[str, dict[str, float]]]
    questions: QuestionSet
    metadata: dict[str, Any] = field(default_factory=dict)


PARTS = ("translate", "encode", "search")
