"""Checks of rows: one reason each, right in every script; near copies are found as a plain search finds them."""

import doctest
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

from drdecr.data.languages import script_of, script_share, words_of
from drdecr.data.prepare import cleaning as row_checks
from drdecr.data.prepare import leakage as held_out_module
from drdecr.data.prepare.cleaning import REASONS, CleaningSettings, drop_reason, row_key
from drdecr.data.prepare.leakage import COPIED_WORDS, HeldOutPassages, HeldOutTexts

NOTHING = HeldOutTexts([])


def reason(query: str, english: str | None, language: str, settings: CleaningSettings | None = None, held_out=NOTHING):
    row = {"query": query, "english": english, "language": language}
    found = drop_reason(row, settings or CleaningSettings(), held_out)
    assert found is None or found in REASONS
    return found


@pytest.mark.parametrize(
    ("query", "language"),
    [
        ("ব্রিটিশ রাজ কত সালে শুরু হয়?", "bn"),
        ("తెలుగు భాష ఎంత పాతది?", "te"),
        ("東京タワーの高さは？", "ja"),
        ("서울의 인구는 얼마인가?", "ko"),
        ("谁写了《红楼梦》", "zh"),
        ("Кто написал The Wall?", "ru"),
        ("Kuka on Мария?", "fi"),
        ("Ki ni orúkọ ẹni tí ó kọ́?", "yo"),
        ("What is it?", "en"),
        ("नमस्ते", "xx"),  # a language that is not known is not judged by its script
    ],
)
def test_texts_in_their_own_script_stay(query, language):
    assert reason(query, "What is asked about it?", language) is None


@pytest.mark.parametrize(
    ("query", "english", "language", "expected"),
    [
        ("Кто это?", "Who is it?", "fi", "script"),
        ("Kuka se on?", "Кто это, скажи?", "fi", "script"),
        ("Kuka\x00 on?", "Who is it?", "fi", "control_characters"),
        ("Kuka on \ufffd?", "Who is it?", "fi", "control_characters"),
        ("Kuka \ue000 on?", "Who is it?", "fi", "control_characters"),
        ("!?", "Who?", "fi", "no_letters"),
        ("who IS it", "Who is it?", "fi", "untranslated"),
        (" ", "Who is it?", "fi", "blank"),
        ("Kuka?", "Who is it that was here yesterday, and the day before?", "fi", "length_ratio"),
    ],
)
def test_each_fault_has_its_reason(query, english, language, expected):
    assert reason(query, english, language) == expected


def test_joiners_and_line_ends_are_no_control_characters():
    assert reason("ক্‍ষ কী\u200c\tবলো", "What is this letter?", "bn") is None


def test_short_texts_may_have_any_ratio_and_wide_letters_count_thrice():
    assert reason("はい", "Yes, it is so", "ja") is None
    assert reason("東京の塔は何メートルですか", "How many metres high is the tower in Tokyo?", "ja") is None


ASKED = {
    "en": "What is the tallest building in the world today?",
    "fi": "Mikä on maailman korkein rakennus tänään?",
    "de": "Wie heißt heute das höchste Gebäude der Welt?",
    "fr": "Quel est le plus haut bâtiment du monde aujourd'hui ?",
    "zh": "今天世界上最高的建筑是哪一座？",
}


@pytest.mark.parametrize(
    ("query", "english", "language", "expected"),
    [
        ("fi", "en", "fi", None),
        ("fr", "en", "fr-CA", None),
        ("zh", "en", "zh", None),
        ("en", None, "en", None),
        ("en", "en", "fi", "language"),
        ("de", "en", "fi", "language"),
        ("fi", "fr", "fi", "language"),
        ("fi", "de", "fi", "language"),
        ("fi", "fi", "fi", "language"),
        ("fr", None, "fi", "language"),
        ("fr", None, "en", "language"),
        ("de", "en", "xx", None),  # of a language that it does not know nothing is said
    ],
)
def test_language_identification_judges_each_text_by_its_own_language(query, english, language, expected):
    pytest.importorskip("py3langid")
    texts = ASKED[query], None if english is None else f"{ASKED[english]} {ASKED[english]}"  # no copy of the query
    assert reason(*texts, language, CleaningSettings(identify_language=True)) == expected
    assert reason(*texts, language) is None


@pytest.mark.skipif("DRDECR_DATA" not in os.environ, reason="set DRDECR_DATA to the folder of real data")
def test_language_identification_errs_on_few_real_texts_and_finds_most_in_anothers_place():
    """NTREX and Tatoeba, 500 texts a language, drawn with the seed 1."""
    pytest.importorskip("py3langid")
    data, drawn = Path(os.environ["DRDECR_DATA"]), random.Random(1)
    news = {"en": "eng", "es": "spa", "fi": "fin", "ha": "hau", "ig": "ibo", "rw": "kin", "sw": "swa", "yo": "yor"}
    news |= {"zu": "zul", "zh": "zho-CN", "ar": "arb"}
    texts = {code: (data / f"ntrex/{name}.txt").read_text().splitlines() for code, name in news.items()}
    for code, name in (("es", "spa"), ("fi", "fin"), ("zh", "zho")):
        lines = (data / f"tatoeba/{name}-eng.tsv").read_text().splitlines()
        texts[f"{code} short"] = [line.split("\t")[0] for line in lines]
    for code, found in texts.items():
        some = drawn.sample(found, 500)
        own = code.partition(" ")[0]
        assert sum(row_checks._is_of_another(text, own) for text in some) <= 5, code
        for other in {"en", "fi", "es"} - {own}:
            assert sum(row_checks._is_of_another(text, other) for text in some) >= 475, (code, other)


def test_a_row_key_is_equal_for_what_counts_as_the_same():
    row = {"query": "Kuka?", "english": "Who?", "language": "fi"}
    assert row_key(row) == row_key({**row, "query": "KUKA", "source": "other"})
    assert row_key(row) != row_key({**row, "english": "Whom?"})
    assert row_key({**row, "document_ids": ["a"]}) != row_key({**row, "document_ids": ["b"]})


def test_scripts_are_read_from_unicode():
    assert [script_of(letter) for letter in "aяہ한ｱー漢7 "] == [
        "LATIN", "CYRILLIC", "ARABIC", "HANGUL", "KATAKANA", "KATAKANA", "CJK", None, None,
    ]  # fmt: skip
    assert script_share("abвг", "ru") == 0.5
    assert script_share("abвг", "ru-RU") == 0.5


def test_words_of_scripts_without_spaces_are_letters_with_their_marks():
    assert words_of("กำ abc 東京x2") == ["ก", "ำ", "abc", "東", "京", "x2"]


def naive_overlap(text: list[str], held_out: list[str]) -> bool:
    """All windows of four words, compared one by one."""
    windows = [held_out[start : start + 4] for start in range(len(held_out) - 3)]
    own = [text[start : start + 4] for start in range(len(text) - 3)]
    kinds = [window for index, window in enumerate(windows) if window not in windows[:index]]
    return len(kinds) >= 4 and sum(window in own for window in kinds) >= 0.8 * len(kinds)


@pytest.mark.parametrize(
    "text",
    [
        "who wrote the first long novel in the finnish language",
        "tell me who wrote the first long novel in the finnish language please",
        "wrote the first long novel in the finnish language",
        "who wrote the first long novel in the finnish",
        "who wrote the first long novel",
        "who wrote the last long novel in the finnish language",
        "where was the first long novel in the finnish language printed",
        "what is the capital of finland",
    ],
)
def test_near_copies_are_found_as_a_plain_comparison_finds_them(text):
    question = "Who wrote the first long novel in the Finnish language?"
    found = HeldOutTexts([question, "What is the capital?"]).leak(text)
    words = ["who", "wrote", "the", "first", "long", "novel", "in", "the", "finnish", "language"]
    expected = "held_out" if text.split() == words else "overlap" if naive_overlap(text.split(), words) else None
    assert found == expected


def test_thirteen_words_in_a_row_are_a_copy_and_twelve_are_not():
    passage = " ".join(f"word{n}" for n in range(60))
    held_out = HeldOutTexts([passage])
    assert held_out.leak("so " + " ".join(f"word{n}" for n in range(20, 33)) + " it goes") == "overlap"
    assert held_out.leak("so " + " ".join(f"word{n}" for n in range(20, 32)) + " it goes") is None


def test_held_out_texts_find_the_same_in_another_process():
    held_out = HeldOutTexts(["Who wrote the first long novel in Finnish?"])
    script = (
        "import pickle, sys; print(pickle.load(sys.stdin.buffer).leak('so who wrote the first long novel in Finnish'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(held_out), capture_output=True, check=True
    )
    assert found.stdout.strip() == b"overlap"


@pytest.mark.parametrize(("name", "value"), [("min_script_share", 2), ("max_length_ratio", 0.5), ("free_length", -1)])
def test_settings_outside_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}|{value}"):
        CleaningSettings(**{name: value})


def test_passages_of_tests_are_found_as_a_plain_search_finds_them():
    drawn = random.Random(5)
    vocabulary = [f"w{number}" for number in range(60)]
    held_out = [" ".join(drawn.choices(vocabulary, k=drawn.randint(5, 40))) for _ in range(30)]
    known = HeldOutPassages(held_out)

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[start : start + COPIED_WORDS]) for start in range(len(words) - COPIED_WORDS + 1)}

    every = set().union(*map(runs, held_out))
    found = []
    for _ in range(300):
        source = drawn.choice(held_out).split()
        start, length = drawn.randint(0, len(source) - 1), drawn.randint(1, 30)
        text = " ".join([*drawn.choices(vocabulary, k=3), *source[start : start + length], "end"])
        assert known.leak(text) == ("overlap" if runs(text) & every else None)
        found.append(known.leak(text))
    assert set(found) == {"overlap", None}
    assert {known.leak(f"  {text.upper()}!") for text in held_out} == {"held_out"}
    assert pickle.loads(pickle.dumps(known)).leak(held_out[3]) == "held_out"
    assert HeldOutPassages([]).leak("anything") is None
    assert doctest.testmod(held_out_module).failed == 0
