"""A pipeline: the stages of a folder one after the other, each measured on the same questions, and what people look at."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from drdecr.data.sources import read_questions
from drdecr.evaluation.report import terminal_table

from .measuring import check_sets, measure, write_tables
from .model_card import write_model_card
from .peak_memory import in_words
from .recipe import Recipe, load_recipe, read_yaml
from .stage import run_stage
from .validation import MEASURE


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

    @property
    def student_label(self) -> str:
        """The row that is the result: the first of the student that reads the questions as they were asked."""
        return next(row.label for row in self.systems if row.stage == self.student and row.reads == "query")


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
    """Run what is not done yet, measure every system, and write table, chart and model card.

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
    unlabelled = next((found.name for found in sets if not found.qrels), None)
    if unlabelled is not None:
        raise ValueError(
            f"test: expected labelled passages, {unlabelled!r} has answers alone. Measure it with `drdecr evaluate`."
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
