"""`drdecr keys`: no key is left out, and each has its meaning."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from drdecr.cli.train import describe_keys
from drdecr.runs.config import argument_meanings
from drdecr.runs.recipe import ARGUMENTS, DataSettings, Recipe
from drdecr.trainers import DistillationArguments, LoraSettings


@pytest.mark.parametrize("described", [Recipe, DataSettings, LoraSettings])
def test_every_key_is_explained_where_it_is_defined(described):
    assert set(argument_meanings(described)) == {one.name for one in fields(described)}
    assert all(argument_meanings(described).values())


@pytest.mark.parametrize("stage", ARGUMENTS)
def test_a_stage_shows_its_own_defaults(stage):
    text = describe_keys(stage)
    for name in ("learning_rate", "max_steps", "relevance_weight"):
        assert f"  {name} = {getattr(ARGUMENTS[stage], name)!r}\n      " in text
    shown = {line.split(" = ")[0].strip() for line in text.splitlines() if line.startswith("  ")}
    ours = {one.name for one in fields(DistillationArguments)} - {one.name for one in fields(TrainingArguments)}
    assert ours <= shown
    assert {one.name for one in (*fields(Recipe), *fields(DataSettings))} <= shown


def test_a_stage_that_trains_nothing_has_no_training(call):
    code, said, _ = call("keys", "initialise")
    assert code == 0
    assert "projection_text" in said
    assert "learning_rate" not in said
    assert "expected one of initialise, contrastive" in call("keys", "distil")[2]
