"""Entries of a recipe become rows, and wrong entries errors that say what was expected."""

import inspect
import json
from pathlib import Path

import pytest
import yaml

from drdecr.data.sources import PARALLEL_READERS, QUESTION_READERS, read_parallel, read_questions


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "fi.tsv").write_text("joki\triver\nmeri\tsea\n", encoding="utf-8")
    return {"format": "tsv", "path": str(tmp_path / "{language}.tsv"), "languages": ["fi"]}


def jsonl_entry(folder, **columns):
    row = {"query_id": "1", "query": "mikä joki", "language": "fi", "document_ids": ["p"], **columns}
    (folder / "questions.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (folder / "passages.jsonl").write_text(json.dumps({"document_id": "p", "text": "a river"}), encoding="utf-8")
    return {"format": "jsonl", "questions": str(folder / "questions.jsonl"), "passages": str(folder / "passages.jsonl")}


def test_parallel_sources_are_joined_in_order(pairs, tmp_path):
    rows = read_parallel([pairs, jsonl_entry(tmp_path, english="what river")])
    assert rows.column_names == ["query", "english", "language"]
    assert list(rows["query"]) == ["joki", "meri", "mikä joki"]
    assert list(rows["english"]) == ["river", "sea", "what river"]


def test_questions_keep_labels_and_collection(tmp_path):
    found = read_questions(jsonl_entry(tmp_path))
    assert found.qrels == {"1": {"p": 1}}
    assert dict(found.passages) == {"p": "a river"}


def test_questions_without_english_are_no_parallel_text(tmp_path):
    with pytest.raises(ValueError, match="`english` column"):
        read_parallel([jsonl_entry(tmp_path)])


def test_no_source_is_an_error():
    with pytest.raises(ValueError, match="at least one source"):
        read_parallel([])


@pytest.mark.parametrize("entry", ["tsv", ["tsv"], None])
def test_an_entry_that_is_no_mapping_is_shown(entry):
    with pytest.raises(ValueError, match="list of entries like"):
        read_parallel([entry])
    with pytest.raises(ValueError, match="list of entries like"):
        read_questions(entry)


def test_unknown_format_names_the_known_ones():
    with pytest.raises(ValueError, match=r"expected one of squad, .*sample_questions, got 'csv'"):
        read_questions({"format": "csv"})
    with pytest.raises(ValueError, match=r"expected one of tsv, .*got None"):
        read_parallel([{"path": "x"}])


def test_wrong_and_missing_arguments_name_those_that_are_taken(pairs):
    with pytest.raises(ValueError, match=r"takes path, languages; .*'langs'"):
        read_parallel([{**pairs, "langs": ["fi"]}])
    with pytest.raises(ValueError, match=r"takes path, languages; .*missing.*'languages'"):
        read_parallel([{"format": "tsv", "path": "x"}])


def test_an_entry_is_not_changed(pairs):
    before = dict(pairs)
    read_parallel([pairs])
    assert pairs == before


def test_a_format_is_either_parallel_text_or_questions():
    assert not set(PARALLEL_READERS) & set(QUESTION_READERS)


def test_a_limit_keeps_so_many_rows_of_each_language_spread_over_the_source(tmp_path):
    for code, count in (("fi", 10), ("ja", 3)):
        rows = [f"{code}{number}\t{code} english {number}\n" for number in range(count)]
        (tmp_path / f"{code}.tsv").write_text("".join(rows), encoding="utf-8")
    entry = {"format": "tsv", "path": str(tmp_path / "{language}.tsv"), "languages": ["fi", "ja"], "limit": 5}
    assert list(read_parallel([entry])["query"]) == ["fi0", "fi2", "fi4", "fi6", "fi8", "ja0", "ja1", "ja2"]
    with pytest.raises(ValueError, match="limit: expected rows a language, at least 1, got 0"):
        read_parallel([{**entry, "limit": 0}])


def test_the_entries_of_the_documentation_fit_their_readers():
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    entries = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    for entry in entries:
        name = entry.pop("format")
        inspect.signature(QUESTION_READERS[name]).bind(**entry)
        assert f"| `{name}` |" in text
    assert len(entries) == text.partition("\n## ")[0].count("\n| `") - 1  # the head of the table
