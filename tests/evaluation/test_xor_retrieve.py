"""R@2kt and R@5kt: the official definition rewritten as a plain loop, and its traps one by one."""

import json
import logging
import os
from pathlib import Path

import nltk
import numpy as np
import pytest

from drdecr.evaluation.recall_at_k_tokens import xor_retrieve
from drdecr.evaluation.recall_at_k_tokens.xor_retrieve import (
    FALLBACK_TOKENIZER,
    OFFICIAL_TOKENIZER,
    answer_recall,
    score_rankings,
    span_answers,
    word_tokenizer,
)
from drdecr.evaluation.results import summarize


@pytest.fixture(autouse=True)
def _no_punkt_and_a_fresh_lookup(monkeypatch):
    """The same on every machine, whether punkt is installed or not."""
    monkeypatch.setattr(nltk.data, "path", [])
    word_tokenizer.cache_clear()
    yield
    word_tokenizer.cache_clear()


def words(text: str) -> list[str]:
    return text.split()


def official(predictions: list[dict], answers: dict[str, list[str]], budget: int) -> tuple[dict[str, float], float]:
    """The benchmark's definition, told again: share per language and macro average."""
    hits: dict[str, list[bool]] = {}
    for prediction in predictions:
        wanted = [answer for answer in answers[prediction["id"]] if answer != "yes" and answer != "no"]
        if not wanted:
            continue
        tokens: list[str] = []
        for text in prediction["ctxs"]:
            for token in words(text):
                if len(tokens) < budget:
                    tokens.append(token)
        found = [answer for answer in wanted if " ".join(tokens).find(answer) >= 0]
        hits.setdefault(prediction["lang"], []).append(bool(found))
    shares = {language: sum(values) / len(values) for language, values in hits.items()}
    return shares, sum(shares.values()) / len(shares)


def test_random_rankings_agree_with_the_official_definition():
    generator = np.random.default_rng(3)
    vocabulary = [f"w{i}" for i in range(60)]
    predictions, answers = [], {}
    for number in range(120):
        question_id = f"q{number}"
        texts = [" ".join(generator.choice(vocabulary, size=generator.integers(1, 12))) for _ in range(6)]
        predictions.append({"id": question_id, "lang": ["ar", "fi", "te"][number % 7 % 3], "ctxs": texts})
        answers[question_id] = list(generator.choice([*vocabulary, "yes", "no"], size=generator.integers(1, 3)))
    answers["q0"] = ["yes", "no"]
    rankings = {item["id"]: item["ctxs"] for item in predictions}
    result = score_rankings(rankings, answers, budgets=(10, 25), tokenize=words)
    languages = {item["id"]: item["lang"] for item in predictions}
    summary = summarize(result.scores, languages, collection="made up", data_version="1", resamples=10)
    for budget, measure in ((10, "R@0.01kt"), (25, "R@0.025kt")):
        shares, macro = official(predictions, answers, budget)
        assert 0.05 < macro < 0.95
        for language, share in shares.items():
            assert summary.scores[measure][language].mean == pytest.approx(share)
        assert summary.scores[measure]["avg"].mean == pytest.approx(macro)


def test_the_cut_falls_exactly_after_the_budget():
    texts = ["a b c", "d Portland f"]  # Portland is token 5
    assert answer_recall(texts, ["Portland"], 4, words) == 0.0
    assert answer_recall(texts, ["Portland"], 5, words) == 1.0
    assert answer_recall(["New York"], ["New York"], 1, words) == 0.0


def test_default_budgets_are_two_and_five_thousand_tokens():
    filler = " ".join(["x"] * 1999)
    rankings = {"in": [filler, "Turku"], "out": [filler, "x", "Turku"], "far": [filler, filler, "x " * 1002, "Turku"]}
    result = score_rankings(rankings, {question_id: ["Turku"] for question_id in rankings})
    assert result.scores["R@2kt"] == {"in": 1.0, "out": 0.0, "far": 0.0}
    assert result.scores["R@5kt"] == {"in": 1.0, "out": 1.0, "far": 0.0}
    assert answer_recall([filler, filler, "x " * 1002, "Turku"], ["Turku"]) == 0.0
    assert answer_recall([filler, filler, "x " * 1001, "Turku"], ["Turku"]) == 1.0


def test_an_answer_may_run_over_two_passages():
    assert answer_recall(["the Indian", "subcontinent is"], ["Indian subcontinent"], 10, words) == 1.0


def test_answers_match_as_raw_case_sensitive_substrings():
    assert answer_recall(["it must start now"], ["art"], 10, words) == 1.0
    assert answer_recall(["portland is a city"], ["Portland"], 10, words) == 0.0
    assert answer_recall(["England"], ["Scotland", "England"], 10, words) == 1.0


def test_answers_are_not_tokenised_but_passages_are():
    assert answer_recall(["It fell by 50% then"], ["50%"]) == 0.0
    assert answer_recall(["It fell by 50% then"], ["50 %"]) == 1.0
    assert answer_recall(['The "Iliad" was sung'], ['"Iliad"']) == 0.0
    assert answer_recall(["white   \n space"], ["white space"]) == 1.0


def test_yes_and_no_are_not_looked_for():
    assert span_answers(["yes", "Turku", "no"]) == ["Turku"]
    assert span_answers(["Yes", "NO", "nothing"]) == ["Yes", "NO", "nothing"]  # only the exact spellings
    result = score_rankings({"a": ["yes of course"], "b": ["yes"]}, {"a": ["yes", "Turku"], "b": ["yes", "no"]})
    assert result.scores["R@2kt"] == {"a": 0.0}
    assert result.skipped == ("b",)


def test_a_question_without_ranking_is_a_miss():
    result = score_rankings({"a": ["Turku"]}, {"a": ["Turku"], "lost": ["Turku"], "none": ["yes"]})
    assert result.scores["R@5kt"] == {"a": 1.0, "lost": 0.0}


def test_misses_of_short_lists_are_counted():
    rankings = {"hit": ["Turku"], "short": ["x"], "long": ["x x x"]}
    result = score_rankings(
        rankings, {question_id: ["Turku"] for question_id in rankings}, budgets=(1, 3, 4), tokenize=words
    )
    assert result.short_lists == {"R@0.001kt": 0, "R@0.003kt": 1, "R@0.004kt": 2}
    assert result.notes()["missed_with_short_list"] == result.short_lists
    assert json.loads(json.dumps(result.notes())) == result.notes()


def test_passages_beyond_the_budget_are_not_read():
    def ranked():
        yield "a b"
        yield "c d"
        raise RuntimeError("read too far")

    assert answer_recall(ranked(), ["d"], 4, words) == 1.0
    with pytest.raises(RuntimeError, match="too far"):
        answer_recall(ranked(), ["d"], 5, words)


def test_language_with_a_leading_space_is_the_same_language():
    result = score_rankings({"a": ["Turku"], "b": ["x"]}, {"a": ["Turku"], "b": ["Turku"]})
    summary = summarize(result.scores, {"a": "ar", "b": " ar"}, collection="c", data_version="1", resamples=10)
    assert set(summary.scores["R@2kt"]) == {"ar", "avg"}
    assert summary.scores["R@2kt"]["ar"].mean == 0.5


def test_absent_punkt_is_said_once_and_in_the_result(caplog):
    with caplog.at_level(logging.WARNING, logger=xor_retrieve.__name__):
        for _ in range(2):
            result = score_rankings({"a": ["One end. Two end."]}, {"a": ["end. Two end ."]})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "punkt" in caplog.text
    assert result.tokenizer == result.notes()["tokenizer"] == FALLBACK_TOKENIZER
    assert result.scores["R@2kt"] == {"a": 1.0}  # the inner period stays attached, the last does not


def test_installed_punkt_is_used(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (folder / name).write_text("")
    (folder / "abbrev_types.txt").write_text("mr\n")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    result = score_rankings({"a": ["Mr. One end. Two end."]}, {"a": ["Mr. One end . Two end ."]})
    assert result.scores["R@2kt"] == {"a": 1.0}
    assert result.tokenizer == OFFICIAL_TOKENIZER
    assert not caplog.records


def test_a_given_tokenizer_is_named_in_the_result():
    assert score_rankings({}, {"a": ["Turku"]}, tokenize=words).tokenizer == "words"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="besides yes and no"):
        answer_recall(["x"], ["yes"])
    with pytest.raises(ValueError, match="empty answer"):
        answer_recall(["x"], ["x", ""])
    with pytest.raises(ValueError, match="empty answer"):
        answer_recall(["x"], [" "])
    with pytest.raises(ValueError, match="passages that are texts, got None"):
        answer_recall([None], ["x"])
    with pytest.raises(ValueError, match="positive whole numbers"):
        answer_recall(["x"], ["x"], 2.5)
    with pytest.raises(ValueError, match="list of answers"):
        answer_recall(["x"], "Turku")
    with pytest.raises(ValueError, match="must be positive whole"):
        answer_recall(["x"], ["x"], 0)
    with pytest.raises(ValueError, match="must be positive whole"):
        score_rankings({}, {"a": ["x"]}, budgets=())
    with pytest.raises(ValueError, match="'stray'"):
        score_rankings({"stray": ["x"]}, {"a": ["x"]})


def test_dev_set_scores_the_published_number_of_questions():
    folder = Path(os.environ.get("DRDECR_DATA", "DRDECR_DATA"))
    path = folder / "xor-tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl"
    if not path.exists():
        pytest.skip(f"needs the XOR-Retrieve dev set, {path} is absent")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    result = score_rankings({}, {row["id"]: row["answers"] for row in rows})
    languages = {row["id"]: row["lang"] for row in rows}
    summary = summarize(result.scores, languages, collection="none", data_version="v1.1", resamples=10)
    counts = {language: score.n for language, score in summary.scores["R@5kt"].items()}
    assert counts == {"ar": 309, "bn": 304, "fi": 314, "ja": 241, "ko": 285, "ru": 237, "te": 238, "avg": 1928}
    assert len(result.skipped) == 2110 - 1928
