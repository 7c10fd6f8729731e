"""The candidates in a run's folder: read again by the same search, and found anew by any other."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs import candidates as kept_candidates
from drdecr.runs.training_data import prepare_sets


@pytest.fixture
def recipe(recipe_of, start, data):
    settings = {
        "unlabelled_queries": [data["parallel"]],
        "corpus": [data["train"]],
        "num_candidates": 3,
        "dev_texts": 0,
    }
    return recipe_of("a", stage="relevance", model=start, teacher=start, data=settings)


@pytest.fixture
def search(monkeypatch):
    """`search(recipe)` prepares its sets: their candidates, and whether they were searched for."""
    searched = []
    whole = kept_candidates.retrieve_candidates
    monkeypatch.setattr(
        kept_candidates, "retrieve_candidates", lambda *given, **named: searched.append(1) or whole(*given, **named)
    )

    def run(recipe):
        searched.clear()
        prepared = prepare_sets(recipe, load_teacher(recipe.resolve(recipe.teacher)), seed=0)
        return prepared.rows["unlabelled_queries"], bool(searched)

    return run


def other_text(recipe):
    path = Path(recipe.data.unlabelled_queries[0]["path"])
    path.write_text(path.read_text().replace("the king of b", "the river of b"))


def other_translation(recipe):
    path = Path(recipe.data.unlabelled_queries[0]["path"])
    path.write_text(path.read_text().replace("z b x", "z b y"))


def other_passage(recipe):
    path = Path(recipe.data.corpus[0]["passages"])
    path.write_text(path.read_text().replace("the city b is in france", "the sea b is in france"))


def other_run_of_the_teacher(recipe):
    path = recipe.folder.parent / "start" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 12345.0}))


def other_depth(recipe):
    recipe.data.candidate_depth = 9


def other_ranking(recipe):
    recipe.data.candidates_by = "mean"


CHANGES = (other_text, other_translation, other_passage, other_run_of_the_teacher, other_depth, other_ranking)


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_found_for_another_search_is_found_anew(change, recipe, search, caplog):
    assert search(recipe)[1]
    assert not search(recipe)[1]
    change(recipe)
    with caplog.at_level(logging.WARNING):
        found, searched = search(recipe)
    assert searched
    assert "was found for other rows, passages, settings or by another teacher, and is searched anew" in caplog.text
    fresh, _ = search(replace(recipe, output=str(recipe.folder.with_name("fresh"))))
    assert found.to_list() == fresh.to_list()
    again, searched = search(recipe)
    assert not searched
    assert again.to_list() == found.to_list()


def test_a_teacher_that_is_no_run_is_known_by_its_files(recipe, search):
    folder = recipe.folder.parent / "teacher"
    model = DrDecrModel.from_pretrained(recipe.resolve("stage:start"))
    model.save_pretrained(folder)
    recipe.teacher = str(folder)
    assert search(recipe)[1]
    assert not search(recipe)[1]
    (folder / "README.md").write_text("A card changes no token.")
    assert not search(recipe)[1]
    model.linear.weight.data.neg_()  # as large as before
    before = (folder / "model.safetensors").stat()
    model.save_pretrained(folder)
    os.utime(folder / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert search(recipe)[1]


def test_candidates_of_a_version_without_a_digest_are_found_anew(recipe, search):
    search(recipe)
    (recipe.folder / "candidates" / kept_candidates.DIGEST).unlink()
    assert search(recipe)[1]
    assert not search(recipe)[1]
