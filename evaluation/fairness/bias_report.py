"""Language bias as people look at it: Markdown tables, and heat maps of question language by document language."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from drdecr.evaluation.plots import HeatMap, plot_heat_maps
from drdecr.evaluation.results import AVERAGE, Score
from drdecr.evaluation.significance import Floats
from drdecr.evaluation.tables import NO_CELL, markdown_rows

from .language_bias import BiasReport

Reports = Mapping[str, BiasReport]
"""`system or setting -> what was measured`, over the same questions and documents."""

CELL_NAMES = {
    "first": "Share of questions in which this version stands above all others",
    "rank": "Mean rank of this version",
    "found": "Share of questions with this version among the first {top_k}",
    "share": "Share of the first {top_k} places that documents of this language hold",
    "score": "Mean score of this version",
    "alone": "MRR@{top_k} of this version if the answer existed in no other language",
}


def markdown_bias(reports: Reports) -> str:
    """Write the tables of several settings, one below the other.

    Args:
        reports: at least one.

    Returns:
        Markdown: what each setting comes to, then a table for each pair of setting and cell.
    """
    first = next(iter(reports.values()))
    about = first.metadata
    documents = ", ".join(f"{count} {code}" for code, count in about["documents"].items())
    chance = 1 / len(about["documents"])
    parts = [
        "# Language bias",
        f"{first.bias[AVERAGE].kendall_w.n} questions; documents: {documents}. {about['left_out']} questions left out that "
        "have no version in some language. 95 % intervals, percentile bootstrap over questions, "
        f"{about['resamples']:,} resamples, seed {about['seed']}.",
        "Kendall's W: 0 where no document language is preferred, 1 where all questions order the languages alike; p: Friedman's "
        f"test. Own language above: 0.5 is no preference. First of all versions: {chance:.2f} is none. PEER@"
        f"{about['peer_cutoff']}: 1 is fair.",
        markdown_summary(reports),
    ]
    for label, report in reports.items():
        missing = report.metadata["not_found"]
        parts.append(f"## {label}")
        if missing:
            parts.append(
                f"{missing} versions were not among the first {report.metadata['depth']} and count as standing behind them."
            )
        for name, title in CELL_NAMES.items():
            parts += [
                f"**{title.format(**report.metadata)}** (rows: questions, columns: documents)",
                _cells(report, name),
            ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def markdown_summary(reports: Reports) -> str:
    """Make one table of all settings: a row for each setting and question language."""
    top_k = next(iter(reports.values())).metadata["top_k"]
    header = [
        "questions",
        "n",
        "Kendall's W",
        "p",
        "own language above",
        f"MRR@{top_k}, any version",
        f"MRR@{top_k}, one version, in another language",
        "PEER, right",
        "PEER, others",
    ]
    rows = []
    for label, report in reports.items():
        for code, bias in report.bias.items():
            p_value = "<0.001" if bias.p_value < 0.001 else f"{bias.p_value:.3f}"
            measured = (bias.own, bias.reciprocal_rank, bias.abroad, bias.peer, bias.peer_others)
            cells = [_text(bias.kendall_w), p_value, *map(_text, measured)]
            rows.append([f"{label}: {code}", str(bias.kendall_w.n), *cells])
    return markdown_rows(header, rows)


def heat_map(reports: Reports, path: str | Path) -> Path:
    """Draw for each setting which version stands first and at which rank each stands, question by document language.

    Args:
        reports: at least one.
        path: PNG to write; its folder must exist.

    Returns:
        The path written.
    """
    # A share stops at 1, and ranks of two settings are read on one scale.
    tops = {"first": 1.0, "rank": max(_matrix(report, "rank").max() for report in reports.values())}
    titles = {"first": "stands first of all versions", "rank": "mean rank"}
    panels = [
        [
            HeatMap(
                title=f"{label}\n{titles[name]}",
                values=_matrix(report, name),
                rows=["all" if code == AVERAGE else code for code in report.cells[name]],
                columns=list(report.metadata["documents"]),
                top=tops[name],
                digits=2 if name == "first" else 1,
            )
            for name in titles
        ]
        for label, report in reports.items()
    ]
    return plot_heat_maps(panels, path, "questions in", "documents in")


def _matrix(report: BiasReport, name: str) -> Floats:
    """Return the means, `(question languages, document languages)`."""
    documents = report.metadata["documents"]
    return np.array([[row[code].mean for code in documents] for row in report.cells[name].values()])


def _cells(report: BiasReport, name: str) -> str:
    documents = list(report.metadata["documents"])
    digits = 1 if name == "rank" else 3
    rows = [
        [f"{code} (n={report.bias[code].kendall_w.n})", *(_text(row[language], digits) for language in documents)]
        for code, row in report.cells[name].items()
    ]
    return markdown_rows(["", *documents], rows)


def _text(score: Score | None, digits: int = 3) -> str:
    if score is None or score.n == 0:
        return NO_CELL
    return f"{score.mean:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]"
