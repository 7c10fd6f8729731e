"""`precision: auto` in a recipe: measured once, kept for a resumed run, and what the training then computes in."""

import json

import pytest
import torch

from drdecr.runs import stage as precision
from drdecr.runs.recipe import Recipe, load_recipe
from drdecr.runs.run_folder import read_state
from drdecr.runs.stage import build_arguments, run_stage


def auto(folder, **keys):
    return Recipe("relevance", str(folder), "x", precision="auto", teacher_dtype="auto", **keys)


def test_auto_means_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", lambda device: "bfloat16")
    recipe = precision.resolve_precision(auto(tmp_path))
    assert (recipe.precision, recipe.teacher_dtype) == ("bfloat16", "bfloat16")
    assert build_arguments(recipe).bf16
    assert not build_arguments(auto(tmp_path)).bf16


def test_a_resumed_run_goes_on_in_the_precision_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", lambda device: "bfloat16")
    precision.resolve_precision(auto(tmp_path))
    monkeypatch.setattr(precision, "faster_precision", lambda device: "float32")
    assert precision.resolve_precision(auto(tmp_path)).precision == "bfloat16"


def test_what_was_measured_on_one_kind_of_device_says_nothing_of_another(tmp_path, monkeypatch):
    """An export measures on the CPU, in the folder of a run that may train on a GPU afterwards."""
    faster = {"cpu": "float32", "cuda": "bfloat16"}
    monkeypatch.setattr(precision, "faster_precision", lambda device: faster[torch.device(device).type])
    assert precision.resolve_precision(auto(tmp_path)).precision == "float32"
    assert precision.resolve_precision(auto(tmp_path), "cuda:0").precision == "bfloat16"
    assert read_state(tmp_path)["precision"] == faster


def test_a_named_precision_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", None)
    recipe = Recipe("relevance", str(tmp_path / "run"), "x", precision="bfloat16")
    assert precision.resolve_precision(recipe) is recipe
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("faster", ["float32", "bfloat16"])
def test_a_run_says_in_which_precision_it_was_trained(faster, write_recipe, data, monkeypatch):
    monkeypatch.setattr(precision, "faster_precision", lambda device: faster)
    training = {"max_steps": 1, "eval_strategy": "no"}
    file = write_recipe(
        "a",
        stage="contrastive",
        precision="auto",
        training=training,
        data={
            "questions": [data["train"]],
            "num_candidates": 3,
            "dev_texts": 2,
        },
    )
    recipe = load_recipe(file)
    run_stage(recipe)
    assert json.loads((recipe.folder / "run.json").read_text())["precision"] == faster
    run_stage(load_recipe(file))  # done: `auto` is still the same recipe


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"precision": "half"}, "precision: expected one of float32, bfloat16, auto, got 'half'"),
        ({"teacher_dtype": "bf16"}, "teacher_dtype: expected one of"),
        ({"precision": "auto", "training": {"bf16": True}}, "Leave one out"),
    ],
)
def test_an_odd_precision_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        Recipe("relevance", "x", "y", **keys)
