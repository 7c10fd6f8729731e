"""The model card: valid metadata, the figures of the table, and nothing that no run knows."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from drdecr.evaluation.results import compare, summarize
from drdecr.runs.model_card import base_model, write_model_card, write_run_card
from drdecr.runs.recipe import DataSettings, EvaluatedSystem, Pipeline, Recipe

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


def card_of(folder, card, facts, kind="initialise", training=None, **data):
    """Write the card of a pipeline of two stages, the last of a kind, whose runs wrote down `facts`."""
    systems = [EvaluatedSystem("zero", "first"), EvaluatedSystem("D", "last")]
    pipeline = Pipeline(str(folder), ["first", "last"], systems, "last", [], "tiny collection", card=card)
    starts = {"first": "offline", "last": "stage:first"}
    recipes = {name: Recipe("initialise", str(folder / name), start) for name, start in starts.items()}
    recipes["last"] = Recipe(
        kind, str(folder / "last"), starts["last"], training=training or {}, data=DataSettings(**data)
    )
    for recipe in recipes.values():
        recipe.folder.mkdir()
        (recipe.folder / "recipe.yaml").write_text(recipe.as_yaml())
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
    "facts",
    [
        {},
        {
            "rows": {"questions": 12, "parallel": 7},
            "steps": 3,
            "batch_rows": 4,
            "seed": 1,
            "last_loss": 0.25,
            "peak_memory_mb": 1234.5,
            "peak_gpu_memory_mb": 99.9,
        },
    ],
)
def test_nothing_is_invented(card, facts, tmp_path):
    written = card_of(tmp_path, card, facts)
    assert not re.search(r"\bNone\b|Undefined|\{\{|\{%|null|\{'", written.content)
    assert ("12 questions, 7 parallel" in written.text) == bool(facts)
    assert ("Seed 1." in written.text) == bool(facts)
    assert ("| 3 | 4 | 0.2500 | 0.025 | 1,234 MB, on the GPU 100 MB | CPU |" in written.text) == bool(facts)
    assert "peft" not in written.text
    assert "Commit" not in written.text
    for text in ("A description.", "Data: the data", "- first limit\n- second limit"):
        assert (text in written.text) == bool(card)
    known = {"license", "datasets"}
    assert known & set(written.data.to_dict()) == (known if card else set())
    assert written.data.base_model == ("some/encoder" if card else "intfloat/multilingual-e5-small")


def test_the_card_shows_the_curves_and_says_distilled_only_of_what_was(tmp_path):
    for number, (kind, training, distilled) in enumerate(
        [
            ("contrastive", {}, False),
            ("initialise", {}, False),
            ("relevance", {}, True),
            ("representation", {"token_weight": 0, "anchor_weight": 0, "in_batch_weight": 1}, False),
            ("mixed", {"contrastive_weight": 1}, False),
            ("mixed", {"contrastive_weight": 1, "token_weight": 0.5}, True),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = card_of(folder, {}, {}, kind, training).text
        assert ("It was distilled" in text) == distilled
        assert "](curves.png)" in text
        assert (folder / "last" / "model" / "curves.png").read_bytes() == b"a picture"


@pytest.mark.parametrize(
    ("questions", "english"),
    [
        ([], False),
        ([{"format": "sample_questions"}], True),
        ([{"format": "afriqa", "path": "x"}], True),
        ([{"format": "afriqa", "path": "x", "pivot": "fr"}], False),
        ([{"format": "sample_questions"}, {"format": "miracl", "path": "x"}], False),
    ],
)
def test_the_card_says_english_passages_only_of_sets_that_have_them(tmp_path, questions, english):
    text = card_of(tmp_path, {}, {}, "contrastive", questions=questions).text
    assert ("finds passages in English" in text) == english
    assert ("It was trained on English passages" in text) == english


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


@pytest.mark.parametrize("card", [{}, FULL], ids=["bare", "full"])
def test_the_hub_takes_the_card(card, hub, tmp_path):
    card_of(tmp_path, card, {"languages": ["fi", "sw"]}).validate()
    assert len(hub.requests("POST", "/api/validate-yaml")) == 1


def test_the_card_names_the_sets_that_the_stages_read(tmp_path):
    """Sets of the Hub as `datasets`; of each what its entry says, and no folder of this machine."""
    parallel = [
        {"format": "hub", "name": "user/set", "config": "parallel", "revision": "3f2a", "languages": ["fi"]},
        {"format": "tsv", "path": "/home/me/pud/{language}-en.tsv", "languages": {"ko": "kor", "sw": "swa"}},
        {"format": "tsv", "path": "$DATA/ntrex/{language}.tsv", "about": {"license": "CC BY-SA 4.0"}},
        {
            "format": "jsonl",
            "questions": "q.jsonl",
            "about": {"source": "https://huggingface.co/datasets/my/questions"},
        },
        {"format": "jsonl", "questions": "r.jsonl", "about": {"source": "https://example.org/datasets/mine"}},
    ]
    tokens = {"format": "hub_tokens", "name": "user/tokens"}
    written = card_of(tmp_path, {}, {}, "relevance", parallel=parallel, query_tokens=tokens)
    assert written.data.datasets == ["my/questions", "user/set", "user/tokens"]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in written.text.splitlines() if line[:1] == "|"
    ]
    assert ["stage", "used as", "set", "languages", "revision", "licence", "source"] in lines
    assert ["last", "parallel", "hub: user/set, parallel", "fi", "3f2a", "", ""] in lines
    assert ["last", "parallel", "tsv: {language}-en.tsv", "ko sw", "", "", ""] in lines
    assert ["last", "parallel", "tsv: ntrex/{language}.tsv", "", "", "CC BY-SA 4.0", ""] in lines
    assert ["last", "query tokens", "hub_tokens: user/tokens", "", "", "", ""] in lines
    assert "/home/me" not in written.content


def test_languages_are_those_measured_and_those_learnt_from(tmp_path):
    assert card_of(tmp_path, {}, {"languages": ["fi", "ko"]}).data.language == ["ar", "en", "fi", "ko", "ru"]


@pytest.mark.parametrize(("entry", "languages"), [({}, ["fi"]), ({"parallel": [{"format": "tsv"}]}, ["en", "fi"])])
def test_english_is_a_language_of_a_run_that_read_it(tmp_path, entry, languages):
    recipe = Recipe("contrastive", str(tmp_path / "run"), "offline", data=DataSettings(**entry))
    recipe.model_folder.mkdir(parents=True)
    run = {"stage": "contrastive", "versions": {}, "git_commit": None, "command": "c", "languages": ["fi"]}
    (recipe.folder / "run.json").write_text(json.dumps({**run, "hardware": "CPU", "seconds": 90}))
    assert ModelCard.load(write_run_card(recipe)).data.language == languages


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("offline", "intfloat/multilingual-e5-small"),
        ("user/encoder", "user/encoder"),
        ("stage:missing", None),
        ("stage:last", None),  # a circle, which no run can be
    ],
)
def test_the_base_model_is_what_the_first_of_the_runs_started_from(start, expected, tmp_path):
    recipes = [Recipe("initialise", str(tmp_path / "first"), start)]
    recipes.append(Recipe("relevance", str(tmp_path / "next"), "stage:first"))
    recipes.append(Recipe("relevance", str(tmp_path / "last"), str(tmp_path / "next" / "model")))
    for recipe in recipes:
        recipe.model_folder.mkdir(parents=True)
        (recipe.folder / "recipe.yaml").write_text(recipe.as_yaml())
    assert base_model(recipes[-1]) == expected
