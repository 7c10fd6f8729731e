"""Stages that train an adapter: what they leave, that they resume, what the next stage makes of them, what is refused."""

import json
import logging

import pytest
import torch
import yaml
from peft import PeftModel

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs.model_loading import load_student
from drdecr.runs.recipe import load_recipe
from drdecr.runs.run_folder import STATE
from drdecr.runs.stage import build_arguments, build_trainer, run_stage
from drdecr.trainers import LoraSettings, add_adapter

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}
TEXTS = ["what is the city b", "z c z"]


def read(model):
    return torch.cat([*model.encode_queries(TEXTS), *model.encode_documents(TEXTS)])


def settings_of(data, **keys):
    training = {"relevance_weight": 1.0, "token_weight": 1.0, **keys.pop("training", {})}
    rows = {"questions": [data["train"]], "num_candidates": 3, "parallel": [data["parallel"]], "dev_texts": 2}
    return {"stage": "mixed", "teacher": "adapters_off", "lora": LORA, "data": rows, "training": training, **keys}


def labelled(data):
    return {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}


@pytest.mark.parametrize("cached", [True, False])
def test_a_run_leaves_its_adapter_and_the_merged_model(cached, recipe_of, start, data):
    settings = settings_of(data, model=start, validation=[data["dev"]])
    settings["data"]["cache_teacher"] = cached
    recipe = recipe_of("a", **settings)
    assert run_stage(recipe) == recipe.folder / "model"
    left = {path.name for path in recipe.folder.iterdir()}
    assert left == {STATE, "recipe.yaml", "run.json", "log.jsonl", "curves.png", "model", "adapter"}
    assert load_recipe(recipe.folder / "recipe.yaml") == recipe
    base = DrDecrModel.from_pretrained(recipe.resolve(start))
    adapter = PeftModel.from_pretrained(DrDecrModel.from_pretrained(recipe.resolve(start)), recipe.adapter_folder)
    merged = DrDecrModel.from_pretrained(recipe.folder / "model")
    assert torch.allclose(read(merged), read(adapter), atol=1e-5)
    assert not torch.allclose(read(base), read(adapter), atol=1e-3)
    assert json.loads((recipe.folder / "run.json").read_text())["steps"] == 3


def test_the_backbone_of_a_run_teaches_like_the_model_it_starts_from(recipe_of, start, data):
    losses = []
    for name, teacher in (("own", "adapters_off"), ("separate", start)):
        settings = settings_of(data, model=start, training={"max_steps": 4, "learning_rate": 0.01})
        settings["data"]["cache_teacher"] = False
        recipe = recipe_of(name, **{**settings, "teacher": teacher})
        run_stage(recipe)
        log = [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in log if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 4


def test_an_adapter_that_is_not_merged_is_the_model_of_its_run(recipe_of, start, data):
    recipe = recipe_of("a", **settings_of(data, model=start, lora={**LORA, "merge": False}))
    folder = run_stage(recipe)
    assert folder == recipe.folder / "adapter"
    assert not (recipe.folder / "model").exists()
    expected = read(PeftModel.from_pretrained(DrDecrModel.from_pretrained(recipe.resolve(start)), folder))
    assert torch.allclose(read(load_teacher(str(folder))), expected, atol=1e-5)  # what measuring and search open
    # The next stage starts from both in one model.
    following = recipe_of("b", stage="contrastive", model="stage:a", data=labelled(data))
    found = load_student(following)
    assert torch.allclose(read(found), expected, atol=1e-5)
    assert not any("lora" in name for name in found.state_dict())
    assert run_stage(following) == following.folder / "model"


def test_a_killed_adapter_run_resumes_to_the_same_weights(recipe_of, start, data, kill_in_step):
    training = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "projection_learning_rate": 0.01}
    settings = settings_of(data, model=start, training=training)
    whole = run_stage(recipe_of("whole", **settings))
    recipe = recipe_of("killed", **settings)
    begun = kill_in_step(3)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe)
    saved = {path.name for path in (recipe.folder / "checkpoints" / "checkpoint-2").iterdir()}
    assert "adapter_model.safetensors" in saved
    assert not (saved & {"model.safetensors"})  # the backbone is not written again and again
    resumed = run_stage(recipe)
    assert len(begun) == 5  # steps 3 and 4, not all four again
    one, other = (DrDecrModel.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stage": "initialise", "lora": LORA}, "trains nothing"),
        ({"stage": "relevance", "teacher": "adapters_off"}, "It needs `lora`"),
        ({"stage": "relevance", "teacher": "adapters_off", "lora": LORA, "teacher_dtype": "bfloat16"}, "left out"),
        ({"stage": "relevance", "lora": {"rang": 3}}, "Did you mean 'rank'"),
    ],
)
def test_odd_adapter_recipes_are_refused(keys, message, recipe_of):
    with pytest.raises(ValueError, match=message):
        recipe_of("a", **keys)


def test_an_adapter_needs_a_base_that_can_be_loaded_again(recipe_of, start, data):
    bare = recipe_of("a", **settings_of(data))
    with pytest.raises(ValueError, match="got an encoder without its projection"):
        load_student(bare)
    run_stage(recipe_of("b", **settings_of(data, model=start, lora={**LORA, "merge": False})))
    with pytest.raises(ValueError, match="got an adapter"):
        load_student(recipe_of("c", **settings_of(data, model="stage:b")))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoder": {"hidden_dropout_prob": 0.0}}, "encoder: expected none for the start .*, which is an adapter"),
        ({"encoder": {"hiden_dropout_prob": 0.0}}, "encoder: expected none"),
        ({"processor": {"query_length": 14}}, "processor.query_length: expected 12, .* got 14"),
        ({"embedding_dim": 128}, "embedding_dim: expected 8, .* got 128"),
        ({"projection": "pca"}, "projection: expected none for the start"),
    ],
)
def test_a_start_from_an_adapter_keeps_its_processor_and_projection(keys, message, recipe_of, start, tmp_path):
    folder = str(tmp_path / "adapter")
    base = DrDecrModel.from_pretrained(tmp_path / "runs" / "start" / "model")
    add_adapter(base, LoraSettings(rank=2)).save_pretrained(folder)
    with pytest.raises(ValueError, match=message):
        load_student(recipe_of("b", stage="initialise", model=folder, **keys))
    same = {"embedding_dim": 8, "processor": {"query_length": 12}}
    assert load_student(recipe_of("b", stage="initialise", model=folder, **same)).processor.query_length == 12


def test_an_adapter_names_the_commit_that_it_was_trained_on_not_the_branch(hub, recipe_of, start, data, tmp_path):
    DrDecrModel.from_pretrained(tmp_path / "runs" / "start" / "model").push_to_hub("alice/base")
    commit = hub.api().model_info("alice/base").sha
    for revision in (None, "main"):
        recipe = recipe_of(f"a-{revision}", **settings_of(data, model="alice/base", revision=revision))
        trainer, _ = build_trainer(recipe, build_arguments(recipe))
        assert trainer.model.peft_config["default"].revision == commit


def test_a_run_from_before_there_were_adapters_is_still_done(recipe_of, start, data, caplog):
    recipe = recipe_of("a", stage="contrastive", model=start, data=labelled(data))
    run_stage(recipe)
    written = recipe.folder / "recipe.yaml"
    content = yaml.safe_load(written.read_text())
    del content["lora"], content["data"]["scored_candidates"]
    written.write_text(yaml.safe_dump(content))
    with caplog.at_level(logging.WARNING):
        run_stage(recipe)
    assert "is done already" in caplog.text
    with pytest.raises(ValueError, match="holds a run of another recipe"):
        run_stage(recipe_of("a", stage="contrastive", model=start, data=labelled(data), lora=LORA))
