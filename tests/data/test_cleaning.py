"""Leaks and repetitions go, everything else stays, and the log says how many went."""

import logging

import pytest
from datasets import Dataset

from drdecr.data.languages import normalise_text
from drdecr.data.prepare.cleaning import drop_leaks, drop_repeated


def rows_of(*pairs):
    return Dataset.from_list([{"query": query, "english": english} for query, english in pairs])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who's  there?", "who s there"),
        ("ＡＢＣ　１２", "abc 12"),  # full width
        ("Straße!", "STRASSE"),
        ("كتاب، قلم؟", "كتاب قلم"),
        ("snake_case", "snake case"),
        ("co\u00adoperate", "cooperate"),  # soft hyphen
        ("cafe\u0301", "café"),
    ],
)
def test_case_signs_and_encodings_do_not_tell_texts_apart(one, other):
    assert normalise_text(one) == normalise_text(other)


@pytest.mark.parametrize(
    ("one", "other"), [("কি", "কা"), ("కి", "కు"), ("meri", "mari"), ("12", "13"), ("が", "か"), ("a b", "ab")]
)
def test_vowel_signs_letters_and_digits_tell_texts_apart(one, other):
    assert normalise_text(one) != normalise_text(other)


def test_the_first_of_repeated_rows_stays(caplog):
    rows = rows_of(("Joki?", "River?"), ("meri", "sea"), ("joki", "river"), ("joki", "stream"))
    with caplog.at_level(logging.WARNING):
        kept = drop_repeated(rows, "pairs")
    assert list(kept["query"]) == ["Joki?", "meri", "joki"]
    assert list(kept["english"]) == ["River?", "sea", "stream"]
    assert caplog.messages == ["pairs: dropped 1 of 4 rows: repeated rows."]


def test_rows_go_for_their_question_and_for_their_english_text(caplog):
    rows = rows_of(("joki", "river"), ("meri", "sea"), ("kaupunki", "city"))
    with caplog.at_level(logging.WARNING):
        kept = drop_leaks(rows, iter(["JOKI!", "The city", "sea."]), "pairs")
    assert list(kept["query"]) == ["kaupunki"]
    assert caplog.messages == ["pairs: dropped 2 of 3 rows: rows that stand in a held-out set."]


def test_rows_without_english_are_compared_too():
    assert list(drop_leaks(Dataset.from_list([{"query": "a"}, {"query": "b"}]), ["b"], "x")["query"]) == ["a"]
    mixed = Dataset.from_list([{"query": "a", "english": None}, {"query": "b", "english": "c"}])
    assert list(drop_leaks(mixed, ["c"], "x")["query"]) == ["a"]


def test_clean_rows_pass_in_silence(caplog):
    rows = rows_of(("joki", "river"), ("meri", "sea"))
    with caplog.at_level(logging.WARNING):
        assert drop_leaks(drop_repeated(rows, "x"), ["city"], "x").to_list() == rows.to_list()
    assert caplog.messages == []
