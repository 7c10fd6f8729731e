"""Readers: tiny files of each format, errors that name file and line, and the counts of the real files."""

import gzip
import json
import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from drdecr.data.corpus import read_passages
from drdecr.data.readers.hub import read_hub_parallel, read_hub_questions
from drdecr.data.readers.jsonl import read_afriqa, read_clapnq, read_jsonl, read_qed
from drdecr.data.readers.parallel import moses_rows, read_lines, read_mkqa, read_tsv
from drdecr.data.readers.squad import read_squad
from drdecr.data.readers.text import locate

needs_data = pytest.mark.skipif("DRDECR_DATA" not in os.environ, reason="set DRDECR_DATA to the folder of real data")


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def write_json_lines(path: Path, *records: Any) -> str:
    return write(path, *(json.dumps(record, ensure_ascii=False) for record in records))


def squad(*articles: tuple[str, list[tuple[str, list[tuple[str, str]]]]]) -> str:
    """SQuAD-style JSON of `(title, [(context, [(id, question)])])`; the answer is the context's first word."""
    return json.dumps(
        {
            "data": [
                {
                    "title": title,
                    "paragraphs": [
                        {
                            "context": context,
                            "qas": [
                                {"id": name, "question": text, "answers": [{"text": context.split()[0]}]}
                                for name, text in questions
                            ],
                        }
                        for context, questions in paragraphs
                    ],
                }
                for title, paragraphs in articles
            ]
        }
    )


def test_tsv_pairs_are_read_a_language_after_the_other(tmp_path: Path):
    write(tmp_path / "fi-en.tsv", "Missä? \tWhere?", "", "Kuka?\tWho?")
    write(tmp_path / "kor-en.tsv", "누구?\tWho?")
    found = read_tsv(str(tmp_path / "{language}-en.tsv"), {"fi": "fi", "ko": "kor"})
    assert found["query"][:] == ["Missä?", "Kuka?", "누구?"]
    assert found["english"][:] == ["Where?", "Who?", "Who?"]
    assert found["language"][:] == ["fi", "fi", "ko"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_text(pack, tmp_path: Path):
    plain, marked = "talo\thouse\n", "\ufefftalo\thouse\n"
    name = "a.tsv.gz" if pack is gzip.compress else "a.tsv"
    found = []
    for text in (plain, marked):
        (tmp_path / name).write_bytes(pack(text.encode()))
        found.append(read_tsv(str(tmp_path / name), ["fi"])[:])
    assert found[0] == found[1] == {"query": ["talo"], "english": ["house"], "language": ["fi"]}


def test_a_byte_order_mark_in_an_archive_is_no_text(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("X.en-fi.fi", "\ufefftalo\n")
        archive.writestr("X.en-fi.en", "\ufeffhouse\n")
    assert list(moses_rows(str(tmp_path / "a.zip"), ["fi"])) == [
        {"query": "talo", "english": "house", "language": "fi"}
    ]


def test_a_tsv_line_with_an_empty_field_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write(tmp_path / "ar-en.tsv", "من؟\tWho?", "lh i,\t", "\tWhat?")
    with caplog.at_level(logging.WARNING):
        assert len(read_tsv(path, ["ar"])) == 1
    assert f"{path}, line 2: left out" in caplog.text
    assert f"{path}, line 3: left out" in caplog.text


@pytest.mark.parametrize(("line", "fields"), [("no tab", 1), ("a\tb\tc", 3)])
def test_a_tsv_line_of_other_fields_is_named(line: str, fields: int, tmp_path: Path):
    path = write(tmp_path / "x.tsv", "a\tb", line)
    with pytest.raises(ValueError, match=rf"x.tsv, line 2: expected two fields with a tab between them, got {fields}"):
        read_tsv(path, ["fi"])


def test_aligned_lines_stay_aligned_around_blank_ones(tmp_path: Path):
    english = write(tmp_path / "eng.txt", "one", "", "three")
    write(tmp_path / "fin.txt", "yksi", "", "kolme")
    found = read_lines(str(tmp_path / "{language}.txt"), english, {"fi": "fin"})
    assert list(zip(found["query"], found["english"], strict=True)) == [("yksi", "one"), ("kolme", "three")]


def test_lines_that_are_not_aligned_are_refused(tmp_path: Path):
    english = write(tmp_path / "eng.txt", "one", "", "three")
    with pytest.raises(ValueError, match=r"fin.txt: expected 3 lines, as many as .*eng.txt has, got 2"):
        read_lines(write(tmp_path / "fin.txt", "yksi", "kolme"), english, ["fi"])
    # as many lines that hold text, but at other places: pairs would shift silently
    with pytest.raises(ValueError, match=r"fin.txt, line 2: blank in one language only, got 'kaksi' and ''"):
        read_lines(write(tmp_path / "fin.txt", "yksi", "kaksi", ""), english, ["fi"])


def test_mkqa_questions_become_parallel_text(tmp_path: Path):
    path = write_json_lines(tmp_path / "mkqa.jsonl", {"id": 1, "en": "who", "zh_cn": "谁", "fi": "kuka"})
    found = read_mkqa(path, {"zh": "zh_cn", "fi": "fi"})
    assert [tuple(row.values()) for row in found] == [("谁", "who", "zh"), ("kuka", "who", "fi")]
    with pytest.raises(ValueError, match=r"mkqa.jsonl, line 1: expected a question in 'ko', got id, en, zh_cn, fi"):
        read_mkqa(path, ["ko"])


def test_squad_questions_point_at_their_passages(tmp_path: Path):
    path = tmp_path / "squad.json"
    path.write_text(
        squad(("A_title", [("Paris is.", [("q1", "Where? "), ("q2", "What?")]), ("Rome is.", [("q3", "Who?")])]))
    )
    found = read_squad(str(path), ["en"], name="s")
    assert found.passages == {"s/0-0": "Paris is.", "s/0-1": "Rome is."}
    assert found.questions["query_id"][:] == ["s-en/q1", "s-en/q2", "s-en/q3"]
    assert found.questions["query"][:] == ["Where?", "What?", "Who?"]
    assert found.questions["document_ids"][:] == [["s/0-0"], ["s/0-0"], ["s/0-1"]]
    assert found.questions["answer"][:] == ["Paris", "Paris", "Rome"]
    assert read_squad(str(path), ["en"], every=2, name="s").questions["query"][:] == ["Where?", "Who?"]
    assert read_squad(str(path), ["en"], titles=True, name="s").passages["s/0-0"] == "A title. Paris is."


def test_one_language_is_read_out_of_a_file_of_several_as_if_it_stood_alone(tmp_path: Path):
    """TyDi QA publishes its languages in one file, and begins each id with the language."""
    paris = ("A", [("Paris is.", [("english-1-0", "Where?")])])
    both = ("B", [("Rooma on.", [("finnish-2-0", "Missä?")]), ("Rome is.", [("english-2-0", "Who?")])])
    (tmp_path / "all.json").write_text(squad(("C", [("Oulu on.", [("finnish-1-0", "Mikä?")])]), paris, both))
    found = read_squad(str(tmp_path / "all.json"), ["en"], ids_begin_with="english-")
    assert found.questions["query"][:] == ["Where?", "Who?"]
    assert dict(found.passages) == {"squad/0-0": "Paris is.", "squad/1-1": "Rome is."}
    with pytest.raises(ValueError, match=r"all\.json: expected questions whose id begins with 'thai-', got none"):
        read_squad(str(tmp_path / "all.json"), ["en"], ids_begin_with="thai-")


def test_a_passage_that_squad_json_repeats_stands_once(tmp_path: Path):
    """TyDi QA has a paragraph for each question: a second copy would be a negative of its own question."""
    path = tmp_path / "tydi.json"
    path.write_text(squad(("A", [("Paris is.", [("q1", "Where?")])]), ("A", [("Paris is.", [("q2", "What?")])])))
    found = read_squad(str(path), ["en"], name="s")
    assert list(found.passages.values()) == ["Paris is."]
    assert found.questions["document_ids"][:] == [["s/0-0"], ["s/0-0"]]


def test_answers_may_be_texts_and_must_be_there(tmp_path: Path):
    path = tmp_path / "repacked.json"
    content = json.loads(squad(("A", [("Paris is.", [("q1", "Where?")])])))
    question = content["data"][0]["paragraphs"][0]["qas"][0]
    question["answers"] = ["Paris", "here"]
    path.write_text(json.dumps(content))
    assert read_squad(str(path), ["en"]).questions["answer"][:] == ["Paris"]
    question["answers"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"repacked.json: question 'q1' has no answer"):
        read_squad(str(path), ["en"])


def test_xquad_is_asked_over_the_whole_collection_with_its_english_beside_it(tmp_path: Path):
    whole = tmp_path / "whole.json"
    whole.write_text(squad(("A", [("Rome is.", [("q9", "Who?")]), ("Paris is.", [("q1", "Where?"), ("q2", "What?")])])))
    for code, texts in {"es": ("¿Dónde?", "¿Qué?"), "ar": ("أين؟", "ماذا؟")}.items():
        questions = list(zip(("q1", "q2"), texts, strict=True))
        (tmp_path / f"x.{code}.json").write_text(squad(("A", [("París es.", questions)])))
    pattern = str(tmp_path / "x.{language}.json")
    found = read_squad(pattern, ["es", "ar"], passages=str(whole), english=str(whole), name="x")
    assert list(found.passages.values()) == ["Rome is.", "Paris is."]
    assert found.questions["query"][:] == ["¿Dónde?", "¿Qué?", "أين؟", "ماذا؟"]
    assert found.questions["english"][:] == ["Where?", "What?"] * 2
    assert found.questions["document_ids"][:] == [["x/0-1"]] * 4
    other = tmp_path / "other.json"
    other.write_text(squad(("A", [("Paris is.", [("q1", "Where?")])])))
    with pytest.raises(ValueError, match=r"x.es.json: question 'q2' has no passage in .*other.json"):
        read_squad(pattern, ["es"], passages=str(other))
    with pytest.raises(ValueError, match=r"other.json: question 'q2' of .*x.es.json is missing"):
        read_squad(pattern, ["es"], passages=str(whole), english=str(other))


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": []}'])
def test_json_that_is_not_squads_is_named(text: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x.json: expected SQuAD-style JSON with a 'data' list"):
        read_squad(str(tmp_path / "x.json"), ["en"])


def test_afriqa_has_question_translation_passage_and_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    record = {
        "context": "Paris is.",
        "title": "A_title",
        "question_lang": "Ina?",
        "question_translated": "Where?",
        "answer_pivot": {"text": ["Paris"]},
    }
    (tmp_path / "hau").mkdir()
    path = write_json_lines(tmp_path / "hau" / "train.jsonl", record, {**record, "question_lang": "Wa?"})
    found = read_afriqa(str(tmp_path / "{language}" / "train.jsonl"), {"ha": "hau"})
    assert found.passages == {"afriqa/0": "A title. Paris is."}
    first = {"query": "Ina?", "english": "Where?", "language": "ha", "document_ids": ["afriqa/0"], "answer": "Paris"}
    assert found.questions[0] == {"query_id": "afriqa-ha/1", **first}
    nothing = [{**record, "context": None, "title": None}, {**record, "context": "", "title": ""}]
    with_null = write_json_lines(tmp_path / "null.jsonl", record, *nothing)
    with caplog.at_level(logging.WARNING):
        assert len(read_afriqa(with_null, ["ha"]).questions) == 1
    assert "null.jsonl: 2 questions left out that have no passage, the first in line 2." in caplog.text
    del record["context"]
    write_json_lines(Path(path), record)
    with pytest.raises(ValueError, match=r"train.jsonl, line 1: expected the fields context, .* missing context"):
        read_afriqa(path, ["ha"])


def test_afriqa_test_files_are_a_labelled_test_set_with_answers(tmp_path: Path):
    """The lines of its `gold_span_passages.afriqa.LANGUAGE.PIVOT.test.json`, written by hand."""
    record = {"answer_pivot": {"answer_start": [-1], "text": ["yes"]}, "context": "Turku is a city.", "id": "278"}
    record |= {"question_lang": "Turku gari ne?", "question_translated": "Is Turku a city?", "title": "Turku"}
    path = tmp_path / "gold_span_passages.afriqa.{language}.en.test.json"
    write_json_lines(Path(str(path).replace("{language}", "hau")), record | {"answer_lang": "eh"})
    write_json_lines(Path(str(path).replace("{language}", "swa")), record | {"answer_lang": "ndiyo"})
    found = read_afriqa(str(path), {"ha": "hau", "sw": "swa"}, name="test")
    assert found.passages == {"test/0": "Turku. Turku is a city."}
    assert found.qrels == {"test-ha/1": {"test/0": 1}, "test-sw/1": {"test/0": 1}}
    assert found.answers == {"test-ha/1": ["yes"], "test-sw/1": ["yes"]}
    french = read_afriqa(str(path), {"ha": "hau"}, pivot="fr").questions
    assert "english" not in french.column_names


def test_qed_and_clapnq_pair_a_question_with_its_passage(tmp_path: Path):
    qed = {"question_text": "who", "title_text": "Nobel", "paragraph_text": "Röntgen won."}
    found = read_qed(write_json_lines(tmp_path / "qed.jsonl", qed, {**qed, "question_text": "what"}))
    assert found.passages == {"qed/0": "Nobel. Röntgen won."}
    assert found.questions["query"][:] == ["who", "what"]
    assert found.questions["document_ids"][:] == [["qed/0"]] * 2
    clapnq = {"input": "who", "passages": [{"title": "Nobel", "text": "Röntgen won."}]}
    found = read_clapnq(write_json_lines(tmp_path / "clapnq.jsonl", clapnq))
    assert found.passages == {"clapnq/0": "Nobel. Röntgen won."}
    assert found.languages == {"clapnq-en/0": "en"}
    for reader, field in ((read_qed, "question_text"), (read_clapnq, "input")):
        path = write_json_lines(tmp_path / "bad.jsonl", {**qed, **clapnq}, {**qed, **clapnq, field: None})
        with pytest.raises(ValueError, match=rf"bad.jsonl, line 2: expected the fields .* missing {field}"):
            reader(path)


def test_own_data_is_read_as_it_is(tmp_path: Path):
    row = {"query_id": "1", "query": "Missä?", "language": "fi", "document_ids": ["d"], "english": "Where?"}
    questions = write_json_lines(tmp_path / "questions.jsonl", row)
    passages = write_json_lines(tmp_path / "passages.jsonl", {"document_id": "d", "text": "Paris. ", "title": "A"})
    found = read_jsonl(questions, passages, name="mine")
    assert (found.name, found.passages, found.questions[0]) == ("mine", {"d": "A. Paris."}, row)


def test_own_data_may_be_graded_in_later_lines_only(tmp_path: Path):
    row = {"query_id": "1", "query": "Missä?", "language": "fi", "document_ids": [1]}
    graded = {**row, "query_id": "2", "relevance": [2], "irrelevant_ids": [2], "answers": ["Rome"]}
    questions = write_json_lines(tmp_path / "questions.jsonl", row, graded)
    texts = ({"document_id": number, "text": "Rome."} for number in (1, 2))
    found = read_jsonl(questions, write_json_lines(tmp_path / "passages.jsonl", *texts))
    assert found.qrels == {"1": {"1": 1}, "2": {"1": 2, "2": 0}}
    assert found.answers == {"2": ["Rome"]}


def test_own_data_that_is_wrong_is_named_by_file_and_line(tmp_path: Path):
    row = {"query_id": "1", "query": "Missä?", "language": "fi", "document_ids": ["d"]}
    passage = {"document_id": "d", "text": "Paris."}
    passages = write_json_lines(tmp_path / "passages.jsonl", passage)
    questions = write_json_lines(tmp_path / "questions.jsonl", row, {**row, "query_id": "2", "document_ids": None})
    with pytest.raises(ValueError, match=r"questions.jsonl, line 2: expected the fields .* missing document_ids"):
        read_jsonl(questions, passages)
    with pytest.raises(ValueError, match=r"passages.jsonl, line 2: document_id 'd' stands twice"):
        read_passages(write_json_lines(tmp_path / "passages.jsonl", passage, passage))
    with pytest.raises(
        ValueError, match=r"passages.jsonl, line 2: expected the fields document_id, text, got .*; missing text"
    ):
        read_passages(write_json_lines(tmp_path / "passages.jsonl", passage, {"document_id": "e", "text": None}))
    with pytest.raises(ValueError, match=r"passages.jsonl, line 2: expected one JSON object a line \(Expecting"):
        read_passages(write(tmp_path / "passages.jsonl", json.dumps(passage), '{"document_id": '))
    with pytest.raises(ValueError, match=r"passages.jsonl, line 1: expected one JSON object a line, got list"):
        read_passages(write(tmp_path / "passages.jsonl", "[]"))


def test_a_hub_set_is_read_from_a_local_folder_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "pairs").mkdir()
    rows = Dataset.from_list(
        [{"src": "yksi", "tgt": "one", "score": 1.0}, {"src": "kaksi", "tgt": "two", "score": 0.5}]
    )
    rows.to_parquet(tmp_path / "pairs" / "train.parquet")
    folder = str(tmp_path / "pairs")
    found = read_hub_parallel(folder, columns={"src": "query", "tgt": "english"}, language="fi")
    assert found.column_names == ["query", "english", "language"]
    assert [tuple(row.values()) for row in found] == [("yksi", "one", "fi"), ("kaksi", "two", "fi")]
    monkeypatch.setenv("DRDECR_TEST_FOLDER", str(tmp_path))
    again = read_hub_parallel("$DRDECR_TEST_FOLDER/pairs", columns={"src": "query", "tgt": "english"}, language="fi")
    assert again[:] == found[:]
    with pytest.raises(
        ValueError, match="expected the columns query, english, language, got src, tgt, score, language"
    ):
        read_hub_parallel(folder, language="fi")
    with pytest.raises(ValueError, match="missing language"):
        read_hub_parallel(folder, columns={"src": "query", "tgt": "english"})
    with pytest.raises(ValueError, match="text"):
        read_hub_parallel(folder, columns={"text": "query"}, language="fi")


def test_a_hub_question_set_is_read_from_a_local_folder_of_two_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}.parquet"}]}
        for name in ("questions", "passages", "bad")
    ]
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    row = {"query_id": "1", "query": "Missä?", "language": "fi", "document_ids": ["d"]}
    Dataset.from_list([row]).to_parquet(folder / "questions.parquet")
    passage = {"document_id": "d", "text": "Paris.", "title": "A"}
    Dataset.from_list([passage]).to_parquet(folder / "passages.parquet")
    Dataset.from_list([passage, {**passage, "text": None}]).to_parquet(folder / "bad.parquet")
    found = read_hub_questions(str(folder))
    assert (found.passages, found.questions[0]) == ({"d": "A. Paris."}, row)
    with pytest.raises(
        ValueError, match=r"set, bad, line 2: expected the fields document_id, text, got .*; missing text"
    ):
        read_hub_questions(str(folder), passages="bad")


def test_a_path_that_leads_nowhere_is_named_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError, match=r"gone/fi.tsv: no such file or folder. .* set DRDECR_DATA"):
        read_tsv(str(tmp_path / "gone" / "{language}.tsv"), ["fi"])
    monkeypatch.delenv("DRDECR_DATA", raising=False)
    for path in ("$DRDECR_DATA/x/{language}.tsv", "${DRDECR_DATA}/x/{language}.tsv"):
        with pytest.raises(ValueError, match="the environment variable DRDECR_DATA is not set"):
            read_tsv(path, ["fi"])
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    write(tmp_path / "fi.tsv", "Missä?\tWhere?")
    assert locate("$DRDECR_DATA/fi.tsv") == tmp_path / "fi.tsv"
    assert len(read_tsv("${DRDECR_DATA}/{language}.tsv", ["fi"])) == 1


def test_languages_must_be_a_list_and_differ_in_the_path(tmp_path: Path):
    path = write(tmp_path / "fi.tsv", "Missä?\tWhere?")
    with pytest.raises(ValueError, match="expected a list of at least one language code, got 'fi'"):
        read_tsv(path, "fi")
    with pytest.raises(ValueError, match=r"expected a list of at least one language code, got \[\]"):
        read_tsv(path, [])
    with pytest.raises(ValueError, match=r"expected \{language\} in the path of 2 languages"):
        read_tsv(path, ["fi", "ko"])


@needs_data
@pytest.mark.parametrize(
    ("path", "languages", "rows"),
    [
        (
            "xor-tydi/questions.{language}-en.tsv",
            ["ar", "bn", "fi", "ja", "ko", "ru", "te"],
            32_877 - 1,
        ),  # one Arabic line is empty
        ("pud/{language}-en.tsv", ["ar", "fi", "ko", "ru"], 4_000),
        ("tico19/{language}-eng.tsv", {"ar": "ara", "bn": "ben", "ru": "rus"}, 6_300),
    ],
)
def test_real_tsv_files_have_the_rows_of_the_data_readme(path: str, languages: Any, rows: int):
    assert len(read_tsv(f"$DRDECR_DATA/{path}", languages)) == rows


@needs_data
def test_real_aligned_and_mkqa_files_have_the_rows_of_the_data_readme():
    ntrex = read_lines("$DRDECR_DATA/ntrex/{language}.txt", "$DRDECR_DATA/ntrex/eng.txt", {"ar": "arb", "te": "tel"})
    assert len(ntrex) == 2 * 1_997
    flores = "$DRDECR_DATA/flores200/{language}.devtest"
    assert len(read_lines(flores, "$DRDECR_DATA/flores200/eng_Latn.devtest", {"ko": "kor_Hang"})) == 1_012
    assert len(read_mkqa("$DRDECR_DATA/mkqa/mkqa_dev_parallel.jsonl", {"zh": "zh_cn"})) == 1_758


@needs_data
def test_real_question_sets_have_the_rows_of_the_data_readme():
    squad_dev = "$DRDECR_DATA/squad-dev/dev-v1.1.json"
    english = read_squad(squad_dev, ["en"])
    assert (len(english.questions), len(english.passages)) == (10_570, 2_067)
    xquad = read_squad("$DRDECR_DATA/xquad/xquad.{language}.json", ["ar", "en"], passages=squad_dev, english=squad_dev)
    assert (len(xquad.questions), len(xquad.passages)) == (2 * 1_190, 2_067)
    train = read_squad("$DRDECR_DATA/tydiqa-goldp/english_tydiqa_train.json", ["en"], titles=True)
    assert (len(train.questions), len(train.passages)) == (3_696, 3_429)
    dev = read_squad("$DRDECR_DATA/tydiqa-goldp/english_tydiqa_dev.json", ["en"])
    assert len(dev.questions) == 440
    assert len(read_qed("$DRDECR_DATA/qed/qed-dev.jsonlines").questions) == 1_355
    assert len(read_clapnq("$DRDECR_DATA/clapnq/clapnq_dev_answerable.jsonl").questions) == 300


@needs_data
def test_every_line_with_a_passage_of_the_real_afriqa_files_becomes_a_question():
    languages = ["bem", "hau", "ibo", "kin", "twi", "yor", "zul"]
    folder = Path(os.environ["DRDECR_DATA"]) / "afriqa"
    files = [(folder / code / "train.jsonl").read_text(encoding="utf-8") for code in languages]
    lines = [line for text in files for line in text.split("\n") if line]
    found = read_afriqa("$DRDECR_DATA/afriqa/{language}/train.jsonl", languages)
    assert len(found.questions) == sum('"context": null' not in line for line in lines) == 1_578
    assert all(found.questions["english"])


@pytest.mark.parametrize(
    ("question", "passage", "message"),
    [
        ({"document_ids": "p"}, {}, r"line 1: expected a list of `document_ids`, got 'p'. Put it in \[brackets\]"),
        ({}, {"text": 7}, "line 1: expected a text as 'text', got 7"),
        ({"query": " "}, {}, "row 1: expected a text in 'query', got ' '"),
        ({}, {"text": " "}, "passage 'p' is empty. Drop it"),
    ],
)
def test_own_data_says_what_is_wrong_with_a_line(question, passage, message, tmp_path):
    row = {"query_id": 1, "query": "q", "language": "fi", "document_ids": ["p"], **question}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    (tmp_path / "p.jsonl").write_text(json.dumps({"document_id": "p", "text": "t", **passage}))
    with pytest.raises(ValueError, match=message):
        read_jsonl(str(tmp_path / "q.jsonl"), str(tmp_path / "p.jsonl"))


def test_own_data_that_do_not_belong_together_are_called_by_their_files(tmp_path):
    row = {"query_id": "1", "query": "q", "language": "fi", "document_ids": ["other"]}
    questions = write_json_lines(tmp_path / "q.jsonl", row)
    passages = write_json_lines(tmp_path / "p.jsonl", {"document_id": "p", "text": "t"})
    with pytest.raises(
        ValueError, match=r"q.jsonl, with the passages of .*p.jsonl: own: question '1' names passage 'o"
    ):
        read_jsonl(questions, passages)


def test_an_answer_that_is_blank_is_no_answer(tmp_path):  # each passage would hold it
    row = {"query_id": "1", "query": "q", "language": "fi", "document_ids": ["p"], "answers": ["a", " "]}
    questions = write_json_lines(tmp_path / "q.jsonl", row)
    with pytest.raises(ValueError, match=r"q.jsonl, line 1: expected `answers` with text, got \['a', ' '\]"):
        read_jsonl(questions, write_json_lines(tmp_path / "p.jsonl", {"document_id": "p", "text": "t"}))


def test_ids_may_be_numbers(tmp_path):
    row = {"query_id": 1, "query": "q", "language": "fi", "document_ids": [7]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    (tmp_path / "p.jsonl").write_text(json.dumps({"document_id": 7, "text": "t"}))
    assert read_jsonl(str(tmp_path / "q.jsonl"), str(tmp_path / "p.jsonl")).qrels == {"1": {"7": 1}}


@pytest.mark.parametrize("missing", ["paragraphs", "context", "qas", "id", "question"])
def test_squad_without_a_field_says_where(missing, tmp_path):
    question = {"id": "1", "question": "q", "answers": [{"text": "a"}]}
    paragraph = {"context": "c", "qas": [{k: v for k, v in question.items() if k != missing}]}
    article = {"paragraphs": [{k: v for k, v in paragraph.items() if k != missing}]}
    data = {"data": [{k: v for k, v in article.items() if k != missing}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=rf"x.json, .*article 1.* missing {missing}\. "):
        read_squad(str(tmp_path / "x.json"), ["en"])


def test_a_file_in_another_encoding_is_called_by_its_name_and_line(tmp_path):
    content = b"talo\thouse\n" * 5000 + "käsi\thand\n".encode("latin-1")
    (tmp_path / "fi.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=r"fi.tsv, line 5001: expected text in UTF-8 .*Convert the file"):
        read_tsv(str(tmp_path / "fi.tsv"), ["fi"])
    (tmp_path / "a.json").write_bytes(b"\n\xff")
    with pytest.raises(ValueError, match=r"a.json, line 2: expected text in UTF-8"):
        read_squad(str(tmp_path / "a.json"), ["en"])
