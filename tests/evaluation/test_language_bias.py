"""Language bias: each figure by hand, by a plain loop, or by scipy's own test."""

import itertools

import numpy as np
import pytest
from scipy.stats import friedmanchisquare, rankdata

from drdecr.evaluation.fairness.bias_report import heat_map, markdown_bias
from drdecr.evaluation.fairness.language_bias import BiasReport, measure_bias
from drdecr.evaluation.fairness.peer import friedman_p_value, kendall_w, peer

LANGUAGES = {f"{group}.{code}": code for group in "abcd" for code in ("ar", "en", "fi")}


def ranking(*names):
    return {name: float(-place) for place, name in enumerate(names)}


@pytest.fixture
def report():
    run = {
        "q1": ranking("a.en", "b.en", "a.fi", "c.ar", "a.ar"),
        "q2": ranking("b.fi", "b.en", "b.ar", "a.ar"),
        "q3": ranking("c.en", "c.ar", "c.fi"),
        "q4": ranking("d.en"),
    }
    versions = {f"q{n}": [f"{g}.{code}" for code in ("ar", "en", "fi")] for n, g in enumerate("abcd", start=1)}
    versions["q5"] = ["a.en"]  # not in every language
    asked = {"q1": "en", "q2": "fi", "q3": "en", "q4": "en", "q5": "fi"}
    return measure_bias(run, versions, asked, LANGUAGES, top_k=3, depth=5, resamples=200)


def test_cells_are_what_counting_gives(report):
    cells = report.cells
    assert [cells["rank"]["en"][code].mean for code in ("ar", "en", "fi")] == pytest.approx(
        [(5 + 2 + 6) / 3, (1 + 1 + 1) / 3, (3 + 3 + 6) / 3]
    )
    assert [cells["first"]["fi"][code].mean for code in ("ar", "en", "fi")] == [0, 0, 1]
    assert [cells["found"]["en"][code].mean for code in ("ar", "en", "fi")] == pytest.approx([1 / 3, 1, 2 / 3])
    # The first three places: of q1 en, en, fi; of q3 one each; of q4 en alone.
    assert cells["share"]["en"]["en"].mean == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    assert cells["score"]["en"]["ar"].mean == pytest.approx((-4 - 1) / 2)
    assert (cells["score"]["en"]["ar"].n, cells["rank"]["avg"]["ar"].n) == (2, 4)
    assert (report.metadata["left_out"], report.metadata["not_found"]) == (1, 2)


def test_the_first_right_version_in_any_language_is_what_quality_looks_at(report):
    assert report.bias["fi"].reciprocal_rank.mean == 1
    late = measure_bias(
        {"q": ranking("b.en", "b.fi", "a.fi")}, {"q": ["a.ar", "a.en", "a.fi"]}, {"q": "en"}, LANGUAGES, top_k=3
    )
    assert late.bias["en"].reciprocal_rank.mean == pytest.approx(1 / 3)
    late = measure_bias(
        {"q": ranking("b.en", "b.fi", "a.fi")}, {"q": ["a.ar", "a.en", "a.fi"]}, {"q": "en"}, LANGUAGES, top_k=2
    )
    assert late.bias["en"].reciprocal_rank.mean == 0


def test_own_language_is_compared_with_each_other_version(report):
    assert report.bias["fi"].own.mean == 1.0
    assert report.bias["en"].own.mean == 1.0
    assert report.bias["avg"].own is None
    assert report.bias["en"].peer is None  # one right document a language says nothing


def test_a_version_alone_is_ranked_without_the_others(report):
    # q1: b.en stands above a.fi, c.ar as well above a.ar; q3: nothing does; q4: only d.en was found.
    assert [report.cells["alone"]["en"][code].mean for code in ("ar", "en", "fi")] == pytest.approx(
        [(1 / 3 + 1 + 0) / 3, 1, (1 / 2 + 1 + 0) / 3]
    )
    assert report.bias["en"].abroad.mean == pytest.approx(((1 / 3 + 1 / 2) / 2 + 1 + 0) / 3)
    assert report.bias["avg"].abroad.mean == pytest.approx((3 * report.bias["en"].abroad.mean + 1) / 4)
    run = {"q": ranking("b.en", "a.en", "b.fi", "a.fi", "a.ar")}
    late = measure_bias(run, {"q": ["a.ar", "a.en", "a.fi"]}, {"q": "en"}, LANGUAGES, top_k=2)
    assert [late.cells["alone"]["en"][code].mean for code in ("ar", "en", "fi")] == [0, 1 / 2, 0]


def test_the_best_of_several_versions_counts_and_what_is_not_found_is_a_tie():
    run = {
        "q1": ranking("c.fi", "b.ar", "a.en", "a.ar", "d.en", "a.fi"),
        "q2": ranking("c.fi"),
        "q3": ranking("a.en", "a.ar", "a.fi"),
    }
    versions = {name: ["a.ar", "b.ar", "a.en", "a.fi"] for name in run}
    report = measure_bias(
        run, versions, {"q1": "en", "q2": "fi", "q3": "ar"}, LANGUAGES, top_k=4, depth=5, peer_cutoff=4, resamples=50
    )
    means = {
        name: {asked: [c.mean for c in row.values()] for asked, row in rows.items()}
        for name, rows in report.cells.items()
    }
    assert means["rank"] == {
        "en": [2, 3, 6],
        "fi": [6, 6, 6],
        "ar": [2, 1, 3],
        "avg": pytest.approx([10 / 3, 10 / 3, 5]),
    }
    assert means["first"]["fi"] == pytest.approx([1 / 3] * 3)
    assert means["score"]["en"] == [-1, -2, 0]
    assert [(cell.mean, cell.n) for cell in report.cells["score"]["fi"].values()] == [(0, 0)] * 3  # none was found
    assert means["share"]["fi"] == [0, 0, 1]
    assert means["alone"] == {
        "en": [1 / 2, 1 / 2, 0],
        "fi": [0, 0, 0],
        "ar": [1, 1, 1],
        "avg": pytest.approx([1 / 2, 1 / 2, 1 / 3]),
    }
    own = [report.bias[code].own.mean for code in ("en", "fi", "ar")]
    assert own == [0.5, 0.5, 0.5]  # one of two stands above; all are tied; one of two
    assert [report.bias[code].reciprocal_rank.mean for code in ("en", "fi", "ar")] == [1 / 2, 0, 1]
    assert report.metadata["not_found"] == 4
    for name, code in {"q1": "en", "q2": "fi", "q3": "ar"}.items():
        levels = {name: {document: int(document in versions[name]) for document in LANGUAGES}}
        right, others = (peer({name: run[name]}, levels, LANGUAGES, {level: 1.0}, 4)[name] for level in (1, 0))
        assert (report.bias[code].peer.mean, report.bias[code].peer_others.mean) == pytest.approx((right, others))
    assert report.bias["en"].peer.mean != report.bias["en"].peer_others.mean


def test_the_report_survives_its_file(report, tmp_path):
    report.to_json(tmp_path / "bias.json")
    assert BiasReport.from_json(tmp_path / "bias.json") == report
    (tmp_path / "other.json").write_text('{"cells": {"rank": 3}, "bias": {}, "metadata": {}}')
    with pytest.raises(ValueError, match="holds no language bias"):
        BiasReport.from_json(tmp_path / "other.json")


@pytest.mark.parametrize("tied", [False, True])
def test_kendalls_w_is_friedmans_statistic_over_its_largest_value(tied):
    generator = np.random.default_rng(3)
    values = generator.integers(0, 3 if tied else 10**6, (40, 5)) + np.arange(5) * (0 if tied else 10**5)
    orders = np.array([rankdata(row) for row in values])
    found = friedmanchisquare(*orders.T)
    assert kendall_w(orders) == pytest.approx(found.statistic / (40 * 4))
    assert friedman_p_value(orders) == pytest.approx(found.pvalue)


def test_a_question_in_several_languages_is_drawn_once():
    """Five copies of each question say no more than one: the average's intervals are those of one language."""
    generator = np.random.default_rng(0)
    run, versions, asked = {}, {}, {}
    for number in range(20):
        order = generator.permutation(["a.en", "a.fi", "a.ar"]).tolist()
        for code in ("en", "fi", "ar", "sw", "te"):
            name = f"q{number}.{code}"
            run[name], versions[name], asked[name] = ranking(*order), ["a.en", "a.fi", "a.ar"], code
    report = measure_bias(run, versions, asked, LANGUAGES, resamples=300)
    one, every = report.bias["te"], report.bias["avg"]
    assert (every.kendall_w.low, every.kendall_w.high) == pytest.approx((one.kendall_w.low, one.kendall_w.high))
    assert every.p_value == pytest.approx(one.p_value)
    assert every.kendall_w.n == 5 * one.kendall_w.n
    pairs = [(report.cells["rank"][code]["en"].low, report.cells["rank"][code]["en"].high) for code in ("te", "avg")]
    assert pairs[0] == pytest.approx(pairs[1])


def test_one_order_is_1_and_all_orders_alike_are_0():
    assert kendall_w(np.array([[2.0, 1.0, 3.0]] * 7)) == pytest.approx(1)
    assert kendall_w(np.array(list(itertools.permutations([1.0, 2.0, 3.0])))) == pytest.approx(0)
    assert kendall_w(np.full((4, 3), 2.0)) == 0
    assert friedman_p_value(np.full((4, 3), 2.0)) == 1
    # Two languages: 9 of 12 questions one way; chi-square of a sign test, (9 - 3)^2 / 12 = 3.
    assert friedman_p_value(np.array([[1.0, 2.0]] * 9 + [[2.0, 1.0]] * 3)) == pytest.approx(0.0832645, abs=1e-6)


def kruskal_by_hand(groups):
    """H of Kruskal and Wallis 1952 with mid-ranks and the correction for ties, and its chi-square tail for 3 groups."""
    pooled = sorted(value for group in groups for value in group)
    count = len(pooled)
    middle = {v: (2 * pooled.index(v) + 1 + pooled.count(v)) / 2 for v in pooled}
    h = 12 / (count * (count + 1)) * sum(sum(middle[v] for v in g) ** 2 / len(g) for g in groups) - 3 * (count + 1)
    h /= 1 - sum(t**3 - t for t in (pooled.count(v) for v in set(pooled))) / (count**3 - count)
    return np.exp(-h / 2)  # two degrees of freedom


def test_peer_is_the_kruskal_wallis_test_of_each_level():
    order = ["a.en", "b.en", "a.fi", "c.en", "b.fi", "a.ar", "d.en", "c.ar", "d.fi"]
    qrels = {"q": dict.fromkeys(["a.en", "b.en", "c.en", "a.fi", "b.fi", "a.ar", "b.ar"], 1) | {"d.ar": 0}}
    right = [[1, 2, 4], [3, 5], [6, 8]]  # b.ar is not found, and 7 documents are looked at
    # Level 0: d.en at 7 and d.ar behind the cutoff; c.ar and d.fi, also behind it, were not judged. H = 1, one degree of freedom.
    run = {"q": ranking(*order)}
    assert peer(run, qrels, LANGUAGES, {1: 1.0}, cutoff=7)["q"] == pytest.approx(kruskal_by_hand(right))
    both = peer(run, qrels, LANGUAGES, {0: 0.25, 1: 0.75}, cutoff=7)["q"]
    assert both == pytest.approx(0.25 * 0.3173105 + 0.75 * kruskal_by_hand(right), abs=1e-6)


def test_peer_of_one_language_or_of_nothing_found_is_1_and_of_single_documents_a_constant():
    qrels = {"q": {"a.en": 1, "b.en": 1}}
    assert peer({"q": ranking("a.en")}, qrels, LANGUAGES, {1: 1.0})["q"] == 1
    qrels = {"q": {"a.en": 1, "a.fi": 1, "a.ar": 1}}
    assert peer({}, qrels, LANGUAGES, {1: 1.0})["q"] == 1
    values = {
        peer({"q": ranking(*order)}, qrels, LANGUAGES, {1: 1.0})["q"]
        for order in itertools.permutations(["a.en", "a.fi", "b.fi", "a.ar"])
    }
    assert len({round(value, 9) for value in values}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, {"q": ["a"]}, {"q": "en"}, {"a": "en"}), "two languages or more, got en"),
        (({}, {"q": ["a"]}, {"q": "en"}, {"a": "en", "b": "fi"}), "right document in each of en, fi"),
        (({}, {"q": ["x"]}, {"q": "en"}, {"a": "en", "b": "fi"}), "'x' is not in the collection"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_bias(*arguments)
    with pytest.raises(ValueError, match="depth of at least top_k, got 5 and 10"):
        measure_bias({}, {}, {}, {}, depth=5)
    with pytest.raises(ValueError, match="sum to 1"):
        peer({}, {}, {}, {1: 0.5})


def test_tables_and_heat_map_show_every_pair(report, tmp_path):
    text = markdown_bias({"plain": report, "calibrated": report})
    assert "4 questions; documents: 4 ar, 4 en, 4 fi. 1 questions left out" in text
    assert "2 versions were not among the first 5" in text
    assert "| plain: fi | 1 | 1.000 [1.000, 1.000] |" in text
    assert "| en (n=3) | 4.3 [2.0, 6.0] | 1.0 [1.0, 1.0] | 4.0 [3.0, 6.0] |" in text
    assert heat_map({"plain": report}, tmp_path / "bias.png").read_bytes()[:4] == b"\x89PNG"
