"""Language codes: ours (two letters, as in `language` columns), their English names, and how others write them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

LANGUAGES: dict[str, tuple[str, str]] = {
    "af": ("Afrikaans", "afr_Latn"),
    "am": ("Amharic", "amh_Ethi"),
    "ar": ("Arabic", "arb_Arab"),
    "be": ("Belarusian", "bel_Cyrl"),
    "bg": ("Bulgarian", "bul_Cyrl"),
    "bn": ("Bengali", "ben_Beng"),
    "ca": ("Catalan", "cat_Latn"),
    "cs": ("Czech", "ces_Latn"),
    "cy": ("Welsh", "cym_Latn"),
    "da": ("Danish", "dan_Latn"),
    "de": ("German", "deu_Latn"),
    "el": ("Greek", "ell_Grek"),
    "en": ("English", "eng_Latn"),
    "eo": ("Esperanto", "epo_Latn"),
    "es": ("Spanish", "spa_Latn"),
    "et": ("Estonian", "est_Latn"),
    "eu": ("Basque", "eus_Latn"),
    "fa": ("Persian", "pes_Arab"),
    "fi": ("Finnish", "fin_Latn"),
    "fr": ("French", "fra_Latn"),
    "gl": ("Galician", "glg_Latn"),
    "ha": ("Hausa", "hau_Latn"),
    "he": ("Hebrew", "heb_Hebr"),
    "hi": ("Hindi", "hin_Deva"),
    "hr": ("Croatian", "hrv_Latn"),
    "hu": ("Hungarian", "hun_Latn"),
    "id": ("Indonesian", "ind_Latn"),
    "ig": ("Igbo", "ibo_Latn"),
    "is": ("Icelandic", "isl_Latn"),
    "it": ("Italian", "ita_Latn"),
    "ja": ("Japanese", "jpn_Jpan"),
    "kk": ("Kazakh", "kaz_Cyrl"),
    "km": ("Khmer", "khm_Khmr"),
    "ko": ("Korean", "kor_Hang"),
    "lt": ("Lithuanian", "lit_Latn"),
    "lv": ("Latvian", "lvs_Latn"),
    "mk": ("Macedonian", "mkd_Cyrl"),
    "ms": ("Malay", "zsm_Latn"),
    "mt": ("Maltese", "mlt_Latn"),
    "nb": ("Norwegian Bokmål", "nob_Latn"),
    "nl": ("Dutch", "nld_Latn"),
    "nn": ("Norwegian Nynorsk", "nno_Latn"),
    "no": ("Norwegian", "nob_Latn"),
    "oc": ("Occitan", "oci_Latn"),
    "pl": ("Polish", "pol_Latn"),
    "pt": ("Portuguese", "por_Latn"),
    "ro": ("Romanian", "ron_Latn"),
    "ru": ("Russian", "rus_Cyrl"),
    "rw": ("Kinyarwanda", "kin_Latn"),
    "sl": ("Slovenian", "slv_Latn"),
    "sv": ("Swedish", "swe_Latn"),
    "sw": ("Swahili", "swh_Latn"),
    "ta": ("Tamil", "tam_Taml"),
    "te": ("Telugu", "tel_Telu"),
    "th": ("Thai", "tha_Thai"),
    "tr": ("Turkish", "tur_Latn"),
    "tw": ("Twi", "twi_Latn"),
    "uk": ("Ukrainian", "ukr_Cyrl"),
    "ur": ("Urdu", "urd_Arab"),
    "vi": ("Vietnamese", "vie_Latn"),
    "yo": ("Yoruba", "yor_Latn"),
    "zh": ("Chinese", "zho_Hans"),
    "zu": ("Zulu", "zul_Latn"),
}
"""`{code: (English name, FLORES-200 code)}`; NLLB knows languages by the latter. Other codes are passed on as they are."""

MACROLANGUAGES = {"ar": "ara", "et": "est", "fa": "fas", "lv": "lav", "ms": "msa", "no": "nor", "sw": "swa"}
"""Three letters of those whose FLORES-200 code names one of their varieties."""


def language_name(code: str) -> str:
    """Return a language's English name, or the code where it is not known here."""
    return LANGUAGES[code][0] if code in LANGUAGES else code


def spellings(code: str) -> list[str]:
    """Return how a language may be written: our code, FLORES-200's, and three letters.

    >>> spellings("ar"), spellings("es"), spellings("bem")
    (['ar', 'arb_Arab', 'arb', 'ara'], ['es', 'spa_Latn', 'spa'], ['bem'])
    """
    if code not in LANGUAGES:
        return [code]
    flores = LANGUAGES[code][1]
    return list(dict.fromkeys([code, flores, flores[:3], MACROLANGUAGES.get(code, flores[:3])]))


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


def normalise_text(text: str) -> str:
    """Return a text's letters, their marks and digits, case folded: what is compared to find leaks and repetitions.

    Marks count: they are the vowels of Bengali and Telugu. Formatting characters, such as joiners, do not.

    >>> normalised("Who's  there?") == normalised("who s there")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_COMPARED).split())


class _Compared(dict[int, str | None]):
    """What each character counts as: itself, a space or nothing; filled as characters come."""

    def __missing__(self, code: int) -> str | None:
        kind = unicodedata.category(chr(code))
        self[code] = found = chr(code) if kind[0] in "LMN" else None if kind == "Cf" else " "
        return found


_COMPARED = _Compared()
