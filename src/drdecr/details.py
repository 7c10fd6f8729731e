"""What a report shows of one question after the other: gathered while the test sets are at hand, kept beside the results."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from drdecr.data.schema import QuestionSet
from drdecr.evaluation.details import Details, Ranks, TokenAlignment
from drdecr.evaluation.failures import collect_failures, first_ranks, worst_of_each_language
from drdecr.evaluation.metrics import PerQuery, Run
from drdecr.evaluation.results import Difference, compare
from drdecr.evaluation.runs import read_run
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.trainers.alignment import pair_tokens

from . import __version__
from .measuring import KEPT, Measured, file_names, load_reader
from .recipe import Recipe
from .report import DETAILS
from .validation import MEASURE

if TYPE_CHECKING:
    from .pipeline import Pipeline

ALIGNED_CHARACTERS = 70
"""A question whose tokens are shown side by side is not longer, so that the picture fits."""


def keep_details(
    pipeline: "Pipeline", recipes: Mapping[str, Recipe], sets: list[QuestionSet], measured: Measured
) -> bool:
    """Write what `pipeline_details` gathers into the results, unless it is there already; tell whether it is there."""
    folder = Path(pipeline.output) / "results"
    names = file_names([row.label for row in pipeline.systems]).values()
    keys = [json.loads((folder / f"{name}.scores.json").read_text(encoding="utf-8"))["key"] for name in names]
    made_of = hashlib.sha256(json.dumps([__version__, pipeline.student, keys]).encode()).hexdigest()
    file = folder / DETAILS
    if file.exists() and json.loads(file.read_text(encoding="utf-8")).get("made_of") == made_of:
        return True
    details = pipeline_details(pipeline, recipes, sets, measured)
    if details is None:
        file.unlink(missing_ok=True)
        return False
    replace(details, made_of=made_of).to_json(file)
    return True


def pipeline_details(
    pipeline: "Pipeline", recipes: Mapping[str, Recipe], sets: list[QuestionSet], measured: Measured
) -> Details | None:
    """Gather what the student found on each question, beside the first system and the teacher that reads English.

    Args:
        pipeline: whose folder holds the runs.
        recipes: of its stages.
        sets: the test sets.
        measured: what was found on average.

    Returns:
        The details; None where no run could be kept (ids with blanks).
    """
    labels = [row.label for row in pipeline.systems]
    system, baseline = pipeline.student_label, labels[0]
    teacher = next((row for row in pipeline.systems if row.reads == "english" and row.label != system), None)
    chosen = list(dict.fromkeys([baseline, system]))
    names = file_names(labels)
    files = {label: Path(pipeline.output) / "results" / f"{names[label]}.run" for label in chosen}
    if not all(file.exists() for file in files.values()):
        return None
    runs = {label: read_run(file) for label, file in files.items()}
    ranks = {label: _ranks(sets, run, KEPT) for label, run in runs.items()}
    failures = _failures(sets, runs[system], ranks[system], ranks[baseline] if baseline != system else None)
    alignment = None
    if teacher is not None and (row := clearest_question(sets, ranks[system], ranks[baseline])):
        models = [str(recipes[name].model_folder) for name in (pipeline.student, teacher.stage)]
        alignment = align_question(load_reader(models[0]), load_reader(models[1]), row)
    return Details(
        systems=labels,
        system=system,
        baseline=baseline if baseline != system else None,
        teacher=teacher.label if teacher else None,
        measure=MEASURE,
        depth=KEPT,
        languages={query_id: code for found in sets for query_id, code in found.languages.items()},
        ranks=ranks,
        gaps=_gaps(measured, teacher.label, chosen) if teacher else {},
        gains=measured.comparisons[baseline].differences[MEASURE] if baseline != system else {},
        failures=worst_of_each_language(failures),
        num_failures=len(failures),
        alignment=alignment,
    )


def set_details(label: str, sets: list[QuestionSet], run: Run, depth: int, scores: PerQuery | None = None) -> Details:
    """Gather what one system found; arguments as in `Details`, `scores` of this system."""
    scores = scores or {}
    ranks = _ranks(sets, run, depth)
    failures = _failures(sets, run, ranks, None)
    return Details(
        systems=[label],
        system=label,
        measure=MEASURE if MEASURE in scores else next(iter(scores), MEASURE),
        depth=depth,
        languages={query_id: code for found in sets for query_id, code in found.languages.items()},
        ranks={label: ranks},
        scores={label: scores},
        failures=worst_of_each_language(failures),
        num_failures=len(failures),
    )


def clearest_question(sets: Iterable[QuestionSet], ranks: Ranks, baseline_ranks: Ranks) -> dict[str, Any] | None:
    """Choose a short question in another language that the system has right and the baseline, if possible, has not."""
    rows: Iterable[Any] = chain.from_iterable(found.questions for found in sets)
    usable = [
        row
        for row in rows
        if row.get("english")
        and row["language"] != "en"
        and row["query"] != row["english"]
        and max(len(row["query"]), len(row["english"])) <= ALIGNED_CHARACTERS
        and row["query_id"] in ranks
    ]

    def clearness(row: Mapping[str, Any]) -> tuple[int, int, str]:
        query_id = row["query_id"]
        return -(ranks[query_id] or KEPT + 1), baseline_ranks.get(query_id) or KEPT + 1, query_id

    return max(usable, key=clearness, default=None)


@torch.no_grad()
def align_question(student: DrDecrModel, teacher: DrDecrModel, row: Mapping[str, Any]) -> TokenAlignment | None:
    """Pair the tokens that the student has for a question with those that the teacher has for its English.

    Args:
        student: reads `query`.
        teacher: reads `english`.
        row: of a question set.

    Returns:
        Tokens, cosines and the pairs of the greedy alignment; None for spaces of another width, which do not compare.
    """
    query_tokens, query = _text_tokens(student, row["query"])
    english_tokens, english = _text_tokens(teacher, row["english"])
    if query.shape[-1] != english.shape[-1]:
        return None
    cosines, partners = pair_tokens(query, english)  # (query tokens, English tokens), (query tokens,)
    return TokenAlignment(
        query_id=row["query_id"],
        language=row["language"],
        query=row["query"],
        english=row["english"],
        query_tokens=query_tokens,
        english_tokens=english_tokens,
        cosines=[[round(value, 4) for value in line] for line in cosines.T.tolist()],
        pairs=[[partner, place] for place, partner in enumerate(partners.tolist()) if partner >= 0],
    )


def _text_tokens(model: DrDecrModel, text: str) -> tuple[list[str], torch.Tensor]:
    """Return the tokens of a text as people read them, and their embeddings `(tokens, dim)`."""
    batch = model.processor.process_queries([text]).to(model.device)
    counts = batch["text_mask"][0].cpu()
    embeddings = model.eval()(**batch).embeddings[0].float().cpu()[counts]
    tokenizer = model.processor.tokenizer
    ids = batch["input_ids"][0].cpu()[counts].tolist()
    return [tokenizer.decode([number]).strip() or "␣" for number in ids], embeddings


def _ranks(sets: Iterable[QuestionSet], run: Run, depth: int) -> Ranks:
    return {query_id: rank for found in sets for query_id, rank in first_ranks(found, run, depth).items()}


def _failures(sets: Iterable[QuestionSet], run: Run, ranks: Ranks, baseline: Ranks | None) -> list[Any]:
    found = []
    for questions in sets:
        own = {name: ranks[name] for name in questions.questions["query_id"] if name in ranks}
        found += collect_failures(questions, run, own, baseline)
    return found


def _gaps(measured: Measured, teacher: str, labels: Sequence[str]) -> dict[str, dict[str, Difference]]:
    facts = measured.results[teacher].metadata
    average = None if facts["average_over"] == "all" else facts["average_over"]
    known = {label: {MEASURE: measured.scores[label][MEASURE]} for label in [teacher, *labels]}
    return {
        label: compare(known[teacher], known[label], measured.languages, average_over=average).differences[MEASURE]
        for label in labels
    }
