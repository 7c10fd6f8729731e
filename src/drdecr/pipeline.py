"""A pipeline: the stages of a folder one after the other, each measured on the same questions, and what people look at."""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from rich.console import Console

from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_questions
from drdecr.evaluation.report import bar_chart, markdown_differences, markdown_table, terminal_table
from drdecr.evaluation.results import Comparison, EvaluationResult, compare, summarize
from drdecr.retrieval import ExactIndex

from .model_card import write_model_card
from .recipe import Recipe, load_recipe, read_yaml
from .run_folder import environment, write_text
from .stage import build_index, run_stage, score_questions
from .start import load_teacher
from .validation import MEASURE

logger = logging.getLogger(__name__)

PerQuery = dict[str, dict[str, float]]


@dataclass
class System:
    """One row of the table: a stage's model and what it reads.

    Args:
        label: of the row.
        stage: name of the stage whose model is measured.
        reads: column of the questions that is asked: `query`, or `english` for the teacher's upper bound.
        index: name of the stage whose model encodes the passages; default: the same. The teacher's, for a student that was
            distilled into the teacher's index.
    """

    label: str
    stage: str
    reads: str = "query"
    index: str | None = None


@dataclass
class Pipeline:
    """Stages, and what is measured after them.

    Args:
        output: folder of the whole run; each stage has a folder of its name in it.
        stages: names of the stages in order; each is the recipe `NAME.yaml` beside the pipeline's file.
        systems: the rows of the table; the first is the baseline of the paired comparison.
        student: the stage whose model is the result.
        test: the question sets that are measured on, by name.
        collection: what the passages are, for the table's note.
        card: facts for the model card that no run can know: licence, title, description of the data.
    """

    output: str
    stages: list[str]
    systems: list[System]
    student: str
    test: list[dict[str, Any]]
    collection: str
    folder: Path = field(default_factory=Path)
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that rows and student name stages."""
        named = [self.student, *(stage for row in self.systems for stage in (row.stage, row.index or row.stage))]
        unknown = next((stage for stage in named if stage not in self.stages), None)
        if unknown is not None:
            raise ValueError(f"systems, student: expected one of the stages {', '.join(self.stages)}, got {unknown!r}.")
        labels = [row.label for row in self.systems]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"systems: expected labels that differ, got {twice!r} twice. Name each row otherwise.")
        if not any(row.stage == self.student and row.reads == "query" for row in self.systems):
            raise ValueError(f"systems: expected a row for the student {self.student!r}. Add one that reads `query`.")


def load_pipeline(path: str | Path, output: str | None = None) -> Pipeline:
    """Read `pipeline.yaml` of a folder, or the file itself."""
    file = Path(path) / "pipeline.yaml" if Path(path).is_dir() else Path(path)
    content = read_yaml(file)
    try:
        systems = [System(**row) for row in content.pop("systems")]
        pipeline = Pipeline(**{**content, "systems": systems, "folder": file.parent})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected {', '.join(Pipeline.__dataclass_fields__)} ({error}).") from error
    pipeline.output = output or pipeline.output
    return pipeline


def run_pipeline(pipeline: Pipeline, overrides: list[str] | None = None, console: Console | None = None) -> Path:
    """Run what is not done yet, measure every system, and write table, charts and model card.

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
    for number, (name, recipe) in enumerate(recipes.items(), start=1):
        console.rule(f"stage {number} of {len(pipeline.stages)}: {name}", align="left")
        run_stage(recipe)
    results, comparison = measure(pipeline, recipes, sets)
    write_tables(pipeline, results, comparison)
    console.print(terminal_table(results, MEASURE))
    student = recipes[pipeline.student].model_folder
    write_model_card(student, pipeline, recipes, results, comparison)
    for name in pipeline.stages:
        curves = recipes[name].folder / "curves.png"
        if curves.exists():
            shutil.copyfile(curves, output / f"curves-{name}.png")
    return student


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


def measure(
    pipeline: Pipeline, recipes: dict[str, Recipe], sets: list[QuestionSet]
) -> tuple[dict[str, EvaluationResult], Comparison]:
    """Measure every system on every test set, and the student against the first system by question."""
    languages = {query_id: code for found in sets for query_id, code in found.languages.items()}
    others = sorted(set(languages.values()) - {"en"}) or None
    facts = environment()
    results: dict[str, EvaluationResult] = {}
    scores: dict[str, PerQuery] = {}
    indexes: dict[tuple[str, str], ExactIndex] = {}
    for system in pipeline.systems:
        scores[system.label] = _score_system(system, recipes, sets, pipeline, indexes)
        results[system.label] = summarize(
            scores[system.label],
            languages,
            collection=pipeline.collection,
            data_version=", ".join(f"{found.name}: {len(found.questions)} questions" for found in sets),
            command=facts["command"],
            average_over=others,
            notes={"hardware": facts["hardware"], "git_commit": facts["git_commit"]},
        )
    first, best = pipeline.systems[0].label, _student_label(pipeline)
    comparison = compare(scores[first], scores[best], languages, average_over=others)
    return results, comparison


def _student_label(pipeline: Pipeline) -> str:
    return next(row.label for row in pipeline.systems if row.stage == pipeline.student and row.reads == "query")


def _score_system(
    system: System,
    recipes: dict[str, Recipe],
    sets: list[QuestionSet],
    pipeline: Pipeline,
    indexes: dict[tuple[str, str], ExactIndex],
) -> PerQuery:
    """Search every question with one system; scores of the same runs, system and test are read back from their file.

    An index is built once for all systems that search it, and kept in `indexes` by stage and set.
    """
    index_stage = system.index or system.stage
    runs = [(recipes[name].folder / "run.json").read_text(encoding="utf-8") for name in (system.stage, index_stage)]
    key = hashlib.sha256(json.dumps([asdict(system), runs, pipeline.test]).encode()).hexdigest()
    file = Path(pipeline.output) / "results" / f"{file_names(pipeline.systems)[system.label]}.scores.json"
    if file.exists() and (found := json.loads(file.read_text(encoding="utf-8")))["key"] == key:
        return found["scores"]
    logger.info("Measuring: %s.", system.label)
    model = load_teacher(str(recipes[system.stage].model_folder))
    scores: PerQuery = {}
    for questions in sets:
        reads = system.reads if system.reads in questions.questions.column_names else "query"
        place = (index_stage, questions.name)
        if place not in indexes:
            reader = model if index_stage == system.stage else load_teacher(str(recipes[index_stage].model_folder))
            indexes[place] = build_index(reader, questions)
        for name, by_query in score_questions(model, questions, indexes[place], reads).items():
            scores.setdefault(name, {}).update(by_query)
    write_text(file, json.dumps({"key": key, "scores": scores}))
    return scores


def write_tables(pipeline: Pipeline, results: dict[str, EvaluationResult], comparison: Comparison) -> None:
    """Write `results.md`, a JSON file a system and the bar chart into the pipeline's folder."""
    output = Path(pipeline.output)
    facts = environment()
    notes = f"Collection: {pipeline.collection}. Intervals: 95 %, percentile bootstrap, 10,000 resamples, seed 0. " + (
        f"Measured by `{facts['command']}` on {facts['hardware']}"
        + (f", commit {facts['git_commit']}." if facts["git_commit"] else ".")
    )
    first, best = pipeline.systems[0].label, _student_label(pipeline)
    parts = ["# Results", notes]
    for name in (MEASURE, "R@10", "nDCG@10"):
        parts += [f"## {name.replace('RR', 'MRR')}", markdown_table(results, name)]
    parts += [f"## {best} against {first}, paired", markdown_differences(comparison, MEASURE)]
    write_text(output / "results.md", "\n\n".join(parts) + "\n")
    names = file_names(pipeline.systems)
    for label, result in results.items():
        result.to_json(output / "results" / f"{names[label]}.json")
    comparison.to_json(output / "results" / "comparison.json")
    bar_chart(results, MEASURE, output / "results.png", title=pipeline.collection)


def file_names(systems: list[System]) -> dict[str, str]:
    """Return a file name for each system's label: its letters and digits, numbered where two would be the same.

    >>> file_names([System("a + b", "x"), System("a - b", "y")])
    {'a + b': 'a---b', 'a - b': 'a---b-2'}
    """
    names: dict[str, str] = {}
    taken = {"comparison"}  # a file of its own in the same folder
    for system in systems:
        signs = "".join(character if character.isalnum() else "-" for character in system.label.lower())
        first = signs.strip("-") or "system"
        name = next(name for name in chain([first], (f"{first}-{number}" for number in count(2))) if name not in taken)
        taken.add(name)
        names[system.label] = name
    return names
