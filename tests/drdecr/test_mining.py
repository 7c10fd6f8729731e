"""`drdecr mine`: rows that a recipe learns from, found by words or by a student that is asked in another language."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from drdecr.data.sources import read_candidates
from drdecr.mining import MiningSettings, load_mining
from drdecr.stage import run_stage
from drdecr.start import load_teacher

from .conftest import jsonl


@pytest.fixture
def write(data, tmp_path):
    """`write(**keys)` writes a mining file over the training questions."""

    def settings(**keys) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"questions": [data["train"]], **keys}))
        return str(path)

    return settings


def rows_of(folder):
    return load_dataset(
        str(folder), "mined_candidates", split="train", cache_dir=str(folder.parent / "cache")
    ).to_list()


def test_bm25_mines_rows_of_the_english_question(write, tmp_path, call, data):
    pytest.importorskip("bm25s")
    output = tmp_path / "mined"
    code, said, _ = call("mine", write(held_out=[data["dev"]]), output, "--num_candidates", 3, "--num_negatives", 4)
    assert code == 0
    assert f"dataset: {output}" in said
    rows = rows_of(output)
    assert len(rows) == 20 * 2  # ten questions in two languages, four negatives in pairs
    for row in rows:
        letter = row["query_id"][0]
        assert row["document_ids"][0] == f"p-{letter}"
        assert len(set(row["document_ids"])) == 3
        assert row["teacher_query_tokens"] == 0
    facts = json.loads((output / "facts.json").read_text())
    assert facts["counters"]["questions read"] == 20
    assert facts["settings"]["method"] == "bm25"
    again = ("mine", write(held_out=[data["dev"]]), output, "--num_candidates", 3, "--num_negatives", 4)
    assert call(*again)[0] == 0
    questions = Path(data["train"]["questions"])
    questions.write_text("".join(questions.read_text().splitlines(keepends=True)[2:]))
    code, _, error = call(*again)
    assert code == 1
    assert "made from other files (what changed: questions 1)" in error
    code, _, error = call("mine", write(), output, "--num_candidates", 2)
    assert code == 1
    assert "was not made with these settings" in error


def test_answers_find_positives_where_there_are_no_labels(tmp_path, call):
    pytest.importorskip("bm25s")
    passages = [
        {"document_id": f"d{number}", "text": f"the king of france lives in {city} number {number}"}
        for number, city in enumerate(["paris", "rome", "oslo", "paris"])
    ]
    question = {"query_id": "1", "query": "z", "english": "where lives the king of france", "language": "xx"}
    entry = {
        "format": "jsonl",
        "questions": jsonl(tmp_path / "q.jsonl", [{**question, "document_ids": [], "answers": ["Paris"]}]),
        "passages": jsonl(tmp_path / "p.jsonl", passages),
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"questions": [entry]}))
    assert call("mine", path, tmp_path / "mined")[0] == 0
    found = sorted(
        tuple(name.rpartition("d")[2] for name in row["document_ids"]) for row in rows_of(tmp_path / "mined")
    )
    assert found == [("0", "1"), ("0", "2"), ("3", "1"), ("3", "2")]


def test_a_student_mines_what_it_finds_and_the_teacher_scores_it(write, start, recipe_of, tmp_path, call):
    model = str(tmp_path / "runs" / "start" / "model")
    output = tmp_path / "mined"
    words = ["mine", write(method="model"), output, "--reader", model, "--teacher", model, "--num_candidates", 3]
    code, _, error = call(*words, "--max_share", 1.0, "--num_negatives", 2, "--token_folder", tmp_path / "tokens")
    assert code == 0, error
    entry = {"format": "hub_candidates", "name": str(output), "config": "mined_candidates"}
    found, teacher = read_candidates(entry), load_teacher(model)
    counters = json.loads((output / "facts.json").read_text())["counters"]
    dropped = counters["questions without a positive"] + counters["questions with too few negatives"]
    assert len(found.rows) + dropped == 20
    assert len(found.rows) > 0
    for row in found.rows:
        texts = [found.passages[name] for name in row["document_ids"]]
        scores = teacher.score(teacher.encode_queries([row["english"]]), teacher.encode_documents(texts))[0].tolist()
        assert row["teacher_scores"] == pytest.approx(scores, abs=0.02)
        assert max(row["teacher_scores"][1:]) <= row["teacher_scores"][0]
        assert row["teacher_query_tokens"] == len(teacher.encode_queries([row["english"]])[0])
        # The harder negative is the one that the question as it stands brings nearer.
        asked = teacher.score(teacher.encode_queries([row["query"]]), teacher.encode_documents(texts))[0].tolist()
        assert asked[1] >= asked[2] - 0.02
    run = recipe_of("learn", stage="relevance", start=start, data={"annotated": [entry], "dev_texts": 0})
    run_stage(run)
    assert (run.folder / "run.json").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "dense"}, "method: expected one of bm25, model"),
        ({"method": "model", "reader": "a"}, "expected a `reader` that searches and a `teacher`"),
        ({"reader": "a"}, "expected no `reader` or `index`"),
        ({"num_candidates": 1}, "Expected at least two candidates"),
        ({"readers": "a"}, r"unknown key 'readers'. Did you mean 'reader'"),
        ({"depth": "deep"}, "expected int for 'depth', got 'deep'"),
    ],
)
def test_odd_settings_are_refused(write, keys, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_mining(write(**keys), [])


def test_nothing_to_mine_is_refused():
    with pytest.raises(ValueError, match="expected at least one question set, got none"):
        MiningSettings()
