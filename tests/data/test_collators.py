"""Collators: rows in, tensors out, and an error that names the column for each kind of bad row."""

import doctest
from typing import Any

import pytest
import torch

from drdecr.data import collators
from drdecr.data.collators import DistillationCollator
from drdecr.data.embeddings.cache import TokenCache
from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor

PASSAGES = {"p1": "paris is the capital of france .", "p2": "a river", "p3": "the king"}
MASKS = {"input_ids", "attention_mask", "scoring_mask", "text_mask"}


def row(**changes: Any) -> dict[str, Any]:
    good = {
        "query": "b c d",
        "english": "the capital",
        "document_ids": ["p1", "p2"],
        "teacher_scores": [9.0, 4.0],
        "teacher_query_tokens": 5,
    }
    return {name: value for name, value in {**good, **changes}.items() if value != "left out"}


@pytest.fixture
def collate(tiny_processor: DrDecrProcessor) -> DistillationCollator:
    return DistillationCollator(tiny_processor, passages=PASSAGES, anchor=True)


def test_the_docstrings_example_is_true(tiny_processor: DrDecrProcessor):
    names = {"DistillationCollator": DistillationCollator, "processor": DrDecrProcessor(tiny_processor.tokenizer)}
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(DistillationCollator, "DistillationCollator", collators, extraglobs=names):
        runner.run(test)
    assert runner.summarize().attempted == 3
    assert runner.summarize().failed == 0


def test_rows_with_candidates_become_tensors_of_the_documented_shapes(collate: DistillationCollator):
    batch = collate([row(), row(query="b", document_ids=["p3", "p1"])])
    assert set(batch) == {
        "query",
        "teacher_query",
        "document",
        "document_keys",
        "question_keys",
        "teacher_scores",
        "teacher_query_tokens",
    }
    assert all(set(batch[name]) == MASKS for name in ("query", "teacher_query", "document"))
    assert batch["query"]["input_ids"].shape == (2, 6)
    assert batch["teacher_query"]["input_ids"].shape == (2, 5)
    assert batch["document"]["input_ids"].shape == batch["document"]["scoring_mask"].shape == (2, 2, 10)
    first, second = batch["document_keys"].tolist()
    assert first[0] == second[1]
    assert len({*first, *second}) == 3
    assert torch.equal(batch["document"]["input_ids"][0, 0], batch["document"]["input_ids"][1, 1])
    assert batch["teacher_scores"].dtype == torch.float32
    assert batch["teacher_scores"].tolist() == [[9, 4], [9, 4]]
    assert batch["teacher_query_tokens"].tolist() == [5, 5]


@pytest.mark.parametrize(
    "columns",
    [
        {"documents": ["the king", "a river", "paris"]},
        {"negative_2": "paris", "positive": "the king", "negative_1": "a river"},
        {"negative": "a river", "negative_10": "paris", "positive": "the king"},
    ],
)
def test_rows_may_hold_the_texts_of_their_candidates(columns: dict[str, Any], tiny_processor: DrDecrProcessor):
    passages = {"1": "the king", "2": "a river", "3": "paris"}
    expected = DistillationCollator(tiny_processor, passages)([{"query": "b", "document_ids": ["1", "2", "3"]}])
    batch = DistillationCollator(tiny_processor)([{"query": "b", **columns}])
    assert set(batch) == set(expected)
    assert torch.equal(batch["document_keys"], expected["document_keys"])
    assert all(torch.equal(batch["document"][name], expected["document"][name]) for name in MASKS)


@pytest.mark.parametrize("columns", [{"documents": ["a", " "]}, {"positive": None, "negative": "a"}])
def test_a_row_without_a_candidates_text_is_named(columns: dict[str, Any], tiny_processor: DrDecrProcessor):
    with pytest.raises(ValueError, match=r"expected a text for each candidate, got (' '|None) in query 'b'"):
        DistillationCollator(tiny_processor)([{"query": "b", **columns}])


def test_equal_texts_and_equal_questions_have_equal_keys(tiny_processor: DrDecrProcessor):
    collate = DistillationCollator(tiny_processor, {**PASSAGES, "again": PASSAGES["p2"]})
    batch = collate([row(), row(query="d"), row(english="the sea", document_ids=["again", "p3"])])
    assert batch["document_keys"][0, 1] == batch["document_keys"][2, 0]
    assert [len(set(batch[name].flatten().tolist())) for name in ("document_keys", "question_keys")] == [3, 2]


def test_answers_are_ids_or_whole_words_of_passages(collate: DistillationCollator):
    keys = collate([row(), row(document_ids=["p3", "p2"])])["document_keys"]
    p1, p2, p3 = keys[0, 0].item(), keys[0, 1].item(), keys[1, 0].item()
    rows = [row(answers=["p3", "A River"]), row(document_ids=["p3", "p2"], answers=["king", "rance", ""])]
    answers = collate(rows)["answer_keys"].tolist()
    assert [set(keys) for keys in answers] == [{p2, p3}, {p3}]
    assert [set(keys) for keys in collate([row(answers=[])])["answer_keys"].tolist()] == [{p1}]


def test_a_candidate_is_tokenised_as_the_processor_does(collate: DistillationCollator, tiny_processor: DrDecrProcessor):
    batch = collate([row()])
    expected = tiny_processor.process_documents([PASSAGES["p1"], PASSAGES["p2"]])
    for name in MASKS:
        assert torch.equal(batch["document"][name][0], expected[name])


def test_parallel_rows_become_an_anchor_only_where_one_is_asked_for(tiny_processor: DrDecrProcessor):
    pairs = [{"query": "b c", "english": "the sea", "language": "xx"}, {"query": "d", "english": "a", "language": "yy"}]
    with_anchor = DistillationCollator(tiny_processor, anchor=True)(pairs)
    assert set(with_anchor) == {"query", "teacher_query", "anchor"}
    assert torch.equal(
        with_anchor["anchor"]["input_ids"], tiny_processor.process_documents(["the sea", "a"])["input_ids"]
    )
    assert set(DistillationCollator(tiny_processor)(pairs)) == {"query", "teacher_query"}


def test_the_teacher_reads_with_its_own_processor(tiny_processor: DrDecrProcessor):
    other = DrDecrProcessor(tiny_processor.tokenizer, query_length=4, document_length=5)
    collate = DistillationCollator(tiny_processor, passages=PASSAGES, teacher_processor=other)
    batch = collate([row(teacher_scores="left out")])
    assert batch["teacher_query"]["input_ids"].tolist() == other.process_queries(["the capital"])["input_ids"].tolist()
    documents = other.process_documents([PASSAGES["p1"], PASSAGES["p2"]])
    assert torch.equal(batch["teacher_document"]["input_ids"][0], documents["input_ids"])
    assert batch["document"]["input_ids"].shape == (1, 2, 10)
    assert "teacher_document" in collate([row()])  # over a batch it reads them beside its scores
    scored = DistillationCollator(tiny_processor, PASSAGES, teacher_processor=other, scores_suffice=True)
    assert "teacher_document" not in scored([row()])


def test_caches_stand_in_for_what_would_be_read(tiny_model: DrDecrModel):
    collate = DistillationCollator(
        tiny_model.processor,
        passages=PASSAGES,
        query_cache=TokenCache.of_queries(tiny_model, ["the capital", "a"]),
        document_cache=TokenCache.of_documents(tiny_model, PASSAGES),
    )
    batch = collate([row(), row(english="a", document_ids=["p3", "p2"])])
    assert "document" not in batch
    assert "teacher_query" not in batch
    assert batch["teacher_query_embeddings"].shape == (2, 5, 16)
    assert batch["teacher_query_scoring_mask"].sum(dim=1).tolist() == [5, 4]
    assert batch["teacher_query_text_mask"].sum(dim=1).tolist() == [2, 1]
    assert batch["document_embeddings"].shape == (2, 2, 9, 16)
    assert batch["document_scoring_mask"].sum(dim=2).tolist() == [[9, 5], [5, 5]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": " "}, r"query: expected a text in every row, got ' '"),
        ({"query": "left out", "query_id": "q7"}, r"query: .* got None in query_id 'q7'"),
        ({"english": None}, r"english: expected a text in every row, got None in query 'b c d'"),
        ({"document_ids": ["p1"]}, r"document_ids: expected the same number .* got \[1, 2\]"),
        ({"document_ids": "left out"}, r"document_ids: expected the same number .* got \[0, 2\]"),
        ({"document_ids": None}, r"document_ids: expected the same number .* got \[0, 2\]"),
        ({"document_ids": ["p1", "p9"]}, r"document_ids: 'p9' is not among the 3 passages"),
        ({"teacher_scores": "left out"}, r"teacher_scores: expected a value in every row, got none in query 'b c d'"),
        ({"teacher_scores": [1.0]}, r"teacher_scores: expected the same number of scores in each row, got \[1, 2\]"),
        ({"teacher_scores": [1.0, float("nan")]}, r"teacher_scores hold NaN or infinity"),
        ({"teacher_query_tokens": None}, r"teacher_query_tokens: expected a value in every row"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, Any], message: str, collate: DistillationCollator):
    with pytest.raises(ValueError, match=message):
        collate([row(), row(**changes)])


def test_rows_without_candidates_and_scores_of_another_number_are_refused(collate: DistillationCollator):
    with pytest.raises(ValueError, match=r"at least one, got \[0\]"):
        collate([row(document_ids=[])])
    with pytest.raises(ValueError, match=r"one score for each candidate, got \(1, 3\) for \(1, 2\) candidates"):
        collate([row(teacher_scores=[3.0, 2.0, 1.0])])


def test_a_question_that_the_teacher_never_read_is_named(tiny_model: DrDecrModel):
    cache = TokenCache.of_queries(tiny_model, ["the capital"])
    with pytest.raises(ValueError, match="does not hold 'the sea'"):
        DistillationCollator(tiny_model.processor, query_cache=cache)([{"query": "b", "english": "the sea"}])
