"""`drdecr data annotate`: from candidates to scores and tokens, whatever kills it, in one process or two."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

from drdecr.data.hub import write_dataset
from drdecr.data.readers.hub import read_stored_tokens
from drdecr.data.sources import read_candidates
from drdecr.data.teacher.annotate import AnnotationSettings, annotate
from drdecr.data.teacher.scorers import TeacherScorer
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.encoder import load_teacher
from drdecr.runs.stage import run_stage

from .conftest import LETTERS

LAUNCHED = Path(__file__).with_name("killed_launched_annotation.py")


@pytest.fixture
def mined(tmp_path) -> str:
    """Eleven questions with three candidates each, among them passages of no question."""
    rows = [
        {
            "query_id": f"q{number}",
            "query": f"z {letter} z",
            "english": f"what is the city {letter}",
            "language": "xx",
            "document_ids": [f"p-{other}" for other in (letter, LETTERS[number + 1], LETTERS[number + 3])],
        }
        for number, letter in enumerate(LETTERS[:11])
    ]
    passages = [{"document_id": f"p-{letter}", "text": f"the city {letter} is in france."} for letter in LETTERS]
    configs = {
        "mined_candidates": {"train": Dataset.from_list(rows)},
        "passages": {"train": Dataset.from_list(passages)},
    }
    write_dataset(tmp_path / "mined", configs, "Mined.")
    return str(tmp_path / "mined")


@pytest.fixture
def teacher(start, tmp_path) -> str:
    return str(tmp_path / "runs" / "start" / "model")


def bytes_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows_of(folder: Path) -> list[dict]:
    cache = str(folder.parent / "cache")
    return load_dataset(str(folder), "scored_candidates", split="train", cache_dir=cache).to_list()


@pytest.mark.processes
def test_launched_processes_of_which_one_was_killed_go_on_and_write_what_one_process_does(
    mined, teacher, run_python, tmp_path, call
):
    def words(name):
        return [mined, tmp_path / name / "set", "--teacher", teacher, "--tokens", "all", "--rows-per-shard", "2"]

    killed = run_python(LAUNCHED, 2, *words("two"), processes=2, check=False)
    assert killed.returncode != 0
    assert len(list((tmp_path / "two" / "set.parts").rglob("*.safetensors"))) >= 2
    assert not (tmp_path / "two" / "set").exists()
    run_python(LAUNCHED, 0, *words("two"), processes=2)
    assert call("data", "annotate", *words("one"))[0] == 0
    one, two = (bytes_of(tmp_path / name / "set") for name in ("one", "two"))
    assert {name: sums for name, sums in one.items() if name != "README.md"} == {
        name: sums for name, sums in two.items() if name != "README.md"
    }  # the card has the command
    assert not (tmp_path / "two" / "set.parts").exists()


def test_scores_are_the_teachers_and_a_second_call_does_nothing(mined, teacher, tmp_path, call, monkeypatch):
    output = tmp_path / "set"
    words = ["data", "annotate", mined, output, "--teacher", teacher, "--token-folder", tmp_path / "tokens"]
    code, said, _ = call(*words)
    assert code == 0
    assert f"dataset: {output}" in said
    reader = load_teacher(teacher)
    found = read_candidates({"format": "hub_candidates", "name": str(output), "config": "scored_candidates"})
    for row in found.rows:
        texts = [found.passages[name] for name in row["document_ids"]]
        expected = reader.score(reader.encode_queries([row["english"]]), reader.encode_documents(texts))[0]
        assert row["teacher_scores"] == pytest.approx(expected.tolist(), abs=0.02)
        assert row["teacher_query_tokens"] == len(reader.encode_queries([row["english"]])[0])
    before = bytes_of(output)
    monkeypatch.setattr(TeacherScorer, "score", None)
    assert call(*words)[0] == 0
    assert bytes_of(output) == before
    code, _, error = call(*words, "--batch-size", 3)
    assert code == 1
    assert "was not made with these settings" in error
    # Nor is what a changed file would give told to be there.
    file = next((Path(mined) / "mined_candidates").iterdir())
    Dataset.from_parquet(str(file)).select(range(5)).to_parquet(str(tmp_path / "fewer.parquet"))
    kept = file.read_bytes()
    file.write_bytes((tmp_path / "fewer.parquet").read_bytes())
    assert "made from other files (what changed: rows 1)" in call(*words)[2]
    file.write_bytes(kept)
    settings_file = Path(teacher) / "config.json"
    settings_file.write_text(settings_file.read_text() + "\n")
    assert "made from other files (what changed: teacher)" in call(*words)[2]
    assert set(json.loads((output / "facts.json").read_text())["inputs"]) == {"rows 1", "teacher"}
    # Other scores of the same texts need no encoding: the teacher's tokens are there.
    monkeypatch.undo()
    monkeypatch.setattr(DrDecrModel, "encode_documents", None)
    settings = AnnotationSettings(mined, teacher=teacher, token_folder=str(tmp_path / "tokens"), tokens="queries")
    annotate(settings, tmp_path / "again")
    assert [row["teacher_scores"] for row in rows_of(tmp_path / "again")] == [
        row["teacher_scores"] for row in found.rows
    ]


def test_a_damaged_shard_of_tokens_is_named_when_a_recipe_reads_it(mined, teacher, tmp_path):
    folder = annotate(AnnotationSettings(mined, teacher=teacher, tokens="all"), tmp_path / "set")
    assert len(read_stored_tokens(str(folder))) == 11
    file = next((folder / "tokens" / "documents").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"documents/00000-of-00001.safetensors: this shard is not as it was written"):
        read_stored_tokens(str(folder), "documents")
    with pytest.raises(ValueError, match=r"In a finished data set .* delete the whole data set"):
        read_stored_tokens(str(folder), "documents")
    shutil.rmtree(folder)  # the cure: the same call alone answers that it is annotated already
    annotate(AnnotationSettings(mined, teacher=teacher, tokens="all"), folder)
    assert len(read_stored_tokens(str(folder), "documents")) == len(LETTERS[:14])
    with pytest.raises(ValueError, match="expected the queries of one teacher, got 0"):
        read_stored_tokens(str(tmp_path / "mined"))


def test_a_student_learns_from_the_annotation_what_it_learns_from_the_live_teacher(
    mined, teacher, recipe_of, start, tmp_path
):
    folder = str(
        annotate(AnnotationSettings(mined, teacher=teacher, tokens="all", token_dtype="float32"), tmp_path / "set")
    )
    rows = {"format": "hub_candidates", "name": folder, "config": "scored_candidates"}
    tokens = {"format": "stored_tokens", "name": folder}
    log = {}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    training = {"relevance_weight": 1.0, "token_weight": 1.0, "score_scale": 20, "relevance_over": "batch"}
    for name, keys, data in (
        ("live", {"teacher": start}, {"cache_teacher": False}),
        ("cached", {}, {"query_tokens": tokens, "passage_tokens": {**tokens, "kind": "documents"}}),
        ("questions", {"teacher": start}, {"query_tokens": tokens}),
    ):
        settings = {"scored_candidates": [rows], "dev_texts": 0, **data}
        run = recipe_of(name, stage="mixed", model=start, data=settings, training=training, encoder=still, **keys)
        run_stage(run)
        log[name] = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    for live, other in zip(log["live"], log["questions"], strict=True):
        for key in {"loss", "relevance_kl", "aligned_tokens"} & set(live):
            assert other[key] == pytest.approx(live[key], rel=1e-4), key
    # On cached passages only the query side learns, so that only the first loss is that of the live teacher.
    assert log["cached"][0]["loss"] == pytest.approx(log["live"][0]["loss"], rel=1e-4)


def test_a_student_learns_into_the_index_that_the_teacher_made(mined, teacher, recipe_of, call, tmp_path, monkeypatch):
    folder = str(annotate(AnnotationSettings(mined, teacher=teacher, tokens="all"), tmp_path / "set"))
    rows = {"format": "hub_candidates", "name": folder, "config": "scored_candidates"}
    tokens = {"format": "stored_tokens", "name": folder}
    documents = tmp_path / "documents.jsonl"
    texts = read_candidates(rows).passages
    documents.write_text(
        "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()), encoding="utf-8"
    )
    index = tmp_path / "index"
    assert call("index", "build", teacher, documents, index)[0] == 0
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    monkeypatch.setattr(DrDecrModel, "encode_documents", None)  # nobody reads a passage
    losses = {}
    for name, entry in (
        ("stored", {**tokens, "kind": "documents"}),
        ("index", {"format": "index", "path": str(index)}),
    ):
        data = {"scored_candidates": [rows], "dev_texts": 0, "query_tokens": tokens, "passage_tokens": entry}
        run = recipe_of(name, stage="relevance", model=teacher, teacher=teacher, data=data, encoder=still)
        run_stage(run)
        log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in log if "loss" in line]
    assert len(losses["index"]) > 1
    assert losses["index"] == pytest.approx(losses["stored"], rel=1e-3)  # both are in half precision
    with StoredIndex.open(index, writable=True) as changed:
        changed.delete(["p-b#0"])
        changed.commit()
    with pytest.raises(ValueError, match="expected the passages that are trained on, got none of the id 'p-b'"):
        run_stage(recipe_of("less", stage="relevance", model=teacher, data=data))


def test_a_second_run_reads_the_teachers_tokens_from_the_folder(data, recipe_of, start, tmp_path, monkeypatch):
    read: list[str] = []
    for name in ("encode_queries", "encode_documents"):
        encode = getattr(DrDecrModel, name)

        def counted(self, texts, *args, _encode=encode, **kwargs):
            read.extend(texts)
            return _encode(self, texts, *args, **kwargs)

        monkeypatch.setattr(DrDecrModel, name, counted)
    settings = {
        "unlabelled_queries": [data["parallel"]],
        "corpus": [data["train"]],
        "num_candidates": 3,
        "dev_texts": 0,
    }
    settings["cache_passages"] = True
    losses = {}
    for name, folder in (("memory", None), ("first", str(tmp_path / "tokens")), ("second", str(tmp_path / "tokens"))):
        read.clear()
        kept = {"token_folder": folder} if folder else {}
        run = recipe_of(name, stage="relevance", model=start, teacher=start, data={**settings, **kept})
        run_stage(run)
        losses[name] = [json.loads(line).get("loss") for line in (run.folder / "log.jsonl").read_text().splitlines()]
        if name != "second":
            assert read
    assert not read  # by the second run, of the teacher or anybody
    assert losses["first"] == losses["second"] == pytest.approx(losses["memory"], nan_ok=True)


def test_a_file_without_one_score_leaves_nothing_and_is_taken_when_it_has_it(mined, tmp_path, call):
    lines = [f"q{number}\tp-{other}\t{number}.5\n" for number in range(11) for other in LETTERS]
    file = tmp_path / "scores.tsv"
    words = ("data", "annotate", mined, tmp_path / "set", "--scores", file, "--rows-per-shard", 2)
    for missing in (LETTERS[0], LETTERS[10]):  # in the first shard, and in the last
        file.write_text("".join(line for line in lines if f"\tp-{missing}\t" not in line))
        code, _, error = call(*words)
        assert code == 1
        assert f"expected a score of passage 'p-{missing}'" in error
        assert not list(tmp_path.glob("set*"))
    file.write_text("".join(lines))
    assert call(*words)[0] == 0
    assert not list(tmp_path.glob("set.parts"))
    assert rows_of(tmp_path / "set")[3]["teacher_scores"] == [3.5] * 3


def test_rows_that_are_not_there_are_named_with_the_cure(tmp_path, call):
    (tmp_path / "empty").mkdir()
    for rows, said in (
        (tmp_path / "nowhere", "no such folder. Check the path"),
        (tmp_path / "empty", "expected a dataset in it"),
        ("sets/nowhere", "sets/nowhere"),
    ):
        code, _, error = call("data", "annotate", rows, tmp_path / "set", "--teacher", "any")
        assert code == 1
        assert f"{rows}" in error
        assert said in error
        assert "Couldn't" not in error
        assert not list(tmp_path.glob("set*"))


def test_a_teacher_that_cannot_be_loaded_leaves_nothing(mined, teacher, tmp_path, call):
    code, _, error = call("data", "annotate", mined, tmp_path / "set", "--teacher", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere" in error
    assert not list(tmp_path.glob("set*"))
    assert call("data", "annotate", mined, tmp_path / "set", "--teacher", teacher)[0] == 0


def test_scores_of_a_teacher_are_given_up_for_no_other_settings(mined, teacher, tmp_path, call, monkeypatch):
    score, left = TeacherScorer.score, [3]

    def failing(self, rows):
        left[0] -= 1
        if not left[0]:
            raise ValueError("Give other rows.")
        return score(self, rows)

    monkeypatch.setattr(TeacherScorer, "score", failing)
    words = ("data", "annotate", mined, tmp_path / "set", "--teacher", teacher, "--rows-per-shard", 2)
    assert call(*words)[0] == 1
    shards = list((tmp_path / "set.parts" / "scores").glob("*.parquet"))
    assert len(shards) == 2
    times = {shard: shard.stat().st_mtime_ns for shard in shards}
    left[0] = 2
    assert call(*words)[0] == 1
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == times
    code, _, error = call(*words, "--batch-size", 3)
    assert code == 1
    assert "set.parts was begun with something else (what differs: settings)" in error
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == times
    left[0] = 100
    assert call(*words)[0] == 0
    assert not (tmp_path / "set.parts").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Expected one of teacher, cross_encoder and scores, got none"),
        ({"teacher": "a", "scores": "b"}, "got teacher and scores"),
        ({"scores": "b", "tokens": "all"}, "tokens: expected one of none, queries, all, and a teacher"),
        ({"teacher": "a", "dtype": "int8"}, "dtype: expected float32, float16 or bfloat16, got 'int8'"),
    ],
)
def test_odd_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        AnnotationSettings("rows", **given)
