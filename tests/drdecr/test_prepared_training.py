"""Training from a prepared folder that is not cleaned again: resumed as uninterrupted, and never on what is validated on."""

from collections import Counter

import pytest
import torch

from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs.model_loading import load_student
from drdecr.runs.stage import run_stage
from drdecr.runs.training_data import build_training_data


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    """Two sources of parallel text, with the question of a validation set in one."""
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    with (tmp_path / "xx.tsv").open("a") as file:
        file.write("z l z\twhat is the river l\n")
    (tmp_path / "yy.tsv").write_text("".join(f"x {letter} x\tthe king of {letter}\n" for letter in "bcd"))
    entries = [
        {"name_of_source": code, "format": "tsv", "path": str(tmp_path / f"{code}.tsv"), "languages": [code]}
        for code in ("xx", "yy")
    ]
    return str(prepare(PrepareRecipe(entries), tmp_path / "prepared"))


@pytest.fixture
def recipe(recipe_of, start, folder):
    def make(name: str, **more):
        entry = {"format": "prepared", "folder": folder, "cleaned": True}
        settings = {"parallel": [entry], "cache_teacher": False, "dev_texts": 0, "source_weights": {"xx": 1, "yy": 1}}
        training = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps"}
        return recipe_of(
            name, stage="representation", model=start, teacher=start, data={**settings, **more}, training=training
        )

    return make


def test_a_killed_training_resumes_to_the_weights_of_an_uninterrupted_one(recipe, kill_in_step):
    whole = DrDecrModel.from_pretrained(run_stage(recipe("whole")))
    begun = kill_in_step(3)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe("resumed"))
    resumed = DrDecrModel.from_pretrained(run_stage(recipe("resumed")))
    assert len(begun) == 5  # two, the one that died, and the two that were left
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=0, atol=0)


def test_rows_come_by_their_source_and_leave_out_what_is_held_out(recipe, data):
    kept = recipe("a", held_out=[data["dev"]])
    built = build_training_data(kept, load_student(kept), None, 50, 4, 1)
    rows = built.train.__getitems__(range(len(built.train)))
    assert len(rows) == 200
    counted = Counter(row["language"] for row in rows)
    assert abs(counted["yy"] / 200 - 0.5) < 0.15  # 3 of its rows to 17
    assert not any(row["query"] == "z l z" for row in rows)
    plain = recipe("b")
    others = build_training_data(plain, load_student(plain), None, 50, 4, 1).train
    assert any(row["query"] == "z l z" for row in others.__getitems__(range(200)))


def test_source_weights_name_every_source_of_cleaned_folders_and_need_steps(recipe, data, folder):
    def build(name, num_steps=2, **more):
        wrong = recipe(name, **more)
        return build_training_data(wrong, load_student(wrong), None, num_steps, 4, 1)

    with pytest.raises(ValueError, match=r"source_weights needs `max_steps`"):
        build("a", num_steps=0)
    with pytest.raises(ValueError, match=r"source_weights: expected a positive number for each of xx, yy, got"):
        build("b", source_weights={"xx": 1})
    with pytest.raises(ValueError, match="expected `parallel` entries of `format: prepared` with `cleaned: true`"):
        build("c", parallel=[{"format": "prepared", "folder": folder}])
