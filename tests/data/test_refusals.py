"""Every reader refuses a wrong file with its name, the row and what was expected; nothing is left behind."""

import copy
import gzip
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from drdecr.data.prepare import preparation
from drdecr.data.prepare.cleaning import CleaningSettings
from drdecr.data.prepare.leakage import HeldOutTexts
from drdecr.data.prepare.preparation import Preparation
from drdecr.data.prepare.row_cleaner import Cleaner, PreparedSource
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import FORMATS, ITEM_STREAMS, PAIR_STREAMS, open_stream

BEIR = "query-id\tcorpus-id\tscore\n"


def lines(*records: Any) -> str:
    return "".join((json.dumps(record) if not isinstance(record, str) else record) + "\n" for record in records)


def archive(**texts: str) -> dict[str, str]:
    return texts


SQUAD = {
    "data": [{"paragraphs": [{"context": "A b.", "qas": [{"id": "1", "question": "a?", "answers": [{"text": "b"}]}]}]}]
}
AFRIQA = {"context": "A b.", "question_lang": "a?", "question_translated": "b?", "answer_pivot": {"text": ["c"]}}
MKQA = {"example_id": 1, "queries": {"en": "a", "fi": "b"}, "answers": {"en": [{"type": "entity", "text": "c"}]}}
XOR = {"id": "1", "question": "a?", "answers": ["b"], "lang": "fi"}
QED = {"question_text": "a?", "title_text": "A", "paragraph_text": "B"}
OWN = {"query_id": "1", "query": "a?", "language": "fi", "document_ids": ["p"]}
PASSAGE = {"document_id": "p", "text": "B"}
DPR = {"question": "a?", "answers": [], "positive_ctxs": [{"title": "A", "text": "B"}], "hard_negative_ctxs": []}
SCORED = {"scores": "s.jsonl", "queries": "q.tsv", "english": "e.tsv", "passages": "p.tsv", "language": "es"}
SCORED_FILES = {"s.jsonl": "[1, [1, 0.5], [2, 0.1]]\n", "q.tsv": "1\ta\n", "e.tsv": "1\tb\n", "p.tsv": "1\tb\n2\tc\n"}

CASES: list[tuple[str, dict[str, Any], dict[str, str | dict[str, str]], str]] = [
    ("tsv", {"path": "a.tsv", "languages": ["fi"]}, {"a.tsv": "a\tb\nc\n"}, "a.tsv, line 2: expected two fields"),
    (
        "lines",
        {"path": "fi.txt", "english": "en.txt", "languages": ["fi"]},
        {"fi.txt": "a\nb\n", "en.txt": "a\n"},
        "fi.txt: expected 1 lines",
    ),
    (
        "lines",
        {"path": "fi.txt", "english": "en.txt", "languages": ["fi"]},
        {"fi.txt": "a\nb\n", "en.txt": "a\n\n"},
        "fi.txt, line 2: blank in one",
    ),
    (
        "moses",
        {"path": "a.zip", "languages": ["fi"]},
        {"a.zip": {"X.en-fi.fi": "a\nb\n", "X.en-fi.en": "a\n"}},
        "a.zip, line 2: expected as many lines",
    ),
    (
        "moses",
        {"path": "a.zip", "languages": ["fi"]},
        {"a.zip": {"X.en-fi.en": "a\n"}},
        "a.zip: expected one text that ends in .fi",
    ),
    (
        "moses",
        {"path": "a.zip", "languages": ["fi"]},
        {"a.zip": "no archive"},
        "a.zip, after line 0: expected a whole zip",
    ),
    (
        "mkqa",
        {"path": "a.jsonl", "languages": ["fi"]},
        {"a.jsonl": lines({"en": "a", "fi": "b"}, {"queries": {"en": "a"}})},
        "a.jsonl, line 2: expected a question in 'fi'",
    ),
    (
        "mkqa_retrieval",
        {"questions": "q.jsonl", "passages": "p.tsv", "languages": ["fi"]},
        {"q.jsonl": lines(MKQA, {"queries": {"en": "a"}}), "p.tsv": "id\ttext\ttitle\n"},
        "q.jsonl, line 2: expected the fields",
    ),
    (
        "squad",
        {"path": "a.json", "languages": ["en"]},
        {"a.json": json.dumps({"data": [{"title": "x"}]})},
        "a.json, article 1: expected",
    ),
    (
        "afriqa",
        {"path": "a.jsonl", "languages": ["hau"]},
        {"a.jsonl": lines(AFRIQA, {"context": "x"})},
        "a.jsonl, line 2: expected the fields",
    ),
    ("qed", {"path": "a.jsonl"}, {"a.jsonl": lines(QED, "{")}, "a.jsonl, line 2: expected one JSON object"),
    (
        "clapnq",
        {"path": "a.jsonl"},
        {"a.jsonl": lines({"input": "a", "passages": []})},
        "a.jsonl, line 1: expected a list of passages",
    ),
    (
        "jsonl",
        {"questions": "q.jsonl", "passages": "p.jsonl"},
        {"q.jsonl": lines({**OWN, "document_ids": "p"}), "p.jsonl": lines(PASSAGE)},
        "q.jsonl, line 1: expected a list",
    ),
    (
        "jsonl",
        {"questions": "q.jsonl", "passages": "p.jsonl"},
        {"q.jsonl": lines(OWN), "p.jsonl": lines(PASSAGE, PASSAGE)},
        "p.jsonl, line 2: document_id",
    ),
    (
        "beir",
        {"folder": "."},
        {"queries.jsonl": lines({"_id": "1"}), "corpus.jsonl": "", "qrels/test.tsv": BEIR},
        "queries.jsonl, line 1: expected the fields",
    ),
    (
        "miracl",
        {"topics": "t.tsv", "qrels": "q.tsv", "passages": "p.jsonl", "language": "fi"},
        {"t.tsv": "1\ta\n2\n", "q.tsv": "1 Q0 p 1\n", "p.jsonl": ""},
        "t.tsv, line 2: expected a query id",
    ),
    (
        "mr_tydi",
        {"topics": "t.tsv", "qrels": "q.tsv", "passages": "p.jsonl", "language": "fi"},
        {"t.tsv": "1\ta\n", "q.tsv": "1 Q0 p x\n", "p.jsonl": ""},
        "q.tsv, line 1: expected a whole number",
    ),
    (
        "xor_retrieve",
        {"questions": "q.jsonl", "passages": "p.tsv"},
        {"q.jsonl": lines(XOR), "p.tsv": "1\ta\tA\n2\tb\n"},
        "p.tsv, line 2: expected the fields",
    ),
    (
        "xor_questions",
        {"path": "q.jsonl"},
        {"q.jsonl": lines(XOR, {**XOR, "answers": []})},
        "q.jsonl, line 2: expected a list of texts",
    ),
    (
        "wikipedia",
        {"path": "p.tsv.gz"},
        {"p.tsv.gz": "1\ta\tA\nno tab\n"},
        "p.tsv.gz, line 2: expected the fields id, text, title",
    ),
    (
        "id_triples",
        {"triples": "t.tsv", "queries": "q.tsv", "passages": "p.tsv", "language": "es"},
        {"t.tsv": "1\t1\t2\n1\t1\n", "q.tsv": "1\ta\n", "p.tsv": "1\tb\n2\tc\n"},
        "t.tsv, line 2: expected three ids",
    ),
    (
        "id_triples",
        {"triples": "t.tsv", "queries": "q.tsv", "passages": "p.tsv", "language": "es"},
        {"t.tsv": "9\t1\t2\n", "q.tsv": "1\ta\n", "p.tsv": "1\tb\n"},
        "t.tsv, line 1: query '9' is not among",
    ),
    ("text_triples", {"path": "t.tsv"}, {"t.tsv": "a\tb\tc\na\tb\n"}, "t.tsv, line 2: expected three texts"),
    (
        "id_triples",
        {"triples": "t.tsv", "queries": "q.tsv", "passages": "p.tsv", "language": "es"},
        {"t.tsv": "1\t1\t2\n1\t2\t3\n", "q.tsv": "1\ta\n", "p.tsv": "1\tb\n2\tc\n3\t\n"},
        "t.tsv, line 2: passage '3' is not among the 2 passages with text",
    ),
    *(
        ("scored", {**SCORED, **arguments}, {**SCORED_FILES, **files}, message)
        for arguments, files, message in (
            ({}, {"s.jsonl": "[1, [1, 0.5], [2, 0.1]]\n[1, [1]]\n"}, "s.jsonl, line 2: expected `[query id,"),
            ({}, {"q.tsv": "1 a\n"}, "q.tsv, line 1: expected an id and a text"),
            ({}, {"s.jsonl": "[1, [1, 0.5], [9, 0.1]]\n"}, "s.jsonl, line 1: passage '9' is not among the 2 passages"),
            ({}, {"s.jsonl": "[1, [1, 0.5], [2, NaN]]\n"}, "s.jsonl, line 1: expected finite scores, got nan"),
            ({"english": None}, {}, "s.jsonl: expected the queries in `english` beside those in 'es'"),
        )
    ),
    (
        "dpr",
        {"path": "d.json"},
        {"d.json": json.dumps([DPR, {"question": "a"}])},
        "d.json, item 2: expected the fields",
    ),
    ("dpr", {"path": "d.json"}, {"d.json": json.dumps([DPR, DPR])[:-9]}, "d.json, item 2: expected a whole JSON list"),
]


def write(folder: Path, files: dict[str, str | dict[str, str]]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            with zipfile.ZipFile(file, "w") as packed:
                for member, text in content.items():
                    packed.writestr(member, text)
        elif name.endswith(".gz"):
            file.write_bytes(gzip.compress(content.encode()))
        else:
            file.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "arguments", "files", "message"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)]
)
def test_a_wrong_file_is_named_with_row_and_expectation_and_leaves_nothing(kind, arguments, files, message, tmp_path):
    write(tmp_path / "data", files)
    paths = {
        key: str(tmp_path / "data" / value) if value in files or value == "." else value
        for key, value in arguments.items()
        if isinstance(value, str)
    }
    entry = {"format": kind, **arguments, **paths}
    cleaner = Cleaner(CleaningSettings(), HeldOutTexts([]), 1)
    with pytest.raises(ValueError, match=r"expected|stands twice|is not among|blank in one") as error:
        Preparation(tmp_path / "shards", tmp_path / "journal", cleaner, rows_per_part=1).run(
            [PreparedSource("x", entry)]
        )
    assert str(tmp_path / "data" / message) in str(error.value)
    assert [path for path in (tmp_path / "shards").rglob("*") if path.is_file()] == []
    assert [path.name for path in (tmp_path / "journal").rglob("*") if path.is_file()] == ["seen.sqlite"]


@pytest.mark.parametrize(("error", "left"), [(TypeError("of a row"), 0), (OSError("no room"), 2)])
def test_an_error_of_a_row_leaves_no_part_of_its_source_and_one_of_the_system_leaves_all(
    error, left, tmp_path, monkeypatch
):
    def broken(entry: Any) -> Iterator[tuple[str, dict[str, str]]]:
        for word in ("talo", "katu", "joki"):
            yield "parallel", {"query": f"{word} on iso", "english": f"the {word} is large", "language": "fi"}
        raise error

    monkeypatch.setattr(preparation, "open_stream", broken)
    cleaner = Cleaner(CleaningSettings(), HeldOutTexts([]), 1)
    work = Preparation(tmp_path / "shards", tmp_path / "journal", cleaner, rows_per_part=1)
    with pytest.raises(type(error), match=str(error)):
        work.run([PreparedSource("x", {"format": "tsv", "path": str(tmp_path)})])
    assert len(list(tmp_path.rglob("*.parquet"))) == len(list((tmp_path / "journal").rglob("*.json"))) == left


def test_every_format_of_files_has_a_case():
    elsewhere = {
        "hub",
        "hub_questions",
        "hub_candidates",
        "ir_datasets",
        "sample_sentences",
        "sample_questions",
        "texts",
    }
    elsewhere |= {"prepared", "prepared_questions", "prepared_candidates"}
    assert set(FORMATS) - elsewhere == {case[0] for case in CASES}
    assert {*PAIR_STREAMS, *ITEM_STREAMS} <= set(FORMATS)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value within a record."""
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, found in inner:
        yield from leaves(found, (*place, key))


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    copied = inner = copy.deepcopy(value)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return copied


OWN_FULL = {**OWN, "english": "b?", "answers": ["c"], "relevance": [1], "irrelevant_ids": ["n"]}
OWN_PASSAGES = lines(PASSAGE, {"document_id": "n", "text": "N"})
CONTEXTS = {
    name: [{"title": "A", "text": text}] for name, text in (("positive_ctxs", "B"), ("hard_negative_ctxs", "C"))
}
TITLED = {"data": [{"title": "A", **SQUAD["data"][0]}]}
BEIR_FILES = {
    "queries.jsonl": lines({"_id": "1", "text": "a"}),
    "corpus.jsonl": lines({"_id": "p", "text": "B"}),
    "qrels/test.tsv": f"{BEIR}1\tp\t1\n",
}

TYPED: list[tuple[str, dict[str, Any], dict[str, str], str, Any]] = [
    ("squad", {"path": "a.json", "languages": ["en"]}, {}, "a.json", SQUAD),
    ("squad", {"path": "a.json", "languages": ["en"], "titles": True, "english": "a.json"}, {}, "a.json", TITLED),
    ("afriqa", {"path": "a.jsonl", "languages": ["hau"]}, {}, "a.jsonl", {"title": "T", **AFRIQA}),
    (
        "mkqa_retrieval",
        {"questions": "q.jsonl", "passages": "p.tsv", "languages": ["fi"]},
        {"p.tsv": "1\ta\tA\n"},
        "q.jsonl",
        {**MKQA, "answers": {"en": [{"type": "entity", "text": "c", "aliases": ["d"]}]}},
    ),
    ("mkqa", {"path": "q.jsonl", "languages": ["fi"]}, {}, "q.jsonl", {"queries": MKQA["queries"]}),
    ("xor_questions", {"path": "q.jsonl"}, {}, "q.jsonl", XOR),
    ("qed", {"path": "q.jsonl"}, {}, "q.jsonl", QED),
    ("clapnq", {"path": "q.jsonl"}, {}, "q.jsonl", {"input": "a", "passages": [{"title": "A", "text": "B"}]}),
    ("jsonl", {"questions": "q.jsonl", "passages": "p.jsonl"}, {"p.jsonl": OWN_PASSAGES}, "q.jsonl", OWN_FULL),
    (
        "jsonl",
        {"questions": "q.jsonl", "passages": "p.jsonl"},
        {"q.jsonl": lines(OWN)},
        "p.jsonl",
        {**PASSAGE, "title": "T"},
    ),
    ("dpr", {"path": "d.json"}, {}, "d.json", [{**DPR, **CONTEXTS, "answers": ["c"]}]),
    ("beir", {"folder": "."}, BEIR_FILES, "queries.jsonl", {"_id": "1", "text": "a"}),
    ("beir", {"folder": "."}, BEIR_FILES, "corpus.jsonl", {"_id": "p", "text": "B", "title": "T"}),
    ("scored", SCORED, SCORED_FILES, "s.jsonl", [1, [1, 0.5], [2, 0.1]]),
]
VALUES: tuple[Any, ...] = (None, 7, True, "xyz", " ", [], {}, [7], {"x": 1})


def odd_values(row: dict[str, Any]) -> list[Any]:
    """Return what is no text where a text belongs, or the text of what was none, or a letter of `xyz`."""
    texts = [row[name] for name in ("query", "text", "language", "document_id", "query_id") if name in row]
    texts += [row["english"]] if row.get("english") is not None else []
    texts += [text for name in ("document_ids", "irrelevant_ids", "answers") for text in row.get(name) or []]
    no_texts = {*map(str, VALUES), "x", "y", "z"} - {"xyz", " "}
    return [text for text in texts if not isinstance(text, str) or text.rpartition("/")[2] in no_texts - {"7"}]


@pytest.mark.parametrize(
    ("kind", "arguments", "others", "file", "record"), TYPED, ids=[f"{case[0]}-{n}" for n, case in enumerate(TYPED)]
)
def test_a_value_of_another_type_is_taken_as_it_is_meant_or_refused_by_its_file(
    kind, arguments, others, file, record, tmp_path
):
    names = {*others, file}
    paths = {
        key: str(tmp_path / value)
        for key, value in arguments.items()
        if isinstance(value, str) and (value in names or value == ".")
    }
    entry = {"format": kind, **arguments, **paths}

    def read(content: Any) -> list[dict[str, Any]]:
        write(tmp_path, {**others, file: json.dumps(content) + "\n"})
        return [row for table, row in open_stream(entry) if table != "left_out"]

    assert [odd for row in read(record) for odd in odd_values(row)] == []
    wrong = []
    for place in leaves(record):
        for value in VALUES:
            try:
                odd = [odd for row in read(changed(record, place, value)) for odd in odd_values(row)]
                wrong += [(place, value, odd)] if odd else []
            except ValueError as error:
                wrong += [(place, value, str(error))] if str(tmp_path) not in str(error) else []
            except (TypeError, AttributeError, LookupError) as error:
                wrong.append((place, value, repr(error)))
    assert wrong == []


@pytest.mark.parametrize("relevance", [["x"], [None], 7, [0], {"x": 1}, []])
def test_grades_that_are_no_numbers_are_refused_by_set_and_question(relevance):
    rows = Dataset.from_list([{**OWN, "relevance": relevance}])
    with pytest.raises(ValueError, match="own: question '1' needs a relevance from 1 up for each of 1 passages, got"):
        QuestionSet("own", rows, {"p": "B"})


def test_a_source_of_which_only_passages_stay_is_refused(tmp_path):
    write(tmp_path, {**SCORED_FILES, "e.tsv": "1\ta\n"})
    paths = {key: str(tmp_path / value) for key, value in SCORED.items() if value in SCORED_FILES}
    source = PreparedSource("x", {"format": "scored", **paths, "language": "es"})
    cleaner = Cleaner(CleaningSettings(), HeldOutTexts([]), 1)
    with pytest.raises(ValueError, match=r"expected rows that stay, got none of 3 .dropped: {'untranslated': 1}"):
        Preparation(tmp_path / "shards", tmp_path / "journal", cleaner).run([source])
