"""Recipes say what they mean, and wrong ones what was meant."""

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from drdecr.runs.config import parse_overrides, read_yaml
from drdecr.runs.recipe import ARGUMENTS, Recipe, load_recipe

CONTRASTIVE = "stage: contrastive\noutput: runs/a\nmodel: offline\n"
PACKAGED = sorted(
    path for path in Path(str(files("drdecr.recipes"))).glob("*/*.yaml") if "stage" in yaml.safe_load(path.read_text())
)


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("techer: x", "'teacher'"),
        ("training: {learning_rat: 1}", "'learning_rate'"),
        ("training: {temprature: 1}", "'temperature'"),
        ("data: {dev_text: 1}", "'dev_texts'"),
    ],
)
def test_an_unknown_key_names_the_nearest_known(written, line, near):
    with pytest.raises(ValueError, match=f"unknown key .* Did you mean {near}"):
        load_recipe(written(CONTRASTIVE + line))


def test_an_unknown_key_like_no_other_lists_the_known(written):
    with pytest.raises(ValueError, match=r"Known are .*cache_passages.*num_candidates"):
        load_recipe(written(CONTRASTIVE + "data: {qqq: 1}"))


@pytest.mark.parametrize(
    ("arguments", "where", "value"),
    [
        (["--learning_rate", "1e-5"], ("training", "learning_rate"), 1e-5),
        (["--learning-rate=2E+3"], ("training", "learning_rate"), 2000.0),
        (["--dev_texts=8"], ("data", "dev_texts"), 8),
        (["--data.cache_passages", "true"], ("data", "cache_passages"), True),
        (["--training.eval_strategy", "no"], ("training", "eval_strategy"), "no"),
        (["--temperature", ".5"], ("training", "temperature"), 0.5),
        (["--output", "runs/b"], ("output",), "runs/b"),
        (["--output=2026-01-02"], ("output",), "2026-01-02"),
        (["--output", "7"], ("output",), "7"),
        (["--revision=0123"], ("revision",), "0123"),
        (["--teacher", "null"], ("teacher",), None),
        (["--data.limits", "{parallel: 3}"], ("data", "limits"), {"parallel": 3}),
    ],
)
def test_an_override_finds_its_place(written, arguments, where, value):
    found = yaml.safe_load(load_recipe(written(CONTRASTIVE), arguments).as_yaml())
    for key in where:
        found = found[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learning_rate", "1"], "Expected `--key value`, got 'learning_rate'"),
        (["--"], "got '--'"),
        (["--learning_rate"], "--learning_rate: expected a value"),
        (["--output", "[1"], "--output: expected a value in YAML"),
        (["--model.x", "1"], "'model' holds one value"),
        (["--learning_rte", "1"], "Did you mean 'learning_rate'"),
        (["--dta.dev_texts", "1"], "Did you mean 'data'"),
        (["--max_steps", "1", "--max-steps=2"], "--max-steps: expected it once, got '1' and '2'"),
    ],
)
def test_an_odd_override_is_an_error(written, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(CONTRASTIVE), arguments)


def test_overrides_do_not_touch_the_file(written):
    path = written(CONTRASTIVE)
    load_recipe(path, ["--max_steps", "1"])
    assert path.read_text() == CONTRASTIVE


def test_words_that_yaml_1_1_takes_for_others_are_kept(written):
    lines = "training: {eval_strategy: no, learning_rate: 1e-5, bf16: True, max_steps: 12, warmup_steps: 1.0}"
    training = load_recipe(written(CONTRASTIVE + lines)).training
    expected = {"eval_strategy": "no", "learning_rate": 1e-5, "bf16": True, "max_steps": 12, "warmup_steps": 1.0}
    assert training == expected
    assert parse_overrides(["--languages", "[no, fi, on]"])["languages"][1] == ["no", "fi", "on"]


def test_empty_sections_are_defaults(written):
    empty = load_recipe(written(CONTRASTIVE + "training:\ndata:\n  limits:\nvalidation:\n"), ["--max_steps", "3"])
    assert empty == load_recipe(written(CONTRASTIVE + "training: {max_steps: 3}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage: contrastive\n", "expected output, model"),
        ("stage: contrastiv\noutput: a\nmodel: b\n", "expected one of initialise, contrastive, .*got 'contrastiv'"),
        ("- a\n", "expected `key: value` lines, got list"),
        ("a: [1\n", "expected YAML"),
        (
            CONTRASTIVE + "training: {seed: 1}\ndata:\ntraining: {seed: 2}\n",
            "'training' stands twice, in lines 4 and 6",
        ),
        (CONTRASTIVE + "training: {seed: 1, bf16: true, seed: 2}\n", "'seed' stands twice, in lines 4 and 4"),
        (CONTRASTIVE + 'validation:\n- format: tsv\n  "format": tsv\n', "'format' stands twice, in lines 5 and 6"),
        (
            CONTRASTIVE + "training: {seed: !!binary aGk=}\n",
            "expected plain values for 'training', got .'seed': b'hi'.",
        ),
        (CONTRASTIVE + "data: {weights: {parallel: many}}\n", "data: expected a number for 'weights', got 'many'"),
        (CONTRASTIVE + "validation: [3]\n", "expected `key: value` lines for 'validation', got 3"),
        (CONTRASTIVE + "data: 3\n", "data: expected `key: value` lines, got 3"),
    ],
)
def test_a_file_that_is_no_recipe_is_an_error(written, text, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(text))


def test_a_missing_recipe_names_the_packages_own(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such recipe") as raised:
        read_yaml(tmp_path / "none.yaml")
    named = str(raised.value).rpartition(" are in ")[2].removesuffix(".")
    assert (Path(named) / "demo" / "pipeline.yaml").exists()


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_resolved_recipe_reads_back_the_same(path, tmp_path):
    recipe = load_recipe(path)
    (tmp_path / "resolved.yaml").write_text(recipe.as_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe
    if recipe.stage != "initialise":
        ARGUMENTS[recipe.stage](output_dir=str(tmp_path), use_cpu=True, **recipe.training)  # values are accepted too


def test_there_are_recipes_to_read():
    assert {path.parent.name for path in PACKAGED} == {"demo", "real"}


def test_stage_means_the_run_beside(tmp_path):
    recipe = Recipe("initialise", str(tmp_path / "runs" / "b"), "stage:a")
    with pytest.raises(FileNotFoundError, match=r"stage:a: no model in .* Run that stage first"):
        recipe.resolve(recipe.model)
    (tmp_path / "runs" / "a" / "model").mkdir(parents=True)
    assert recipe.resolve(recipe.model) == str(tmp_path / "runs" / "a" / "model")
    assert recipe.resolve("some/name") == "some/name"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("training: {max_steps: 10.5}", "training: expected a whole number for 'max_steps', got 10.5"),
        ("training: {learning_rate: fast}", "training: expected a number for 'learning_rate', got 'fast'"),
        ("training: {bf16: 1}", "expected true or false for 'bf16', got 1"),
        ("training: {max_steps: true}", "expected a whole number for 'max_steps', got True"),
        ("data: {dev_texts: few}", "data: expected a whole number for 'dev_texts', got 'few'"),
        ("data: {parallel: {format: tsv}}", "data: expected a list for 'parallel'"),
        ("embedding_dim: wide", "expected a whole number for 'embedding_dim', got 'wide'"),
        ("processor: {qery_length: 3}", "processor: unknown key 'qery_length'.*'query_length'"),
    ],
)
def test_a_value_of_another_kind_is_an_error(written, line, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(written(CONTRASTIVE + line))


def test_values_that_mean_the_right_kind_are_taken(written):
    line = "training: {learning_rate: 1, warmup_steps: 5, eval_steps: 0.5, report_to: [], eval_strategy: steps, seed: null}"
    assert load_recipe(written(CONTRASTIVE + line)).training["learning_rate"] == 1
