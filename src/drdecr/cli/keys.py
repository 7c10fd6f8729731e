"""Every key of a recipe with its default and its meaning, read from where they are defined."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

from drdecr.modeling_drdecr import DrDecrProcessor
from drdecr.runs.config import _default, _of_class, _part
from drdecr.runs.recipe import ARGUMENTS, STAGES, DataSettings, Recipe
from drdecr.runs.run_folder import OPTIMIZATION
from drdecr.trainers import LoraSettings


def describe_keys(stage: str = "mixed", width: int = 100) -> str:
    """Return the keys of a recipe, those of `training` with the stage's own defaults.

    Args:
        stage: of the recipe.
        width: characters a line.

    Raises:
        ValueError: for an unknown stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, got {stage!r}.")
    parts = [_part("Recipe", _of_class(Recipe), width)]
    if stage != "initialise":
        parts.append(_part("data:", _of_class(DataSettings), width))
        parts.append(_part(f"training: of the stage {stage}", _of_arguments(stage), width))
        others = "Any other setting of transformers.TrainingArguments may stand here too."
        parts.append(textwrap.indent(others, "  ") + "\n")
        parts.append(_part("lora:", _of_class(LoraSettings), width))
    parts.append(_part("processor:", _of_class(DrDecrProcessor), width))
    return "\n".join(parts)


def _of_arguments(stage: str) -> Iterator[tuple[str, Any, str]]:
    found = {one.name: one for one in fields(ARGUMENTS[stage])}
    theirs = {one.name for one in fields(TrainingArguments)}
    for name in (*(name for name in found if name not in theirs), *(name for name in OPTIMIZATION if name in found)):
        yield name, _default(found[name]), re.sub(r"\s+", " ", str(found[name].metadata.get("help", ""))).strip()
