"""From sources to scores, wherever it is killed, the same bytes; and a damaged shard is named by the step that reads it."""

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from drdecr.data.sources import read_candidates, read_questions
from drdecr.data.teacher import mine as mining
from drdecr.data.teacher import rankings
from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.bm25 import Bm25Index
from drdecr.data.teacher.mine import MiningSettings, mine
from drdecr.data.teacher.translate import TranslationSettings, translate

from .conftest import LETTERS, jsonl, question_rows
from .killed_chain import STEPS, Words

SCRIPT = Path(__file__).with_name("killed_chain.py")


def bytes_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_ten_kills_of_a_chain_leave_the_bytes_of_an_uninterrupted_one(start, run_python, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    jsonl(source / "questions.jsonl", question_rows(LETTERS[:10]))
    passages = [{"document_id": f"p-{letter}", "text": f"the city {letter} is in france."} for letter in LETTERS]
    jsonl(source / "passages.jsonl", passages)
    teacher = tmp_path / "runs" / "start" / "model"
    done = run_python(SCRIPT, tmp_path, teacher, env={"DRDECR_DATA": ""}, timeout=900)
    kills = [int(line.split()[-3]) for line in done.stdout.splitlines() if line.startswith("killed by 9 with")]
    assert len(kills) == 10
    assert kills == sorted(kills)  # what is done is not lost
    assert len(set(kills)) > 1  # the kills met several steps
    for name in STEPS:
        assert bytes_of(tmp_path / "killed" / name) == bytes_of(tmp_path / "whole" / name), name
        assert bytes_of(tmp_path / "killed" / name)
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert left == {*STEPS, "translated.sqlite3"}


@pytest.fixture
def steps(data, tmp_path, monkeypatch):
    """`steps(folder)` translates and mines in small parts."""
    pytest.importorskip("bm25s")
    monkeypatch.setitem(translating.ENGINES, "apertium", Words)
    for module in (mining, rankings):
        monkeypatch.setattr(module, "QUESTIONS_PER_SHARD", 3)
    monkeypatch.setattr(mining, "Bm25Index", partial(Bm25Index, block=5))

    def run(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        translated = folder / "translated"
        settings = TranslationSettings([data["train"]], engine="apertium", rows_per_shard=4, length_factor=3.0)
        translate(settings, translated)
        entry = {"format": "hub_questions", "name": str(translated)}
        mine(MiningSettings([entry], num_candidates=3, num_negatives=4), folder / "mined")

    return run


def test_a_damaged_shard_is_named_by_the_next_step_and_by_a_recipe(steps, tmp_path, call):
    steps(tmp_path / "a")
    translated, mined = tmp_path / "a" / "translated", tmp_path / "a" / "mined"
    for folder in (translated, mined):
        listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
        assert listed == {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
    read_questions({"format": "hub_questions", "name": str(translated)})
    file = next((translated / "questions").iterdir())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    path = tmp_path / "mine.yaml"
    entry = {"format": "hub_questions", "name": str(translated)}
    path.write_text(yaml.safe_dump({"questions": [entry]}))
    code, _, error = call("data", "mine", path, tmp_path / "b")
    assert code == 1
    assert f"{file}: this shard is not as it was written" in error
    assert not (tmp_path / "b.parts").exists()
    file = next((mined / "mined_candidates").iterdir())
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{file.name}: this shard is not as it was written"):
        read_candidates({"format": "hub_candidates", "name": str(mined), "config": "mined_candidates"})
    (mined / "passages" / "train-00000-of-00001.parquet").unlink()
    code, _, error = call("data", "annotate", mined, tmp_path / "c", "--scores", tmp_path / "mine.yaml")
    assert code == 1
    assert "this shard is" in error


def test_passages_that_answer_held_out_questions_are_counted(data, tmp_path, call):
    pytest.importorskip("bm25s")
    path = tmp_path / "mine.yaml"
    held_out = {**data["dev"]}
    path.write_text(yaml.safe_dump({"questions": [data["train"]], "held_out": [held_out]}))
    assert call("data", "mine", path, tmp_path / "mined", "--num_candidates", 3)[0] == 0
    counters = json.loads((tmp_path / "mined" / "facts.json").read_text())["counters"]
    rows = read_candidates({"format": "hub_candidates", "name": str(tmp_path / "mined"), "config": "mined_candidates"})
    answering = {f"p-{letter}" for letter in LETTERS[10:13]}  # of the questions of dev
    assert counters["passages of rows that answer a held-out question"] == len(answering & set(rows.passages))
    assert counters["passages of rows that answer a held-out question"] > 0
    assert counters["passages of rows that nearly do"] == 0


def test_cards_and_facts_of_every_step_name_no_folder_of_this_machine(data, tmp_path, call, monkeypatch):
    pytest.importorskip("bm25s")
    monkeypatch.setitem(translating.ENGINES, "apertium", Words)
    (tmp_path / "translate.yaml").write_text(yaml.safe_dump({"questions": [data["train"]], "engine": "apertium"}))
    store = ("--store", f"{tmp_path}/kept.sqlite3")
    assert call("data", "translate", tmp_path / "translate.yaml", tmp_path / "translated", *store)[0] == 0
    entry = {"format": "hub_questions", "name": str(tmp_path / "translated")}
    (tmp_path / "mine.yaml").write_text("questions: []")
    words = (f"--questions=[{json.dumps(entry)}]", "--num_negatives", 2)
    code, _, error = call("data", "mine", tmp_path / "mine.yaml", tmp_path / "mined", *words)
    assert code == 0, error
    scores = [f"{name}\tp-{other}\t1\n" for name in _ids(tmp_path / "mined") for other in LETTERS]
    (tmp_path / "scores.tsv").write_text("".join(scores))
    code, _, error = call(
        "data", "annotate", tmp_path / "mined", tmp_path / "annotated", f"--scores={tmp_path}/scores.tsv"
    )
    assert code == 0, error
    for name in ("translated", "mined", "annotated"):
        for file in ("README.md", "facts.json"):
            assert str(tmp_path) not in (tmp_path / name / file).read_text(), (name, file)
    assert (
        "drdecr data annotate mined annotated --scores=scores.tsv" in (tmp_path / "annotated" / "README.md").read_text()
    )


def _ids(folder: Path) -> list[str]:
    rows = load_dataset(str(folder), "mined_candidates", split="train", cache_dir=str(folder.parent / "cache"))
    return sorted(set(rows["query_id"]))
