"""MKQA as a retrieval test: lines as the public file has them, written by hand."""

import gzip
import json

import pytest

from drdecr.data.readers.xor import read_mkqa_retrieval


def line(number: int, kind: str = "entity", **changes: object) -> dict[str, object]:
    return {
        "example_id": number,
        "query": f"who {number}",
        "queries": {"en": f"who {number}", "fi": f"kuka {number}", "zh_cn": f"谁 {number}"},
        "answers": {
            "en": [{"type": kind, "entity": "Q1", "text": "Ann Lee", "aliases": ["A. Lee", "Ann Lee"]}],
            "fi": [],
        },
        **changes,
    }


@pytest.fixture
def write(tmp_path):
    def write(*lines: dict[str, object]) -> str:
        (tmp_path / "mkqa.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
        corpus = [{"_id": "d1", "title": "Ann", "text": "Ann Lee."}, {"_id": "d2", "title": "", "text": "Other."}]
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in corpus), encoding="utf-8")
        return str(tmp_path / "mkqa.jsonl")

    return write


def test_questions_have_english_answers_and_a_wikipedia_to_search(write, tmp_path):
    path = write(line(1), line(2, "unanswerable"), line(3, "binary"), line(4, "long_answer"), line(5, "date"))
    found = read_mkqa_retrieval(path, str(tmp_path / "corpus.jsonl"), {"fi": "fi", "zh": "zh_cn"})
    assert found.questions["query_id"] == ["1-fi", "1-zh", "5-fi", "5-zh"]
    assert found.questions["query"][:2] == ["kuka 1", "谁 1"]
    assert found.questions["english"][1] == "who 1"
    assert found.answers["1-fi"] == ["Ann Lee", "A. Lee"]
    assert found.qrels == {}
    assert dict(found.passages) == {"d1": "Ann. Ann Lee.", "d2": "Other."}


def test_dpr_passages_are_read_too(write, tmp_path):
    path = write(line(1))
    with gzip.open(tmp_path / "psgs_w100.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("id\ttext\ttitle\n1\tAnn Lee.\tAnn\n")
    found = read_mkqa_retrieval(path, str(tmp_path / "psgs_w100.tsv.gz"), ["fi"])
    assert dict(found.passages) == {"1": "Ann. Ann Lee."}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (line(1, queries={"en": "who", "sv": "vem"}), r"mkqa\.jsonl, line 2: expected queries in 'fi'"),
        (line(1, answers={"fi": []}), r"line 2: expected queries in 'en' and answers in 'en'"),
        ({"id": 3}, r"mkqa\.jsonl, line 2"),
    ],
)
def test_a_wrong_line_is_named(wrong, message, write, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_mkqa_retrieval(write(line(1), wrong), str(tmp_path / "corpus.jsonl"), ["fi"])


def test_a_file_without_findable_answers_is_refused(write, tmp_path):
    with pytest.raises(ValueError, match="got none"):
        read_mkqa_retrieval(write(line(1, "binary")), str(tmp_path / "corpus.jsonl"), ["fi"])
