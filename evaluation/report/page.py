"""One page of a run to look at: results by language, distance to the teacher, tokens, curves, failures. Needs no other file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from drdecr.data.languages import language_name
from drdecr.evaluation.metrics import display_name
from drdecr.evaluation.plots import ordered_languages
from drdecr.evaluation.results import AVERAGE, Comparison, Difference, EvaluationResult, Score

from .failures import Failure

TEMPLATE = "page.html"


@dataclass(frozen=True)
class TokenAlignment:
    """The tokens of one question beside those of its English form, and which were paired.

    Attributes:
        language: code of the question's language.
        query: the question as it was asked.
        english: the same in English.
        query_tokens: tokens of the question, by the student.
        english_tokens: tokens of the English, by the teacher.
        cosines: `(query_tokens, english_tokens)`.
        partners: index of each query token's English token, -1 where it has none.
    """

    language: str
    query: str
    english: str
    query_tokens: list[str]
    english_tokens: list[str]
    cosines: list[list[float]]
    partners: list[int]


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: of the page.
        results: `system -> EvaluationResult`, in the order of the table.
        measure: the one that distances are in, such as `RR@10`.
        student: label of the system that is the result.
        baseline: label of the first system; None where that is the student.
        teacher: label of the teacher that reads English; None: none was measured.
        gain: student minus baseline.
        distances: `system -> system minus teacher`, of baseline and student.
        failures: questions whose first passage is wrong, those that are listed.
        num_failures: how many there are.
        num_questions: how many questions were asked.
        alignment: of one question; None: not known.
        pictures: `name -> PNG`; `results`, `distance` and the curves of each stage. Files that are absent are left out.
    """

    title: str
    results: Mapping[str, EvaluationResult]
    measure: str
    student: str
    baseline: str | None = None
    teacher: str | None = None
    gain: Comparison | None = None
    distances: Mapping[str, Comparison] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    num_failures: int = 0
    num_questions: int = 0
    alignment: TokenAlignment | None = None
    pictures: Mapping[str, Path] = field(default_factory=dict)


def render_report(report: Report) -> str:
    """Return the page as HTML: every text escaped, pictures inside, nothing asked of any host."""
    environment = Environment(
        loader=PackageLoader("drdecr.evaluation.report", "."),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(language_name=language_name, display_name=display_name)
    measures = dict.fromkeys(name for result in report.results.values() for name in result.scores)
    return environment.get_template(TEMPLATE).render(
        report=report,
        about=report.results[report.student].metadata,
        average=_score(report.results[report.student].scores[report.measure][AVERAGE]),
        gain=report.gain and _difference(report.gain.differences[report.measure][AVERAGE]),
        distance=_distances(report, AVERAGE).get(report.student),
        closed=_closed(report, AVERAGE),
        tables={
            name: _table(report.results, name) for name in sorted(measures, key=lambda name: name != report.measure)
        },
        distance_rows=_distance_rows(report),
        pictures={name: base64.b64encode(path.read_bytes()).decode() for name, path in report.pictures.items()},
    )


def _table(results: Mapping[str, EvaluationResult], measure: str) -> list[dict[str, Any]]:
    """Return a row for each language, with a cell for each system; None where a system has no figure."""
    scores = {label: result.scores.get(measure, {}) for label, result in results.items()}
    return [
        {"language": _name(code), "n": n, "cells": [_score(by_language.get(code)) for by_language in scores.values()]}
        for code, n in ordered_languages(scores.values()).items()
    ]


def _distance_rows(report: Report) -> list[dict[str, Any]]:
    rows = [comparison.differences[report.measure] for comparison in report.distances.values()]
    return [
        {
            "language": _name(code),
            "n": n,
            "cells": list(_distances(report, code).values()),
            "closed": _closed(report, code),
        }
        for code, n in ordered_languages(rows).items()
    ]


def _distances(report: Report, code: str) -> dict[str, dict[str, Any]]:
    return {label: _difference(row.differences[report.measure][code]) for label, row in report.distances.items()}


def _closed(report: Report, code: str) -> str | None:
    """Say which share of the baseline's distance to the teacher the student closed; None where the two do not compare.

    A share is told only where both the distance and the gain are shown: beyond what chance gives.
    """
    if report.gain is None or not {report.baseline, report.student} <= set(report.distances):
        return None
    before, after = (
        report.distances[str(label)].differences[report.measure][code] for label in (report.baseline, report.student)
    )
    gain = report.gain.differences[report.measure][code]
    if not (_is_shown(before) and _is_shown(gain) and before.mean < 0):
        return "no difference shown"
    return f"{100 * (1 - after.mean / before.mean):.0f} %"


def _is_shown(row: Difference) -> bool:
    return not row.low <= 0 <= row.high


def _score(row: Score | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"mean": f"{row.mean:.3f}", "interval": f"[{row.low:.2f}, {row.high:.2f}]", "n": row.n}


def _difference(row: Difference) -> dict[str, Any]:
    interval = f"[{row.low:+.3f}, {row.high:+.3f}]"
    return {"mean": f"{row.mean:+.3f}", "interval": interval, "n": row.n, "is_shown": _is_shown(row)}


def _name(code: str) -> str:
    return "average" if code == AVERAGE else language_name(code)
