"""`drdecr report`: one page of finished pipelines and files of results."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from drdecr.evaluation.details import Details
from drdecr.evaluation.html_report import Source, render_report
from drdecr.evaluation.results import EvaluationResult

from .measuring import file_names
from .run_folder import write_text

DETAILS = "by_question.json"
"""In a pipeline's results; no system's file has an underscore in its name."""


def write_report(sources: Sequence[Path], output: Path, title: str = "Retrieval report") -> Path:
    """Write the page.

    Args:
        sources: folders of pipelines that were measured, and files that `drdecr evaluate --output` wrote. Of several such
            files over the same questions, the first is what the others are compared with.
        output: file to write.
        title: of the page.

    Returns:
        The file.

    Raises:
        ValueError: for a folder without results, a file that holds something else, or sources of one name.
        FileNotFoundError: for a file that is not there.
    """
    found = [read_folder(path) if path.is_dir() else read_result(path) for path in sources]
    write_text(output, render_report(_against_the_first(found), title))
    return output


def read_folder(folder: Path) -> Source:
    """Read what a pipeline left in its folder."""
    file = folder / "results" / DETAILS
    if not file.exists():
        raise ValueError(
            f"{folder}: expected a pipeline's folder with results/{DETAILS}, which is written when it is measured. Run "
            "`drdecr distil` on it again; what is trained is not trained again."
        )
    details = Details.from_json(file)
    names = file_names(details.systems)
    results = {
        label: EvaluationResult.from_json(folder / "results" / f"{names[label]}.json") for label in details.systems
    }
    return Source(folder.resolve().name, results, details)


def details_file(result: Path) -> Path:
    """Return where the details of a file of results stand."""
    return result.with_suffix(".details.json")


def read_result(file: Path) -> Source:
    """Read what `drdecr evaluate --output` wrote, and the details beside it, if they are there."""
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: expected a pipeline's folder, or a file that `drdecr evaluate --output` wrote, got nothing. Check the path."
        )
    result = EvaluationResult.from_json(file)
    label = str(result.metadata.get("model", file.stem))
    beside = details_file(file)
    return Source(file.stem, {label: result}, Details.from_json(beside) if beside.exists() else None)


def _against_the_first(sources: list[Source]) -> list[Source]:
    """Let the first file of results be the baseline of the others that asked the same questions."""
    if len(sources) < 2 or any(source.details is None or len(source.details.systems) > 1 for source in sources):
        return sources
    first = sources[0].details
    found = [sources[0]]
    for source in sources[1:]:
        details = source.details
        if details is None or first is None or set(first.languages) != set(details.languages):
            found.append(source)
            continue
        # Labels of one model's files are alike; the name of the file tells them apart.
        label = first.system if first.system != details.system else f"{sources[0].name}: {first.system}"
        before = first.ranks[first.system]
        failures = [replace(failure, baseline_rank=before.get(failure.query_id)) for failure in details.failures]
        ranks = {label: before, **details.ranks}
        found.append(replace(source, details=replace(details, baseline=label, ranks=ranks, failures=failures)))
    return found
