"""XOR-Retrieve: questions with answers over Wikipedia passages in DPR's form."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from drdecr.data.readers.xor import read_xor_retrieve
from drdecr.data.sources import read_questions
from drdecr.data.teacher.candidates import add_negatives
from drdecr.evaluation.recall_at_k_tokens.xor_retrieve import score_rankings

needs_data = pytest.mark.skipif("DRDECR_DATA" not in os.environ, reason="set DRDECR_DATA to the folder of real data")

ROW = {"id": "-7", "question": "Missä Turku on? ", "answers": ["Finland", "Finland"], "lang": "fi", "split": "dev"}
PASSAGES = 'id\ttext\ttitle\n1\t"Turku ""Åbo"" is a\ncity."\tTurku\n2\tA river of Finland\tAura_river\n'


def write(folder: Path, *records: Any, passages: str = PASSAGES) -> dict[str, Any]:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "questions.jsonl").write_text(text, encoding="utf-8")
    (folder / "passages.tsv").write_text(passages, encoding="utf-8")
    paths = {"questions": str(folder / "questions.jsonl"), "passages": str(folder / "passages.tsv")}
    return {"format": "xor_retrieve", **paths}


def test_questions_have_answers_and_no_labels(tmp_path: Path):
    arabic = {**ROW, "id": "8", "lang": " ar", "answers": ["yes"]}
    found = read_questions(write(tmp_path, ROW, arabic))
    assert found.questions[0] == {
        "query_id": "-7",
        "query": "Missä Turku on?",
        "language": "fi",
        "document_ids": [],
        "answers": ["Finland", "Finland"],
    }
    assert found.languages == {"-7": "fi", "8": "ar"}
    assert (found.answers, found.qrels) == ({"-7": ["Finland", "Finland"], "8": ["yes"]}, {})


def test_passages_are_read_as_csv_quotes_them(tmp_path: Path):
    expected = {"1": 'Turku. Turku "Åbo" is a\ncity.', "2": "Aura river. A river of Finland"}
    path = write(tmp_path, ROW)
    assert dict(read_questions(path).passages) == expected
    headless = PASSAGES.partition("\n")[2]
    assert dict(read_questions(write(tmp_path, ROW, passages=headless)).passages) == expected
    (tmp_path / "passages.tsv.gz").write_bytes(gzip.compress(PASSAGES.encode()))
    assert dict(read_questions({**path, "passages": path["passages"] + ".gz"}).passages) == expected


def test_answers_are_what_the_metric_takes(tmp_path: Path):
    found = read_questions(
        write(tmp_path, ROW, {**ROW, "id": "8", "answers": ["Norway"]}, {**ROW, "id": "9", "answers": ["no"]})
    )
    rankings = {query_id: list(found.passages.values()) for query_id in found.answers}
    result = score_rankings(rankings, found.answers, tokenize=str.split)
    assert result.scores["R@2kt"] == {"-7": 1.0, "8": 0.0}
    assert result.skipped == ("9",)


def test_languages_are_chosen_by_code(tmp_path: Path):
    path = write(tmp_path, ROW, {**ROW, "id": "8", "lang": " ar"})
    assert list(read_questions({**path, "languages": ["ar"]}).answers) == ["8"]
    with pytest.raises(ValueError, match=r"questions.jsonl: expected questions in \['ko'\], got none"):
        read_questions({**path, "languages": ["ko"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answers": "Finland"},
            r"expected a list of texts as `answers`, got 'Finland'. Write the texts in \[brackets\]",
        ),
        ({"answers": []}, r"expected a list of texts as `answers`, got \[\]"),
        ({"answers": ["Finland", ""]}, "expected a list of texts as `answers`"),
        ({"answers": [" \t"]}, "expected a list of texts as `answers`"),  # which every passage holds
        ({"lang": None}, "expected the fields id, question, lang, answers, .* missing lang"),
        ({"lang": " "}, "expected texts as `question` and `lang`"),
        ({"question": 3}, "expected texts as `question` and `lang`, got .* Fill them, or drop the line"),
    ],
)
def test_a_wrong_question_is_named_by_file_and_line(change: dict[str, Any], message: str, tmp_path: Path):
    path = write(tmp_path, ROW, {**ROW, "id": "8", **change})
    with pytest.raises(ValueError, match=rf"questions.jsonl, line 2: {message}"):
        read_questions(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "3\tno title\n",
            r"line 5: expected the fields id, text, title with tabs between, got 2, \['3', 'no title'\]. Write",
        ),
        ("3\ta\tb\tc\n", "line 5: expected the fields id, text, title with tabs between, got 4"),
        ("\ta\tb\n", "line 5: expected the fields id, text, title"),
        ("1\ta\tb\n", "line 5: document_id '1' stands twice"),
        ('3\t"open\tb\n', "line 5: expected the fields id, text, title with tabs between, got 2"),
        ('3\t"open' + "\nx" * 70_000 + "\n", "line 5: expected tab-separated fields in CSV quotes .* Double the"),
    ],
)
def test_a_wrong_passage_is_named_by_file_and_line(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first passage spans lines 2 and 3, so the one that is added stands on line 5."""
    path = write(tmp_path, ROW, passages=PASSAGES + line)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with pytest.raises(ValueError, match=rf"passages.tsv, {message}"):
        read_questions(path)
    assert not list((tmp_path / "temporary").iterdir())


def test_questions_without_passages_are_not_trained_on(tmp_path: Path):
    rows = read_questions(write(tmp_path, ROW)).questions
    with pytest.raises(ValueError, match="expected a passage that answers each, got questions with answers only"):
        add_negatives(rows.add_column("english", ["Where?"]), reader=None, passages={})  # type: ignore[arg-type]


@needs_data
def test_the_real_dev_set_has_its_rows(tmp_path: Path):
    passages = write(tmp_path)["passages"]
    found = read_xor_retrieve("$DRDECR_DATA/xor-tydi/xor_dev_retrieve_eng_span_v1_1.jsonl", passages)
    assert len(found.questions) == len(found.answers) == 2_110
    first, last = found.questions[0], found.questions[-1]
    assert (first["query_id"], first["language"], first["answers"]) == ("-1018987027025691298", "te", ["Portland"] * 2)
    assert first["query"] == "ఒరెగాన్ రాష్ట్రంలోని అతిపెద్ద నగరం ఏది ?"
    assert (last["query_id"], last["query"]) == ("7443826821418331561", "Когда закончился «Геймергейт»?")
    assert (last["language"], last["answers"]) == ("ru", ["s of April 2016"])
    codes = list(found.languages.values())
    counts = {"ar": 350, "bn": 312, "fi": 360, "ja": 296, "ko": 299, "ru": 255, "te": 238}
    assert {code: codes.count(code) for code in set(codes)} == counts


@needs_data
def test_the_real_train_set_has_its_rows_with_arabic_under_its_code(tmp_path: Path):
    passages = write(tmp_path)["passages"]
    path = "$DRDECR_DATA/xor-tydi/xor_train_retrieve_eng_span.jsonl"
    assert len(read_xor_retrieve(path, passages).questions) == 15_250
    assert len(read_xor_retrieve(path, passages, languages=["ar"]).questions) == 2_574
