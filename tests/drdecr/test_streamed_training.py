"""Training from a prepared folder in constant memory: resumed as uninterrupted, and never on what is validated on."""

import pytest
import torch

from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs.model_loading import load_student
from drdecr.runs.stage import run_stage
from drdecr.runs.training_data import build_training_data


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    """The parallel text, with the question of a validation set in it, prepared."""
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    with (tmp_path / "xx.tsv").open("a") as stream:
        stream.write("z l z\twhat is the river l\n")
    (tmp_path / "yy.tsv").write_text("".join(f"x {letter} x\tthe king of {letter}\n" for letter in "bcd"))
    entry = {
        "name_of_source": "made",
        "format": "tsv",
        "path": str(tmp_path / "{language}.tsv"),
        "languages": ["xx", "yy"],
    }
    return str(prepare(PrepareRecipe([entry]), tmp_path / "prepared"))


@pytest.fixture
def recipe(recipe_of, start, folder, data):
    def make(name: str, **more):
        settings = {"stream": {"folder": folder}, "language_temperature": 1e6, "dev_texts": 0}
        training = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps"}
        return recipe_of(
            name, stage="representation", model=start, teacher=start, data={**settings, **more}, training=training
        )

    return make


def test_a_killed_streamed_training_resumes_to_the_weights_of_an_uninterrupted_one(recipe, kill_in_step):
    whole = DrDecrModel.from_pretrained(run_stage(recipe("whole")))
    begun = kill_in_step(3)
    with pytest.raises(RuntimeError, match="killed"):
        run_stage(recipe("resumed"))
    resumed = DrDecrModel.from_pretrained(run_stage(recipe("resumed")))
    assert len(begun) == 5  # two, the one that died, and the two that were left
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=0, atol=0)


def test_rows_mix_languages_and_leave_out_what_is_held_out(recipe, folder, data):
    made = recipe("a", held_out=[data["dev"]])
    built = build_training_data(made, load_student(made), None, 50, 4, 1)
    rows = [built.train[index] for index in range(len(built.train))]
    assert len(rows) == 200
    assert {row["language"] for row in rows} == {"xx", "yy"}
    assert abs(sum(row["language"] == "yy" for row in rows) / 200 - 0.5) < 0.15  # 3 of its rows to 17
    assert not any(row["query"] == "z l z" for row in rows)
    plain = recipe("b")
    others = build_training_data(plain, load_student(plain), None, 50, 4, 1).train
    assert any(others[index]["query"] == "z l z" for index in range(200))


def test_a_stream_stands_alone_and_needs_steps(recipe, data):
    with pytest.raises(ValueError, match=r"expected no other set .* got also parallel"):
        run_stage(recipe("a", parallel=[data["parallel"]]))
    made = recipe("b")
    with pytest.raises(ValueError, match="got no `max_steps`"):
        build_training_data(made, load_student(made), None, 0, 4, 1)
    made = recipe("c", stream={"foldr": "x"})
    with pytest.raises(ValueError, match="Did you mean 'folder'"):
        build_training_data(made, load_student(made), None, 2, 4, 1)
