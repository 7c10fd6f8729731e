"""How people look at results: a table in the terminal, and the same in Markdown.

Rows are systems, columns are languages with the average last. Scores of different
questions do not belong side by side: the header says n, and a cell says its own where it differs.
"""

import logging
from collections.abc import Mapping

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from .metrics import display_name
from .results import AVERAGE, BATCH, MEASURES, PARTS, ComparedSystems, Comparison, EvaluationResult, Score

Results = Mapping[str, EvaluationResult]
"""`system name -> result`, in the order of rows: zero-shot, after each stage, the teacher on English questions."""

NO_CELL = "–"


def terminal_table(results: Results, measure: str) -> Table:
    """Make a table for a `rich.console.Console`.

    Args:
        results: `system name -> result`.
        measure: name as in the results, such as `RR@10`; shown as MRR@10.

    Returns:
        A table with one row a system and one column a language, each cell a mean over its interval. It needs a width
        of 14 + 7 a column at most; below that rich cuts numbers off.

    Raises:
        ValueError: for no results, or a result without the measure.
    """
    columns = _columns(results, measure)
    title = Text(f"{display_name(measure)} [95 % interval]")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    # A fixed width: rich would rather squeeze the numbers of a narrow terminal than fold a name.
    table.add_column("system", width=min(14, max(len(name) for name in [*results, "system"])), overflow="fold")
    for language, n in columns.items():
        # In a narrow terminal an interval breaks at its blank.
        style = "bold" if language == AVERAGE else None
        table.add_column(f"{language}\nn={n}", justify="right", style=style, min_width=len("[0.58,"))
    for name, result in results.items():
        cells = [_cell(result.scores[measure].get(language), n, "\n") for language, n in columns.items()]
        # Text, not str: rich would take "[0.58, 0.67]" or a name in brackets for markup.
        table.add_row(Text(name), *[Text(cell) for cell in cells], end_section=True)
    return table


def markdown_table(results: Results, measure: str) -> str:
    """Make a Markdown table: `| zero-shot | 0.626 [0.58, 0.67] | ...`.

    Args:
        results: `system name -> result`.
        measure: as in `terminal_table`.

    Returns:
        The table, ending in a line break.

    Raises:
        ValueError: as in `terminal_table`.
    """
    columns = _columns(results, measure)
    header = [display_name(measure), *(f"{language} (n={n})" for language, n in columns.items())]
    rows = [
        [name, *(_cell(result.scores[measure].get(language), n, " ") for language, n in columns.items())]
        for name, result in results.items()
    ]
    return markdown_rows(header, rows)


def markdown_differences(comparison: Comparison, measure: str) -> str:
    """Make a Markdown table of what a system gained over its baseline, one language a row.

    Args:
        comparison: what `results.compare` gave.
        measure: as in `terminal_table`.

    Returns:
        The table, ending in a line break; `p (Holm)` is corrected over the languages.

    Raises:
        ValueError: when the comparison lacks the measure.
    """
    if measure not in comparison.differences:
        raise ValueError(f"The comparison has no {measure}, only {sorted(comparison.differences)}. Choose one of them.")
    rows = [
        [
            language,
            str(row.n),
            f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}]",
            _p_value(row.p_value),
            _p_value(row.p_adjusted),
        ]
        for language, row in comparison.differences[measure].items()
    ]
    return markdown_rows(["language", "n", f"gain in {display_name(measure)}", "p", "p (Holm)"], rows)


def _columns(results: Results, measure: str) -> dict[str, int]:
    """Find the languages in any result, sorted, the average last, each with n of the first system that has it."""
    if not results:
        raise ValueError("Needs at least one system's result, got none. Pass {'name': result}.")
    found: dict[str, int] = {}
    for name, result in results.items():
        if measure not in result.scores:
            raise ValueError(f"{name!r} has no {measure}, only {sorted(result.scores)}. Choose one of them.")
        if AVERAGE not in result.scores[measure]:
            raise ValueError(f"{name!r} has no {AVERAGE!r} for {measure}. Make results with `summarize`.")
        for language, score in result.scores[measure].items():
            found.setdefault(language, score.n)
    ordered = sorted(language for language in found if language != AVERAGE)
    return {language: found[language] for language in [*ordered, AVERAGE]}


def _cell(score: Score | None, n: int, separator: str) -> str:
    if score is None:
        return NO_CELL
    own_n = "" if score.n == n else f"{separator}n={score.n}"
    return f"{score.mean:.3f}{separator}[{score.low:.2f}, {score.high:.2f}]{own_n}"


def _p_value(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def markdown_rows(header: list[str], rows: list[list[str]]) -> str:
    """Make a Markdown table, the first column to the left and the others to the right; it ends in a line break."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


logger = logging.getLogger(__name__)


def markdown_systems(compared: ComparedSystems) -> str:
    """Write the table: quality, latency by part, cost and size, a row for each system."""
    about = compared.metadata
    first = next(iter(compared.results))
    parts = [*PARTS, "total"]
    header = [
        "",
        *map(display_name, MEASURES),
        f"gain in {display_name(MEASURES[0])} (p)",
        *(f"{part}, ms" for part in parts),
    ]
    header += ["processor s / 1,000", f"{about['currency']} / 1,000", "models, MB"]
    rows = []
    for label, result in compared.results.items():
        scores = [result.scores[name]["avg"] for name in MEASURES]
        cells = [f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]" for score in scores]
        size = compared.num_bytes[label]
        seconds = 1000 * compared.processor[label]
        rows.append(
            [
                label,
                *cells,
                NO_CELL if label == first else _gain(compared.comparisons[label]),
                *(_milliseconds(compared.wall[label].get(part)) for part in parts),
                f"{seconds:.1f}",
                f"{seconds / 3600 * about['price']:.5f}",
                NO_CELL if size is None else f"{size / 1e6:.0f}",
            ]
        )
    notes = (
        f"{about['data_version']}, over {about['passages']:,} passages: {about['collection']}. 95 % intervals, percentile "
        "bootstrap over questions; gain over the first row, paired, sign-flip test. Milliseconds: median and 95th percentile of "
        f"{about['timed']} questions, one at a time, of each system in turn. Processor seconds: all questions in batches of "
        f"{BATCH}, programs that were called included; at {about['price']} {about['currency']} an hour of a core. "
        f"`{about['command']}`, {about['hardware']}."
    )
    return "\n\n".join(["# Systems", notes, markdown_rows(header, rows)])


def _gain(comparison: Comparison) -> str:
    row = comparison.differences[MEASURES[0]]["avg"]
    p_value = "<0.001" if row.p_value < 0.001 else f"{row.p_value:.3f}"
    return f"{row.mean:+.3f} [{row.low:+.3f}, {row.high:+.3f}] ({p_value})"


def _milliseconds(seconds: list[float] | None) -> str:
    if not seconds:
        return NO_CELL
    median, high = np.quantile(seconds, [0.5, 0.95]) * 1000
    return f"{median:.1f} / {high:.1f}"
