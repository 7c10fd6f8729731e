"""`-m drdecr train` as a launcher starts it: two processes, one run, the losses of one process with twice the batch."""

import json

import pytest
import torch

from drdecr.cli.main import main
from drdecr.data.shards import check_processes
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs.run_folder import STATE
from drdecr.runs.stage import run_stage

from .conftest import jsonl, question_rows

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"],
}


@pytest.fixture
def settings(start, tmp_path):
    """Keys of a recipe for a tiny student without dropout, on texts that differ in a word: no two ranks are near ties."""
    for config in (tmp_path / "runs" / "start" / "model").glob("config*.json"):
        content = {**json.loads(config.read_text()), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config.write_text(json.dumps(content))
    letters = "bcdefghijklmnopqrstuvwxy"
    passages = [{"document_id": f"p-{letter}", "text": f"the city {letter} is in france."} for letter in letters]
    questions = {"format": "jsonl", "passages": jsonl(tmp_path / "all.jsonl", passages), "name": "cities"}
    parts = {"train": letters[:20], "dev": letters[20:]}
    train, dev = (
        {**questions, "questions": jsonl(tmp_path / f"{name}.jsonl", question_rows(part))}
        for name, part in parts.items()
    )
    return {
        "stage": "mixed",
        "model": start,
        "teacher": start,
        "data": {"questions": [train], "num_candidates": 3, "dev_texts": 4},
        "validation": [dev],
    }


def training(batch):
    weights = {"relevance_weight": 1.0, "token_weight": 1.0, "contrastive_weight": 1.0}
    return {**weights, "per_device_train_batch_size": batch, "max_steps": 4, "optim": "sgd", "learning_rate": 0.1}


def lines_of(recipe):
    return [json.loads(line) for line in (recipe.folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.processes
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_launched_processes_are_one_run_with_both_their_batches(
    launcher, recipe_of, write_recipe, settings, run_python
):
    one = recipe_of("one", **settings, training=training(8))
    run_stage(one)
    two = recipe_of("two", **settings, training=training(4))
    written = write_recipe("two", **settings, training=training(4))
    done = run_python("-m", *LAUNCHERS[launcher], "-m", "drdecr", "train", written, "--training.use_cpu", "true")
    assert {path.name for path in two.folder.iterdir()} == {path.name for path in one.folder.iterdir()}
    ran = json.loads((two.folder / "run.json").read_text())
    assert (ran["processes"], ran["steps"], ran["batch_rows"]) == (2, 4, 8)
    assert done.stderr.count("Encoding 24 passages with the teacher") == 1  # one process talks
    expected, found = lines_of(one), lines_of(two)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        names = [name for name in theirs if "loss" in name or "mrr" in name or name == "relevance_kl"]
        assert names or "train_runtime" in theirs
        for name in names:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    weights = [DrDecrModel.from_pretrained(recipe.model_folder).linear.weight for recipe in (one, two)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


@pytest.mark.processes
def test_processes_that_do_not_find_each_other_are_refused(write_recipe, settings, run_python):
    words = [
        "-m",
        "drdecr",
        "train",
        write_recipe("a", **settings, training=training(4)),
        "--training.use_cpu",
        "false",
    ]
    done = run_python("-m", *LAUNCHERS["accelerate"], *words, check=False)
    assert done.returncode == 1
    assert "error: Expected 2 processes that work together" in done.stderr
    assert not (write_recipe("a", **settings).parent / "runs" / "a").exists()


def test_a_group_smaller_than_the_launcher_started_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2)
    check_processes(None)
    with pytest.raises(ValueError, match=r"Expected 2 processes .* got a group of 1.*use_cpu"):
        check_processes(1)


def test_only_the_main_process_writes_a_start(recipe_of, monkeypatch):
    recipe = recipe_of("start", stage="initialise")
    monkeypatch.setenv("RANK", "1")
    run_stage(recipe)
    assert not recipe.folder.exists()
    monkeypatch.setenv("RANK", "0")
    run_stage(recipe)
    assert {path.name for path in recipe.folder.iterdir()} == {STATE, "recipe.yaml", "run.json", "log.jsonl", "model"}


@pytest.fixture
def run(monkeypatch):
    """Run the command line as a launcher does: `run("train", recipe)`."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["drdecr", *map(str, words)])
        main()

    return run


def test_an_error_is_one_line(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("train", str(tmp_path / "no.yaml"))
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit) as stopped:
        run("train")
    assert stopped.value.code == 2
    assert "Missing argument" in capsys.readouterr().err
    for word in ("-h", "--help"):
        with pytest.raises(SystemExit) as stopped:
            run("train", word)
        assert stopped.value.code == 0
        assert "Run one stage" in capsys.readouterr().out


def test_launched_processes_run_the_recipe_and_one_tells_of_it(run, write_recipe, tmp_path, monkeypatch, capsys):
    written, model = write_recipe("start", stage="initialise"), tmp_path / "runs" / "start" / "model"
    for rank, said in (("1", ""), ("0", f"model: {model}\n")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stopped:
            run("train", str(written), "--embedding_dim", "4")
        assert stopped.value.code in (0, None)
        assert capsys.readouterr().out == said
        assert model.exists() == (rank == "0")
    assert "embedding_dim: 4" in (tmp_path / "runs" / "start" / "recipe.yaml").read_text()
