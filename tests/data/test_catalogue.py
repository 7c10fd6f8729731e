"""The catalogue: every entry can be read by what it names, and the real files hold what it says."""

import inspect
import os
import re

import pytest

from drdecr.data.prepare.catalog import Source, catalogue, facts_of
from drdecr.data.sources import FORMATS, ITEM_STREAMS, PAIR_STREAMS, PARALLEL_READERS, QUESTION_READERS

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
    found = {file["path"]: file["url"] for file in catalogue()["wikimatrix"]._wanted()}
    assert found["wikimatrix/zh-en.zip"] == "https://object.pouta.csc.fi/OPUS-WikiMatrix/v1/moses/en-zh.txt.zip"
    assert found["wikimatrix/ar-en.zip"] == "https://object.pouta.csc.fi/OPUS-WikiMatrix/v1/moses/ar-en.txt.zip"


def test_addresses_are_made_for_the_languages_of_a_recipe():
    found = {file["path"]: file for file in catalogue()["tatoeba"]._wanted()}
    assert "/testsets/ara-eng/" in found["tatoeba/ara-eng.tsv"]["url"]
    assert "/testsets/eng-fin/" in found["tatoeba/fin-eng.tsv"]["english"]
    assert {file["path"] for file in catalogue()["pud"]._wanted()} == {
        f"pud/{code}-en.tsv" for code in ("ar", "fi", "ko", "ru")
    }
    assert all("sha256" in file for name in ("tatoeba", "pud") for file in catalogue()[name]._wanted())


def test_an_address_that_names_a_commit_has_the_digest_of_what_it_gives():
    """And the other way round: an address on GitHub names a commit, since a branch moves."""
    for source in catalogue().values():
        for file in source._wanted():
            if "github" in file["url"]:
                assert re.search(r"/[0-9a-f]{40}/", file["url"]), file
                assert re.fullmatch("[0-9a-f]{64}", file["sha256"]), file


def test_files_that_hold_something_else_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("yksi\tone\nkaksi\ttwo\n")
    entry = {"format": "tsv", "path": str(tmp_path / "a.tsv"), "languages": ["fi"]}
    Source("x", "X", "train", "https://x", entry, expected={"rows": {"parallel": 2}}).check()
    with pytest.raises(ValueError, match=r"x: expected rows .'parallel': 3., got rows .'parallel': 2."):
        Source("x", "X", "train", "https://x", entry, expected={"rows": {"parallel": 3}}).check()


@pytest.fixture
def two_languages(tmp_path) -> Source:
    """Two Finnish pairs, three Estonian ones, as the catalogue would know them."""
    for name, count in (("fin", 2), ("est", 3)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"sana {n}\tword {n}\n" for n in range(count)))
    languages = {"fi": "fin", "et": "est"}
    entry = {"format": "tsv", "path": str(tmp_path / "{language}.tsv"), "languages": languages}
    return Source("x", "X", "train", "https://x", entry, expected=facts_of(entry))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"languages": {"fi": "fin"}}, {"languages": {"fi": "fin", "et": "est"}}, {"languages": {"suo": "fin"}}],
)
def test_a_recipe_that_reads_some_of_the_languages_is_still_counted(two_languages, arguments, tmp_path):
    two_languages.narrowed(arguments).check()
    (tmp_path / "fin.tsv").write_text("sana 0\tword 0\n")
    with pytest.raises(ValueError, match=rf"x: expected .*, in {tmp_path}/fin\.tsv\. Cut off, or of another version"):
        two_languages.narrowed(arguments).check()


def test_what_is_cut_off_is_not_asked_of_the_languages_that_are_not_read(two_languages, tmp_path):
    (tmp_path / "est.tsv").write_text("")
    two_languages.narrowed({"languages": {"fi": "fin"}}).check()


def test_a_name_of_its_own_changes_ids_and_not_counts(tmp_path):
    file = tmp_path / "qed.jsonl"
    line = '{"question_text": "who", "title_text": "A", "paragraph_text": "B"}\n'
    file.write_text(line)
    entry = {"format": "qed", "path": str(file), "name": "qed"}
    source = Source("x", "X", "train", "https://x", entry, expected=facts_of(entry))
    source.narrowed({"name": "mine"}).check()
    file.write_text(line * 2)
    with pytest.raises(ValueError, match=rf"x: expected rows .* in {file}"):
        source.narrowed({"name": "mine"}).check()


@pytest.mark.parametrize(
    "arguments", [{"path": "other.tsv"}, {"languages": {"sv": "swe"}}, {"languages": []}, {"languages": "fi"}]
)
def test_nothing_is_expected_of_other_files(two_languages, arguments):
    assert two_languages.narrowed(arguments) is None


def test_sets_of_several_languages_know_the_rows_of_each():
    for source in REAL:
        languages = source.entry.get("languages") or []
        if len(languages) > 1:
            assert set(source.expected["languages"]) == set(languages), source.name


def test_what_has_no_address_says_where_it_comes_from():
    source = catalogue()["mkqa-subset"]
    with pytest.raises(
        ValueError, match=r"no address .* Get them from https://github.com/.*mkqa_dev_parallel\.jsonl.* were taken"
    ):
        source.download()


@pytest.mark.skipif("DRDECR_DATA" not in os.environ, reason="set DRDECR_DATA to the folder of real data")
@pytest.mark.parametrize("source", REAL, ids=[source.name for source in REAL])
def test_the_real_files_hold_what_the_catalogue_says(source):
    if not source.is_here():
        pytest.skip(f"the files of {source.name} are not here")
    source.check()
    found = facts_of(source.entry) if source.copy_ends else {}
    assert {key: found[key] for key in source.copy_ends} == source.copy_ends
