"""`drdecr data translate`: sets that a teacher reads in tests and in training, with who translated what."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from drdecr.data.sources import read_parallel, read_questions
from drdecr.data.teacher import translate as translating
from drdecr.data.teacher.translate import TranslationSettings
from drdecr.data.teacher.translation_store import Engine, Translation
from drdecr.runs.config import load_settings

from .conftest import jsonl


class Words:
    """Translates word by word: `z` is `the city`."""

    asked: list[str] = []  # noqa: RUF012

    def __init__(self, shout: bool = False) -> None:
        self.engine = Engine("words", "1", {"shout": shout}, "length")

    def translate(self, texts, source, target="en"):
        self.asked.extend(texts)
        return [Translation(text.replace("z", "the city"), -len(text), len(text) > 12) for text in texts]


@pytest.fixture
def translate(tmp_path, monkeypatch, call):
    """`translate(output, keys)` runs the command with `Words` as the engine."""
    monkeypatch.setitem(translating.ENGINES, "apertium", Words)
    Words.asked.clear()

    def run(name: str, keys: dict, *words: str):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"engine": "apertium", **keys}))
        return call("data", "translate", path, tmp_path / name, *words)

    return run


def rows_of(folder, config):
    return load_dataset(str(folder), config, split="train", cache_dir=str(folder.parent / "cache")).to_list()


def test_translated_questions_are_read_by_the_teacher_in_a_test(translate, data, tmp_path, call, start):
    code, said, _ = translate("test", {"questions": [data["test"]]})
    assert code == 0
    assert f"dataset: {tmp_path / 'test'}" in said
    found = read_questions({"format": "hub_questions", "name": str(tmp_path / "test")})
    assert found.qrels == read_questions(data["test"]).qrels
    for row in found.questions:
        if row["language"] == "en":
            assert row["english"] == row["query"]
            assert row["translation_engine"] is None
        else:
            assert row["english"] == row["query"].replace("z", "the city")
            assert row["human_english"] == f"what is the city {row['query_id'][0]}"
            assert row["translation_engine"] == "words"
            assert row["translation_score"] == -len(row["query"])
            assert json.loads(row["translation_parameters"]) == {"shout": False}
    assert all("z" in text for text in Words.asked)  # English is not translated into itself
    (tmp_path / "measure.yaml").write_text(
        yaml.safe_dump({"test": [{"format": "hub_questions", "name": str(tmp_path / "test")}]})
    )
    model = tmp_path / "runs" / "start" / "model"
    code, said, error = call("eval", "model", model, tmp_path / "measure.yaml", "--reads", "english")
    assert code == 0, error


def test_texts_without_english_become_parallel_text(translate, tmp_path):
    texts = jsonl(tmp_path / "xx.jsonl", [{"question": "z b"}, {"question": "z c c c c c c"}])
    keys = {"texts": [{"path": texts, "language": "xx"}], "options": {"shout": True}}
    assert translate("a", keys, "--min_score", "-6")[0] == 0
    rows = read_parallel([{"format": "hub", "name": str(tmp_path / "a"), "config": "parallel"}])
    assert rows.to_list() == [{"query": "z b", "english": "the city b", "language": "xx"}]
    counters = json.loads((tmp_path / "a" / "facts.json").read_text())["counters"]
    assert (counters["xx: read"], counters["xx: low score"], counters["xx: kept"]) == (2, 1, 1)
    assert counters["xx: cut off before it was translated"] == 1


def test_english_becomes_questions_of_another_language(translate, data, tmp_path):
    assert translate("a", {"parallel": [data["parallel"]], "target": "fi"})[0] == 0
    for row in rows_of(tmp_path / "a", "parallel"):
        assert row["language"] == "fi"
        assert row["english"].startswith("the king of")
        assert row["query"] == row["english"].replace("z", "the city")


def test_a_second_call_does_nothing_and_other_sets_reuse_the_store(translate, data, tmp_path):
    store = str(tmp_path / "kept.sqlite3")
    assert translate("a", {"questions": [data["test"]], "store": store})[0] == 0
    asked = list(Words.asked)
    assert translate("a", {"questions": [data["test"]], "store": store})[0] == 0
    assert translate("b", {"questions": [data["test"]], "store": store}, "--min_score", "-100")[0] == 0
    assert Words.asked == asked
    questions = Path(data["test"]["questions"])
    questions.write_text(questions.read_text().replace("king", "queen") + "\n")
    assert "what changed: questions 1" in translate("a", {"questions": [data["test"]], "store": store})[2]
    questions.unlink()  # what was made of it is still that
    assert translate("a", {"questions": [data["test"]], "store": store})[0] == 0
    code, _, error = translate("a", {"questions": [data["dev"]], "store": store})
    assert code == 1
    assert "was not made with these settings" in error


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"engine": "dictionary"}, "engine: expected one of apertium, seq2seq, chat"),
        ({"engine": "seq2seq"}, "model: expected a checkpoint for seq2seq and chat"),
        ({"questions": []}, "Expected `questions`, `parallel` or `texts`"),
        *(({"length_factor": odd}, f"length_factor: expected at least 1.*got {odd}") for odd in (0, 0.5)),
        ({"engin": "chat"}, r"unknown key 'engin'. Did you mean 'engine'"),
    ],
)
def test_odd_settings_are_refused(keys, message, data, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"questions": [data["test"]], "engine": "apertium", **keys}))
    with pytest.raises(ValueError, match=message):
        load_settings(TranslationSettings, path, [], "")


def test_a_model_that_is_not_there_is_named_and_nothing_is_left(data, tmp_path, call):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"questions": [data["test"]], "engine": "seq2seq", "model": "nobody/nothing"}))
    before = set(tmp_path.iterdir())
    code, _, error = call("data", "translate", path, tmp_path / "out")
    assert code == 1
    assert "nobody/nothing" in error
    assert set(tmp_path.iterdir()) == before


def test_shards_of_any_size_hold_the_same_rows(translate, data, tmp_path):
    """`length_factor` knows the whole language, whatever the parts."""
    texts = jsonl(
        tmp_path / "xx.jsonl", [{"question": "b " * (1 + number % 4) + "z" * (number // 5)} for number in range(17)]
    )
    keys = {"texts": [{"path": texts, "language": "xx"}], "parallel": [data["parallel"]], "length_factor": 1.5}
    found = []
    for name, size in (("a", 1000), ("b", 3)):
        assert translate(name, {**keys, "rows_per_shard": size})[0] == 0
        counters = json.loads((tmp_path / name / "facts.json").read_text())["counters"]
        found.append((rows_of(tmp_path / name, "parallel"), counters))
    assert found[0] == found[1]
    assert found[0][1]["xx: odd length"] > 0


def test_a_column_that_one_set_lacks_is_kept_and_what_does_not_go_together_is_named(translate, tmp_path, caplog):
    passages = jsonl(tmp_path / "p.jsonl", [{"document_id": "d", "text": "the city"}])
    common = {"query": "z b", "document_ids": ["d"]}
    rows = [
        {**common, "query_id": "1", "language": "xx", "english": "a town", "answers": ["b"], "level": 1, "from": "x"},
        {**common, "query_id": "2", "language": "en", "level": "high"},
        {**common, "query_id": "3", "language": "xx", "english": None, "answers": [], "from": None},
    ]
    sets = [
        {"format": "jsonl", "questions": jsonl(tmp_path / f"{name}.jsonl", [row]), "passages": passages, "name": name}
        for name, row in zip("abc", rows, strict=True)
    ]
    for order in (sets, sets[::-1]):
        caplog.clear()
        name = order[0]["name"]
        code, _, error = translate(f"from_{name}", {"questions": order})
        assert code == 0, error
        found = {row["query_id"][-1]: row for row in rows_of(tmp_path / f"from_{name}", "questions")}
        assert [found[n]["human_english"] for n in "123"] == ["a town", None, None]
        assert [found[n]["answers"] for n in "123"] == [["b"], None, []]
        assert [found[n]["from"] for n in "123"] == ["x", None, None]
        assert [found[n]["english"] for n in "123"] == ["the city b", "z b", "the city b"]
        assert "level" not in found["1"]
        assert "different kinds there: the columns level." in caplog.text
    # Into another language, an English set is its own English; a question that has none is not taken for it.
    code, _, error = translate("fi", {"questions": sets[:2], "target": "fi"})
    assert code == 0, error
    found = {row["query_id"][-1]: row for row in rows_of(tmp_path / "fi", "questions")}
    assert [(found[n]["english"], found[n]["query"]) for n in "12"] == [("a town", "a town"), ("z b", "the city b")]
    assert "without a text in `english`" in translate("other", {"questions": sets, "target": "fi"})[2]


def test_sets_that_share_a_question_id_are_refused(translate, data):
    again = {**data["test"], "name": "again"}
    assert "test, again: both hold a question 'o-xx'" in translate("a", {"questions": [data["test"], again]})[2]


def test_a_result_without_a_row_is_refused(translate, data, tmp_path):
    for key, place in (("questions", "test"), ("parallel", "parallel")):
        code, _, error = translate(key, {key: [data[place]], "target": "fi"}, "--min_score", "0")
        assert code == 1
        assert "Expected rows, got none: " in error
        assert not (tmp_path / key).exists()
        assert not (tmp_path / f"{key}.parts").exists()


def test_a_number_in_the_place_of_a_text_is_named_with_its_file_and_line(translate, tmp_path):
    texts = jsonl(tmp_path / "xx.jsonl", [{"question": "z b"}, {"question": 5}])
    error = translate("a", {"texts": [{"path": texts, "language": "xx"}]})[2]
    assert f"{texts}, line 2: expected a text in 'question', got 5" in error


def test_a_number_in_the_place_of_a_sentence_is_named_with_its_row(monkeypatch):
    rows = [{"query": "z", "english": "city", "language": "xx"}, {"query": 5, "english": "five", "language": "xx"}]
    monkeypatch.setattr(translating, "open_stream", lambda entry: (("parallel", row) for row in rows))
    with pytest.raises(ValueError, match="hub, row 2: expected a text in 'query', got 5"):
        list(translating.pair_rows([{"format": "hub", "name": "some/set"}], []))


def test_an_unknown_option_is_named(translate, data):
    code, _, error = translate("a", {"questions": [data["test"]], "options": {"loud": True}})
    assert code == 1
    assert "loud" in error
