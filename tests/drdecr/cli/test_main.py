"""The command line: help, errors of one line, answers; and a checkpoint that opens without the package."""

import hashlib
import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from drdecr import __version__
from drdecr.cli.errors import in_one_line
from drdecr.cli.main import app, main
from drdecr.evaluation.runs import read_qrels, read_run
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.runs.demo import ask_fresh_process
from drdecr.runs.stage import run_stage


@pytest.fixture
def model(recipe_of):
    return run_stage(recipe_of("start", stage="initialise"))


def test_the_version_is_the_packages():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def assert_one_line(found, *texts):
    code, _, errors = found
    assert code == 1
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]  # what stands before it are progress bars
    assert last.startswith("error: ")
    assert all(text in last for text in texts), errors


def test_errors_are_one_line(call, write_recipe, data, monkeypatch, tmp_path):
    assert_one_line(call("train", tmp_path / "no.yaml"), "no.yaml: no such recipe")
    recipe = write_recipe("a", stage="contrastive", data={"questions": [data["train"]]})
    assert_one_line(call("train", recipe, "--learning_rat", "1"), "'learning_rat'", "'learning_rate'")
    assert_one_line(call("train", recipe, "--model", tmp_path / "nowhere"), "nowhere")
    monkeypatch.delenv("DRDECR_NOWHERE", raising=False)
    lost = {"questions": [{**data["train"], "passages": "$DRDECR_NOWHERE/p.jsonl"}]}
    assert_one_line(call("train", write_recipe("b", stage="contrastive", data=lost)), "DRDECR_NOWHERE is not set")
    assert_one_line(call("search", tmp_path / "nowhere", "what"), "nowhere")
    assert_one_line(call("eval", "model", "x", recipe), "unknown key", "Known are collection, protocol, test")


@pytest.fixture
def spoil(data, start, tmp_path, monkeypatch):
    """`spoil(what)` puts one mistake into the data, the start or the environment; returns keys and words of the cure."""
    broken = tmp_path / "broken.jsonl"
    row = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    teacher = tmp_path / "runs" / "start" / "model" / "model.safetensors"

    def questions(text):
        broken.write_bytes(text)
        return {"data": {"questions": [{**data["train"], "questions": str(broken)}], "num_candidates": 3}}

    def spoiled(what):
        good = {"data": {"questions": [data["train"]], "num_candidates": 3}}
        if what == "missing file":
            return {"data": {"questions": [{**data["train"], "questions": "no.jsonl"}]}}, ("no.jsonl", "Check the path")
        if what == "wrong columns":
            return questions(b'{"query": "q", "language": "fi"}'), (
                "line 1",
                "query_id, document_ids",
                "Rename or fill",
            )
        if what == "empty text":
            return questions(json.dumps({**row, "query": " "}).encode()), ("row 1", "'query'", "Drop or fill the row")
        if what == "no text":
            return questions(b""), ("expected rows, got none", "Look at the path")
        if what == "one candidate":
            return {"data": {**good["data"], "num_candidates": 1}}, ("num_candidates", "expected 2 to")
        if what == "no teacher":
            return {**good, "stage": "relevance"}, ("teacher: expected one for relevance_kl", "stage:NAME")
        if what == "wrong value":
            return {**good, "training": {"max_steps": "many"}}, ("expected a whole number for 'max_steps', got 'many'",)
        if what == "wrong processor":
            return {**good, "processor": {"qery_length": 3}}, ("Did you mean 'query_length'",)
        if what == "unset variable":
            monkeypatch.delenv("DRDECR_DATA", raising=False)
            return {"data": {"parallel": [{**data["parallel"], "path": "$DRDECR_DATA/x.tsv"}]}}, (
                "DRDECR_DATA is not set",
            )
        if what == "empty folder":
            monkeypatch.setenv("DRDECR_DATA", str(tmp_path / "nothing"))
            return {"data": {"parallel": [{**data["parallel"], "path": "$DRDECR_DATA/x.tsv"}]}}, ("set DRDECR_DATA",)
        if what == "weights cut off":
            teacher.write_bytes(teacher.read_bytes()[:-100])
            return good, ("broken weights",)
        weights = load_file(teacher)  # what a teacher that diverged has
        save_file(
            {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}, teacher, {"format": "pt"}
        )
        return {**good, "stage": "relevance", "teacher": start}, ("NaN or infinity", "Choose another checkpoint")

    return spoiled


MISTAKES = (
    *("missing file", "wrong columns", "empty text", "no text", "one candidate", "no teacher", "wrong value"),
    *("wrong processor", "unset variable", "empty folder", "weights cut off", "NaN teacher"),
)


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_with_its_cure(what, spoil, start, call, write_recipe):
    keys, words = spoil(what)
    keys = {"stage": "representation" if "parallel" in keys["data"] else "contrastive", "model": start, **keys}
    if "parallel" in keys["data"]:
        keys["teacher"] = start
    assert_one_line(call("train", write_recipe("a", **keys)), *words)


def test_a_corrected_recipe_runs_in_the_same_folder(call, write_recipe, data, start):
    lost = {"questions": [{**data["train"], "questions": "no.jsonl"}]}
    assert_one_line(call("train", write_recipe("a", stage="contrastive", model=start, data=lost)), "no.jsonl")
    good = {"questions": [data["train"]], "num_candidates": 2}
    code, output, errors = call("train", write_recipe("a", stage="contrastive", model=start, data=good))
    assert (code, output.splitlines()[-1].startswith("model: ")) == (0, True), errors


def test_an_error_of_many_lines_is_shown_in_one():
    assert in_one_line(OSError("first\n  second\n")) == "error: first second"


def test_a_file_that_the_system_refuses_is_named_with_a_cure(tmp_path):
    (tmp_path / "file").write_text("")
    for refused, said in [
        (lambda: (tmp_path / "none").read_text(), "none: no such file or folder. Check the path."),
        (lambda: tmp_path.read_text(), f"{tmp_path.name}: expected a file, got a folder. Name a file in it."),
        (lambda: list((tmp_path / "file").iterdir()), "file: expected a folder, got a file. Choose another name."),
        (lambda: (tmp_path / "file").mkdir(), "file: expected a folder, got a file. Choose another name."),
    ]:
        with pytest.raises(OSError, match="Errno") as raised:
            refused()
        assert (
            in_one_line(raised.value)
            == f"error: {tmp_path.parent if said.startswith(tmp_path.name) else tmp_path}/{said}"
        )


def test_verbose_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["drdecr", "--verbose", "train", str(tmp_path / "no.yaml")])
    with pytest.raises(FileNotFoundError):
        main()


def test_train_prints_the_folder_in_one_line(call, write_recipe, tmp_path):
    recipe = write_recipe("a", stage="initialise")
    code, output, _ = call("train", recipe, "--output", tmp_path / ("long" * 30) / "run")
    assert code == 0
    assert output.splitlines()[-1] == f"model: {tmp_path / ('long' * 30) / 'run' / 'model'}"


def test_search_answers_with_passages_of_a_file(call, model, tmp_path):
    texts = {"p1": "the capital of france is paris", "p2": "the sea [b] [/b] a", "p3": "b c d"}
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"document_id": k, "text": v}) + "\n" for k, v in texts.items()))
    code, output, errors = call("search", model, "what [/x] is", "river", "--passages", file, "--top-k", "2")
    assert code == 0, errors
    assert "what [/x] is" in output
    assert sum(output.count(name) for name in texts) == 4  # two questions, two passages each
    every = call("search", model, "river", "--passages", file)[1]
    assert all(text in " ".join(every.split()) for text in texts.values())


def test_evaluate_writes_the_result(call, model, data, tmp_path):
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"]], "collection": "tiny"}))
    run, results = tmp_path / "a.run", [tmp_path / "result.json", tmp_path / "again.json"]
    for arguments in (
        ("eval", "model", model, tmp_path / "test.yaml", "--run", run, "--output", results[0]),
        ("eval", "run", run, "--data", tmp_path / "test.yaml", "--output", results[1]),
    ):
        code, output, errors = call(*arguments)
        assert code == 0, errors
        assert "xx" in output
    scores = [json.loads(file.read_text())["scores"] for file in results]
    assert set(scores[0]["RR@10"]) == {"xx", "en", "avg"}
    assert scores[0] == scores[1]


def test_a_collection_without_words_has_the_sets_names_and_never_a_path(call, model, data, tmp_path):
    second = {**data["dev"], "name": "second"}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"], second]}))
    code, output, errors = call("eval", "model", model, tmp_path / "test.yaml", "--output", tmp_path / "result.json")
    assert code == 0, errors
    assert "collection: test, second; test: 6 questions, 16 passages (sha256 " in output
    assert json.loads((tmp_path / "result.json").read_text())["metadata"]["collection"] == "test, second"


def test_evaluate_refuses_keys_and_values_that_it_does_not_know(call, data, tmp_path):
    for wrong, *words in (
        ({"protocl": "beir"}, "test.yaml: unknown key 'protocl'", "Did you mean 'protocol'?"),
        ({"colection": "tiny"}, "test.yaml: unknown key 'colection'", "Did you mean 'collection'?"),
        ({"collection": ["tiny"]}, "test.yaml: expected text for 'collection', got ['tiny']"),
        ({"test": "test.jsonl"}, "test.yaml: expected a list for 'test'"),
    ):
        (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"]], **wrong}))
        assert_one_line(call("eval", "model", tmp_path / "nowhere", tmp_path / "test.yaml"), *words)


def test_evaluate_searches_another_checkpoints_index_and_keeps_the_run(call, model, recipe_of, data, tmp_path):
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"]]}))
    other = DrDecrModel.from_pretrained(model)
    other.linear.weight.data = other.linear.weight.data.flip(0)  # another space: its own index gives the same scores
    other.save_pretrained(tmp_path / "other")
    runs = {}
    for name, index in (("own", model), ("same", model), ("strange", tmp_path / "other")):
        words = ("--run", tmp_path / f"{name}.run", *(("--index", index) if name != "own" else ()))
        assert call("eval", "model", model, tmp_path / "test.yaml", *words)[0] == 0
        runs[name] = read_run(tmp_path / f"{name}.run")
    assert runs["own"] == runs["same"] != runs["strange"]
    assert set(runs["own"]) == {f"{letter}-{code}" for letter in "opq" for code in ("xx", "en")}
    assert all(len(found) == 16 for found in runs["own"].values())
    assert read_qrels(tmp_path / "own.qrels")["o-xx"] == {"p-o": 1}
    assert_one_line(
        call("eval", "model", model, tmp_path / "test.yaml", "--reads", "title"), "a column 'title'", "query_id"
    )


def test_evaluate_looks_for_answers_where_no_passage_is_labelled(call, model, tmp_path, caplog):
    rows = [
        {"id": "1", "question": "what is b", "answers": ["france"], "lang": "fi"},  # in every passage
        {"id": "2", "question": "what is c", "answers": ["Norway"], "lang": "fi"},  # in none
        {"id": "3", "question": "what is d", "answers": ["yes"], "lang": "ko"},  # left out
        {"id": "4", "question": "what is e", "answers": ["Norway", "city"], "lang": "ko"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = "".join(f"{letter}\tthe city {letter} is in france\tking\n" for letter in "bcd")
    (tmp_path / "p.tsv").write_text("id\ttext\ttitle\n" + lines)
    entry = {"format": "xor_retrieve", "questions": str(tmp_path / "q.jsonl"), "passages": str(tmp_path / "p.tsv")}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [entry]}))
    code, output, errors = call("eval", "model", model, tmp_path / "test.yaml", "--output", tmp_path / "result.json")
    assert code == 0, errors
    assert "R@5kt" in output
    result = json.loads((tmp_path / "result.json").read_text())
    assert {name: row["mean"] for name, row in result["scores"]["R@5kt"].items()} == {"fi": 0.5, "ko": 1.0, "avg": 0.75}
    (facts,) = result["metadata"]["sets"].values()
    assert (facts["protocol"], facts["published_split"], facts["depth"]) == ("xor_retrieve", "dev v1.1", 100)
    assert "split" not in facts  # which one was asked, nobody knows
    assert "dev v1.1" not in result["metadata"]["data_version"]
    assert (facts["skipped_questions"], facts["missed_with_short_list"]["R@5kt"]) == (1, 1)
    assert "1 questions found no answer" in caplog.text


def test_evaluate_says_before_it_searches_that_nothing_can_be_measured(call, model, tmp_path, monkeypatch):
    monkeypatch.setattr("drdecr.evaluation.evaluate.load_encoder", None)  # nothing is loaded
    row = {"id": "3", "question": "what is d", "answers": ["Yes"], "lang": "ko"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "p.tsv").write_text("id\ttext\ttitle\nd\tthe city d is in france\tking\n")
    entry = {"format": "xor_retrieve", "questions": str(tmp_path / "q.jsonl"), "passages": str(tmp_path / "p.tsv")}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [entry]}))
    assert_one_line(
        call("eval", "model", model, tmp_path / "test.yaml"), "every answer is yes, no or blank", "xor_retrieve"
    )
    (tmp_path / "test.yaml").write_text("test: []\n")
    assert_one_line(call("eval", "model", model, tmp_path / "test.yaml"), "a list of question sets, got none")


@pytest.mark.parametrize("option", ["--run", "--output"])
def test_evaluate_says_before_it_searches_that_there_is_no_folder_to_write_into(
    option, call, model, data, tmp_path, monkeypatch
):
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"]]}))
    monkeypatch.setattr("drdecr.evaluation.evaluate.load_encoder", None)  # nothing is loaded
    found = call("eval", "model", model, tmp_path / "test.yaml", option, tmp_path / "nowhere" / "file")
    assert_one_line(found, "expected its folder to exist. Make", "nowhere first")


def test_compare_takes_runs_of_any_system(call, tmp_path):
    # RR: 1, 1/2 and nothing found for the first; 1/2, 1 and 1 for the second.
    (tmp_path / "one.run").write_text("q1 Q0 a 1 3 x\nq2 Q0 b 1 2 x\nq2 Q0 a 2 1 x\n")
    (tmp_path / "two.run").write_text(
        "q9 Q0 unjudged 1 3 y\nq1 Q0 b 1 3 y\nq1 Q0 a 2 2 y\nq2 Q0 a 1 1 y\nq3 Q0 a 1 1 y\n"
    )
    (tmp_path / "qrels").write_text("q1 0 a 1\nq2 0 a 1\nq3 0 a 1\n")
    (tmp_path / "languages").write_text("\ufeffq1\tfi\nq2\tfi\nq3\tsw\n", encoding="utf-8")  # the mark is no text
    files = [tmp_path / name for name in ("one.run", "two.run", "qrels")]
    code, output, errors = call(
        "eval", "compare", *files, "--languages", tmp_path / "languages", "--output", tmp_path / "c.json"
    )
    assert code == 0, errors
    assert "| fi | 2 | +0.000" in output
    assert "| sw | 1 | +1.000" in output
    assert "| avg | 3 | +0.500" in output  # the mean of the languages
    assert json.loads((tmp_path / "c.json").read_text())["metadata"]["system"].endswith("two.run")
    assert "| all | 3 | +0.333" in call("eval", "compare", *files)[1]
    (tmp_path / "languages").write_text("q1 fi\n")
    assert_one_line(call("eval", "compare", *files, "--languages", tmp_path / "languages"), "query id, tab, language")
    for lines, got in (("q1\tfi\nq2\tfi\n", "got None for 'q3' (1 such"), ("q1\tavg\n", "got 'avg' for 'q1' (3 such")):
        (tmp_path / "languages").write_text(lines)
        found = call("eval", "compare", *files, "--languages", tmp_path / "languages")
        assert_one_line(found, f"{tmp_path / 'languages'}: expected a language other than 'avg'", got)
    assert_one_line(call("eval", "compare", tmp_path / "qrels", *files[1:]), "qrels, line 1", "query_id Q0 document_id")


def test_compare_says_what_of_the_judged_queries_a_run_lacks(call, tmp_path, caplog):
    (tmp_path / "one.run").write_text("q1 Q0 a 1 3 x\nq2 Q0 a 1 3 x\n")
    (tmp_path / "two.run").write_text("q2 Q0 a 1 3 x\n")
    (tmp_path / "qrels").write_text("q1 0 a 1\nq2 0 a 1\nq3 0 a 1\n")
    files = [tmp_path / name for name in ("one.run", "two.run", "qrels")]
    assert call("eval", "compare", *files)[0] == 0
    assert f"1 of 3 judged queries have no line in {files[0]} and score 0, the first q3" in caplog.text
    assert f"2 of 3 judged queries have no line in {files[1]} and score 0, the first q1" in caplog.text
    files[1].write_text("xquad-q1 Q0 a 1 3 x\n")
    assert_one_line(
        call("eval", "compare", *files), f"{files[1]}: expected lines of the 3 judged queries, such as 'q1', got none"
    )


def test_compare_refuses_a_query_that_has_two_languages_by_its_line(call, tmp_path):
    (tmp_path / "run").write_text("q1 Q0 a 1 3 x\n")
    (tmp_path / "qrels").write_text("q1 0 a 1\n")
    (tmp_path / "languages").write_text("q1\tfi\n\nq1\tsw\n")
    words = (
        "eval",
        "compare",
        tmp_path / "run",
        tmp_path / "run",
        tmp_path / "qrels",
        "--languages",
        tmp_path / "languages",
    )
    assert_one_line(call(*words), f"{tmp_path / 'languages'}, line 3: query 'q1' stands twice")
    (tmp_path / "languages").write_text("\nq1 fi\n")
    assert_one_line(call(*words), "languages, line 2: expected query id, tab, language, got 'q1 fi'")


def test_compare_says_before_it_reads_that_there_is_no_folder_to_write_into(call, tmp_path):
    found = call("eval", "compare", *(tmp_path / name for name in "abc"), "--output", tmp_path / "nowhere" / "c.json")
    assert_one_line(found, "expected its folder to exist. Make", "nowhere first")


def test_a_comparison_says_what_its_files_held(call, tmp_path):
    files = [tmp_path / name for name in ("one.run", "two.run", "qrels")]
    about = []
    for label, score in (("first", 3), ("again", 3), ("other", 4)):
        for file, line in zip(files, (f"q1 Q0 a 1 {score} x\n", "q1 Q0 a 1 1 y\n", "q1 0 a 1\n"), strict=True):
            file.write_text(line)
        words = ("--output", tmp_path / f"{label}.json", "--collection", "tiny")
        assert call("eval", "compare", *files, *words)[0] == 0
        about.append(json.loads((tmp_path / f"{label}.json").read_text())["metadata"])
    assert about[0] == about[1] != about[2]
    assert {name for name in about[0] if about[0][name] != about[2][name]} == {"baseline_sha256"}
    assert about[0]["qrels_sha256"] == hashlib.sha256(b"q1 0 a 1\n").hexdigest()[:12]
    assert about[0]["collection"] == "tiny"


@pytest.mark.processes
def test_a_checkpoint_answers_in_a_process_without_the_package(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    tiny_model.save_pretrained(tmp_path / "model")
    questions, passages = ["what is the capital", "b c d", "river"], ["the capital city", "b c d e", "a river", "x y"]
    answer = ask_fresh_process(tmp_path / "model", questions, passages)
    here = tiny_model.score(tiny_model.encode_queries(questions), tiny_model.encode_documents(passages))
    assert answer["best"] == here.argmax(dim=1).tolist()
    assert "transformers_modules" in answer["class"]


def test_a_checkpoint_that_does_not_open_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr("drdecr.runs.demo.FRESH_PROCESS", "import drdecr.nothing")
    with pytest.raises(RuntimeError, match=r"did not open in a fresh process:[\s\S]*ModuleNotFoundError"):
        ask_fresh_process(tmp_path, ["a"], ["b"])
