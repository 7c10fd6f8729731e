"""The curves of a run: every loss term and every validation figure over the steps."""

from pathlib import Path
from typing import Any

LEFT_OUT = ("epoch", "step", "learning_rate", "total_flos", "train_loss")
LEFT_OUT_ENDINGS = ("runtime", "per_second", "_time")


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
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    return path


def collect_series(log: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return `{name: (steps, values)}` of all figures that are worth a curve."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for line in log:
        for name, value in line.items():
            if name in LEFT_OUT or name.endswith(LEFT_OUT_ENDINGS) or not isinstance(value, int | float):
                continue
            steps, values = series.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return series
