"""Language codes: ours (two letters, as in `language` columns), their English names, and how others write them."""

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
