"""Prepared folders and sources on the Hub: pushed, streamed back, and files got by address."""

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import constants

from drdecr.data.hub import push_dataset
from drdecr.data.prepare.download import download
from drdecr.data.prepare.prepare import PrepareRecipe, prepare
from drdecr.data.sources import open_stream, read_parallel


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DRDECR_DATA", str(tmp_path))
    (tmp_path / "fi.tsv").write_text("".join(f"sana numero {n}\tword number {n}\n" for n in range(9)))
    entry = {"name_of_source": "made", "format": "tsv", "path": str(tmp_path / "fi.tsv"), "languages": ["fi"]}
    return prepare(PrepareRecipe([entry], rows_per_part=4, license="CC0 1.0"), tmp_path / "set")


def test_a_pushed_folder_streams_and_is_prepared_again_by_name(hub, folder, tmp_path):
    revision = push_dataset(folder, "alice/prepared", private=True)
    expected = [{"query": f"sana numero {n}", "english": f"word number {n}", "language": "fi"} for n in range(9)]
    streamed = load_dataset("alice/prepared", "parallel-made", split="train", streaming=True)
    assert [{key: row[key] for key in expected[0]} for row in streamed] == expected
    assert read_parallel([{"format": "hub", "name": "alice/prepared", "config": "parallel"}]).to_list() == expected
    entry = {"name_of_source": "again", "format": "hub", "name": "alice/prepared", "config": "parallel"}
    again = prepare(PrepareRecipe([entry]), tmp_path / "again")
    assert revision in (again / "README.md").read_text()
    assert read_parallel([{"format": "prepared", "folder": str(again)}]).to_list() == expected


def test_a_translation_column_is_streamed_and_a_wrong_row_is_named(hub):
    rows = [{"translation": {"en": f"word {n}", "es": f"palabra {n}"}} for n in range(3)]
    Dataset.from_list(rows).push_to_hub("alice/pairs", "en-es")
    entry = {"format": "hub", "name": "alice/pairs", "config": "en-es", "language": "es"}
    found = [row for _, row in open_stream(entry)]
    assert found == [{"query": f"palabra {n}", "english": f"word {n}", "language": "es"} for n in range(3)]
    with pytest.raises(ValueError, match="alice/pairs, row 1: expected a text as 'query', got None"):
        list(open_stream({**entry, "language": "fi"}))


def test_a_file_of_a_dataset_is_got_by_its_address(hub, folder, tmp_path):
    push_dataset(folder, "alice/prepared")
    name = "parallel/made/fi-00001.parquet"
    found = download(f"hf://datasets/alice/prepared@main/{name}", tmp_path / "got" / "a.parquet")
    assert found.read_bytes() == (folder / name).read_bytes()
    assert not constants.HF_HUB_OFFLINE
