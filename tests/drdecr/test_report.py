"""`drdecr report` from a pipeline's folder and from files of results."""

import json
import re

import pytest
import yaml

from drdecr.data.sources import read_questions
from drdecr.details import align_question, clearest_question, set_details
from drdecr.evaluation.details import Details
from drdecr.evaluation.results import EvaluationResult, Score
from drdecr.report import details_file, last_parts, read_folder, write_report
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
    words = ("--teacher", evaluated[1], "--output", tmp_path / "page.html")
    assert call("report", evaluated[0], *words)[0] == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How much MRR@10 is missing to “english: start/model”" in page
    # Both asked English alike, so nothing is missing there.
    assert re.search(r'<th scope="row">en</th><td>\+0.000', page)


def test_results_of_other_questions_under_one_name_stand_apart(evaluated, call, model, data, tmp_path):
    questions = tmp_path / "test.jsonl"
    questions.write_text(questions.read_text().replace("z o z", "z p z"))
    words = (tmp_path / "test.yaml", "--output", tmp_path / "changed.json")
    assert call("evaluate", model, *words)[0] == 0
    page = write_report([evaluated[0], tmp_path / "changed.json"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Figures of different collections do not compare" in page
    assert 'id="moves-2"' not in page


ASKED = {"o-xx": "xx", "p-xx": "xx", "o-yy": "yy", "p-yy": "yy"}


@pytest.fixture
def file_of(tmp_path):
    """`file_of("a/result", "/runs/a/model", 1.0, 0.5, 1.0, 0.5)`: a file of results with these scores of four questions."""

    def write(name, model, *scores, version="tiny: 4 questions", measure="nDCG@20"):
        file = tmp_path / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        by_query = dict(zip(ASKED, scores, strict=True))
        row = Score(sum(scores) / 4, 0.0, 1.0, 2)
        about = {"model": model, "collection": "tiny", "data_version": version, "average_over": "all"}
        EvaluationResult({measure: dict.fromkeys(("xx", "yy", "avg"), row)}, about).to_json(file)
        ranks = {model: dict.fromkeys(ASKED, 1)}
        details = Details(
            [model], model, measure=measure, languages=ASKED, ranks=ranks, scores={model: {measure: by_query}}
        )
        details.to_json(details_file(file))
        return file

    return write


def text_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")).split())


def test_files_of_results_show_their_distance_to_a_teacher(file_of, tmp_path):
    teacher = file_of("teacher/result", "/runs/x/teacher/model", 1.0, 1.0, 1.0, 0.8)
    first = file_of("first/result", "/runs/x/zero/model", 0.4, 0.6, 0.2, 0.2)
    student = file_of("student/result", "/runs/x/student/model", 0.8, 1.0, 0.9, 0.8)
    for sources in ([first, student], [teacher, first, student]):
        page = write_report(sources, tmp_path / "page.html", teacher=teacher)
        text, order = text_of(page), page.read_text(encoding="utf-8")
        # xx: -0.5 and -0.1; yy: -0.7 and -0.05; the mean of the languages: -0.6 and -0.075
        for language, before, after, closed in (("xx", "-0.500", "-0.100", 80), ("yy", "-0.700", "-0.050", 93)):
            assert re.search(rf"{language} {before} \[[^]]*\] {after} \[[^]]*\] {closed} %", text), text
        assert re.search(r"avg -0.600 \[[^]]*\] -0.075 \[[^]]*\] 88 %", text)
        assert "How much nDCG@20 is missing to “teacher/model”" in text
        assert "88 % of the distance to teacher/model is closed" in text
        assert len(re.findall(r'id="distance-\d', order)) == 1  # the first stands beside the student
        assert len(re.findall(r'id="failures-\d', order)) == 2  # none of the teacher
        assert order.count('<th scope="col">teacher/model</th>') == 1
    alone = text_of(write_report([student], tmp_path / "page.html", teacher=teacher))
    assert re.search(r"avg -0.075 \[[^]]*\] –", alone)


def test_a_teacher_that_was_asked_otherwise_is_refused(file_of, call, tmp_path, caplog):
    student = file_of("student", "student", 0.8, 1.0, 0.9, 0.8)
    scores = (1.0, 1.0, 1.0, 0.8)
    other = file_of("other", "teacher", *scores, version="tiny: 4 questions, others")
    for wrong in (other, file_of("measure", "teacher", *scores, measure="AP")):
        with pytest.raises(ValueError, match="asked the same questions over the same passages"):
            write_report([student], tmp_path / "page.html", teacher=wrong)
    both = file_of("both", "teacher", *scores)
    write_report([student, other], tmp_path / "page.html", teacher=both)
    assert "other: no distance to the teacher" in caplog.text
    details_file(both).unlink()
    code, _, errors = call("report", student, "--teacher", both, "--output", tmp_path / "page.html")
    assert (code, "with the scores of each question" in errors) == (1, True), errors
    with pytest.raises(ValueError, match="got a folder"):
        write_report([student], tmp_path / "page.html", teacher=tmp_path)


def test_labels_are_the_last_parts_of_paths_and_links_name_the_system(file_of, tmp_path):
    files = [file_of(name, f"{tmp_path}/runs/{name}/student/model", 1.0, 1.0, 1.0, 1.0) for name in "ab"]
    page = write_report(files, tmp_path / "page.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert '<a href="#failures-1">Failures: a/student/model</a>' in page
    assert '<a href="#failures-2">Failures: b/student/model</a>' in page
    assert "nDCG@20 of b/student/model" in page
    page = write_report(files[:1], tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<a href="#failures-1">Failures</a>' in page
    assert "nDCG@20 of student/model" in page
    assert last_parts(["user/name", "/m_a", "."]) == {"user/name": "user/name", "/m_a": "m_a", ".": "."}


def test_one_file_given_twice_is_refused(file_of, tmp_path):
    file = file_of("a", "student", 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="names differ"):
        write_report([file, file], tmp_path / "page.html")


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
