"""A pipeline of three tiny stages: what it leaves, and that nothing is done twice."""

import json

import pytest
import yaml
from transformers import Trainer

from drdecr.evaluation.metrics import per_query_scores
from drdecr.evaluation.runs import read_run
from drdecr.runs import pipeline as module
from drdecr.runs.pipeline import load_pipeline, run_pipeline, stage_recipe

SYSTEMS = [
    {"label": "zero-shot", "stage": "zero"},
    {"label": "student", "stage": "relevance"},
    {"label": "student, first index", "stage": "relevance", "index": "zero"},
    {"label": "upper bound", "stage": "zero", "reads": "english"},
]


@pytest.fixture
def write_pipeline(tmp_path, write_recipe, data):
    """Write a pipeline of an initialised encoder, a contrastive and a relevance stage."""

    def write(**keys):
        questions = {"questions": [data["train"]], "num_candidates": 3, "dev_texts": 0}
        write_recipe("zero", stage="initialise")
        write_recipe("start", stage="contrastive", model="stage:zero", data=questions)
        write_recipe("relevance", stage="relevance", model="stage:start", teacher="stage:zero", data=questions)
        content = {
            "output": str(tmp_path / "all"),
            "stages": ["zero", "start", "relevance"],
            "student": "relevance",
            "systems": SYSTEMS,
            "test": [data["test"]],
            "collection": "tiny, 16 passages",
            **keys,
        }
        (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return tmp_path

    return write


def test_a_pipeline_leaves_tables_and_charts_and_is_not_run_twice(write_pipeline, monkeypatch):
    pipeline = load_pipeline(write_pipeline())
    student = run_pipeline(pipeline, ["--learning_rate", "1e-4"])
    output = student.parent.parent
    assert student == output / "relevance" / "model"
    made = {path.name for path in output.iterdir()}
    assert made == {
        *("zero", "start", "relevance", "results", "results.md", "results.png", "report.html", "distance.png"),
        "failures.jsonl",
        *("curves-start.png", "curves-relevance.png"),
    }
    assert yaml.safe_load((output / "start" / "recipe.yaml").read_text())["training"]["learning_rate"] == 1e-4
    slugs = ("zero-shot", "student", "student--first-index", "upper-bound")
    kept = {path.name for path in (output / "results").iterdir()}
    files = (f"{slug}.{kind}" for slug in slugs for kind in ("json", "scores.json", "run"))
    assert kept == {*files, "student_against", "alignment.json"}
    compared = {path.stem for path in (output / "results" / "student_against").iterdir()}
    assert compared == {*slugs} - {"student"}
    table = (output / "results.md").read_text()
    assert all(f"| {row['label']} " in table for row in SYSTEMS)
    assert "None" not in table
    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")
    page = (output / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in ("results", "distance", "tokens", "curves", "failures"))
    result = json.loads((output / "results" / "student.json").read_text())
    assert all(f"{row['mean']:.3f}" in page for rows in result["scores"].values() for row in rows.values())
    failures = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    scores = json.loads((output / "results" / "student.scores.json").read_text())["scores"]["RR@10"]
    assert {row["query_id"] for row in failures} == {query_id for query_id, score in scores.items() if score < 1}
    assert "tiny, 16 passages. Questions: test: 6 questions" in table

    # What each found is kept: its best passages give the scores of the table again.
    for slug in slugs:
        run = read_run(output / "results" / f"{slug}.run")
        qrels = {query_id: {f"p-{query_id[0]}": 1} for query_id in run}
        kept_scores = json.loads((output / "results" / f"{slug}.scores.json").read_text())["scores"]["RR@10"]
        assert per_query_scores(run, qrels, ["RR@10"])["RR@10"] == pytest.approx(kept_scores)

    # The upper bound reads English in both languages, so that a question and its translation score alike.
    scores = json.loads((output / "results" / "upper-bound.scores.json").read_text())["scores"]["RR@10"]
    assert len(scores) == 6
    assert all(scores[f"{letter}-xx"] == scores[f"{letter}-en"] for letter in "opq")

    def forbidden(*_, **__):
        raise AssertionError("done twice")

    monkeypatch.setattr(Trainer, "train", forbidden)
    monkeypatch.setattr(module, "load_encoder", forbidden)
    assert run_pipeline(pipeline, ["--learning_rate", "1e-4"]) == student
    assert (output / "results.md").read_text() == table


def test_scores_of_another_test_are_not_read_back(write_pipeline, data):
    only = {"stages": ["zero"], "student": "zero", "systems": SYSTEMS[:1]}
    student = run_pipeline(load_pipeline(write_pipeline(**only)))
    file = student.parent.parent / "results" / "zero-shot.scores.json"
    before = json.loads(file.read_text())
    run_pipeline(load_pipeline(write_pipeline(**only, test=[data["dev"]])))
    after = json.loads(file.read_text())
    assert set(before["scores"]["RR@10"]).isdisjoint(after["scores"]["RR@10"])


def test_scores_of_another_content_of_the_same_file_are_not_read_back(write_pipeline, tmp_path, monkeypatch):
    only = {"stages": ["zero"], "student": "zero", "systems": SYSTEMS[:1]}
    pipeline = load_pipeline(write_pipeline(**only))
    file = run_pipeline(pipeline).parent.parent / "results" / "zero-shot.scores.json"
    before = json.loads(file.read_text())
    # Whoever reads kept figures back says where they were made, not where they were read.
    monkeypatch.setattr(module, "environment", lambda: {"command": "a", "hardware": "b", "git_commit": "later"})
    run_pipeline(pipeline)
    assert json.loads(file.read_text()) == before
    assert "commit later" not in (tmp_path / "all" / "results.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").open()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({**row, "query": "b c"}) + "\n" for row in rows))
    run_pipeline(pipeline)
    after = json.loads(file.read_text())
    assert after["key"] != before["key"]
    assert "commit later" in (tmp_path / "all" / "results.md").read_text()


def test_sets_that_cannot_be_told_apart_are_refused_before_the_first_stage(write_pipeline, data, tmp_path):
    with pytest.raises(ValueError, match=r"names differ, got 'test' twice. Give one a `name:`"):
        run_pipeline(load_pipeline(write_pipeline(test=[data["test"], {**data["dev"], "name": "test"}])))
    with pytest.raises(ValueError, match="test, other: both hold a question 'o-xx'"):
        run_pipeline(load_pipeline(write_pipeline(test=[data["test"], {**data["test"], "name": "other"}])))
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").open()]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({**row, "english": None}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="test: expected a text to ask in every row of a column 'english'"):
        run_pipeline(load_pipeline(write_pipeline()))
    (tmp_path / "q.jsonl").write_text('{"id": "1", "question": "b", "answers": ["c"], "lang": "fi"}\n')
    (tmp_path / "p.tsv").write_text("1\ttext\ttitle\n")
    answers = {"format": "xor_retrieve", "questions": str(tmp_path / "q.jsonl"), "passages": str(tmp_path / "p.tsv")}
    with pytest.raises(ValueError, match=r"has answers alone. Measure it with `drdecr eval model`"):
        run_pipeline(load_pipeline(write_pipeline(test=[answers], systems=SYSTEMS[:2])))
    assert not (tmp_path / "all").exists()


def test_an_id_with_a_blank_costs_the_run_file_and_not_the_figures(write_pipeline, tmp_path, caplog):
    for file in (tmp_path / "test.jsonl", *tmp_path.glob("*passages*.jsonl")):
        file.write_text(file.read_text().replace('"p-o"', '"p o"'))
    only = {"stages": ["zero"], "student": "zero", "systems": SYSTEMS[:1]}
    results = run_pipeline(load_pipeline(write_pipeline(**only))).parent.parent / "results"
    assert "No run file of zero-shot is kept" in caplog.text
    assert {path.name for path in results.iterdir()} == {"zero-shot.json", "zero-shot.scores.json", "student_against"}


def test_what_is_tested_is_not_trained_on(write_pipeline, data, tmp_path):
    path = write_pipeline()
    rows = [json.loads(line) for part in ("train", "test") for line in (tmp_path / f"{part}.jsonl").open()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))  # the test has leaked
    run_pipeline(load_pipeline(path))
    for stage in ("start", "relevance"):
        run = json.loads((tmp_path / "all" / stage / "run.json").read_text())
        assert run["rows"] == {"questions": 20}
        assert {name: counts["held_out"] for name, counts in run["cleaning"].items()} == {"questions": 6}
        resolved = yaml.safe_load((tmp_path / "all" / stage / "recipe.yaml").read_text())
        assert resolved["data"]["held_out"] == [data["test"]]  # so the recipe alone gives the same run


def test_labels_that_differ_in_signs_have_files_of_their_own(write_pipeline, tmp_path):
    rows = [
        {"label": "a+b", "stage": "zero"},
        {"label": "A-b", "stage": "zero", "reads": "english"},
        {"label": "comparison", "stage": "zero"},
        {"label": "??", "stage": "zero"},
    ]
    run_pipeline(load_pipeline(write_pipeline(stages=["zero"], student="zero", systems=rows)))
    kept = {path.name for path in (tmp_path / "all" / "results").iterdir()}
    names = ("a-b", "a-b-2", "comparison", "system")
    files = {f"{name}.{kind}" for name in names for kind in ("json", "scores.json", "run")}
    assert kept == {*files, "student_against", "alignment.json"}
    scores = [json.loads((tmp_path / "all" / "results" / f"{name}.scores.json").read_text()) for name in names[:2]]
    assert scores[0]["key"] != scores[1]["key"]


def test_an_english_test_alone_is_averaged_over_english(write_pipeline, data, tmp_path):
    file = tmp_path / "english.jsonl"
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    file.write_text("\n".join(line for line in lines if json.loads(line)["language"] == "en"))
    only = {"stages": ["zero"], "student": "zero", "systems": SYSTEMS[:1]}
    student = run_pipeline(load_pipeline(write_pipeline(**only, test=[{**data["test"], "questions": str(file)}])))
    result = json.loads((student.parent.parent / "results" / "zero-shot.json").read_text())
    assert set(result["scores"]["RR@10"]) == {"en", "avg"}


def test_mistakes_are_found_before_the_first_stage(write_pipeline, data, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        run_pipeline(load_pipeline(write_pipeline()), ["--learning_rat", "1"])
    monkeypatch.delenv("NO_SUCH_DATA", raising=False)
    broken = {**data["test"], "questions": "$NO_SUCH_DATA/q.jsonl"}
    with pytest.raises(ValueError, match="NO_SUCH_DATA is not set"):
        run_pipeline(load_pipeline(write_pipeline(test=[broken])))
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"student": "other"}, "one of the stages zero, start, relevance, got 'other'"),
        ({"systems": [{"label": "a", "stage": "nil"}]}, "got 'nil'"),
        ({"systems": [{**SYSTEMS[1], "index": "nil"}]}, "got 'nil'"),
        ({"systems": SYSTEMS[:1]}, "expected a row for the student 'relevance'"),
        ({"systems": [SYSTEMS[1], SYSTEMS[1]]}, "labels that differ, got 'student' twice"),
        ({"systems": [{"name": "a"}]}, r"systems, entry 1: unknown key 'name'"),
        ({"tests": []}, "unknown key 'tests'. Did you mean 'test'"),
    ],
)
def test_a_wrong_pipeline_says_what_is_wrong(keys, message, write_pipeline):
    with pytest.raises(ValueError, match=message):
        load_pipeline(write_pipeline(**keys))


def test_stages_write_into_the_pipelines_folder(write_pipeline):
    pipeline = load_pipeline(write_pipeline() / "pipeline.yaml", output="elsewhere/run")
    assert stage_recipe(pipeline, "start", []).output == "elsewhere/run/start"
    changed = stage_recipe(pipeline, "start", ["--max_steps", "1"])
    assert changed.training["max_steps"] == 1
    assert stage_recipe(pipeline, "zero", ["--max_steps", "1"]).training == {}  # it trains nothing
