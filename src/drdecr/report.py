"""`drdecr report`: one page of finished pipelines and files of results."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from drdecr.evaluation.details import Details
from drdecr.evaluation.html_report import Source, renamed, render_report
from drdecr.evaluation.results import Difference, EvaluationResult, compare

from .measuring import file_names
from .run_folder import write_text

logger = logging.getLogger(__name__)

DETAILS = "by_question.json"
"""In a pipeline's results; no system's file has an underscore in its name."""


def write_report(
    sources: Sequence[Path], output: Path, title: str = "Retrieval report", teacher: Path | None = None
) -> Path:
    """Write the page.

    Args:
        sources: folders of pipelines that were measured, and files that `drdecr evaluate --output` wrote. Of several such
            files over the same questions, the first is what the others are compared with.
        output: file to write.
        title: of the page.
        teacher: file of results, one of the sources or another, that the other files' distances are measured to. It has
            its place in the tables, and no sections of its own.

    Returns:
        The file.

    Raises:
        ValueError: for a folder without results, a file that holds something else, or sources of one name; for a teacher
            whose scores are not kept, or of other questions than every other file.
        FileNotFoundError: for a file that is not there.
    """
    paths = list(sources)
    if teacher is not None and teacher.is_dir():
        raise ValueError(
            f"{teacher}: expected a teacher's file of `drdecr evaluate --output`, got a folder. A pipeline's folder brings its "
            "own teacher."
        )
    if teacher is not None and teacher.resolve() not in [path.resolve() for path in paths]:
        paths.append(teacher)
    names = last_parts([str(path.with_suffix("")) for path in paths if not path.is_dir()], least=1)
    found = _with_short_labels(
        [
            read_folder(path) if path.is_dir() else replace(read_result(path), name=names[str(path.with_suffix(""))])
            for path in paths
        ]
    )
    if teacher is None:
        found = _against_the_first(found)
    else:
        place = [path.resolve() for path in paths].index(teacher.resolve())
        upper = found.pop(place)
        found = _to_the_teacher(_against_the_first(found), upper)
        found.insert(place, replace(upper, details=None))
    write_text(output, render_report(found, title))
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


def last_parts(paths: Iterable[str], least: int = 2) -> dict[str, str]:
    """Return of each path so many of its last parts, but not fewer than `least`, as tell it from the others.

    >>> last_parts(["/runs/a/student/model", "/runs/b/student/model", "user/name"])
    {'/runs/a/student/model': 'a/student/model', '/runs/b/student/model': 'b/student/model', 'user/name': 'user/name'}
    """
    parts = {path: [part for part in PurePath(path).parts if part != PurePath(path).anchor] for path in paths}
    short: dict[str, str] = {}
    for number in range(least, max([least, *map(len, parts.values())]) + 1):
        short = {path: "/".join(found[-number:]) or path for path, found in parts.items()}
        if len(set(short.values())) == len(short):
            break
    return short


def _with_short_labels(sources: Sequence[Source]) -> list[Source]:
    """Name each file's system by the last parts of its path, and by the file's own name too where two are one model's."""
    models = [str(result.metadata["model"]) for source in sources for result in _of_a_file(source)]
    short = last_parts(models)
    labels = [short[model] for model in models]
    found = []
    for source in sources:
        for result in _of_a_file(source):
            label = short[str(result.metadata["model"])]
            new = f"{source.name}: {label}" if labels.count(label) > 1 else label
            source = renamed(source, {next(iter(source.results)): new})
        found.append(source)
    return found


def _of_a_file(source: Source) -> list[EvaluationResult]:
    """Return the result of a source that is a file of results; none of a pipeline's folder, whose labels are words."""
    return [result for result in source.results.values() if "model" in result.metadata]


def _asked(source: Source) -> tuple[Any, set[str]]:
    """Return what two files of results must have in common to be compared question by question."""
    (result,) = source.results.values()
    return result.metadata.get("data_version"), set(source.details.languages if source.details else ())


def _against_the_first(sources: list[Source]) -> list[Source]:
    """Let the first file of results be the baseline of the others that asked the same questions."""
    if len(sources) < 2 or any(source.details is None or len(source.details.systems) > 1 for source in sources):
        return sources
    first = sources[0].details
    found = [sources[0]]
    for source in sources[1:]:
        details = source.details
        if details is None or first is None or _asked(sources[0]) != _asked(source):
            found.append(source)
            continue
        before = first.ranks[first.system]
        failures = [replace(failure, baseline_rank=before.get(failure.query_id)) for failure in details.failures]
        ranks, scores = {**first.ranks, **details.ranks}, {**first.scores, **details.scores}
        new = replace(details, baseline=first.system, ranks=ranks, scores=scores, failures=failures)
        found.append(replace(source, details=new))
    return found


def _to_the_teacher(sources: list[Source], teacher: Source) -> list[Source]:
    """Give the sources that asked what the teacher was asked their distance to it, by language."""
    upper = teacher.details
    if upper is None or not upper.scores.get(upper.system):
        raise ValueError(
            f"{teacher.name}: expected a teacher's file of `drdecr evaluate --output`, with the scores of each question in "
            f"{teacher.name}.details.json beside it, got none. Measure the teacher again."
        )
    (result,) = teacher.results.values()
    # What the others are compared with stands beside them in their charts and has none of its own.
    baselines = {source.details.baseline for source in sources if source.details}
    found = []
    for source in sources:
        details = source.details
        if details is not None and len(details.systems) == 1 and details.system not in baselines:
            gaps = _gaps(details, upper, result.metadata["average_over"]) if _asked(source) == _asked(teacher) else {}
            if details.system in gaps:
                source = replace(source, details=replace(details, teacher=upper.system, gaps=gaps))
            else:
                logger.warning("%s: no distance to the teacher, which was asked or measured otherwise.", source.name)
        found.append(source)
    if not any(source.details and source.details.teacher == upper.system for source in found):
        raise ValueError(
            f"{teacher.name}: expected a teacher that was asked the same questions over the same passages as another file, "
            "got none. Measure both on one YAML with `drdecr evaluate --output`."
        )
    return found


def _gaps(details: Details, teacher: Details, average_over: list[str] | str) -> dict[str, dict[str, Difference]]:
    """Return system minus teacher, by label and language, of those whose scores in the measure are kept."""
    name = details.measure
    best = teacher.scores[teacher.system].get(name)
    if best is None:
        return {}
    average = None if isinstance(average_over, str) else average_over
    return {
        label: compare({name: best}, {name: own[name]}, details.languages, average_over=average).differences[name]
        for label, own in details.scores.items()
        if name in own
    }
