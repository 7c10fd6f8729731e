"""The model card: valid metadata, the figures of the table, and nothing that no run knows."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from drdecr.evaluation.results import compare, summarize
from drdecr.model_card import write_model_card
from drdecr.pipeline import Pipeline, System
from drdecr.recipe import Recipe

LANGUAGES = {"1": "ar", "2": "ar", "3": "ru", "4": "en"}
SCORES = {"zero": {"RR@10": {"1": 0.0, "2": 0.5, "3": 1.0, "4": 1.0}}, "D": {"RR@10": dict.fromkeys(LANGUAGES, 0.5)}}
FULL = {
    "title": "tiny student",
    "license": "apache-2.0",
    "base_model": "some/encoder",
    "description": "A description.",
    "data": "the data",
    "datasets": ["some/set"],
    "limits": ["first limit", "second limit"],
}


def card_of(folder, card, facts, kind="initialise"):
    """Write the card of a pipeline of two stages, the last of a kind, whose runs wrote down `facts`."""
    systems = [System("zero", "first"), System("D", "last")]
    pipeline = Pipeline(str(folder), ["first", "last"], systems, "last", [], "tiny collection", card=card)
    recipes = {name: Recipe("initialise", str(folder / name), "offline") for name in pipeline.stages}
    for recipe in recipes.values():
        recipe.folder.mkdir()
        run = {"stage": kind, "versions": {"python": "3", "peft": None}, "git_commit": None, "command": "c"}
        (recipe.folder / "run.json").write_text(json.dumps({**run, "hardware": "CPU", "seconds": 90, **facts}))
    notes = {"collection": "tiny", "data_version": "1", "average_over": ["ar", "ru"], "resamples": 50}
    results = {label: summarize(scores, LANGUAGES, **notes) for label, scores in SCORES.items()}
    comparison = compare(SCORES["zero"], SCORES["D"], LANGUAGES, average_over=["ar", "ru"], resamples=50)
    recipes["last"].model_folder.mkdir()
    (recipes["last"].folder / "curves.png").write_bytes(b"a picture")
    return ModelCard.load(write_model_card(recipes["last"].model_folder, pipeline, recipes, results, comparison))


@pytest.mark.parametrize("card", [{}, FULL], ids=["bare", "full"])
@pytest.mark.parametrize(
    "facts", [{}, {"rows": {"questions": 12, "parallel": 7}, "steps": 3, "batch_rows": 4, "seed": 1, "last_loss": 0.25}]
)
def test_nothing_is_invented(card, facts, tmp_path):
    written = card_of(tmp_path, card, facts)
    assert not re.search(r"\bNone\b|Undefined|\{\{|\{%|null|\{'", written.content)
    assert ("12 questions, 7 parallel" in written.text) == bool(facts)
    assert ("Seed 1." in written.text) == bool(facts)
    assert ("| 3 | 4 | 0.2500 | 1.5 | CPU |" in written.text) == bool(facts)
    assert "peft" not in written.text
    assert "Commit" not in written.text
    for text in ("A description.", "Data: the data", "- first limit\n- second limit"):
        assert (text in written.text) == bool(card)
    known = {"license", "base_model", "datasets"}
    assert known & set(written.data.to_dict()) == (known if card else set())


def test_the_card_shows_the_curves_and_says_distilled_only_of_what_was(tmp_path):
    for kind, distilled in (("contrastive", False), ("initialise", False), ("relevance", True), ("mixed", True)):
        (tmp_path / kind).mkdir()
        text = card_of(tmp_path / kind, {}, {}, kind).text
        assert ("It was distilled" in text) == distilled
        assert "](curves.png)" in text
        assert (tmp_path / kind / "last" / "model" / "curves.png").read_bytes() == b"a picture"


def test_metadata_read_back_are_the_figures_of_the_table(tmp_path):
    data = card_of(tmp_path, FULL, {}).data
    assert (data.license, data.base_model, data.model_name) == ("apache-2.0", "some/encoder", "tiny student")
    assert data.language == ["ar", "en", "ru"]
    assert data.library_name == "transformers"
    figures = {result.dataset_config: result.metric_value for result in data.eval_results}
    assert figures == {"ar": 0.5, "ru": 0.5, "en": 0.5, "avg": 0.5}
    assert {result.dataset_name for result in data.eval_results} == {"tiny collection"}
    counts = {result.dataset_config: result.metric_name.rpartition("=")[2] for result in data.eval_results}
    assert counts == {"ar": "2", "ru": "1", "en": "1", "avg": "3"}
