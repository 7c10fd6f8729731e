"""`drdecr data mine`: rows that a recipe learns from, found by words or by a student that is asked in another language."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from datasets import load_dataset

from drdecr.data.sources import read_candidates
from drdecr.data.teacher import mine as mining
from drdecr.data.teacher.mine import MiningSettings
from drdecr.data.teacher.rankings import PoolSearch
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs.config import load_settings
from drdecr.runs.stage import run_stage

from .conftest import LETTERS, jsonl


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
    code, said, _ = call(
        "data", "mine", write(held_out=[data["dev"]]), output, "--num_candidates", 3, "--num_negatives", 4
    )
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
    again = ("data", "mine", write(held_out=[data["dev"]]), output, "--num_candidates", 3, "--num_negatives", 4)
    assert call(*again)[0] == 0
    questions = Path(data["train"]["questions"])
    questions.write_text("".join(questions.read_text().splitlines(keepends=True)[2:]))
    code, _, error = call(*again)
    assert code == 1
    assert "made from other files (what changed: questions 1)" in error
    code, _, error = call("data", "mine", write(), output, "--num_candidates", 2)
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
    assert call("data", "mine", path, tmp_path / "mined")[0] == 0
    found = sorted(
        tuple(name.rpartition("d")[2] for name in row["document_ids"]) for row in rows_of(tmp_path / "mined")
    )
    assert found == [("0", "1"), ("0", "2"), ("3", "1"), ("3", "2")]


def test_a_student_mines_what_it_finds_and_the_teacher_scores_it(write, start, recipe_of, tmp_path, call):
    model = str(tmp_path / "runs" / "start" / "model")
    output = tmp_path / "mined"
    words = [
        "data",
        "mine",
        write(method="model"),
        output,
        "--reader",
        model,
        "--teacher",
        model,
        "--num_candidates",
        3,
    ]
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
    run = recipe_of("learn", stage="relevance", model=start, data={"scored_candidates": [entry], "dev_texts": 0})
    run_stage(run)
    assert (run.folder / "run.json").exists()


MODEL = {"method": "model", "reader": "a", "teacher": "b"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "dense"}, "method: expected one of bm25, model"),
        ({"method": "model", "reader": "a"}, "expected a `reader` that searches and a `teacher`"),
        ({"reader": "a"}, "expected no `reader`, `index` or `search`"),
        ({"search": {"by": "centroids"}}, "expected no `reader`, `index` or `search`"),
        (MODEL | {"search": {"by": "plaid"}}, "search.by: expected one of exact, centroids, got 'plaid'"),
        (MODEL | {"search": {"by": "centroids"}}, "need residual codes, got codec 'float16'"),
        (
            MODEL | {"codec": "residual4", "search": {"by": "centroids", "num_candidates": 100}},
            "expected at least as many as `depth`, 200, got 100",
        ),
        (MODEL | {"search": {"num_candidates": 0}}, r"search.num_candidates: expected at least 1, got 0"),
        (
            MODEL | {"search": {"num_candidate": 9}},
            r"search: unknown key 'num_candidate'. Did you mean 'num_candidates'",
        ),
        (MODEL | {"search": {"by": 3}}, r"search: expected text for 'by', got 3"),
        (MODEL | {"search": "exact"}, r"search: expected `key: value` lines, got 'exact'"),
        *(({"depth": depth}, f"depth: expected at least 1, got {depth}") for depth in (0, -1)),
        ({"max_share": 0.9}, "expected no `max_share` or `min_margin`"),
        ({"min_margin": 0.5}, "expected no `max_share` or `min_margin`"),
        ({"num_candidates": 1}, "Expected at least two candidates"),
        ({"readers": "a"}, r"unknown key 'readers'. Did you mean 'reader'"),
        ({"depth": "deep"}, "expected a whole number for 'depth', got 'deep'"),
    ],
)
def test_odd_settings_are_refused(write, keys, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_settings(MiningSettings, write(**keys), [], "")


def test_sets_that_share_a_question_id_are_refused_before_anything_is_made(write, data, tmp_path, call):
    """Scores of a file are found by the id: each row would have the other's too."""
    rows = [json.loads(line) for line in Path(data["dev"]["questions"]).read_text().splitlines()]
    rows[0]["query_id"] = "b-xx"
    other = {**data["dev"], "questions": jsonl(tmp_path / "other.jsonl", rows), "name": "other"}
    before = {*tmp_path.iterdir(), tmp_path / "mine.yaml"}
    code, _, error = call("data", "mine", write(questions=[data["train"], other]), tmp_path / "mined")
    assert code == 1
    assert "train, other: both hold a question 'b-xx'" in error
    assert set(tmp_path.iterdir()) == before


def test_a_place_within_settings_can_be_overridden(write):
    path = write(**MODEL, codec="residual4", search={"by": "centroids"})
    assert load_settings(MiningSettings, path, ["--search.num_candidates", "300"], "").search == PoolSearch(
        "centroids", 300
    )
    with pytest.raises(ValueError, match=r"--depth.by: 'depth' holds one value, not settings of its own"):
        load_settings(MiningSettings, write(**MODEL, depth=3), ["--depth.by", "exact"], "")


@pytest.mark.parametrize("wrong", ["reader", "index", "teacher"])
def test_a_model_that_cannot_be_loaded_leaves_nothing_and_the_mended_call_goes_through(
    write, start, tmp_path, call, monkeypatch, wrong
):
    model = str(tmp_path / "runs" / "start" / "model")
    keys = {"method": "model", "reader": model, "index": model, "teacher": model, "max_share": 1.0, "num_negatives": 2}
    with monkeypatch.context() as patched:
        patched.setattr(mining, "encode_pool", None)  # the pool is not encoded before all models are there
        code, _, error = call("data", "mine", write(**{**keys, wrong: str(tmp_path / "nowhere")}), tmp_path / "mined")
    assert code == 1
    assert "nowhere" in error
    assert not list(tmp_path.glob("mined*"))
    code, _, error = call("data", "mine", write(**keys), tmp_path / "mined")
    assert code == 0, error


def test_a_refusal_after_the_questions_leaves_nothing(write, tmp_path, call, monkeypatch):
    monkeypatch.setattr(mining, "Bm25Index", Mock(side_effect=ImportError("`pip install drdecr[bm25]`.")))
    assert call("data", "mine", write(), tmp_path / "mined")[0] == 1
    assert not list(tmp_path.glob("mined*"))


def test_held_out_are_the_questions_and_what_answers_them(data):
    distracted = {**data["dev"], "distractors": [{"format": "not read"}]}
    texts, passages = mining._read_held_out(MiningSettings([data["train"]], held_out=[distracted, data["test"]]))
    letters = LETTERS[10:]
    assert set(texts) == {text for c in letters for text in (f"z {c} z", f"what is the city {c}")}
    assert [passages.leak(f"The city {c} is in France.") is not None for c in LETTERS] == [
        c in letters for c in LETTERS
    ]


def test_nothing_to_mine_is_refused():
    with pytest.raises(ValueError, match="expected at least one question set, got none"):
        MiningSettings()


def test_a_search_by_candidates_mines_the_rows_of_an_exact_one(write, start, tmp_path, call):
    model, tokens = str(tmp_path / "runs" / "start" / "model"), tmp_path / "tokens"
    keys = {"method": "model", "reader": model, "teacher": model, "codec": "residual4", "max_share": 1.0}
    keys |= {"token_folder": str(tokens), "num_negatives": 16, "depth": 16}

    def rows(name: str, *words) -> set[tuple]:
        code, _, error = call("data", "mine", write(**keys), tmp_path / name, *words)
        assert code == 0, error
        found = rows_of(tmp_path / name)
        return {(row["query_id"], *row["document_ids"], *row["teacher_scores"]) for row in found}

    exact = rows("exact")
    every = ("--search.by", "centroids", "--search.num_candidates", 16)
    assert rows("all", *every) == exact
    few = rows("few", "--search.by", "centroids", "--search.num_candidates", 5, "--depth", 5)
    assert few < exact
    assert len(few) > 10
    assert len(list(tokens.glob("index-*"))) == 1  # encoded once
    facts = json.loads((tmp_path / "few" / "facts.json").read_text())
    assert facts["settings"]["search"] == {"by": "centroids", "num_candidates": 5}
    code, _, error = call("data", "mine", write(**keys), tmp_path / "all")
    assert code == 1
    assert "was not made with these settings" in error
