"""A run's folder: written whole or not at all, and never over another's."""

import json
import os

import numpy as np
import pytest

from drdecr.recipe import Recipe
from drdecr.run_folder import environment, finish_run, is_done, start_run, write_text


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


def test_another_recipe_in_the_same_folder_is_refused(recipe):
    start_run(recipe)
    other = Recipe("contrastive", recipe.output, "offline", training={"max_steps": 1})
    with pytest.raises(ValueError, match=r"holds a run of another recipe .*Choose another `--output`"):
        is_done(other)
    assert not is_done(recipe)


def test_a_model_that_no_recipe_made_is_not_overwritten(recipe):
    recipe.model_folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="exists and is no run of this recipe"):
        is_done(recipe)


def test_a_finished_run_says_where_and_how_it_ran(recipe):
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


def test_a_missing_git_is_no_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["git_commit"] is None
