"""Charts of a report as SVG that stands inside a page: they take the page's font and its colours, light or dark.

A chart is narrow, so that its letters stay legible on a phone; what a colour means is said by the page, once for all charts.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .metrics import display_name
from .report import COLOURS, Results, _columns
from .results import AVERAGE, Difference, Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, LINE = "#010203", "#040506"
"""Stand-ins for the page's colour of text and of lines, which matplotlib has no words for."""

WIDTH = 5.0  # inches; at 72 points an inch some 360 px, the width of a phone
BETTER, WORSE = "#0072B2", "#D55E00"

BINS = ((-np.inf, -5), (-4, -3), (-2, -2), (-1, -1), (1, 1), (2, 2), (3, 4), (5, np.inf))
BIN_NAMES = ("5+", "3–4", "2", "1", "1", "2", "3–4", "5+")


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """Give each system its colour, the same in every chart; after six they begin again."""
    return {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}


def language_bars(results: Results, measure: str, colours: Mapping[str, str], name: str = "bars") -> str:
    """Draw one group of bars a language, one bar a system, with 95 % intervals.

    Args:
        results: `system name -> result`.
        measure: name as in the results, such as `RR@10`.
        colours: of the systems.
        name: before the ids inside, so that two charts of one page share none.

    Returns:
        An `<svg>` element.

    Raises:
        ValueError: for no results, or a result without the measure.
    """
    columns = _columns(results, measure)
    rows = {label: {name: result.scores[measure].get(name) for name in columns} for label, result in results.items()}
    return _grouped_bars(rows, list(columns), colours, name, f"{display_name(measure)} by language")


def gap_bars(gaps: Mapping[str, Mapping[str, Difference]], colours: Mapping[str, str], name: str = "gap") -> str:
    """Draw how far systems are from the teacher, by language, with paired 95 % intervals.

    Args:
        gaps: `label -> language -> Difference`, negative where the teacher is ahead.
        colours: of the systems.
        name: as in `language_bars`.
    """
    names = list(dict.fromkeys(name for rows in gaps.values() for name in rows))
    ordered = [*sorted(name for name in names if name != AVERAGE), AVERAGE]
    rows = {label: {name: found.get(name) for name in ordered} for label, found in gaps.items()}
    return _grouped_bars(rows, ordered, colours, name, "distance to the teacher by language")


def rank_change_bars(changes: Sequence[int], name: str = "ranks") -> str:
    """Draw a histogram of `details.rank_changes`; questions that stayed where they were have no bar.

    Args:
        changes: places that each question rose (above 0) or fell.
        name: as in `language_bars`.
    """
    values = np.array(changes, dtype=float)
    counts = [int(np.count_nonzero((values >= low) & (values <= high))) for low, high in BINS]
    figure = _figure(3.0)
    axes = figure.subplots()
    places = [place + (0.6 if place >= len(BINS) // 2 else 0.0) for place in range(len(BINS))]
    bars = axes.bar(places, counts, 0.86, color=[WORSE] * 4 + [BETTER] * 4)
    axes.bar_label(bars, [str(count) for count in counts], color=INK, fontsize=10, padding=2)
    axes.set_xticks(places, BIN_NAMES)
    axes.set_xlabel("← places down  places up →", color=INK, fontsize=11)
    axes.set_ylabel("questions", color=INK, fontsize=11)
    axes.locator_params(axis="y", integer=True)
    axes.set_ylim(0, max(1.0, max(counts) * 1.15))
    _style(axes, "y")
    return _svg(figure, name, "histogram of rank changes")


def _grouped_bars(
    rows: Mapping[str, Mapping[str, Score | Difference | None]],
    names: Sequence[str],
    colours: Mapping[str, str],
    name: str,
    described: str,
) -> str:
    """Draw horizontal bars, the first language on top, the average apart below; a missing cell leaves its place empty."""
    thickness = 0.84 / len(rows)
    tops = np.arange(len(names), dtype=float)
    tops[-1] += 0.35
    figure = _figure(0.7 + len(names) * (0.16 + 0.15 * len(rows)))
    axes = figure.subplots()
    for index, (label, cells) in enumerate(rows.items()):
        drawn = [(top, cells[key]) for top, key in zip(tops, names, strict=True) if cells[key] is not None]
        y = [top + (index - (len(rows) - 1) / 2) * thickness for top, _ in drawn]
        found = [cell for _, cell in drawn if cell is not None]
        means = [cell.mean for cell in found]
        # A skewed bootstrap can put the mean on an end, and rounding a hair beyond it: matplotlib refuses negatives.
        errors = [[max(0.0, c.mean - c.low) for c in found], [max(0.0, c.high - c.mean) for c in found]]
        style = {"elinewidth": 1.1, "capsize": 2.2, "capthick": 1.1, "ecolor": INK}
        axes.barh(y, means, thickness * 0.9, xerr=errors, color=colours[label], error_kw=style)
    axes.set_yticks(tops, names)
    axes.invert_yaxis()
    axes.axhline((tops[-1] + tops[-2]) / 2 if len(tops) > 1 else tops[0], color=LINE, linewidth=1.0, linestyle=":")
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.margins(y=0.02)
    if not any(cell is not None and cell.low < 0 for cells in rows.values() for cell in cells.values()):
        axes.set_xlim(left=0.0)  # bars start at zero, or their lengths lie
    _style(axes, "x")
    return _svg(figure, name, described)


def _figure(height: float) -> "Figure":
    from matplotlib.figure import Figure  # half a second, and tables need none of it; without pyplot no display either

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _style(axes: "Axes", grid: str) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=LINE, linewidth=0.7)  # type: ignore[arg-type]
    axes.tick_params(colors=INK, labelsize=11, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)


def _svg(figure: "Figure", name: str, described: str) -> str:
    """Write a figure as one element with ids of its own, no fixed size, and the page's font and colours."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL
    )  # its rules are the page's too
    svg = re.sub(
        r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>",
        rf'<svg viewBox="\1" role="img" aria-label="{described}">',
        svg,
        count=1,
    )
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    return svg.replace(INK, "currentColor").replace(LINE, "var(--line)")
