"""From a folder of documents to answers and TREC runs, by commands alone."""

import json
import shutil

import pytest
import torch

from drdecr.cli.search import parse_where
from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.translation_store import Engine, Translation
from drdecr.evaluation.runs import read_run, write_run
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.encoder import model_digest
from drdecr.retrieval.retriever import DirectRetriever
from drdecr.retrieval.stored import segment as segments
from drdecr.runs.stage import run_stage

LETTERS = "bcdefghijklm"


class FromFinnish:
    """Translates one way of asking, from one language."""

    def __init__(self) -> None:
        self.engine = Engine("from Finnish", "1")

    def translate(self, texts, source, target="en"):
        if (source, target) != ("fi", "en"):
            raise ValueError(f"Expected fi to en, got {source} to {target}. Name another translator.")
        return [Translation(text.replace("z z", "what is the city")) for text in texts]


@pytest.fixture
def model(recipe_of):
    return str(run_stage(recipe_of("start", stage="initialise")))


@pytest.fixture
def documents(tmp_path):
    rows = [{"id": f"d-{a}", "text": f"the city {a} is in france.", "group": a in "bcd"} for a in LETTERS]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "q.tsv").write_text("".join(f"q-{a}\twhat is the city {a}\n" for a in LETTERS[:4]))
    (tmp_path / "b.jsonl").write_text('{"query_id": "q", "query": "z", "language": "en", "document_ids": ["d-b"]}\n')
    return tmp_path / "d.jsonl"


@pytest.fixture
def encoded(call, model, documents, tmp_path):
    code, output, errors = call("index", "build", model, documents, tmp_path / "encoded")
    assert code == 0, errors
    assert "12 new" in output
    assert "12 passages" in output
    return tmp_path / "encoded"


def test_documents_are_encoded_indexed_searched_and_ranked_again(call, model, documents, encoded, tmp_path):
    assert "12 unchanged" in call("index", "build", model, documents, encoded)[1]
    code, output, errors = call("index", "compress", encoded, tmp_path / "small", "--codec", "residual4")
    assert code == 0, errors
    assert "12 passages added" in output
    assert "in 1 segment," in output
    runs = {}
    for name, options in {
        "exact": [encoded],
        "centroids": [tmp_path / "small", "--by", "centroids", "--num-candidates", "12"],
    }.items():
        found = call(
            "search", *options, "--queries", tmp_path / "q.tsv", "--run", tmp_path / f"{name}.run", "--top-k", "5"
        )
        assert found[0] == 0, found[2]
        runs[name] = read_run(tmp_path / f"{name}.run")
        assert {query: len(own) for query, own in runs[name].items()} == {f"q-{a}": 5 for a in LETTERS[:4]}
    reverse = {query: {name: -score for name, score in own.items()} for query, own in runs["exact"].items()}
    write_run(tmp_path / "reversed.run", reverse, "x")
    found = call("rerank", model, tmp_path / "reversed.run", tmp_path / "q.tsv", documents, tmp_path / "again.run")
    assert found[0] == 0, found[2]
    again = read_run(tmp_path / "again.run")
    assert again.keys() == runs["exact"].keys()
    for query, own in again.items():
        assert own == pytest.approx(runs["exact"][query], abs=0.02)  # the index is in half precision


def test_documents_are_not_encoded_into_a_smaller_copy(call, encoded, model, documents, tmp_path):
    assert call("index", "compress", encoded, tmp_path / "small", "--codec", "residual4")[0] == 0
    code, _, errors = call("index", "build", model, documents, tmp_path / "small")
    assert code == 1
    assert "codec 'residual4', asked for 'float16', as by `drdecr index compress`. Encode into the folder" in errors


def test_questions_are_answered_with_filters_and_documents_removed(call, encoded):
    code, output, errors = call("search", encoded, "what is the city b", "--top-k", "12", "--where", "group=true")
    assert code == 0, errors
    assert [name for name in LETTERS if f"d-{name} " in output] == list("bcd")
    assert "2 passages deleted" in call("index", "delete", encoded, "d-b", "d-e", "d-nobody")[1]
    assert "2 passages deleted" in call("index", "delete", encoded, "--where", "group=true")[1]
    assert "1 passage deleted" in call("index", "delete", encoded, "d-f")[1]
    assert len(StoredIndex.open(encoded)) == 7
    assert "7 passages in 1 segment," in call("index", "compact", encoded)[1]
    assert "0 passages deleted" in call("index", "delete", encoded, "d-g", "--where", "document_id=d-h")[1]
    assert "1 passage deleted" in call("index", "delete", encoded, "d-g", "d-i", "--where", "document_id=d-g")[1]


def test_a_search_that_finds_nothing_says_so_with_its_filter(call, encoded):
    question = "what is the city b"
    code, output, errors = call("search", encoded, question, "--where", "grup=true", "--where", "group=[x]")
    assert code == 0, errors
    assert output.splitlines() == [question, "  nothing found with --where grup=true --where group=[x]"]
    assert "12 passages deleted" in call("index", "delete", encoded, *(f"d-{name}" for name in LETTERS))[1]
    assert call("search", encoded, question)[1].splitlines() == [question, "  nothing found"]


def test_a_model_searches_every_kind_of_file_that_is_encoded(call, model, tmp_path):
    (tmp_path / "d.tsv").write_text("d-b\tis in france.\tthe city b\nd-c\tthe sea\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a b.txt").write_text("the sea")
    code, output, errors = call("search", model, "what is the city b", "--passages", tmp_path / "d.tsv")
    assert code == 0, errors
    assert "the city b. is in france." in output
    found = call("search", model, "the sea", "--passages", tmp_path / "folder", "--run", tmp_path / "out.trec")
    assert found[0] == 0, found[2]
    assert list(read_run(tmp_path / "out.trec")["q1"]) == ["a%20b.txt"]


def test_ids_that_a_run_cannot_hold_are_said_before_the_search(call, model, encoded, tmp_path, monkeypatch):
    (tmp_path / "blank.jsonl").write_text('{"id": "d b", "text": "the sea"}\n')
    assert call("index", "build", model, tmp_path / "blank.jsonl", tmp_path / "blank")[0] == 0
    (tmp_path / "blank.tsv").write_text("q 1\tthe sea\n")
    monkeypatch.setattr(DirectRetriever, "search", lambda *a, **k: 1 / 0)
    for index, queries, message in [("blank", "q.tsv", "'d b#0'"), ("encoded", "blank.tsv", "'q 1'")]:
        words = ["--queries", tmp_path / queries, "--run", tmp_path / "out.trec"]
        code, _, errors = call("search", tmp_path / index, *words)
        assert code == 1
        assert f"a TREC file has blanks between its fields, got {message}" in errors


@pytest.mark.parametrize("options", [[], ["--prune"]])
def test_a_source_without_documents_makes_nothing_and_deletes_nothing(call, encoded, model, tmp_path, options):
    (tmp_path / "empty.jsonl").touch()
    for folder in (tmp_path / "new", encoded):
        code, _, errors = call("index", "build", model, tmp_path / "empty.jsonl", folder, *options)
        assert (code, len(errors.strip().splitlines())) == (1, 1)
        assert "empty.jsonl: expected documents, got none. Check that it is the right source" in errors
    assert not (tmp_path / "new").exists()
    assert len(StoredIndex.open(encoded)) == 12


def test_a_question_is_translated_first_where_a_translator_is_named(call, encoded, model, monkeypatch):
    monkeypatch.setitem(translating.ENGINES, "apertium", FromFinnish)
    first = ["--translate-from", "fi", "--translator", "apertium"]
    for source in (encoded, model):
        code, output, errors = call("search", source, "z z c", *first)
        assert code == 0, errors
        _, english, _ = call("search", source, "what is the city c")
        question, translation, *found = output.splitlines()
        assert (question.strip(), translation.strip()) == ("z z c", "searched for: what is the city c")
        assert found == english.splitlines()[1:]
    assert "searched for" not in english


@pytest.fixture
def served(call, monkeypatch):
    """Return what `drdecr serve` would serve."""
    pytest.importorskip("fastapi")

    class Started(Exception):
        pass

    def start(system, settings, host, port):
        raise Started(system)

    def serve(*arguments):
        with pytest.raises(Started) as started:
            call("serve", *arguments)
        return started.value.args[0]

    monkeypatch.setattr("drdecr.serve.app.make_server", start)
    return serve


def test_a_server_translates_first_where_a_translator_is_named(served, encoded, monkeypatch):
    from fastapi.testclient import TestClient

    from drdecr.serve.app import create_app

    monkeypatch.setitem(translating.ENGINES, "apertium", FromFinnish)
    answers = {}
    for question, options in {
        "z z c": ["--translate-from", "fi", "--translator", "apertium"],
        "what is the city c": [],
    }.items():
        with TestClient(create_app(served(encoded, *options))) as client:
            answers[question] = client.post("/search", json={"questions": [question]}).json()
    assert answers["z z c"]["results"] == answers["what is the city c"]["results"]
    assert answers["z z c"]["searched_for"] == ["what is the city c"]
    assert "searched_for" not in answers["what is the city c"]


def test_a_server_answers_from_memory_what_it_answers_from_files(served, encoded, monkeypatch):
    (of_files,) = served(encoded).answer(["a c"], 12)
    monkeypatch.setattr(segments, "similarities", lambda *arguments: pytest.fail("read from the files"))
    (of_memory,) = served(encoded, "--in-memory").answer(["a c"], 12)
    scores = [{hit.document_id: hit.score for hit in answer.documents} for answer in (of_files, of_memory)]
    assert len(scores[0]) == 12
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)


def test_a_translator_that_is_not_to_be_had_is_one_line(call, encoded, monkeypatch):
    for command in (["search", encoded, "a"], ["serve", encoded]):
        for options, message in [
            (["--translator", "apertium"], "Name it: --translate-from fi"),
            (["--translate-from", "fi"], "Name it: --translator apertium"),
            (["--translate-from", "ja", "--translator", "apertium"], "Expected fi to en, got ja to en"),
            (["--translate-from", "fi", "--translator", "no/where/at/all"], "no/where/at/all"),
        ]:
            with monkeypatch.context() as patch:
                patch.setitem(translating.ENGINES, "apertium", FromFinnish)
                code, _, errors = call(*command, *options)
            assert code == 1
            assert message in errors
            assert len(errors.strip().splitlines()) == 1, errors
        monkeypatch.setattr("drdecr.data.teacher.apertium.shutil.which", lambda program: None)
        code, _, errors = call(*command, "--translate-from", "fi", "--translator", "apertium")
        assert code == 1
        assert "apt-get install apertium" in errors
        assert len(errors.strip().splitlines()) == 1


def test_an_index_knows_the_model_that_encoded_it(call, model, documents, encoded, tmp_path, caplog):
    digest = model_digest(DrDecrModel.from_pretrained(model))
    assert StoredIndex.open(encoded).metadata["model_digest"] == digest
    shutil.copytree(model, tmp_path / "moved")
    assert "12 unchanged" in call("index", "build", tmp_path / "moved", documents, encoded)[1]
    other = DrDecrModel.from_pretrained(model)
    with torch.no_grad():
        other.linear.weight.add_(0.1)
    other.save_pretrained(model)
    for command in (
        ["search", encoded, "what is the city b"],
        ["serve", encoded],
        ["eval", "bias", encoded, tmp_path / "b.jsonl"],
    ):
        code, _, errors = call(*command)
        assert code == 1
        assert "encoded by another model" in errors
    code, _, errors = call("index", "build", model, documents, encoded)
    assert code == 1
    assert f"made with model_digest '{digest}'" in errors
    assert call("search", encoded, "what is the city b", "--model", model)[0] == 0
    assert "was encoded by another model" in caplog.text
    caplog.clear()
    assert call("search", encoded, "what is the city b", "--model", tmp_path / "moved")[0] == 0
    assert not caplog.text


def test_a_model_that_is_not_where_it_was_is_asked_for(call, model, documents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "near")
    assert call("index", "build", "near", documents, "encoded")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, errors = call("search", "../encoded", "what is the city b")
    assert (code, len(errors.strip().splitlines())) == (1, 1)
    assert (
        "../encoded: encoded by 'near', which cannot be loaded from here. If it lies elsewhere, name it: --model."
        in errors
    )
    assert call("search", "../encoded", "what is the city b", "--model", "../near")[0] == 0


WRONG = [
    (["search", "encoded"], "expected questions, got none"),
    (["search", "encoded", "a", "--queries", "q1.tsv"], "query 'q1' has the id of a question behind the index"),
    (["search", "encoded", "a", "--run", "folder"], "folder: expected a file, got a folder"),
    (["rerank", "model", "q.run", "q.tsv", "d.jsonl", "folder"], "folder: expected a file, got a folder"),
    (["search", "model", "a", "--by", "centroids"], "model: --model and --by belong to an index"),
    (["search", "model", "a", "--model", "other"], "model: --model and --by belong to an index"),
    (["index", "build", "model", "d.jsonl", "new", "--passage-tokens", "22"], "expected at most 21"),
    (["search", "encoded", "a", "--where", "language"], "expected key=value"),
    (["search", "encoded", "a", "--by", "magic"], "expected one of exact, centroids"),
    (["search", "encoded", "a", "--by", "centroids"], "need residual codes"),
    (["search", "encoded", "a", "--passages", "d.jsonl"], "Leave one of them out"),
    (["search", "encoded", "a", "--run", "no/where.run"], "expected its folder to exist"),
    (["index", "compress", "encoded", "new", "--codec", "int7"], "expected one of float16"),
    (["index", "compress", "nowhere", "new"], "nowhere: expected an index, found none. Make one: drdecr index build"),
    (["serve", "model"], "model: expected an index, found none"),
    (["eval", "bias", "d.jsonl", "b.jsonl"], "d.jsonl: expected an index, found none"),
    (["index", "compact", "folder"], "folder: expected an index, found none"),
    (["search", "nowhere", "a"], "nowhere: expected an index or a checkpoint, found neither"),
    (["search", ".", "a"], ".: expected an index or a checkpoint, found neither"),
    (["search", "encoded", "a", "--model", "encoded"], "encoded: expected a checkpoint, a folder with config.json"),
    (["search", "encoded", "--queries", "folder"], "folder: expected a file, got a folder"),
    (
        ["serve", "encoded", "--in-memory", "--by", "centroids"],
        "expected search exact, which reads all tokens, got centroids",
    ),
    (["index", "delete", "encoded"], "got neither"),
    (["rerank", "model", "no.run", "q.tsv", "d.jsonl", "no/out.run"], "expected its folder to exist"),
    (["rerank", "model", "no.run", "q.tsv", "d.jsonl", "out.run"], "no.run: no such file or folder"),
    (["rerank", "no", "q.run", "q.tsv", "no.jsonl", "out.run"], "no.jsonl: no such file or folder"),
    (["index", "build", "nowhere", "no.jsonl", "new"], "no.jsonl: no such file"),
    (["eval", "systems", "no.yaml"], "no.yaml: there is no such file; expected YAML with `systems:`, `test:` and"),
    (["eval", "systems", "folder"], "folder: this is a folder; expected YAML with `systems:`"),
    (["eval", "model", "model", "no.yaml"], "no.yaml: there is no such file; expected YAML with `test:`"),
    (["train", "folder"], "folder/pipeline.yaml: no such recipe"),
]


def test_wrong_commands_are_one_line(call, encoded, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "q.run").write_text("q-b Q0 d-b 1 1.0 x\n")
    (tmp_path / "q1.tsv").write_text("q1\twhat is the city b\n")
    shutil.copytree(model, tmp_path / "model")
    for arguments, message in WRONG:
        code, _, errors = call(*arguments)
        assert code == 1, arguments
        assert message in errors.strip().splitlines()[-1]
        assert "Traceback" not in errors


def test_filters_take_numbers_truths_and_texts():
    assert parse_where(["a=1", "a=x", "b=true", "c=k=v"]) == {"a": [1, "1", "x"], "b": [True, "true"], "c": ["k=v"]}
    assert parse_where(["a=null", "a=NaN", "a=-Infinity", f"b={'[' * 100_000}"]) == {
        "a": ["null", "NaN", "-Infinity"],
        "b": ["[" * 100_000],
    }
    assert parse_where(None) is None
