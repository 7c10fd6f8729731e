"""Summaries per language by hand, comparisons, and files that survive."""

import json
import os

import numpy as np
import pytest

from drdecr.evaluation.results import Comparison, EvaluationResult, Score, compare, summarize
from drdecr.evaluation.significance import bootstrap_interval, paired_bootstrap_interval

LANGUAGES = {"q1": "ar", "q2": " ar", "q3": "ar", "q4": "fi", "unscored": "te"}
PER_QUERY = {
    "RR@10": {"q1": 1.0, "q2": 0.5, "q3": 0.0, "q4": 0.2},
    "R@10": dict.fromkeys(["q1", "q2", "q3", "q4"], 1.0),
}


def summary(per_query=PER_QUERY, languages=LANGUAGES, **options):
    options = {"collection": "sample, 120 passages", "data_version": "1.0", "resamples": 200, **options}
    return summarize(per_query, languages, **options)


def test_means_and_macro_average_are_those_computed_by_hand():
    rows = summary().scores["RR@10"]
    assert list(rows) == ["ar", "fi", "avg"]
    assert rows["ar"].mean == pytest.approx(0.5)
    assert rows["fi"].mean == pytest.approx(0.2)
    assert rows["avg"].mean == pytest.approx(0.35)  # of languages; of queries it would be 0.425
    assert [row.n for row in rows.values()] == [3, 1, 4]


def test_interval_of_a_language_is_the_bootstrap_of_its_queries():
    row = summary(seed=6).scores["RR@10"]["ar"]
    assert (row.mean, row.low, row.high) == bootstrap_interval([1.0, 0.5, 0.0], 200, 6)
    assert row.low < row.mean < row.high


def test_order_of_queries_and_other_languages_move_nothing():
    generator = np.random.default_rng(1)
    scores = {f"q{i}": float(generator.uniform()) for i in range(40)}
    languages = {query_id: "ar" if i < 25 else "fi" for i, query_id in enumerate(scores)}
    whole = summary({"RR@10": scores}, languages)
    assert summary({"RR@10": dict(reversed(scores.items()))}, languages) == whole
    arabic = {query_id: score for query_id, score in scores.items() if languages[query_id] == "ar"}
    assert summary({"RR@10": arabic}, languages).scores["RR@10"]["ar"] == whole.scores["RR@10"]["ar"]


def test_parallel_questions_are_drawn_together_whatever_the_set_calls_them():
    generator = np.random.default_rng(2)
    one = {f"q{i}": float(generator.uniform()) for i in range(60)}
    alone = summary({"RR@10": one}, dict.fromkeys(one, "ar")).scores["RR@10"]["avg"]
    for pattern in ("{}-{}", "xquad-{1}:{0}", "{1}_{0}"):
        parallel = {pattern.format(name, code): score for name, score in one.items() for code in ("ar", "fi", "te")}
        languages = {pattern.format(name, code): code for name in one for code in ("ar", "fi", "te")}
        row = summary({"RR@10": parallel}, languages).scores["RR@10"]["avg"]
        assert (row.mean, row.n) == (pytest.approx(alone.mean), 180)
        assert row.high - row.low == pytest.approx(alone.high - alone.low, rel=0.15)  # of 200 resamples; apart: 0.58
        rows = compare({"R": parallel}, {"R": dict.fromkeys(parallel, 0.5)}, languages, resamples=200)
        assert rows.differences["R"]["avg"].p_value == pytest.approx(rows.differences["R"]["ar"].p_value, abs=0.1)


def test_metadata_name_collection_version_and_settings():
    result = summary(command="drdecr demo", seed=5, notes={"tokenizer": "words", "seed": "a note cannot hide the seed"})
    assert result.metadata == {
        "tokenizer": "words",
        "collection": "sample, 120 passages",
        "data_version": "1.0",
        "command": "drdecr demo",
        "seed": 5,
        "resamples": 200,
        "average_over": "all",
    }


def test_average_can_leave_english_out():
    languages = {**LANGUAGES, "q4": "en"}
    rows = summary(languages=languages, average_over=["ar"]).scores["RR@10"]
    assert rows["en"].mean == pytest.approx(0.2)
    assert (rows["avg"].mean, rows["avg"].n) == (pytest.approx(0.5), 3)
    with pytest.raises(ValueError, match="average_over"):
        summary(average_over=["xx"])
    with pytest.raises(ValueError, match="average_over"):
        summary(average_over=[])


def test_json_round_trip_is_exact(tmp_path):
    generator = np.random.default_rng(0)
    per_query = {"RR@10": {f"q{i}": float(generator.uniform()) / 3 for i in range(50)}}
    languages = {f"q{i}": ["ar", "日本"][i % 2] for i in range(50)}
    result = summary(
        per_query, languages, notes={"languages": ["ar", "日本"], "nested": {"share": 1 / 3, "none": None}}
    )
    result.to_json(tmp_path / "result.json")
    assert EvaluationResult.from_json(tmp_path / "result.json") == result
    assert os.listdir(tmp_path) == ["result.json"]


def test_comparison_round_trip_is_exact(tmp_path):
    comparison = compare(PER_QUERY, PER_QUERY, LANGUAGES, resamples=50, notes={"baseline": "zero-shot"})
    comparison.to_json(tmp_path / "comparison.json")
    assert Comparison.from_json(tmp_path / "comparison.json") == comparison


def test_interrupted_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    summary().to_json(path)
    before = path.read_bytes()

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        summary(seed=9).to_json(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["result.json"]


def test_nan_cannot_be_written(tmp_path):
    nan = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        EvaluationResult({"RR@10": {"ar": Score(nan, nan, nan, 1)}}, {}).to_json(tmp_path / "result.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", '{"scores": {"RR@10": {"ar": {"mean": 0.', "[]", '{"scores": {}}', "3"])
def test_damaged_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "damaged.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"damaged\.json"):
        EvaluationResult.from_json(path)


def test_rows_of_another_kind_are_refused_by_name(tmp_path):
    path = tmp_path / "odd.json"
    for rows in ({"ar": {"mean": 0.1}}, {"ar": 0.1}, [0.1]):
        path.write_text(json.dumps({"scores": {"RR@10": rows}, "metadata": {}}))
        with pytest.raises(ValueError, match=r"odd\.json"):
            EvaluationResult.from_json(path)


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, float("nan"), {1, 2}])
def test_metadata_that_json_would_change_are_refused(value):
    with pytest.raises(ValueError, match="metadata"):
        summary(notes={"value": value})


def test_comparison_is_the_paired_interval_and_signs_are_system_minus_baseline():
    generator = np.random.default_rng(2)
    ids = sorted(f"q{i}" for i in range(60))
    old = {query_id: float(generator.uniform()) for query_id in ids}
    new = {query_id: old[query_id] + float(generator.normal(0.05, 0.1)) for query_id in ids}
    rows = compare({"RR@10": old}, {"RR@10": new}, dict.fromkeys(ids, "ar"), seed=3, resamples=500).differences["RR@10"]
    values = [[run[query_id] for query_id in ids] for run in (old, new)]
    expected = paired_bootstrap_interval(*values, 500, 3)
    assert (rows["ar"].mean, rows["ar"].low, rows["ar"].high) == expected
    assert rows["ar"].mean > 0
    assert rows["ar"].mean == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert rows["avg"] == rows["ar"]


def test_p_values_are_corrected_over_languages():
    ids = [f"{language}{i}" for language in ("ar", "fi", "ru") for i in range(8)]
    languages = {query_id: query_id[:2] for query_id in ids}
    old = dict.fromkeys(ids, 0.0)
    new = {query_id: {"ar": 0.5, "fi": 0.1 * (-1) ** int(query_id[2:]), "ru": 0.2}[query_id[:2]] for query_id in ids}
    rows = compare({"R@10": old}, {"R@10": new}, languages, resamples=5000).differences["R@10"]
    # 8 equal gains: all signs alike in 2 of 2^8 flips
    assert rows["ar"].p_value == pytest.approx(2 / 256, abs=0.005)
    assert rows["ar"].p_adjusted == pytest.approx(3 * rows["ar"].p_value)
    assert rows["ru"].p_adjusted == rows["ar"].p_adjusted  # the same p-value, from the same flips
    assert rows["fi"].p_adjusted == rows["fi"].p_value == 1.0
    assert rows["avg"].p_value == rows["avg"].p_adjusted < 0.01
    assert rows["avg"].mean == pytest.approx(0.7 / 3)


def test_bad_input_is_refused_with_its_name():
    with pytest.raises(ValueError, match="'q1' needs a language"):
        summary(languages={})
    with pytest.raises(ValueError, match="other than 'avg'"):
        summary(languages=dict.fromkeys(LANGUAGES, "avg"))
    with pytest.raises(ValueError, match="no query has a score"):
        summary({"RR@10": {}})
    with pytest.raises(ValueError, match="same measures"):
        compare(PER_QUERY, {"RR@10": PER_QUERY["RR@10"]}, LANGUAGES)
    with pytest.raises(ValueError, match="the first 'q4'"):
        compare({"R": {"q1": 1.0}}, {"R": {"q1": 1.0, "q4": 1.0}}, LANGUAGES)
