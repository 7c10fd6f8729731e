"""`drdecr report` from a pipeline's folder and from files of results."""

import json

import pytest
import yaml

from drdecr.data.sources import read_questions
from drdecr.details import align_question, clearest_question, set_details
from drdecr.evaluation.details import Details
from drdecr.report import details_file, read_folder, write_report
from drdecr.stage import run_stage


@pytest.fixture
def model(recipe_of):
    return run_stage(recipe_of("start", stage="initialise"))


@pytest.fixture
def evaluated(call, model, data, tmp_path):
    """Two files of results of one checkpoint: the second asked in English."""
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": [data["test"]], "collection": "tiny"}))
    for name, column in (("asked", "query"), ("english", "english")):
        words = ("--reads", column, "--output", tmp_path / f"{name}.json")
        code, output, errors = call("evaluate", model, tmp_path / "test.yaml", *words)
        assert code == 0, errors
        assert "collection: tiny; test: 6 questions" in output
    return [tmp_path / "asked.json", tmp_path / "english.json"]


def test_files_of_results_make_a_page_and_the_first_is_the_baseline(evaluated, call, tmp_path):
    code, output, errors = call("report", *evaluated, "--output", tmp_path / "page.html", "--title", "Two ways")
    assert code == 0, errors
    assert output.strip() == f"report: {tmp_path / 'page.html'}"
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>Two ways</h1>" in page
    assert 'id="moves-2"' in page  # the second against the first
    assert 'id="moves-1"' not in page
    assert "tiny · test: 6 questions" in page
    details = Details.from_json(details_file(evaluated[0]))
    assert set(details.languages.values()) == {"en", "xx"}
    assert details.num_failures == sum(rank != 1 for rank in details.ranks[details.system].values())


def test_results_without_details_show_their_means(evaluated, tmp_path):
    details_file(evaluated[0]).unlink()
    page = write_report(evaluated[:1], tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "failures-1" not in page


def test_what_is_no_result_is_refused_in_one_line(call, tmp_path):
    for path, words in ((tmp_path, "drdecr distil"), (tmp_path / "none.json", "none.json")):
        code, _, errors = call("report", path)
        assert code == 1
        assert words in errors
    (tmp_path / "odd.json").write_text(json.dumps({"scores": {}}))
    assert "should hold scores, metadata" in call("report", tmp_path / "odd.json")[2].replace("\n", " ")
    with pytest.raises(ValueError, match="measured"):
        read_folder(tmp_path)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: expected a pipeline's folder, or a file"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html", "x")


def test_tokens_that_are_the_same_are_paired(tiny_model):
    row = {"query_id": "q", "language": "xx", "query": "king of france", "english": "king of france"}
    found = align_question(tiny_model, tiny_model, row)
    assert found.query_tokens == found.english_tokens == ["king", "of", "france"]
    assert sorted(found.pairs) == [[0, 0], [1, 1], [2, 2]]
    assert [found.cosines[place][place] for place in range(3)] == pytest.approx([1.0] * 3, abs=1e-3)


def test_the_question_shown_is_short_foreign_and_gained(data):
    sets = [read_questions(data["test"])]
    ranks = {"o-xx": 1, "p-xx": 1, "q-xx": 2, "o-en": 1}
    assert clearest_question(sets, ranks, {"o-xx": 1, "p-xx": 7, "q-xx": None})["query_id"] == "p-xx"
    assert clearest_question(sets, {"o-en": 1}, {}) is None
    assert set_details("one", sets, {}, 10).num_failures == 6
