"""One measurement, three ways in: a model, a model over an index on disk, and a run file give the same figures."""

import json
import logging

import pytest

from drdecr.evaluation.evaluate import EvaluationSettings, evaluate_index, evaluate_model, evaluate_run
from drdecr.retrieval.build import build_index, open_or_create_index
from drdecr.retrieval.passages import Document, Splitter

LETTERS = "bcdefgh"


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def entry(tmp_path):
    """Questions in two languages whose answers stand in one passage, which is labelled too."""
    rows = [
        {
            "query_id": f"{letter}-{code}",
            "query": f"{word} {letter}",
            "language": code,
            "document_ids": [f"p{letter}"],
            "answers": [f"city {letter}"],
        }
        for code, word in (("fi", "what is"), ("xx", "z"))
        for letter in LETTERS
    ]
    passages = [{"document_id": f"p{letter}", "text": f"the city {letter} is in france ."} for letter in LETTERS]
    questions = jsonl(tmp_path / "q.jsonl", rows)
    return {"format": "jsonl", "questions": questions, "passages": jsonl(tmp_path / "p.jsonl", passages), "name": "t"}


@pytest.fixture
def index(tiny_model, tmp_path):
    documents = [Document(f"p{letter}", f"the city {letter} is in france .", "", {}) for letter in LETTERS]
    with open_or_create_index(tmp_path / "index", 16, {}, "float16", 1) as opened:
        build_index(tiny_model, documents, opened, Splitter(overlap=3))
    return tmp_path / "index"


@pytest.mark.parametrize("protocol", ["default", "xor_retrieve", "mkqa", "beir"])
def test_a_run_and_an_index_have_the_figures_of_the_exact_search(model, entry, index, tmp_path, protocol):
    settings = EvaluationSettings([entry], protocol=protocol)
    # Tokens in half precision, as the index holds them: near ties would differ otherwise.
    exact = evaluate_model(model, settings, run_file=tmp_path / "exact.run", token_folder=tmp_path / "tokens")
    stored = evaluate_index(model, index, settings, run_file=tmp_path / "stored.run")
    assert exact.scores == evaluate_run(tmp_path / "exact.run", settings).scores
    assert exact.scores == stored.scores == evaluate_run(tmp_path / "stored.run", settings).scores
    assert stored.metadata["indexed_passages"] == len(LETTERS)
    assert exact.scores[next(iter(exact.scores))]["avg"].n == 2 * len(LETTERS)


def test_what_a_run_lacks_and_what_no_set_knows_is_said(entry, tmp_path, caplog):
    (tmp_path / "a.run").write_text("b-fi Q0 pb 1 2.0 x\nstray Q0 pb 1 1.0 x\n")
    settings = EvaluationSettings([entry])
    with caplog.at_level(logging.WARNING):
        result = evaluate_run(tmp_path / "a.run", settings)
    assert "1 queries are in no set and left out, the first stray" in caplog.text
    assert "13 questions have no line and score 0, the first b-xx" in caplog.text
    assert result.scores["RR@10"]["fi"].mean == pytest.approx(1 / 7)
    (tmp_path / "b.run").write_text("stray Q0 pb 1 1.0 x\n")
    with pytest.raises(ValueError, match="lines of the 14 questions, such as 'b-fi', got none"):
        evaluate_run(tmp_path / "b.run", settings)
    (tmp_path / "c.run").write_text("b-fi Q0 other 1 1.0 x\n")
    with pytest.raises(ValueError, match="'other' is not among the 7 passages of the set"):
        evaluate_run(tmp_path / "c.run", EvaluationSettings([entry], protocol="answers"))


def test_relevant_passages_with_the_querys_id_are_counted(tmp_path, caplog):
    rows = [{"query_id": "1", "query": "z", "language": "xx", "document_ids": ["1"]}]
    passages = jsonl(tmp_path / "p.jsonl", [{"document_id": "1", "text": "a"}, {"document_id": "2", "text": "b"}])
    entry = {"format": "jsonl", "questions": jsonl(tmp_path / "q.jsonl", rows), "passages": passages, "name": "t"}
    (tmp_path / "a.run").write_text("1 Q0 1 1 2.0 x\n1 Q0 2 2 1.0 x\n")
    with caplog.at_level(logging.WARNING):
        result = evaluate_run(tmp_path / "a.run", EvaluationSettings([entry], protocol="beir"))
    assert "t: 1 relevant passages have their query's id and were left out" in caplog.text
    assert result.scores["nDCG@10"]["avg"].mean == 0
    assert result.metadata["sets"]["t"]["relevant_with_query_id"] == 1
