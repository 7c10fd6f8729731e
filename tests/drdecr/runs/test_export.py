"""A recipe's sets, exported: what a run would train on, a card that counts, and a training from them without a teacher."""

import json
import logging
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from drdecr.cli.main import app
from drdecr.data.sources import read_questions
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs import training_data as sets
from drdecr.runs.export import export_data
from drdecr.runs.model_loading import load_student
from drdecr.runs.stage import run_stage
from drdecr.runs.training_data import build_training_data


@pytest.fixture
def recipe(recipe_of, start, data, tmp_path):
    """Parallel text, n-way rows with and without labels, a validation set; one row repeated, one held out."""
    lines = (tmp_path / "xx.tsv").read_text()
    (tmp_path / "xx.tsv").write_text(lines + "Z b, x\tThe king of b!\nz z\twhat is the city m?\n")
    settings = {
        "parallel": [{**data["parallel"], "about": {"license": "cc0-1.0", "source": "written for the test"}}],
        "unlabelled_queries": [data["parallel"]],
        "questions": [data["train"]],
        "num_candidates": 3,
        "dev_texts": 2,
    }
    training = {"relevance_weight": 1.0, "token_weight": 1.0}
    return recipe_of(
        "a", stage="mixed", model=start, teacher=start, data=settings, training=training, validation=[data["dev"]]
    )


def loaded(folder, config, split="train"):
    # Its own cache: the library knows a local folder by its name, not by what is in it.
    return load_dataset(str(folder), config, split=split, cache_dir=str(Path(folder).parent / "cache")).to_list()


def test_the_export_is_what_a_run_would_train_on(recipe, tmp_path, data):
    folder = export_data(recipe, tmp_path / "set", tokens="all")
    teacher = load_teacher(recipe.resolve(recipe.teacher))
    built = build_training_data(recipe, load_student(recipe), teacher, 4, 4, recipe.training.get("seed", 12345))
    for name, rows in built.train.sets.items():
        config = name if name == "parallel" else f"{name}_candidates"
        columns = [column for column in rows.column_names if column not in ("query_id",)]
        exported = loaded(folder, config)
        assert [{key: row[key] for key in columns} for row in rows] == [
            {key: row[key] for key in columns} for row in exported
        ]
        assert len(loaded(folder, config, "dev")) == len(built.dev[name])
    passages = {row["document_id"]: row["text"] for row in loaded(folder, "passages")}
    assert passages == built.collator.passages
    entry = {"format": "hub_questions", "name": str(folder), "questions": "evaluation_dev"}
    entry |= {"passages": "evaluation_dev_passages", "split": "test", "passages_split": "test"}
    found, own = read_questions(entry), read_questions(data["dev"])
    assert (found.qrels, dict(found.passages)) == (own.qrels, dict(own.passages))
    # Teacher scores are MaxSim of what the teacher reads.
    row = loaded(folder, "unlabelled_queries_candidates")[0]
    texts = [passages[name] for name in row["document_ids"]]
    expected = teacher.score(teacher.encode_queries([row["english"]]), teacher.encode_documents(texts))[0]
    assert row["teacher_scores"] == pytest.approx(expected.tolist(), abs=0.02)  # the cache keeps float16


def test_all_tokens_of_parallel_text_are_exported_again_without_complaint(recipe_of, start, data, tmp_path):
    """It has no passages, so none of theirs."""
    settings = {"parallel": [data["parallel"]], "dev_texts": 0}
    recipe = recipe_of("p", stage="representation", model=start, teacher=start, data=settings)
    for _ in range(2):
        folder = export_data(recipe, tmp_path / "set", tokens="all")
    assert not (folder / "teacher_passages").exists()


def test_a_student_learns_from_the_export_without_a_teacher(recipe, recipe_of, start, tmp_path):
    folder = str(export_data(recipe, tmp_path / "set", tokens="all"))
    candidates = {"format": "hub_candidates", "name": folder}
    settings = {
        "scored_candidates": [candidates, {**candidates, "config": "questions_candidates"}],
        "query_tokens": {"format": "hub_tokens", "name": folder},
        "dev_texts": 0,
    }
    training = {"relevance_weight": 1.0, "token_weight": 1.0}
    for name, tokens in (
        ("read", {}),
        ("cached", {"passage_tokens": {"format": "hub_tokens", "name": folder, "config": "teacher_passages"}}),
    ):
        run = recipe_of(name, stage="mixed", model=start, data={**settings, **tokens}, training=training)
        run_stage(run)
        log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        assert {"relevance_kl", "aligned_tokens"} <= {key for line in log for key in line}
        facts = json.loads((run.folder / "run.json").read_text())
        assert (
            facts["cleaning"]["scored_candidates"]["read"]
            == facts["cleaning"]["scored_candidates"]["kept"]
            == facts["rows"]["scored_candidates"]
        )


def test_teacher_tokens_are_of_the_texts_in_the_rows(recipe, tmp_path, monkeypatch):
    """Candidates are searched for every text, and here not found for one of them."""
    found = sets.cached_candidates

    def all_but_one(*arguments):
        rows = found(*arguments)
        return rows.filter(lambda text: text != rows[0]["english"], input_columns="english")

    monkeypatch.setattr(sets, "cached_candidates", all_but_one)
    recipe.data.parallel, recipe.data.questions = [], []
    recipe.data.corpus = [*recipe.data.corpus, *recipe.validation]
    folder = export_data(recipe, tmp_path / "set", tokens="queries")
    rows = [row for split in ("train", "dev") for row in loaded(folder, "unlabelled_queries_candidates", split)]
    assert {row["text"] for row in loaded(folder, "teacher_queries")} == {row["english"] for row in rows}
    assert len(rows) == 15


def test_the_card_says_what_was_counted(recipe, tmp_path, hub):
    folder = export_data(recipe, tmp_path / "set", license="cc-by-4.0")
    card = DatasetCard.load(folder / "README.md")
    card.validate()
    assert card.data.license == "cc-by-4.0"
    assert card.data.language == ["en", "xx"]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in card.text.splitlines() if line[:1] == "|"
    ]
    # 18 lines; one says the same as another, one is a question of the validation set.
    assert ["parallel", "18", "1", "1", "16"] in lines
    counts = {(line[0], line[1]): line[2] for line in lines}
    assert counts[("`parallel`", "train")] == str(len(loaded(folder, "parallel")))
    source = next(line for line in lines if line[0] == "parallel" and line[1] == "tsv")
    assert "cc0-1.0" in source
    assert "written for the test" in source
    assert any(cell.startswith("sha256") for cell in source)
    assert str(tmp_path) not in card.text.split("## Made by")[0]
    assert "seed: 12345" in card.text
    # What is not known is not said.
    other = export_data(recipe, tmp_path / "other")
    assert DatasetCard.load(other / "README.md").data.license is None


def test_a_second_export_does_nothing_and_another_is_refused(recipe, recipe_of, data, tmp_path, caplog):
    folder = export_data(recipe, tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with caplog.at_level(logging.WARNING):
        assert export_data(recipe, folder) == folder
    assert "is exported already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for options, said in (({"tokens": "all"}, "--tokens"), ({"license": "mit"}, "--license")):
        with pytest.raises(ValueError, match=f"was exported with other {said}. Give the same again"):
            export_data(recipe, folder, **options)
    other = recipe_of("b", stage="representation", model="nowhere", data={"parallel": [data["parallel"]]})
    with pytest.raises(ValueError, match="no export of this recipe"):
        export_data(other, folder)


def test_parallel_text_needs_no_model_and_the_command_line_exports_it(write_recipe, data, tmp_path):
    path = write_recipe("b", stage="representation", model="nowhere", data={"parallel": [data["parallel"]]})
    done = CliRunner().invoke(app, ["data", "export", str(path), str(tmp_path / "set"), "--data.dev_texts", "0"])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith(f"dataset: {tmp_path / 'set'}")
    assert len(loaded(tmp_path / "set", "parallel")) == 16
    assert not (tmp_path / "runs" / "b").exists()


@pytest.mark.parametrize(
    ("keys", "tokens", "message"),
    [({"stage": "initialise"}, "none", "learns from data"), ({"stage": "representation"}, "some", "tokens: expected")],
)
def test_odd_exports_are_refused(keys, tokens, message, recipe_of, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_data(recipe_of("b", **keys), tmp_path / "set", tokens)
