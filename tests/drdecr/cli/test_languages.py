"""`drdecr eval bias | calibrate` and `search --calibrated` on documents in three languages."""

import json
import shutil

import pytest
import torch

from drdecr.evaluation.fairness.index_bias import CALIBRATED, PLAIN, measure_index_bias, read_references, read_versions
from drdecr.evaluation.fairness.language_bias import BiasReport
from drdecr.evaluation.runs import read_run
from drdecr.retrieval import StoredIndex
from drdecr.retrieval.build import build_index, open_or_create_index
from drdecr.retrieval.calibration import CALIBRATION, CalibratedIndex, check_calibration
from drdecr.retrieval.passages import Document, Splitter

WORDS = {"en": "the city {} is in france .", "xx": "z {} z x {} z .", "yy": "k {} k y {} k y {} ."}
LETTERS = "bcdefgh"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def document(name, language, letter):
    return {
        "document_id": f"{name}-{letter}.{language}",
        "text": WORDS[language].replace("{}", letter),
        "language": language,
    }


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "d.jsonl", [document("d", code, letter) for code in WORDS for letter in LETTERS])
    write(tmp_path / "texts.jsonl", [document("t", code, letter) for code in WORDS for letter in "ijlmnop"])
    rows = [
        {
            "query_id": f"{letter}-{code}",
            "query": f"what is {letter}" if code == "en" else f"z {letter}",
            "language": code,
            "document_ids": [f"d-{letter}.{other}" for other in WORDS],
        }
        for code in ("en", "xx")
        for letter in LETTERS
    ]
    write(tmp_path / "q.jsonl", rows)
    return tmp_path


@pytest.fixture
def encoded(call, model, files):
    assert call("index", "build", model, files / "d.jsonl", files / "index")[0] == 0
    return files / "index"


def test_bias_is_measured_before_and_after_calibration(call, encoded, files):
    code, output, errors = call("eval", "bias", encoded, files / "q.jsonl", "--output", files / "plain", "--top-k", 3)
    assert code == 0, errors
    assert "Kendall's W" in output
    code, output, errors = call("index", "calibrate", encoded, files / "texts.jsonl", "--passages", 5)
    assert code == 0, errors
    assert "5 en, 5 xx, 5 yy passages" in output
    assert call("eval", "bias", encoded, files / "q.jsonl", "--output", files / "both", "--top-k", 3)[0] == 0
    plain = BiasReport.from_json(files / "both" / "bias.json")
    calibrated = BiasReport.from_json(files / "both" / "bias-calibrated.json")
    assert plain.cells == BiasReport.from_json(files / "plain" / "bias.json").cells
    assert plain.metadata["documents"] == {"en": 7, "xx": 7, "yy": 7}
    assert plain.metadata["index"] == str(encoded)
    assert (files / "both" / "bias.png").stat().st_size > 5000
    assert f"## {CALIBRATED}" in (files / "both" / "bias.md").read_text()
    # The shares of the first three places sum to 1, and no calibration moves a passage within its language.
    for report in (plain, calibrated):
        assert sum(cell.mean for cell in report.cells["share"]["avg"].values()) == pytest.approx(1)
    found = call("search", encoded, "what is b", "--top-k", "21", "--calibrated", "--run", files / "c.run")
    assert found[0] == 0, found[2]
    call("search", encoded, "what is b", "--top-k", "21", "--run", files / "p.run")
    orders = [[line.split()[2] for line in (files / name).read_text().splitlines()] for name in ("p.run", "c.run")]
    assert len(orders[0]) == 21
    for language in WORDS:
        assert len({tuple(name for name in order if name.endswith(language)) for order in orders}) == 1


def test_ids_of_a_calibrated_index_that_a_run_cannot_hold_are_said_before_the_search(call, model, files, monkeypatch):
    write(files / "blank.jsonl", [document("d b", "en", "b")])
    assert call("index", "build", model, files / "blank.jsonl", files / "blank")[0] == 0
    assert call("index", "calibrate", files / "blank", files / "texts.jsonl")[0] == 0
    monkeypatch.setattr(CalibratedIndex, "search", lambda *a, **k: 1 / 0)
    code, _, errors = call("search", files / "blank", "what is b", "--calibrated", "--run", files / "c.run")
    assert code == 1
    assert "a TREC file has blanks between its fields, got 'd b-b.en#0'" in errors


def test_languages_stand_between_commas_and_blanks(call, encoded, files):
    code, _, errors = call("eval", "bias", encoded, files / "q.jsonl", "--languages", "en, xx")
    assert code == 0, errors


def test_only_some_languages_may_be_measured(tiny_model, encoded, files):
    reports = measure_index_bias(tiny_model, encoded, read_versions(files / "q.jsonl"), languages=["en", "xx"])
    assert list(reports) == [PLAIN]
    assert list(reports[PLAIN].metadata["documents"]) == ["en", "xx"]


def test_a_long_document_is_ranked_by_its_best_passage(tiny_model, tmp_path, files):
    long = " ".join([WORDS["en"].replace("{}", "b")] * 30)
    documents = [Document("d-b.en", long, "", {"language": "en"}), Document("d-b.xx", "z b z", "", {"language": "xx"})]
    with open_or_create_index(tmp_path / "long", 16, {}, "float16", 1) as opened:
        build_index(tiny_model, documents, opened, Splitter(overlap=3))
    assert len(StoredIndex.open(tmp_path / "long")) > 3
    question = {"query_id": "q", "query": "z b", "language": "xx", "document_ids": ["d-b.en", "d-b.xx"]}
    report = measure_index_bias(tiny_model, tmp_path / "long", [question])[PLAIN]
    assert sorted(cell.mean for cell in report.cells["rank"]["xx"].values()) == [1, 2]
    hits = StoredIndex.open(tmp_path / "long").search(tiny_model.encode_queries(["z b"]), 99, {"language": "en"})
    assert len(set(hits.scores[0])) > 1
    assert report.cells["score"]["xx"]["en"].mean == pytest.approx(max(hits.scores[0]), abs=1e-5)


def test_wrong_commands_are_one_line(call, model, encoded, files, monkeypatch):
    monkeypatch.chdir(files)
    write(files / "few.jsonl", [document("t", code, letter) for code in ("en", "xx") for letter in "ij"])
    write(files / "none.jsonl", [{"document_id": "a", "text": "the sea"}])
    write(files / "empty.jsonl", [])
    write(files / "twice.jsonl", [{"query_id": "a", "query": "b", "language": "en", "document_ids": ["x"]}] * 2)
    right = {"query_id": "a", "query": "b", "language": "en", "document_ids": ["x"]}
    for name, value in {"query_id": ["a"], "query": 5, "language": ["en"], "document_ids": "d-b.en"}.items():
        write(files / f"{name}.jsonl", [{**right, name: value}])
    for arguments, message in [
        (
            ["eval", "bias", "index", "query_id.jsonl"],
            "query_id.jsonl, line 1: expected an id as 'query_id', got ['a']",
        ),
        (["eval", "bias", "index", "query.jsonl"], "line 1: expected a text as 'query', got 5"),
        (["eval", "bias", "index", "language.jsonl"], "line 1: expected a text as 'language', got ['en']"),
        (["eval", "bias", "index", "document_ids.jsonl"], "line 1: expected a list of `document_ids`, got 'd-b.en'"),
        (["search", "index", "a", "--calibrated"], "Make it: drdecr index calibrate"),
        (["search", "model", "a", "--calibrated"], "belongs to an index"),
        (["index", "calibrate", "index", "few.jsonl"], "got 7 with language 'yy'"),
        (["index", "calibrate", "index", "none.jsonl"], "'a' has no language"),
        (
            ["index", "calibrate", "index", "empty.jsonl"],
            "empty.jsonl: expected documents, got none",
        ),
        (["index", "calibrate", "nowhere", "texts.jsonl"], "nowhere: expected an index, found none"),
        (["index", "calibrate", "index", "nowhere.jsonl", "--model", "nowhere"], "nowhere.jsonl: no such file"),
        (
            ["eval", "bias", "index", "q.jsonl", "--output", "q.jsonl", "--model", "nowhere"],
            "q.jsonl: expected a folder",
        ),
        (["eval", "bias", "index", "twice.jsonl"], "line 2: query 'a' stands twice"),
        (["eval", "bias", "index", "q.jsonl", "--language-key", "code"], "has no code"),
        (["eval", "bias", "index", "d.jsonl"], "missing query_id, query, document_ids"),
    ]:
        code, _, errors = call(*arguments)
        assert code == 1
        assert message in errors.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "wrong", [{"query_id": ["q"]}, {"language": 7}, {"document_ids": "d-b.en"}, {"document_ids": [["d"]]}]
)
def test_a_question_of_another_kind_is_named(tmp_path, wrong):
    row = {"query_id": "q", "query": "b", "language": "en", "document_ids": ["d-b.en"]}
    write(tmp_path / "q.jsonl", [row, {**row, "query_id": "r", **wrong}])
    with pytest.raises(ValueError, match=rf"q\.jsonl, line 2: expected .*{next(iter(wrong))}"):
        read_versions(tmp_path / "q.jsonl")


def test_a_calibrated_search_goes_by_the_language_key_of_the_calibration(call, model, files, monkeypatch):
    monkeypatch.chdir(files)
    for name in ("d", "texts"):
        rows = [json.loads(line) for line in (files / f"{name}.jsonl").read_text().splitlines()]
        write(files / f"{name}-code.jsonl", [{"code": row.pop("language"), **row} for row in rows])
    assert call("index", "build", model, "d-code.jsonl", "coded")[0] == 0
    assert call("index", "calibrate", "coded", "texts-code.jsonl", "--language-key", "code")[0] == 0
    assert call("index", "build", model, "d.jsonl", "named")[0] == 0
    assert call("index", "calibrate", "named", "texts.jsonl")[0] == 0
    found = {folder: call("search", folder, "what is b", "--calibrated") for folder in ("coded", "named")}
    assert found["coded"][0] == 0, found["coded"][2]
    assert found["coded"][1] == found["named"][1]


def test_references_are_spread_over_their_source(tmp_path):
    rows = [
        {"id": f"{code}{n}", "title": "T", "text": f"{code} {n}", "code": code}
        for n in range(7)
        for code in ("xx", "en")
    ]
    read = read_references(write(tmp_path / "t.jsonl", rows), 3, "code")
    assert read == {code: [f"T. {code} {n}" for n in (0, 2, 4)] for code in ("en", "xx")}
    assert list(read) == ["en", "xx"]
    assert len(read_references(tmp_path / "t.jsonl", 9, "code")["en"]) == 7


def test_a_calibration_is_of_the_model_that_encoded(call, model, encoded, files, tiny_model, monkeypatch):
    monkeypatch.chdir(files)
    shutil.copytree("model", "moved")
    with torch.no_grad():
        next(tiny_model.parameters()).add_(1)
    tiny_model.save_pretrained("other")
    assert call("index", "build", "other", "d.jsonl", "again")[0] == 0
    code, _, errors = call("index", "calibrate", "index", "texts.jsonl", "--model", "other")
    assert code == 1
    assert f"calibrated with 'other', encoded with '{model}'" in errors
    assert not (files / "index" / CALIBRATION).exists()
    assert call("index", "calibrate", "index", "texts.jsonl", "--model", "moved")[0] == 0
    assert call("search", "index", "a", "--calibrated")[0] == 0
    shutil.copy(files / "index" / CALIBRATION, files / "again")
    code, _, errors = call("search", "again", "a", "--calibrated")
    assert code == 1
    assert "calibrated with 'moved', encoded with 'other'" in errors
    # What an index or a calibration of before does not say is not compared; the width is always known.
    check_calibration({"model": "m"}, {"model": "m", "model_digest": "d"}, "index")
    check_calibration({"model": "m", "model_digest": "d"}, {}, "index")
    for known in ({"model": "n"}, {"model": "m", "dim": 4}):
        with pytest.raises(ValueError, match="another state of it"):
            check_calibration({"model": "m", "dim": 8}, known, "index")


def test_a_smaller_copy_is_measured_and_calibrated_as_its_source_is(call, encoded, files, monkeypatch):
    monkeypatch.chdir(files)
    assert call("index", "compress", "index", "small", "--codec", "residual4")[0] == 0
    runs = {}
    for folder, options in {"index": [], "small": ["--by", "centroids", "--num-candidates", "99"]}.items():
        assert "5 en, 5 xx, 5 yy" in call("index", "calibrate", folder, "texts.jsonl", "--passages", 5)[1]
        questions = ["what is b", "z c", "--calibrated", "--top-k", "21", "--run", f"{folder}.run"]
        code, _, errors = call("search", folder, *questions, *options)
        assert code == 0, errors
        runs[folder] = read_run(f"{folder}.run")
    for query, scores in runs["index"].items():
        assert len(scores) == 21
        assert runs["small"][query].keys() == scores.keys()
    write(files / "few.jsonl", [document("t", code, letter) for code in ("en", "xx") for letter in "ij"])
    before = (files / "index" / CALIBRATION).read_bytes()
    code, _, errors = call("index", "calibrate", "index", "few.jsonl")
    assert code == 1
    assert "got 7 with language 'yy'" in errors
    assert (files / "index" / CALIBRATION).read_bytes() == before


def assert_equal(ours, theirs, tolerance):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert_equal(ours[key], value, tolerance)
    else:
        assert ours == pytest.approx(theirs, abs=tolerance)
