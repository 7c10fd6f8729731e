"""A pipeline: the stages of a folder one after the other, each measured on the same questions, and what people look at."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from drdecr.data.files import write_text
from drdecr.data.provenance import PeakMemory, environment, in_words, larger
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_questions
from drdecr.evaluation.evaluate import (
    PerQuery,
    _add,
    check_sets,
    content_digest,
    data_version,
    encode_passages,
    logger,
    query_column,
    search_questions,
)
from drdecr.evaluation.metrics import MEASURE, display_name, per_query_scores
from drdecr.evaluation.plots import plot_intervals
from drdecr.evaluation.report.failures import (
    Failure,
    Ranks,
    clearest_question,
    collect_failures,
    first_ranks,
    worst_of_each_language,
    write_failures,
)
from drdecr.evaluation.report.page import Report, TokenAlignment, render_report
from drdecr.evaluation.results import Comparison, EvaluationResult, compare, summarize
from drdecr.evaluation.runs import RUN_DEPTH, file_names, read_run, write_run
from drdecr.evaluation.tables import markdown_differences, markdown_table, terminal_table
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import ExactIndex
from drdecr.retrieval.encoder import load_encoder
from drdecr.retrieval.token_matches import TextTokens, read_query
from drdecr.trainers.alignment import pair_tokens

from .config import build_settings, read_yaml
from .model_card import write_model_card
from .recipe import EvaluatedSystem, Pipeline, Recipe, load_recipe
from .stage import run_stage


def load_pipeline(path: str | Path, output: str | None = None) -> Pipeline:
    """Read `pipeline.yaml` of a folder, or the file itself."""
    file = Path(path) / "pipeline.yaml" if Path(path).is_dir() else Path(path)
    pipeline = build_settings(Pipeline, read_yaml(file), str(file))
    pipeline.folder = file.parent
    pipeline.output = output or pipeline.output
    return pipeline


def run_pipeline(pipeline: Pipeline, overrides: list[str] | None = None, console: Console | None = None) -> Path:
    """Run what is not done yet, measure every system, and write tables, pictures, page and model card.

    Args:
        pipeline: the stages and the measurement.
        overrides: `--key value` for every stage (those that a stage does not know are an error).
        console: where progress and the table are shown.

    Returns:
        The folder of the student's model.
    """
    console = console or Console(stderr=True)
    output = Path(pipeline.output)
    # Recipes and test sets are read before the first stage, so that a mistake in the last does not cost a training.
    recipes = {name: stage_recipe(pipeline, name, overrides or []) for name in pipeline.stages}
    sets = [read_questions(entry) for entry in pipeline.test]
    check_sets(sets, [row.reads for row in pipeline.systems])
    unlabelled = next((questions.name for questions in sets if not questions.qrels), None)
    if unlabelled is not None:
        raise ValueError(
            f"test: expected labelled passages, {unlabelled!r} has answers alone. Measure it with `drdecr eval model`."
        )
    for number, (name, recipe) in enumerate(recipes.items(), start=1):
        console.rule(f"stage {number} of {len(pipeline.stages)}: {name}", align="left")
        run_stage(recipe)
        console.print(cost_of(recipe))
    measured = measure(pipeline, recipes, sets)
    write_tables(pipeline, measured)
    console.print(terminal_table(measured.results, MEASURE))
    student = recipes[pipeline.student].model_folder
    write_model_card(student, pipeline, recipes, measured.results, measured.comparisons[pipeline.systems[0].label])
    for name in pipeline.stages:
        curves = recipes[name].folder / "curves.png"
        if curves.exists():
            shutil.copyfile(curves, output / f"curves-{name}.png")
    write_report(pipeline, recipes, sets, measured)  # last: it takes nothing from model and card if it fails
    return student


def cost_of(recipe: Recipe) -> str:
    """Say what a stage took, as its `run.json` has it."""
    run = json.loads((recipe.folder / "run.json").read_text(encoding="utf-8"))
    return ", ".join(part for part in (f"{run['seconds']:,.1f} s", in_words(run)) if part)


def stage_recipe(pipeline: Pipeline, name: str, overrides: list[str]) -> Recipe:
    """Return a stage's recipe, its output inside the pipeline's, the pipeline's test sets held out of what it reads."""
    trained = read_yaml(pipeline.folder / f"{name}.yaml").get("stage") != "initialise"
    recipe = load_recipe(
        pipeline.folder / f"{name}.yaml", [*(overrides if trained else []), "--output", f"{pipeline.output}/{name}"]
    )
    if trained or recipe.projection_text:
        held_out = recipe.data.held_out
        recipe.data.held_out = [*held_out, *(entry for entry in pipeline.test if entry not in held_out)]
    return recipe


@dataclass
class PipelineResults:
    """What was found.

    Args:
        results: of each system, by its label.
        comparisons: the student against each other system, by that one's label; and against the first, whichever it is.
        scores: of each system, by its label, question by question.
        languages: of the questions, by their ids.
    """

    results: dict[str, EvaluationResult]
    comparisons: dict[str, Comparison]
    scores: dict[str, PerQuery]
    languages: dict[str, str]


def measure(pipeline: "Pipeline", recipes: Mapping[str, Recipe], sets: list[QuestionSet]) -> PipelineResults:
    """Measure every system on every test set, and the student against each other system by question."""
    languages = {query_id: code for questions in sets for query_id, code in questions.languages.items()}
    others = sorted(set(languages.values()) - {"en"}) or None
    results: dict[str, EvaluationResult] = {}
    scores: dict[str, PerQuery] = {}
    indexes: dict[tuple[str, str], ExactIndex] = {}
    digests = [content_digest(questions) for questions in sets]
    with logging_redirect_tqdm():  # what is logged stands above the bar
        for system in tqdm(pipeline.systems, desc="measuring", unit="system", disable=None):
            scores[system.label], facts = _score_system(system, recipes, sets, digests, pipeline, indexes)
            results[system.label] = summarize(
                scores[system.label],
                languages,
                collection=pipeline.collection,
                data_version=data_version(sets, digests),
                command=facts["command"],
                average_over=others,
                notes={"hardware": facts["hardware"], "git_commit": facts["git_commit"], **larger(facts, {})},
            )
    best = pipeline.student_label
    comparisons = {
        label: compare(by_query, scores[best], languages, average_over=others)
        for label, by_query in scores.items()
        if label != best or label == pipeline.systems[0].label
    }
    return PipelineResults(results, comparisons, scores, languages)


def _score_system(
    system: "EvaluatedSystem",
    recipes: Mapping[str, Recipe],
    sets: list[QuestionSet],
    digests: list[str],
    pipeline: "Pipeline",
    indexes: dict[tuple[str, str], ExactIndex],
) -> tuple[PerQuery, dict[str, Any]]:
    """Search every question with one system; scores of the same runs, system and test are read back from their file.

    An index is built once for all systems that search it, and kept in `indexes` by stage and set.

    Returns:
        The scores, and the environment in which they were made.
    """
    index_stage = system.index or system.stage
    runs = [(recipes[name].folder / "run.json").read_text(encoding="utf-8") for name in (system.stage, index_stage)]
    key = hashlib.sha256(json.dumps([asdict(system), runs, digests]).encode()).hexdigest()
    name = file_names([row.label for row in pipeline.systems])[system.label]
    file = Path(pipeline.output) / "results" / f"{name}.scores.json"
    if file.exists() and (cached := json.loads(file.read_text(encoding="utf-8")))["key"] == key:
        return cached["scores"], cached["environment"]
    logger.info("Measuring: %s.", system.label)
    memory = PeakMemory()
    model = load_encoder(str(recipes[system.stage].model_folder))
    scores: PerQuery = {}
    run: dict[str, dict[str, float]] = {}
    for questions in sets:
        place = (index_stage, questions.name)
        if place not in indexes:
            reader = model if index_stage == system.stage else load_encoder(str(recipes[index_stage].model_folder))
            indexes[place] = encode_passages(reader, questions)
        retrieved = search_questions(
            model, questions, indexes[place], query_column(questions, system.reads) or system.reads
        )
        run.update(retrieved)
        judged = questions.qrels
        _add(scores, per_query_scores({query_id: retrieved[query_id] for query_id in judged}, judged))
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_run(file.with_name(f"{name}.run"), run, tag=name, top_k=RUN_DEPTH)
    except ValueError as error:  # an id that the form has no place for costs the run, not the figures
        logger.warning("No run file of %s is kept. %s", system.label, error)
    facts = {**environment(), **memory.peaks}
    write_text(
        file, json.dumps({"key": key, "environment": facts, "scores": scores})
    )  # last: it says that all is there
    return scores, facts


def write_tables(pipeline: "Pipeline", measured: PipelineResults) -> None:
    """Write `results.md`, the files of each system and comparison, and the bar chart into the pipeline's folder."""
    output = Path(pipeline.output)
    facts = measured.results[pipeline.student_label].metadata
    commit = f", commit {facts['git_commit']}" if facts["git_commit"] else ""
    notes = (
        f"Collection: {pipeline.collection}. Questions: {facts['data_version']}. "
        f"Intervals: 95 %, percentile bootstrap, 10,000 resamples, seed 0. Measured by "
        f"`{facts['command']}` on {facts['hardware']}{commit}."
    )
    parts = ["# Results", notes]
    for name in (MEASURE, "R@10", "nDCG@10"):
        parts += [f"## {name.replace('RR', 'MRR')}", markdown_table(measured.results, name)]
    for label, comparison in measured.comparisons.items():
        parts += [f"## {pipeline.student_label} against {label}, paired", markdown_differences(comparison, MEASURE)]
    write_text(output / "results.md", "\n\n".join(parts) + "\n")
    names = file_names([row.label for row in pipeline.systems])
    for label, result in measured.results.items():
        result.to_json(output / "results" / f"{names[label]}.json")
    folder = output / "results" / "student_against"
    folder.mkdir(exist_ok=True)
    for label, comparison in measured.comparisons.items():
        comparison.to_json(folder / f"{names[label]}.json")
    rows = {label: result.scores[MEASURE] for label, result in measured.results.items()}
    plot_intervals(rows, output / "results.png", display_name(MEASURE), title=pipeline.collection)


def write_report(
    pipeline: Pipeline, recipes: Mapping[str, Recipe], sets: list[QuestionSet], measured: PipelineResults
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
    row = clearest_question(sets, ranks[student], ranks.get(first, {}), RUN_DEPTH) if teacher and ranks else None
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


def teacher_distances(
    measured: PipelineResults, teacher: str, student: str, baseline: str | None
) -> dict[str, Comparison]:
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
    pipeline: Pipeline, sets: list[QuestionSet], student: str, baseline: str | None
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
        label: {
            query_id: rank for questions in sets for query_id, rank in first_ranks(questions, run, RUN_DEPTH).items()
        }
        for label, run in runs.items()
    }
    before = ranks[baseline] if baseline else None
    failures = [row for questions in sets for row in collect_failures(questions, runs[student], ranks[student], before)]
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
    reader, english_reader = (load_encoder(str(recipe.model_folder)) for recipe in (student, teacher))
    alignment = align_texts(reader, english_reader, row["language"], row["query"], row["english"])
    write_text(file, json.dumps({"key": key, "alignment": alignment and asdict(alignment)}, ensure_ascii=False))
    return alignment


def align_texts(
    student: DrDecrModel, teacher: DrDecrModel, language: str, query: str, english: str
) -> TokenAlignment | None:
    """Pair the tokens that stand for a question's text with those of its English, as the trainers do."""
    query_tokens, english_tokens = read_query(student, query), read_query(teacher, english)
    student_embeddings, teacher_embeddings = (
        tokens.embeddings[tokens.in_text] for tokens in (query_tokens, english_tokens)
    )
    if student_embeddings.shape[-1] != teacher_embeddings.shape[-1]:
        return None
    cosines, partners = pair_tokens(student_embeddings, teacher_embeddings)
    rounded = [[round(value, 4) for value in line] for line in cosines.tolist()]
    return TokenAlignment(
        language, query, english, token_texts(query_tokens), token_texts(english_tokens), rounded, partners.tolist()
    )


def token_texts(tokens: TextTokens) -> list[str]:
    """Return the characters that each token of a text stands for; an empty box where they are blank."""
    return [tokens.text[slice(*span)].strip() or "▫" for span in tokens.spans if span is not None]
