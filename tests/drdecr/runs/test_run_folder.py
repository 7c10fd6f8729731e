"""A run's folder: written whole or not at all, and never over another's."""

import doctest
import json
import os
import shlex
import sys

import numpy as np
import pytest

from drdecr.data import provenance as published
from drdecr.data.files import write_text
from drdecr.data.provenance import environment
from drdecr.runs.recipe import Recipe
from drdecr.runs.run_folder import (
    check_settings,
    finish_run,
    is_done,
    remove_checkpoints,
    start_run,
)
from drdecr.runs.stage import run_stage
from drdecr.trainers.checkpoints import checkpoints_of


@pytest.fixture
def recipe(tmp_path):
    return Recipe("contrastive", str(tmp_path / "run"), "offline")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupted(*_):
        raise error

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(type(error)):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]  # and nothing beside it


def test_a_file_is_written_into_new_folders_and_readable_by_others(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "käse")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "käse"
    assert (tmp_path / "a" / "b.txt").stat().st_mode & 0o777 == 0o644


def test_a_run_is_done_when_its_last_file_is_there(recipe):
    assert not is_done(recipe)
    start_run(recipe)
    assert not is_done(recipe)
    finish_run(recipe, 0.0, [{"step": 1, "loss": 2.0}], {"steps": 1})
    assert is_done(recipe)


@pytest.mark.parametrize("work", ["checkpoints/checkpoint-2", "model", "candidates"])
def test_another_recipe_in_the_same_folder_is_refused(recipe, work):
    start_run(recipe)
    (recipe.folder / work).mkdir(parents=True)
    other = Recipe("contrastive", recipe.output, "offline", training={"max_steps": 1})
    with pytest.raises(ValueError, match=r"holds a run of another recipe .*Choose another `--output`"):
        is_done(other)
    assert not is_done(recipe)


def test_a_run_that_stopped_at_its_recipe_is_no_run(recipe):
    start_run(recipe)  # a wrong path in it, say, so that nothing was made
    assert not is_done(Recipe("contrastive", recipe.output, "offline", training={"max_steps": 1}))


def test_a_run_goes_on_in_the_number_of_processes_that_began_it(recipe):
    start_run(recipe, {"temperature": 1.0, "processes": 2})
    check_settings(recipe.folder, {"temperature": 1.0, "processes": 2})
    told = r"another number of processes \(2, now 1\).*`--nproc_per_node 2`.*or delete the folder"
    with pytest.raises(ValueError, match=told):
        check_settings(recipe.folder, {"temperature": 1.0, "processes": 1})
    with pytest.raises(ValueError, match="begun with other settings"):
        check_settings(recipe.folder, {"temperature": 2.0, "processes": 2})


@pytest.mark.parametrize(
    "name", ["recipe.yaml", "run.json", "log.jsonl", "curves.png", "checkpoints/mine.txt", "model/a"]
)
def test_what_no_run_wrote_is_never_overwritten_or_deleted(recipe, name):
    write_text(recipe.folder / name, "{mine: 1}")
    with pytest.raises(ValueError, match=rf"holds {name.partition('/')[0]}, which no run wrote.*choose another"):
        run_stage(recipe)
    assert [path for path in recipe.folder.rglob("*") if path.is_file()] == [recipe.folder / name]
    assert (recipe.folder / name).read_text() == "{mine: 1}"


def test_a_recipe_that_is_given_in_its_runs_folder_keeps_its_words(recipe):
    text = f"# mine\n{recipe.as_yaml()}"
    write_text(recipe.folder / "recipe.yaml", text)
    assert not is_done(recipe)
    start_run(recipe)
    assert (recipe.folder / "recipe.yaml").read_text() == text
    finish_run(recipe, 0.0, [], {})
    assert is_done(recipe)
    write_text(recipe.folder / "recipe.yaml", text.replace("stage: contrastive", "stage: relevance"))
    with pytest.raises(ValueError, match="what differs: stage"):
        is_done(recipe)


def test_a_recipe_that_was_changed_by_hand_is_not_written_over(recipe):
    start_run(recipe)  # stopped at a mistake: nothing was made
    write_text(recipe.folder / "recipe.yaml", recipe.as_yaml().replace("revision: null", "revision: v2"))
    with pytest.raises(ValueError, match="what differs: revision"):
        is_done(recipe)


def test_only_checkpoints_of_the_trainer_are_deleted(recipe, tmp_path):
    folder = recipe.folder / "checkpoints"
    for name in ("checkpoint-2/a", "checkpoint-10/a", "checkpoint-x/a", "mine/a", "mine.txt"):
        write_text(folder / name, "x")
    (folder / "checkpoint-3").symlink_to(tmp_path, target_is_directory=True)
    write_text(tmp_path / "other", "x")
    assert [path.name for path in checkpoints_of(folder)] == ["checkpoint-10", "checkpoint-3", "checkpoint-2"]
    remove_checkpoints(folder)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-x", "mine", "mine.txt", "checkpoint-3"}
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize("no_curves", [None])  # in place of the fixture: this one draws
def test_a_finished_run_says_where_and_how_it_ran(recipe, no_curves):
    start_run(recipe)
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    finish_run(recipe, 61.23, log, {"steps": 2})
    run = json.loads((recipe.folder / "run.json").read_text())
    assert run["stage"] == "contrastive"
    assert run["steps"] == 2
    assert run["seconds"] == 61.2
    assert run["versions"]["numpy"] == np.__version__
    lines = (recipe.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == log
    assert (recipe.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_can_be_given_to_a_shell_again(monkeypatch):
    arguments = ["train", "my recipe.yaml", "--title", "a 'b' $c"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/drdecr", *arguments])
    assert shlex.split(environment()["command"]) == ["drdecr", *arguments]


def test_the_command_names_no_folder_of_this_machine(monkeypatch):
    assert doctest.testmod(published).failed == 0
    monkeypatch.setenv("DRDECR_DATA", "/big/data")
    words = {
        "--corpus=[{format: qed, path: /big/data/a.jsonl}, '/else/where/b']": (
            "--corpus=[{format: qed, path: $DRDECR_DATA/a.jsonl}, 'b']"
        ),
        "--rows=/home/me/my rows": "--rows=my rows",
        "runs/mine/model": "runs/mine/model",
        "intfloat/e5": "intfloat/e5",
        "https://host/page": "https://host/page",
        "/": "/",
    }
    monkeypatch.setattr(sys, "argv", ["drdecr", *words])
    assert shlex.split(environment()["command"]) == ["drdecr", *words.values()]


def test_a_missing_git_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None
