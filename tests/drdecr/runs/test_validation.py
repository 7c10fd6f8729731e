"""Validation during training: the figures of one process, each process doing its share of the work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import PartialState

from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_questions
from drdecr.evaluation.evaluate import encode_passages, search_questions
from drdecr.evaluation.metrics import per_query_scores
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs.model_loading import load_student
from drdecr.runs.training_data import prepare_sets
from drdecr.runs.validation import Validation

SCRIPT = Path(__file__).with_name("launched_validation.py")


@pytest.fixture
def recipe(recipe_of, start, data):
    return recipe_of("a", stage="contrastive", model=start, validation=[data["train"], data["dev"]])


def expected(recipe):
    """The figures by the plain way: one index of a whole set, one search, one mean a language."""
    model = load_student(recipe)
    by_language = {}
    for entry in recipe.validation:
        found = read_questions(entry)
        run = search_questions(model, found, encode_passages(model, found))
        for query_id, score in per_query_scores(run, found.qrels)["RR@10"].items():
            by_language.setdefault(query_id.rpartition("-")[2], []).append(score)
    means = {f"mrr@10_{code}": sum(scores) / len(scores) for code, scores in by_language.items()}
    return {**means, "mrr@10_avg": sum(means.values()) / len(means)}


def test_one_process_measures_all(recipe):
    PartialState(cpu=True)
    assert Validation(recipe, None)(load_student(recipe)) == pytest.approx(expected(recipe))


@pytest.mark.processes
def test_two_processes_share_the_work_and_get_the_figures_of_one(recipe, data, run_python):
    recipe.data.unlabelled_queries, recipe.data.corpus, recipe.data.num_candidates = (
        [data["parallel"]],
        [data["train"]],
        3,
    )
    path = recipe.folder.with_suffix(".yaml")
    path.write_text(recipe.as_yaml())
    done = run_python(SCRIPT, path, processes=2)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert {line["process"] for line in lines} == {0, 1}
    for line in lines:
        assert line["processes"] == 2
        assert line["figures"] == pytest.approx(expected(recipe))
    # 20 and 6 questions, twice 16 passages: each text is read once, by one process.
    assert [line["read"] for line in lines] == [{"encode_documents": 16, "encode_queries": 13}] * 2
    # Candidates are found by the first process, and both read them.
    assert {line["process"]: line["searched"] for line in lines} == {0: 1, 1: 0}
    PartialState(cpu=True)
    alone = replace(recipe, output=str(recipe.folder.with_name("alone")))
    found = prepare_sets(alone, load_student(alone), seed=0).rows["unlabelled_queries"].to_list()
    assert [line["candidates"] for line in lines] == [found] * 2


def test_a_student_of_the_teachers_passage_tokens_is_measured_on_the_teachers_index(recipe, monkeypatch):
    PartialState(cpu=True)
    teacher = load_student(recipe)
    recipe.data.passage_tokens = {"format": "hub_tokens", "name": "me/sets"}
    validate = Validation(recipe, teacher)
    figures = validate(load_student(recipe))
    assert figures == pytest.approx(expected(recipe))
    monkeypatch.setattr(DrDecrModel, "encode_documents", None)  # the passages are not read again
    assert validate(load_student(recipe)) == figures


def test_the_languages_of_a_set_are_looked_up_once(recipe, monkeypatch):
    PartialState(cpu=True)
    asked = []
    whole = QuestionSet.languages.fget
    monkeypatch.setattr(QuestionSet, "languages", property(lambda found: asked.append(found.name) or whole(found)))
    Validation(recipe, None)(load_student(recipe))
    assert asked == ["train", "dev"]
