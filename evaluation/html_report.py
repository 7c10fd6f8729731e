"""One page that holds everything people look at: no other file, nothing from the network, light and dark, phone and desk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .charts import colours_of, gap_bars, language_bars, rank_change_bars
from .details import Details, rank_changes
from .metrics import display_name
from .report import COLOURS, _columns, _p_value
from .results import AVERAGE, Difference, EvaluationResult, Score

TEMPLATE = "html_report.html"


@dataclass(frozen=True)
class Source:
    """What one run or file of results brings.

    Attributes:
        name: of the run or file; it goes before labels where two sources share one.
        results: of its systems, by label, in the order of the table.
        details: what was found question by question; None: only means are known.
    """

    name: str
    results: dict[str, EvaluationResult]
    details: Details | None = None


def render_report(sources: Sequence[Source], title: str = "Retrieval report") -> str:
    """Make the page.

    Args:
        sources: at least one. Results over one collection and version of the data stand in one table, others apart: their
            figures do not compare.
        title: of the page.

    Returns:
        HTML.

    Raises:
        ValueError: for no sources, or two of one name.
    """
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"A report needs results whose names differ, got {names}. Name each run or file once.")
    sources = _with_labels_that_differ(sources)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = [_group(number, found) for number, found in enumerate(_by_collection(sources), start=1)]
    colours = {label: colour for group in groups for label, colour in group["colours"].items()}
    looks = [
        _look(number, source.details, source.results, colours)
        for number, source in enumerate(sources, start=1)
        if source.details is not None
    ]
    return environment.get_template(TEMPLATE).render(title=title, groups=groups, looks=looks)


def _with_labels_that_differ(sources: Sequence[Source]) -> list[Source]:
    labels = [label for source in sources for label in source.results]
    if len(set(labels)) == len(labels):
        return list(sources)
    return [renamed(source, {label: f"{source.name}: {label}" for label in source.results}) for source in sources]


def renamed(source: Source, new: Mapping[str, str]) -> Source:
    """Return a source whose systems have other labels, `{old: new}`, also in its details."""
    results = {new[label]: result for label, result in source.results.items()}
    return Source(source.name, results, source.details and _renamed(source.details, new))


def _renamed(details: Details, new: Mapping[str, str]) -> Details:
    words = {name: new.get(value or "", value) for name, value in vars(details).items() if name in ROLES}
    maps = {
        name: {new.get(key, key): value for key, value in getattr(details, name).items()}
        for name in ("ranks", "gaps", "scores")
    }
    return Details(**{**vars(details), **words, **maps, "systems": [new[label] for label in details.systems]})


ROLES = ("system", "baseline", "teacher")


def _by_collection(sources: Sequence[Source]) -> list[dict[str, EvaluationResult]]:
    found: dict[tuple[Any, Any], dict[str, EvaluationResult]] = {}
    for source in sources:
        for label, result in source.results.items():
            key = (result.metadata.get("collection"), result.metadata.get("data_version"))
            found.setdefault(key, {})[label] = result
    return list(found.values())


def _group(number: int, results: Mapping[str, EvaluationResult]) -> dict[str, Any]:
    """Return one table's worth: charts of at most six systems, and a table for each measure that all of them have."""
    first = next(iter(results.values()))
    measures = [name for name in first.scores if all(name in result.scores for result in results.values())]
    measures.sort(key=lambda name: name != "RR@10")  # what is looked at first
    colours = colours_of(list(results))
    charts: list[dict[str, Any]] = []
    labels = iter(results)
    while part := list(islice(labels, len(COLOURS))):
        some = {label: results[label] for label in part}
        name = f"bars-{number}-{len(charts)}"
        charts.append({"svg": language_bars(some, measures[0], colours, name) if measures else "", "labels": part})
    return {
        "number": number,
        "about": first.metadata,
        "measure": display_name(measures[0]) if measures else "",
        "charts": charts,
        "colours": colours,
        "tables": [_table(results, measure) for measure in measures],
    }


def _table(results: Mapping[str, EvaluationResult], measure: str) -> dict[str, Any]:
    """Return a row a language, beside the chart's, and a column a system."""
    rows = [
        {
            "language": name,
            "n": n,
            "cells": {label: _cell(result.scores[measure].get(name), n) for label, result in results.items()},
        }
        for name, n in _columns(results, measure).items()
    ]
    return {"measure": display_name(measure), "labels": list(results), "rows": rows}


def _cell(score: Score | None, n: int) -> dict[str, str]:
    if score is None:
        return {"mean": "–", "interval": ""}
    own_n = "" if score.n == n else f" n={score.n}"
    return {"mean": f"{score.mean:.3f}", "interval": f"[{score.low:.2f}, {score.high:.2f}]{own_n}"}


def _look(
    number: int, details: Details, results: Mapping[str, EvaluationResult], colours: Mapping[str, str]
) -> dict[str, Any]:
    """Return what one run's own sections show, in the colours of the first charts."""
    look: dict[str, Any] = {"number": number, "details": details, "colours": colours, "gap": None, "moves": None}
    look["measure"] = display_name(details.measure)
    score = results[details.system].scores.get(details.measure, {}).get(AVERAGE)
    look["score"] = _cell(score, score.n) if score else None
    look["gain"] = _difference(details.gains[AVERAGE]) if AVERAGE in details.gains else None
    look["closed"] = _closed(details, AVERAGE)
    if details.gaps:
        look["gap"] = {
            "svg": gap_bars(details.gaps, colours, f"gap-{number}"),
            "labels": list(details.gaps),
            "rows": [_gap_row(details, name) for name in next(iter(details.gaps.values()))],
        }
    if details.baseline in details.ranks and details.system in details.ranks and details.baseline != details.system:
        look["moves"] = _moves(number, details)
    look["languages"] = sorted({failure.language for failure in details.failures})
    return look


def _gap_row(details: Details, language: str) -> dict[str, Any]:
    cells = [_difference(rows[language]) for rows in details.gaps.values()]
    return {"language": language, "cells": cells, "closed": _closed(details, language)}


def _closed(details: Details, language: str) -> str | None:
    """Return which share of the baseline's distance to the teacher the system closed; None where there was hardly any."""
    before, after = (details.gaps.get(label or "", {}).get(language) for label in (details.baseline, details.system))
    if before is None or after is None or details.baseline == details.system or before.mean > -0.005:
        return None
    return f"{100 * (1 - after.mean / before.mean):.0f} %"


def _difference(row: Difference) -> dict[str, str]:
    interval = f"[{row.low:+.3f}, {row.high:+.3f}]"
    return {"mean": f"{row.mean:+.3f}", "interval": interval, "p": _p_value(row.p_adjusted), "n": str(row.n)}


def _moves(number: int, details: Details) -> dict[str, Any]:
    before, after = details.ranks[details.baseline or ""], details.ranks[details.system]
    changes = rank_changes(before, after, details.depth)
    by_language: dict[str, list[int]] = {}
    for query_id, change in changes.items():
        by_language.setdefault(details.languages[query_id], []).append(change)
    return {
        "svg": rank_change_bars(list(changes.values()), f"ranks-{number}"),
        "total": len(changes),
        "same": sum(change == 0 for change in changes.values()),
        "rows": [
            {
                "language": language,
                "up": sum(change > 0 for change in found),
                "same": sum(change == 0 for change in found),
                "down": sum(change < 0 for change in found),
            }
            for language, found in sorted(by_language.items())
        ],
    }
