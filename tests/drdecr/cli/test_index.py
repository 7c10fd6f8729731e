"""`drdecr index build`: the precision and codec of a collection, and launched processes that write one index."""

import json
from pathlib import Path

import pytest
import torch

from drdecr.retrieval import StoredIndex, precision
from drdecr.retrieval.precision import EncoderChoice, bfloat16_copy
from drdecr.runs.stage import run_stage

KILLED = Path(__file__).with_name("killed_build.py")
LETTERS = "bcdefghijklm"


@pytest.fixture
def model(recipe_of):
    return str(run_stage(recipe_of("start", stage="initialise")))


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "d.jsonl"
    # Some documents are longer than one passage.
    rows = [{"id": f"d-{a}", "text": f"the city {a} is in france. " * (1 + n % 4)} for n, a in enumerate(LETTERS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def same_index(folder, expected_folder):
    index, expected = StoredIndex.open(folder), StoredIndex.open(expected_folder)
    ids = sorted(expected.passage_ids())
    assert sorted(index.passage_ids()) == ids
    assert index.payloads(ids) == expected.payloads(ids)
    queries = expected.embeddings(ids)
    hits, truth = (one.search(queries, top_k=len(ids)) for one in (index, expected))
    for own, scores, names, known in zip(hits.document_ids, hits.scores, truth.document_ids, truth.scores, strict=True):
        # Scores of other batches differ in the last bits, so that equal passages may change places.
        assert dict(zip(own, scores, strict=True)) == pytest.approx(dict(zip(names, known, strict=True)), abs=2e-3)


@pytest.mark.processes
def test_launched_processes_of_which_one_was_killed_go_on_and_end_with_the_index_of_one(
    run_python, call, model, documents, tmp_path
):
    killed = run_python(KILLED, model, documents, tmp_path / "many", 2, processes=2, check=False)
    assert killed.returncode != 0
    assert "-9" in killed.stderr  # torchrun says who died, and of what
    committed = StoredIndex.open(tmp_path / "many").passage_ids()  # the first round of both processes
    done = run_python(KILLED, model, documents, tmp_path / "many", 0, processes=2)
    assert call("index", "build", model, documents, tmp_path / "one")[0] == 0
    same_index(tmp_path / "many", tmp_path / "one")
    total = len(StoredIndex.open(tmp_path / "one"))
    assert 0 < len(committed) < total
    assert f", {total - len(committed)} passages; {total} passages, " in done.stdout
    folders = {path.name for path in (tmp_path / "many" / "segments").iterdir()}
    assert folders == {segment.record.name for segment in StoredIndex.open(tmp_path / "many").segments}


@pytest.mark.processes
def test_launched_processes_change_and_delete_what_one_process_wrote(run_python, call, model, documents, tmp_path):
    assert call("index", "build", model, documents, tmp_path / "many")[0] == 0
    rows = [json.loads(line) for line in documents.read_text().splitlines()]
    rows[3]["text"], rows[4]["text"] = "the sea", "the river is in france. " * 6
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    done = run_python("-m", "drdecr", "index", "build", model, documents, tmp_path / "many", "--prune", processes=2)
    assert "0 new, 2 changed, 8 unchanged, 2 deleted" in done.stdout
    assert call("index", "build", model, documents, tmp_path / "one")[0] == 0
    same_index(tmp_path / "many", tmp_path / "one")


@pytest.fixture
def letters(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text("".join(f"d-{a}\tthe city {a} is in france .\n" for a in "bcdefgh"))
    return path


def tokens_of(folder):
    index = StoredIndex.open(folder)
    return torch.cat(index.embeddings(sorted(index.passage_ids())))


def test_a_collection_is_encoded_in_int8_and_gone_on_with(call, model, letters, tmp_path):
    assert call("index", "build", model, letters, tmp_path / "exact")[0] == 0
    code, _, errors = call("index", "build", model, letters, tmp_path / "narrow", "--precision", "int8")
    assert code == 0, errors
    assert StoredIndex.open(tmp_path / "narrow").manifest.precision == "int8"
    exact, narrow = tokens_of(tmp_path / "exact"), tokens_of(tmp_path / "narrow")
    assert not torch.equal(exact, narrow)
    assert torch.cosine_similarity(exact, narrow, dim=-1).min() > 0.95
    letters.write_text(letters.read_text() + "d-z\tthe sea\n")
    code, output, errors = call("index", "build", model, letters, tmp_path / "narrow")
    assert code == 0, errors
    assert "1 new" in output
    code, _, errors = call("index", "build", model, letters, tmp_path / "narrow", "--precision", "float32")
    assert code == 1
    assert "encoded in int8, asked for float32" in errors


def test_the_fastest_is_measured_once(call, model, letters, tmp_path, monkeypatch):
    measured = []

    def fastest(reader, texts):
        measured.append(texts)
        return EncoderChoice("bfloat16", bfloat16_copy(reader), {"bfloat16": 1.0, "int8": None}, {"bfloat16": 0.999})

    monkeypatch.setattr(precision, "fastest_encoder", fastest)
    for _ in range(2):
        assert call("index", "build", model, letters, tmp_path / "index", "--precision", "fastest")[0] == 0
    assert StoredIndex.open(tmp_path / "index").manifest.precision == "bfloat16"
    assert [len(texts) for texts in measured] == [7]


def test_vectors_are_kept_in_int8_as_they_come_and_are_what_a_copy_in_int8_holds(call, model, letters, tmp_path):
    assert call("index", "build", model, letters, tmp_path / "exact")[0] == 0
    code, _, errors = call("index", "build", model, letters, tmp_path / "small", "--codec", "int8")
    assert code == 0, errors
    assert StoredIndex.open(tmp_path / "small").manifest.codec == "int8"
    kept = tokens_of(tmp_path / "small")
    torch.testing.assert_close(kept, tokens_of(tmp_path / "exact"), atol=1 / 250, rtol=0)
    letters.write_text(letters.read_text() + "d-z\tthe sea\n")
    code, output, errors = call("index", "build", model, letters, tmp_path / "small")  # gone on with as begun
    assert "1 new" in output, errors
    code, _, errors = call("index", "build", model, letters, tmp_path / "small", "--codec", "float16")
    assert code == 1
    assert "small: begun with codec int8, asked for float16. Leave --codec out to go on" in errors
    before = tokens_of(tmp_path / "small")
    assert call("index", "compact", tmp_path / "small")[0] == 0
    assert tokens_of(tmp_path / "small").equal(before)
    code, _, errors = call("index", "compress", tmp_path / "small", tmp_path / "smaller", "--codec", "residual2")
    assert code == 1
    assert "got int8 pooled by 1. Give a folder that `drdecr index build` wrote, in float16." in errors


def test_codes_that_are_learned_from_each_segment_are_made_later(call, model, letters, tmp_path):
    code, _, errors = call("index", "build", model, letters, tmp_path / "small", "--codec", "residual2")
    assert code == 1
    assert (
        "expected float16 or int8, got 'residual2'. For residual codes encode into float16, then give: drdecr" in errors
    )
    assert not (tmp_path / "small").exists()
    assert call("index", "build", model, letters, tmp_path / "exact")[0] == 0
