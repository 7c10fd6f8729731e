"""Which writing system a text is in, and which ones a language is written in. Pure functions."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

LATIN = frozenset({"LATIN"})

_IN_LATIN = (  # noqa: SIM905 - one code a line says less
    "af az bem bs ca cs cy da de en eo es et eu fi fil fo fr fy ga gl ha hau hr hu id ibo ig is it jv kin ku lb lg ln lt lv mg "
    "mi ms mt nb nl nn no ny om oc pl pt ro rw sk sl sn so sq st su sv sw swa tl tn tr tw twi uz vi wo xh yo yor zu zul"
).split()

SCRIPTS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ckb", "ug"), frozenset({"ARABIC"})),
    **dict.fromkeys(("bn", "as"), frozenset({"BENGALI"})),
    **dict.fromkeys(("ru", "uk", "bg", "be", "mk", "kk", "ky", "mn", "tg"), frozenset({"CYRILLIC"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"DEVANAGARI"})),
    "sr": frozenset({"CYRILLIC", "LATIN"}),
    **dict.fromkeys(("am", "ti"), frozenset({"ETHIOPIC"})),
    "ka": frozenset({"GEORGIAN"}),
    "el": frozenset({"GREEK"}),
    "gu": frozenset({"GUJARATI"}),
    "pa": frozenset({"GURMUKHI"}),
    "zh": frozenset({"CJK"}),
    "ko": frozenset({"HANGUL", "CJK"}),
    "ja": frozenset({"HIRAGANA", "KATAKANA", "CJK"}),
    **dict.fromkeys(("he", "yi"), frozenset({"HEBREW"})),
    "hy": frozenset({"ARMENIAN"}),
    "kn": frozenset({"KANNADA"}),
    "km": frozenset({"KHMER"}),
    "lo": frozenset({"LAO"}),
    "ml": frozenset({"MALAYALAM"}),
    "my": frozenset({"MYANMAR"}),
    "or": frozenset({"ORIYA"}),
    "si": frozenset({"SINHALA"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "th": frozenset({"THAI"}),
    "bo": frozenset({"TIBETAN"}),
    **dict.fromkeys(_IN_LATIN, LATIN),
}
"""Scripts by language code, each by the first word of its letters' names in Unicode. A language that is not here is not
checked."""

UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI", "KHMER", "LAO", "MYANMAR", "TIBETAN"})
"""Scripts that do not put spaces between words."""

_MAYBE_UNSPACED = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3000-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]")
"""Blocks outside which no letter of these scripts lies."""


@lru_cache(maxsize=65536)
def script_of(character: str) -> str | None:
    """Return a letter's script; None for what is no letter.

    >>> script_of("д"), script_of("漢"), script_of("ー"), script_of("7")
    ('CYRILLIC', 'CJK', 'KATAKANA', None)
    """
    if unicodedata.category(character)[0] != "L":
        return None
    words = unicodedata.name(character, "UNKNOWN").split()
    # Half-width and full-width letters, and modifier letters, are named by what they modify.
    return next((word for word in words if word not in ("FULLWIDTH", "HALFWIDTH", "MODIFIER")), words[0]).partition(
        "-"
    )[0]


def script_share(text: str, language: str) -> float | None:
    """Return the share of a text's letters that are in a script of the language; None if that cannot be said.

    Args:
        text: of any length.
        language: its code; what follows `-` or `_` (a region) does not count.

    Returns:
        From 0 to 1, or None for a text without letters or a language that is not in `SCRIPTS`.

    >>> script_share("Kuka on Мария?", "fi"), script_share("1990?", "fi"), script_share("words", "xx")
    (0.5, None, None)
    """
    wanted = SCRIPTS.get(language.replace("_", "-").partition("-")[0])
    if wanted is None:
        return None
    found = Counter(map(script_of, text))
    letters = found.total() - found[None]
    return sum(found[script] for script in wanted) / letters if letters else None


def words_of(normalised_text: str) -> list[str]:
    """Split a normalised text into words; in scripts without spaces each letter, with its marks, is one.

    >>> words_of("ab cd"), words_of("東京 2020")
    (['ab', 'cd'], ['東', '京', '2020'])
    """
    if not _MAYBE_UNSPACED.search(normalised_text):
        return normalised_text.split()
    words: list[str] = []
    for word in normalised_text.split():
        if not any(script_of(letter) in UNSPACED for letter in word):
            words.append(word)
            continue
        joined = ""
        for letter in word:
            unspaced = script_of(letter) in UNSPACED
            if joined and (unspaced or script_of(joined[0]) in UNSPACED) and unicodedata.category(letter)[0] != "M":
                words.append(joined)
                joined = ""
            joined += letter
        words.append(joined)
    return words
