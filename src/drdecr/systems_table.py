"""Compared systems as people look at them: one Markdown table, the same as JSON, and what each found as a TREC run."""

import logging
from pathlib import Path

import numpy as np

from drdecr.evaluation.json_files import write_json
from drdecr.evaluation.metrics import display_name
from drdecr.evaluation.report import NO_CELL, markdown_rows
from drdecr.evaluation.results import Comparison
from drdecr.evaluation.runs import check_words, write_qrels, write_run

from .comparing_systems import BATCH, MEASURES, ComparedSystems
from .measuring import file_names, ids_of
from .run_folder import write_text
from .watched_systems import PARTS

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


def write_systems(compared: ComparedSystems, output: Path) -> Path:
    """Write `systems.md`, `systems.json`, and each system's run with the judgements, into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        check_words(ids_of([compared.questions]))
        write_qrels(output / "systems.qrels", compared.questions.qrels)
        for label, name in file_names(list(compared.runs)).items():
            write_run(output / f"{name}.run", compared.runs[label], tag=name)
    except ValueError as error:  # an id that the form has no place for costs the runs, not the figures
        logger.warning("No run files are kept. %s", error)
    rows = {
        label: {
            "scores": {name: vars(result.scores[name]["avg"]) for name in MEASURES},
            "gain": vars(compared.comparisons[label].differences[MEASURES[0]]["avg"])
            if label in compared.comparisons
            else None,
            "wall_seconds": compared.wall[label],
            "processor_seconds_a_question": compared.processor[label],
            "bytes": compared.num_bytes[label],
        }
        for label, result in compared.results.items()
    }
    write_json(output / "systems.json", {"systems": rows, "metadata": compared.metadata})
    write_text(output / "systems.md", markdown_systems(compared))  # last: it says that all is there
    return output / "systems.md"
