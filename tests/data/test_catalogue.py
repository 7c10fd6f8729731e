"""The catalogue: every entry can be read by what it names, and the real files hold what it says."""

import inspect
import os

import pytest

from drdecr.data.catalogue import Source, catalogue
from drdecr.data.row_streams import FORMATS, ITEM_STREAMS, PAIR_STREAMS
from drdecr.data.sources import PARALLEL_READERS, QUESTION_READERS

READERS = {**PARALLEL_READERS, **QUESTION_READERS, **PAIR_STREAMS, **ITEM_STREAMS}
REAL = [source for source in catalogue().values() if source.expected]


@pytest.mark.parametrize("source", catalogue().values(), ids=list(catalogue()))
def test_an_entry_names_a_reader_and_its_arguments(source):
    arguments = {key: value for key, value in source.entry.items() if key != "format"}
    assert source.entry["format"] in FORMATS
    inspect.signature(READERS[source.entry["format"]]).bind(**arguments)
    assert source.home.startswith("https://")
    assert (source.tried == "real") == bool(source.expected)
    for file in source.files:
        assert file["url"].startswith(("https://", "hf://datasets/"))
        assert f"$DRDECR_DATA/{file['path']}" in str(source.entry)


@pytest.mark.parametrize("name", ["afriqa-train", "afriqa-dev"])
def test_what_is_fetched_as_published_is_not_compared_with_a_copy_that_lacks_rows(name):
    assert catalogue()[name].files
    assert not catalogue()[name].expected


def test_the_projects_test_sets_are_marked():
    assert {"squad-dev", "xquad", "xor-tydi-dev"} <= {
        name for name, found in catalogue().items() if found.role == "test"
    }


def test_what_was_not_read_says_that_it_is_unverified():
    for source in catalogue().values():
        assert bool(source.caution) == (source.tried == "form")
    assert "its licence is not known" in catalogue()["xor-wikipedia"].caution
    assert "its licence and its counts were not checked" in catalogue()["wikimatrix"].caution or not (
        catalogue()["wikimatrix"].licence
    )


def test_addresses_are_made_for_each_language():
    found = list(catalogue()["wikimatrix"]._wanted())
    assert ("wikimatrix/zh-en.zip", "https://object.pouta.csc.fi/OPUS-WikiMatrix/v1/moses/en-zh.txt.zip", None) in found
    assert ("wikimatrix/ar-en.zip", "https://object.pouta.csc.fi/OPUS-WikiMatrix/v1/moses/ar-en.txt.zip", None) in found


def test_files_that_hold_something_else_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("yksi\tone\nkaksi\ttwo\n")
    entry = {"format": "tsv", "path": str(tmp_path / "a.tsv"), "languages": ["fi"]}
    Source("x", "X", "train", "https://x", entry, expected={"rows": {"parallel": 2}}).check()
    with pytest.raises(ValueError, match=r"x: expected rows .'parallel': 3., got rows .'parallel': 2."):
        Source("x", "X", "train", "https://x", entry, expected={"rows": {"parallel": 3}}).check()


@pytest.mark.skipif("DRDECR_DATA" not in os.environ, reason="set DRDECR_DATA to the folder of real data")
@pytest.mark.parametrize("source", REAL, ids=[source.name for source in REAL])
def test_the_real_files_hold_what_the_catalogue_says(source):
    source.check()
