"""Pictures as PNG: means with their intervals by language, heat maps, and the curves of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from drdecr.data.languages import language_name

from .results import AVERAGE, Difference, Score
from .significance import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#444444", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00")
"""Dark grey for the starting point and five of Okabe and Ito's palette: colour-blind readers tell all apart."""

MARKERS = "osD^v"
"""Of the first six systems, the next six and so on."""

CURVES_LEFT_OUT = ("epoch", "step", "learning_rate", "total_flos", "train_loss")
CURVE_ENDINGS_LEFT_OUT = ("runtime", "per_second", "_time")


def plot_intervals(
    rows: Mapping[str, Mapping[str, Score | Difference]],
    path: str | Path,
    label: str,
    title: str | None = None,
    order: Sequence[str] = (),
) -> Path:
    """Draw each system's mean and 95 % interval, one group a language, the average last.

    The axis starts where the lowest interval does, since a dot's place and not its distance from zero is read. Of
    differences it holds zero, marked by a line.

    Args:
        rows: `system -> language or "avg" -> Score or Difference`; a language may be missing.
        path: PNG to write; its folder must exist.
        label: of the axis, such as `MRR@10`.
        title: above the picture; default: none.
        order: all systems of a run, so that each has one colour in all its pictures; default: those of `rows`.

    Returns:
        The path written.
    """
    from matplotlib.figure import Figure  # half a second, and tables need none of it; without pyplot no display either

    languages = ordered_languages(rows.values())
    figure = Figure(figsize=(5.0, 1.1 + 0.17 * len(rows) + len(languages) * (0.2 + 0.11 * len(rows))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    draw_intervals(axes, rows, languages, order or list(rows))
    axes.set_xlabel(f"{label}, 95 % interval", fontsize=10)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, wrap=True)
    figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=9)
    figure.savefig(path, dpi=200)
    return Path(path)


def ordered_languages(rows: Any) -> dict[str, int]:
    """Return the languages of any system, sorted by name, the average last, each with n of the first that has it.

    Args:
        rows: of each system, `language or "avg" -> Score or Difference`.
    """
    counts: dict[str, int] = {}
    for by_language in rows:
        for code, row in by_language.items():
            counts.setdefault(code, row.n)
    return {code: counts[code] for code in sorted(counts, key=lambda code: (code == AVERAGE, language_name(code)))}


def draw_intervals(
    axes: "Axes",
    rows: Mapping[str, Mapping[str, Score | Difference]],
    languages: Mapping[str, int],
    order: Sequence[str],
) -> None:
    """Draw a dot and a line for each system and language; a missing one leaves its place empty."""
    places = np.arange(len(languages), dtype=float)
    step = 0.72 / len(rows)
    drawn = []
    for number, (system, by_language) in enumerate(rows.items()):
        cells = [
            (place, by_language[code]) for place, code in zip(places, languages, strict=True) if code in by_language
        ]
        y = [place + (number - (len(rows) - 1) / 2) * step for place, _ in cells]
        turn, hue = divmod(order.index(system), len(COLOURS))
        colour, marker = COLOURS[hue], MARKERS[turn % len(MARKERS)]
        axes.hlines(y, [cell.low for _, cell in cells], [cell.high for _, cell in cells], color=colour, linewidth=1.6)
        axes.plot([cell.mean for _, cell in cells], y, marker, color=colour, markersize=4.5, label=system)
        drawn += [cell for _, cell in cells]
    for place in places[::2]:
        axes.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
    if any(isinstance(cell, Difference) for cell in drawn):
        axes.axvline(0.0, color="#222222", linewidth=0.9, zorder=1)
    names = ["average" if code == AVERAGE else language_name(code) for code in languages]
    axes.set_yticks(
        places, [f"{name}\nn = {n:,}" for name, n in zip(names, languages.values(), strict=True)], fontsize=9
    )
    axes.set_ylim(len(languages) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=6)
    axes.tick_params(length=0, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.spines[:].set_visible(False)


@dataclass(frozen=True)
class HeatMap:
    """One panel of a picture.

    Attributes:
        title: above the panel.
        values: `(rows, columns)`.
        rows: names, from above.
        columns: names, from the left.
        top: value of the darkest colour; white is zero.
        digits: behind the point.
    """

    title: str
    values: Floats
    rows: Sequence[str]
    columns: Sequence[str]
    top: float
    digits: int


def plot_heat_maps(panels: Sequence[Sequence[HeatMap]], path: str | Path, row_label: str, column_label: str) -> Path:
    """Draw heat maps of like size, with the value in each cell.

    Args:
        panels: lines of heat maps, as they stand in the picture.
        path: PNG to write; its folder must exist.
        row_label: beside the rows of each.
        column_label: below the columns of each.

    Returns:
        The path written.
    """
    from matplotlib.figure import Figure

    size = 1.4 + 0.75 * len(panels[0][0].columns)  # inches a panel
    figure = Figure(figsize=(len(panels[0]) * size + 0.6, len(panels) * size + 0.5), layout="constrained")
    grid = figure.subplots(len(panels), len(panels[0]), squeeze=False)
    for axes, panel in zip(grid.flat, [panel for line in panels for panel in line], strict=True):
        axes.imshow(panel.values, cmap="Blues", vmin=0.0, vmax=max(panel.top, 1e-9))
        axes.set_xticks(range(len(panel.columns)), panel.columns)
        axes.set_yticks(range(len(panel.rows)), panel.rows)
        axes.set_xlabel(column_label)
        axes.set_ylabel(row_label)
        axes.set_title(panel.title, fontsize=11, loc="left")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(panel.values):
            colour = "white" if value > 0.6 * panel.top else "black"
            text = f"{value:.{panel.digits}f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)
    figure.savefig(path, dpi=150)
    return Path(path)


def draw_curves(log: list[dict[str, Any]], path: Path, title: str) -> Path:
    """Draw one small panel a figure of the log, training and evaluation in one where both have it.

    Args:
        log: lines with `step`, as the Trainer keeps them.
        path: of the PNG.
        title: over the panels.
    """
    from matplotlib.figure import Figure  # half a second; without pyplot no display either
    from matplotlib.ticker import MaxNLocator

    series = collect_series(log)
    if not series:
        return path
    panels = sorted({name.removeprefix("eval_") for name in series})
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = 4.2 * columns, 2.6 * rows + 0.4
    figure = Figure(figsize=(width, height))
    # Margins in inches: finding them by drawing takes longer than all the rest.
    figure.subplots_adjust(
        left=0.55 / width,
        right=1 - 0.15 / width,
        bottom=0.45 / height,
        top=1 - 0.65 / height,
        wspace=0.2,
        hspace=0.45,
    )
    for number, name in enumerate(panels):
        panel = figure.add_subplot(rows, columns, number + 1)
        for label, key, colour in (("training", name, "#0072B2"), ("validation", f"eval_{name}", "#D55E00")):
            if key in series:
                steps, values = series[key]
                panel.plot(
                    steps, values, label=label, color=colour, marker="o" if len(steps) < 12 else None, markersize=3
                )
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(5))
        panel.tick_params(labelsize=7)
        panel.legend(fontsize=7)
    figure.suptitle(title, y=1 - 0.1 / height)
    figure.savefig(path, dpi=120)
    return path


def collect_series(log: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return `{name: (steps, values)}` of all figures that are worth a curve."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in log:
        for name, value in line.items():
            if name in CURVES_LEFT_OUT or name.endswith(CURVE_ENDINGS_LEFT_OUT) or not isinstance(value, int | float):
                continue
            steps, values = series.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return series
