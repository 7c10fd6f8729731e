"""The page of a pipeline's run: what its systems found, gathered from what the measurement left behind."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drdecr.data.schema import QuestionSet
from drdecr.evaluation.failures import (
    Failure,
    Ranks,
    clearest_question,
    collect_failures,
    first_ranks,
    worst_of_each_language,
    write_failures,
)
from drdecr.evaluation.metrics import display_name
from drdecr.evaluation.plots import plot_intervals
from drdecr.evaluation.report_page import Report, TokenAlignment, render_report
from drdecr.evaluation.results import Comparison, compare
from drdecr.evaluation.runs import read_run
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.matched_tokens import TextTokens, read_query
from drdecr.trainers.alignment import pair_tokens

from .measuring import KEPT, Measured, file_names, load_reader
from .recipe import Recipe
from .run_folder import write_text
from .validation import MEASURE

if TYPE_CHECKING:
    from .pipeline import Pipeline


def write_report(
    pipeline: "Pipeline", recipes: Mapping[str, Recipe], sets: list[QuestionSet], measured: Measured
) -> Path:
    """Write `report.html` into a pipeline's folder, with the pictures and `failures.jsonl` that belong to it.

    Args:
        pipeline: that was measured.
        recipes: of its stages, by name.
        sets: the test sets.
        measured: what each system scored.

    Returns:
        The page's path.
    """
    output = Path(pipeline.output)
    student, first = pipeline.student_label, pipeline.systems[0].label
    baseline = first if first != student else None
    teacher = next((row for row in pipeline.systems if row.reads == "english" and row.label != student), None)
    distances = teacher_distances(measured, teacher.label, student, baseline) if teacher else {}
    pictures = {"results": output / "results.png", "distance": output / "distance.png"}
    if teacher:
        rows = {label: comparison.differences[MEASURE] for label, comparison in distances.items()}
        systems = [row.label for row in pipeline.systems]
        plot_intervals(rows, pictures["distance"], f"{display_name(MEASURE)} minus the teacher's", order=systems)
    pictures |= {name: output / f"curves-{name}.png" for name in pipeline.stages}
    failures, ranks = run_failures(pipeline, sets, student, baseline)
    write_failures(failures, output / "failures.jsonl")
    row = clearest_question(sets, ranks[student], ranks.get(first, {}), KEPT) if teacher and ranks else None
    report = Report(
        title=pipeline.card.get("title", "Retrieval report"),
        results=measured.results,
        measure=MEASURE,
        student=student,
        baseline=baseline,
        teacher=teacher.label if teacher else None,
        gain=measured.comparisons[first] if baseline else None,
        distances=distances,
        failures=worst_of_each_language(failures),
        num_failures=len(failures),
        num_questions=len(ranks.get(student, ())),
        alignment=align_question(output, recipes[pipeline.student], recipes[teacher.stage], row)
        if teacher and row
        else None,
        pictures={name: path for name, path in pictures.items() if path.exists()},
    )
    write_text(output / "report.html", render_report(report))
    return output / "report.html"


def teacher_distances(measured: Measured, teacher: str, student: str, baseline: str | None) -> dict[str, Comparison]:
    """Compare baseline and student with the teacher, question by question: `system -> system minus teacher`."""
    average = measured.results[teacher].metadata["average_over"]
    scores = {label: {MEASURE: measured.scores[label][MEASURE]} for label in (teacher, student, baseline) if label}
    return {
        label: compare(
            scores[teacher], scores[label], measured.languages, average_over=None if average == "all" else average
        )
        for label in (baseline, student)
        if label and label != teacher
    }


def run_failures(
    pipeline: "Pipeline", sets: list[QuestionSet], student: str, baseline: str | None
) -> tuple[list[Failure], dict[str, Ranks]]:
    """Read back what student and baseline found.

    Returns:
        The student's failures, and the ranks of the first right passages by system; nothing where no run could be kept.
    """
    names = file_names([row.label for row in pipeline.systems])
    files = {label: Path(pipeline.output) / "results" / f"{names[label]}.run" for label in (student, baseline) if label}
    if not all(file.exists() for file in files.values()):
        return [], {}
    runs = {label: read_run(file) for label, file in files.items()}
    ranks = {
        label: {query_id: rank for found in sets for query_id, rank in first_ranks(found, run, KEPT).items()}
        for label, run in runs.items()
    }
    before = ranks[baseline] if baseline else None
    failures = [row for found in sets for row in collect_failures(found, runs[student], ranks[student], before)]
    return failures, ranks


def align_question(output: Path, student: Recipe, teacher: Recipe, row: Mapping[str, Any]) -> TokenAlignment | None:
    """Pair a question's tokens, by the student, with those of its English, by the teacher; read back if known already.

    Args:
        output: folder of the pipeline's run, where the alignment is kept.
        student: recipe of the stage that reads `query`.
        teacher: recipe of the stage that reads `english`.
        row: of a question set.

    Returns:
        Tokens, cosines and pairs; None for models whose tokens are of another width.
    """
    file = output / "results" / "alignment.json"
    runs = [(recipe.folder / "run.json").read_text(encoding="utf-8") for recipe in (student, teacher)]
    key = hashlib.sha256(json.dumps([row["query"], row["english"], *runs]).encode()).hexdigest()
    if file.exists() and (content := json.loads(file.read_text(encoding="utf-8")))["key"] == key:
        return content["alignment"] and TokenAlignment(**content["alignment"])
    models = [load_reader(str(recipe.model_folder)) for recipe in (student, teacher)]
    alignment = align_texts(*models, row["language"], row["query"], row["english"])
    write_text(file, json.dumps({"key": key, "alignment": alignment and asdict(alignment)}, ensure_ascii=False))
    return alignment


def align_texts(
    student: DrDecrModel, teacher: DrDecrModel, language: str, query: str, english: str
) -> TokenAlignment | None:
    """Pair the tokens that stand for a question's text with those of its English, as the trainers do."""
    own, other = read_query(student, query), read_query(teacher, english)
    if own.embeddings.shape[-1] != other.embeddings.shape[-1]:
        return None
    cosines, partners = pair_tokens(*(tokens.embeddings[tokens.in_text] for tokens in (own, other)))
    rounded = [[round(value, 4) for value in line] for line in cosines.tolist()]
    return TokenAlignment(language, query, english, token_texts(own), token_texts(other), rounded, partners.tolist())


def token_texts(tokens: TextTokens) -> list[str]:
    """Return the characters that each token of a text stands for; an empty box where they are blank."""
    return [tokens.text[slice(*span)].strip() or "▫" for span in tokens.spans if span is not None]
