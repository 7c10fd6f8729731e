"""Training: `drdecr demo | train | keys`."""

import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from .options import is_first_process
from .terminal import echo


def demo(
    context: typer.Context,
    output: Annotated[str | None, typer.Option(help="Folder of the run; default runs/demo.")] = None,
    quick: Annotated[bool, typer.Option(help="Two steps a stage: checks that everything works.")] = False,
) -> None:
    """Train a student through every stage on the sample data, measure it, and let it answer in eight languages.

    Needs neither the Hub nor a GPU. Other `--key value` pairs go to every stage's recipe.

    Example: `drdecr demo --quick`. More: docs/runs.md.
    """
    from drdecr.runs.demo import run_demo

    run_demo(output, quick, context.args)


def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe of one stage, or a folder with pipeline.yaml.")],
    output: Annotated[str | None, typer.Option(help="Folder of the run; default: the recipe's own.")] = None,
) -> None:
    """Run one stage, or all stages of a pipeline: train, measure, and write tables, plots, a report page and the model's card.

    `--key value` overrides the recipe: `--learning_rate 1e-5 --data.dev_texts 8`. `drdecr keys` lists the keys. A finished
    stage is not run again; an interrupted one resumes.

    Example: `drdecr train recipes/demo`. On several devices: `accelerate launch -m drdecr train RECIPE.yaml`. More:
    docs/runs.md.
    """
    if recipe.is_dir():
        from drdecr.runs.pipeline import load_pipeline, run_pipeline

        pipeline = load_pipeline(recipe, output)
        name, folder = "student", run_pipeline(pipeline, context.args)
        echo(f"report: {Path(pipeline.output) / 'report.html'}")
    else:
        from drdecr.runs.recipe import load_recipe
        from drdecr.runs.stage import run_stage

        overrides = [*context.args, *(["--output", output] if output else [])]
        name, folder = "model", run_stage(load_recipe(recipe, overrides))
    if is_first_process():
        echo(f"{name}: {folder}")


def keys(stage: Annotated[str, typer.Argument(help="Kind of stage, whose defaults are shown.")] = "mixed") -> None:
    """List every key that a recipe may have, with its default and its meaning.

    Example: `drdecr keys relevance`. More: docs/runs.md.
    """
    echo(describe_keys(stage))


def describe_keys(stage: str = "mixed", width: int = 100) -> str:
    """Return the keys of a recipe, those of `training` with the stage's own defaults.

    Args:
        stage: kind of stage.
        width: characters per line.

    Raises:
        ValueError: for an unknown stage.
    """
    from drdecr.modeling_drdecr import DrDecrProcessor
    from drdecr.runs.recipe import ARGUMENTS, STAGES, DataSettings, Recipe
    from drdecr.runs.run_folder import OPTIMIZATION
    from drdecr.trainers import LoraSettings

    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, got {stage!r}.")
    sections: list[tuple[str, type]] = [("Recipe", Recipe)]
    if stage != "initialise":
        training = (f"training: of the stage {stage}", ARGUMENTS[stage])
        sections += [("data:", DataSettings), training, ("lora:", LoraSettings)]
    parts = [
        describe_section(title, cls, width, OPTIMIZATION if title.startswith("training") else None)
        for title, cls in [*sections, ("processor:", DrDecrProcessor)]
    ]
    return "\n".join(parts)


def describe_section(title: str, cls: type, width: int, inherited: Sequence[str] | None = None) -> str:
    """Return one section of a recipe's keys.

    Args:
        title: above the keys.
        cls: whose arguments they are.
        width: characters per line.
        inherited: keys of `transformers.TrainingArguments` that are listed too (default: all that `cls` has).
    """
    from transformers import TrainingArguments

    from drdecr.runs.config import describe_fields

    left_out = (
        {"tokenizer"} if inherited is None else {field.name for field in fields(TrainingArguments)} - {*inherited}
    )
    lines = [title]
    for name, default, meaning in describe_fields(cls):
        if name not in left_out:
            lines.append(f"  {name}" if default in (None, "") else f"  {name} = {default!r}")
            lines.append(textwrap.fill(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
    if inherited is not None:
        lines.append("  Any other setting of transformers.TrainingArguments may stand here too.")
    return "\n".join(lines) + "\n"
