"""Each protocol's figures on a ranking that can be scored by hand."""

import math

import pytest
from datasets import Dataset

from drdecr.data.schema import QuestionSet
from drdecr.data.sources import QUESTION_READERS
from drdecr.evaluation.protocols import OF_FORMATS, PROTOCOLS, protocol_of, score_by_protocol, trimmed

PASSAGES = {f"d{number:04}": f"passage {number} tells of Paris" for number in range(1200)} | {
    "q1": "the question itself"
}


@pytest.fixture
def graded() -> QuestionSet:
    """One question: d0001 is relevant at grade 3, d0004 at grade 1, d0002 was judged and is not."""
    row = {"query_id": "q1", "query": "missä", "language": "fi", "document_ids": ["d0001", "d0004"]}
    row |= {"relevance": [3, 1], "irrelevant_ids": ["d0002"], "answers": ["Paris"]}
    return QuestionSet("graded", Dataset.from_list([row]), PASSAGES)


def run_of(*document_ids: str) -> dict[str, dict[str, float]]:
    return {"q1": {name: float(-place) for place, name in enumerate(document_ids)}}


def figures(found: QuestionSet, name: str, run: dict[str, dict[str, float]]) -> dict[str, float]:
    scores, facts = score_by_protocol(found, run, PROTOCOLS[name])
    assert facts["protocol"] == name
    return {measure: by_query["q1"] for measure, by_query in scores.items()}


# d0001 at rank 2, d0004 at rank 4.
RUN = run_of("d0003", "d0001", "d0002", "d0004")
NDCG = (3 / math.log2(3) + 1 / math.log2(5)) / (3 / math.log2(2) + 1 / math.log2(3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("miracl", {"nDCG@10": NDCG, "R@100": 1.0}),
        ("mr_tydi", {"RR@100": 0.5, "R@100": 1.0}),
        ("neuclir", {"nDCG@20": NDCG, "AP": (1 / 2 + 2 / 4) / 2, "R@100": 1.0, "R@1000": 1.0}),
        ("beir", {"nDCG@10": NDCG, "R@100": 1.0}),
        ("xquad", {"RR@10": 0.5, "R@1": 0.0, "R@5": 1.0, "R@10": 1.0}),
        ("afriqa", {**{f"AnswerRecall@{k}": 1.0 for k in (10, 20, 100)}, "R@10": 1.0, "RR@10": 0.5}),
        ("default", {"RR@10": 0.5, "R@10": 1.0, "R@100": 1.0, "nDCG@10": NDCG}),
        ("mkqa", {"AnswerRecall@20": 1.0, "AnswerRecall@100": 1.0}),
        ("xor_retrieve", {"R@2kt": 1.0, "R@5kt": 1.0}),
    ],
)
def test_figures_are_those_computed_by_hand(name, expected, graded):
    assert figures(graded, name, RUN) == pytest.approx(expected)


def test_depth_is_the_protocols(graded):
    """d0001 stands at rank 150, d0004 at 1,100: NeuCLIR looks 1,000 deep, others 100."""
    order = [f"d{number:04}" for number in range(5, 1200)]
    order.insert(149, "d0001")
    order.insert(1099, "d0004")
    run = run_of(*order)
    assert figures(graded, "neuclir", run)["R@1000"] == 0.5
    assert figures(graded, "neuclir", run)["AP"] == pytest.approx(1 / 150 / 2)  # not the second: it lies beyond
    assert figures(graded, "miracl", run)["R@100"] == 0.0
    assert len(trimmed(run, PROTOCOLS["neuclir"])["q1"]) == 1000


def test_afriqa_counts_an_answer_in_any_passage_and_the_labelled_passage_apart(graded):
    passages = {**PASSAGES, **{f"d{number:04}": "no such place" for number in range(12)}, "d0001": "on Paris, labelled"}
    found = QuestionSet("graded", graded.questions, passages)
    others = [f"d{number:04}" for number in (0, 2, 3, 5, 6, 7, 8, 9, 10, 11)]
    scores = figures(found, "afriqa", run_of(*others, "d0012", "d0001"))
    assert [scores[f"AnswerRecall@{k}"] for k in (10, 20, 100)] == [0.0, 1.0, 1.0]
    assert (scores["R@10"], scores["RR@10"]) == (0.0, 0.0)
    assert figures(found, "afriqa", run_of("d0012"))["AnswerRecall@10"] == 1.0  # another passage that says it


def test_beir_leaves_the_query_itself_out_of_its_ranking(graded):
    run = run_of("q1", "d0001")
    assert figures(graded, "beir", run)["nDCG@10"] == pytest.approx(3 / (3 + 1 / math.log2(3)))
    assert figures(graded, "miracl", run)["nDCG@10"] < figures(graded, "beir", run)["nDCG@10"]


@pytest.mark.parametrize(("dataset", "reader"), [("hc4/ru/test", "neuclir"), ("beir/scifact/test", "beir")])
def test_a_name_of_ir_datasets_says_the_protocol_of_its_benchmark(dataset, reader, graded):
    chosen = protocol_of({"format": "ir_datasets", "dataset": dataset}, graded)
    assert chosen == PROTOCOLS[reader]
    run = run_of("q1", *(f"d{number:04}" for number in range(1200)))
    kept = trimmed(run, chosen)["q1"]
    assert len(kept) == (1000 if reader == "neuclir" else 100)
    assert ("q1" in kept) == (reader == "neuclir")


def test_the_format_says_the_protocol_and_the_file_may_say_another(graded):
    assert set(OF_FORMATS) <= set(QUESTION_READERS)
    assert set(OF_FORMATS.values()) <= set(PROTOCOLS)
    assert protocol_of({"format": "miracl"}, graded).name == "miracl"
    assert protocol_of({"format": "squad"}, graded).name == "xquad"
    assert protocol_of({"format": "ir_datasets", "dataset": "neuclir/1/fa/trec-2022"}, graded).name == "neuclir"
    assert protocol_of({"format": "ir_datasets", "dataset": "vaswani"}, graded).name == "default"
    assert protocol_of({"format": "jsonl"}, graded).name == "default"
    assert protocol_of({"format": "miracl"}, graded, "beir").name == "beir"
    rows = [{"query_id": "a", "query": "q", "language": "fi", "document_ids": [], "answers": ["Paris"]}]
    answered = QuestionSet("answered", Dataset.from_list(rows), PASSAGES)
    assert protocol_of({"format": "jsonl"}, answered).name == "answers"
    with pytest.raises(ValueError, match="protocol: expected one of"):
        protocol_of({}, graded, "trec")
    with pytest.raises(ValueError, match="needs labelled passages"):
        protocol_of({}, answered, "miracl")
    rows = [{"query_id": "a", "query": "q", "language": "fi", "document_ids": ["d0001"]}]
    with pytest.raises(ValueError, match="looks for answers"):
        protocol_of({}, QuestionSet("labelled", Dataset.from_list(rows), PASSAGES), "mkqa")
