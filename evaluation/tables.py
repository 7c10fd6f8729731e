"""How people look at results: a table in the terminal, the same in Markdown, a bar chart per language.

Rows (and colours) are systems, columns (and groups of bars) are languages with the average last. Scores of different
questions do not belong side by side: the header says n, and a cell says its own where it differs.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from .metrics import display_name
from .results import AVERAGE, BATCH, MEASURES, PARTS, ComparedSystems, Comparison, EvaluationResult, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Mapping[str, EvaluationResult]
"""`system name -> result`, in the order of rows: zero-shot, after each stage, the teacher on English questions."""

NO_CELL = "–"

COLOURS = ("#BBBBBB", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00")
"""Light grey for the starting point and five of Okabe and Ito's palette: colour-blind readers tell all apart."""


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


def bar_chart(results: Results, measure: str, path: str | Path, title: str | None = None) -> Path:
    """Draw grouped bars per language with 95 % intervals, and write them as PNG.

    Args:
        results: `system name -> result`, at most 6.
        measure: as in `terminal_table`.
        path: file to write, ending in `.png`; its folder must exist.
        title: above the chart; default the measure's name.

    Returns:
        The path written.

    Raises:
        ValueError: for more than 6 systems or another ending, and as in `terminal_table`.
    """
    from matplotlib.figure import Figure  # half a second, and tables need none of it; without pyplot no display either

    path = Path(path)
    columns = _columns(results, measure)
    if len(results) > len(COLOURS):
        raise ValueError(f"A chart stays readable up to {len(COLOURS)} systems, got {len(results)}. Draw two charts.")
    if path.suffix.lower() != ".png":
        raise ValueError(f"The chart is a PNG, got the name {path.name!r}. Let it end in .png.")
    width = max(6.4, 1.6 + len(columns) * (0.4 + 0.15 * len(results)))  # inches
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw_bars(axes, results, measure, columns)
    axes.set_ylabel(f"{display_name(measure)} (95 % interval)", fontsize=11)
    figure.suptitle(title or display_name(measure), x=0.01, ha="left", fontsize=13)
    figure.legend(loc="outside lower center", ncols=min(3, len(results)), frameon=False, fontsize=10)
    figure.savefig(path, dpi=150)
    return path


def _draw_bars(axes: "Axes", results: Results, measure: str, columns: Mapping[str, int]) -> None:
    """Draw one colour a system; a missing language leaves its place empty."""
    places = np.arange(len(columns), dtype=float)
    places[-1] += 0.35  # the average stands apart from the languages
    bar_width = 0.84 / len(results)
    highest = 0.0
    for index, (name, result) in enumerate(results.items()):
        scores = [result.scores[measure].get(language) for language in columns]
        drawn = [(place, score) for place, score in zip(places, scores, strict=True) if score is not None]
        x = np.array([place for place, _ in drawn]) + (index - (len(results) - 1) / 2) * bar_width
        means = [score.mean for _, score in drawn]
        # A skewed bootstrap can put the mean on an end, and rounding a hair beyond it: matplotlib refuses negatives.
        errors = [
            [max(0.0, score.mean - score.low) for _, score in drawn],
            [max(0.0, score.high - score.mean) for _, score in drawn],
        ]
        style = {"elinewidth": 1.0, "capsize": 2.0, "ecolor": "#222222"}
        axes.bar(x, means, bar_width * 0.92, yerr=errors, color=COLOURS[index], label=name, error_kw=style)
        highest = max([highest, *(score.high for _, score in drawn)])
    axes.axvline((places[-1] + places[-2]) / 2, color="#bbbbbb", linewidth=1.0, linestyle=":")
    axes.set_xticks(places, [f"{language}\nn={n}" for language, n in columns.items()], fontsize=10)
    axes.set_ylim(0.0, max(highest * 1.05, 1e-3))  # bars start at zero, or their lengths lie
    axes.margins(x=0.01)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


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
