"""Every key of a recipe with its default and its meaning, read from where they are defined."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from transformers import TrainingArguments

from drdecr.modeling_drdecr import DrDecrProcessor
from drdecr.trainers import LoraSettings

from .recipe import ARGUMENTS, STAGES, DataSettings, Recipe
from .run_folder import OPTIMIZATION


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


def _of_class(described: type) -> Iterator[tuple[str, Any, str]]:
    meanings = argument_meanings(described)
    for name, parameter in inspect.signature(described).parameters.items():
        if name in meanings and name != "tokenizer":
            yield name, parameter.default, meanings[name]


def _of_arguments(stage: str) -> Iterator[tuple[str, Any, str]]:
    found = {one.name: one for one in fields(ARGUMENTS[stage])}
    theirs = {one.name for one in fields(TrainingArguments)}
    for name in (*(name for name in found if name not in theirs), *(name for name in OPTIMIZATION if name in found)):
        yield name, _default(found[name]), re.sub(r"\s+", " ", str(found[name].metadata.get("help", ""))).strip()


def _default(described: "Field[Any]") -> Any:
    if described.default is not MISSING:
        return described.default
    return described.default_factory() if described.default_factory is not MISSING else inspect.Parameter.empty


def argument_meanings(described: type) -> dict[str, str]:
    """Return what a docstring's section `Args:` says of each argument, in one line each."""
    text = inspect.getdoc(described) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(
        r"^    (\w+): (.*?)(?=^    \S|\Z)", section.group(1) if section else "", re.DOTALL | re.MULTILINE
    )
    return {name: re.sub(r"\s+", " ", meaning).strip() for name, meaning in entries}


def _part(title: str, keys: Iterator[tuple[str, Any, str]], width: int) -> str:
    lines = [title]
    for name, default, meaning in keys:
        is_told = default is not inspect.Parameter.empty and not callable(default) and "factory" not in repr(default)
        value = f" = {default!r}" if is_told and default not in (None, "") else ""
        lines += [
            f"  {name}{value}",
            textwrap.fill(meaning, width, initial_indent="      ", subsequent_indent="      "),
        ]
    return "\n".join(line for line in lines if line.strip()) + "\n"
