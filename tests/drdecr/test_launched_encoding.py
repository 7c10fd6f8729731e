"""Several launched processes write one index: what one process would write, also after a kill."""

import json
from pathlib import Path

import pytest

from drdecr.retrieval import StoredIndex
from drdecr.runs.stage import run_stage

KILLED = Path(__file__).with_name("killed_encoding.py")
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
