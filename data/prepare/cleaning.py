"""Why a row of parallel text or a question is not trained on: one reason a row, so that the counts add up. Pure functions."""

import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from datasets import Dataset

from drdecr.data.languages import normalise_text, script_share

from .leakage import HeldOutTexts

REASONS: Mapping[str, str] = {
    "blank": "no text in one of the languages",
    "control_characters": "control characters, or what a wrong decoding leaves",
    "no_letters": "no letters",
    "untranslated": "the English text in the place of the other language's",
    "length_ratio": "one text much longer than the other",
    "script": "mostly another script than the language's",
    "language": "another language, says language identification, than the one in whose place it stands",
    "held_out": "stands in a set that is measured on",
    "overlap": "nearly stands in a set that is measured on",
    "not_sampled": "outside the share that was asked for",
    "repeated": "repeats an earlier row",
}
"""Why rows go, in the order in which they are looked for."""


@dataclass(frozen=True)
class CleaningSettings:
    """How strict the checks are.

    Args:
        min_script_share: of a text's letters that are in its language's script (default 0.5: a name or two in another one is
            usual).
        max_length_ratio: of the longer text to the shorter one, in letters, those of Chinese, Japanese and Korean counted
            thrice (default 4). Of 62,832 pairs that people translated (XOR-TyDi questions, NTREX) it drops 19.
        free_length: texts of up to this many letters may have any ratio (default 20).
        identify_language: also drop rows of which language identification takes either text for another language than it should
            be (default False; needs `drdecr[language]`). A language that it does not know is not judged. It takes about a
            millisecond a text.

    Raises:
        ValueError: for a number outside its range.
    """

    min_script_share: float = 0.5
    max_length_ratio: float = 4.0
    free_length: int = 20
    identify_language: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.min_script_share <= 1:
            raise ValueError(f"min_script_share: expected a share from 0 to 1, got {self.min_script_share}.")
        if self.max_length_ratio < 1 or self.free_length < 0:
            raise ValueError(
                f"Expected max_length_ratio from 1 and free_length from 0 up, got {self.max_length_ratio} and "
                f"{self.free_length}. Correct them in `cleaning`."
            )


def drop_reason(row: Mapping[str, Any], settings: CleaningSettings, held_out: HeldOutTexts) -> str | None:
    """Return why a row must go, a key of `REASONS`, or None.

    Args:
        row: with `query`, `language` and perhaps `english`.
        settings: how strict.
        held_out: texts of every set that is measured on.
    """
    query, english, language = row["query"], row.get("english"), row["language"]
    texts = [query] if english is None else [query, english]
    if not all(text.strip() for text in texts):
        return "blank"
    if any(_GARBLED.search(text) for text in texts):
        return "control_characters"
    keys = [_normalised(text) for text in texts]
    if not all(any(map(str.isalpha, key)) for key in keys):
        return "no_letters"
    if english is not None and language != "en":
        if keys[0] == keys[1]:
            return "untranslated"
        reason = _pair_reason(query, english, settings)
        if reason is not None:
            return reason
    for text, code in ((query, language), (english, "en")):
        share = None if text is None else script_share(text, code)
        if share is not None and share < settings.min_script_share:
            return "script"
    if settings.identify_language and (
        _is_of_another(query, language) or (english is not None and _is_of_another(english, "en"))
    ):
        return "language"
    return next((leak for leak in map(held_out.leak_of, keys) if leak is not None), None)


KEY_COLUMNS = ("query", "english", "document_ids", "irrelevant_ids")
"""What tells rows apart: the rows of one question differ by their candidates."""


def row_key(row: Mapping[str, Any]) -> int:
    """Return 64 bits that are equal for rows with the same normalised texts and, where they name some, the same passages.

    Two among 100 million different rows share them by accident with a probability of 1 in 3,700.
    """
    texts = [_normalised(row["query"]), _normalised(row.get("english") or "")]
    return text_key("\n".join([*texts, *(row.get("document_ids") or ()), *(row.get("irrelevant_ids") or ())]))


def text_key(text: str) -> int:
    """Return 64 bits that are equal for equal texts, as a signed number."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True
    )


_normalised = lru_cache(maxsize=4096)(normalise_text)  # a row's texts are compared, then counted


def _pair_reason(query: str, english: str, settings: CleaningSettings) -> str | None:
    short, long = sorted((sum(map(_LETTERS.__getitem__, query)), sum(map(_LETTERS.__getitem__, english))))
    return "length_ratio" if long > settings.free_length and long > settings.max_length_ratio * short else None


class _Letters(dict[str, int]):
    """How many letters a character counts for; filled as characters come."""

    def __missing__(self, character: str) -> int:
        is_counted = unicodedata.category(character)[0] in "LN"
        self[character] = found = 0 if not is_counted else 3 if unicodedata.east_asian_width(character) in "WF" else 1
        return found


_LETTERS = _Letters()

_GARBLED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\ufffd\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)
"""Control characters but tab and line end, halves of surrogate pairs, private characters, and U+FFFD."""


_LEAD = 10.0
"""By how much, as a logarithm of probability, another language must lead: short texts lie between several.

Of 500 texts each in eleven languages at most 1 in 100 goes; of texts in another language's place at least 95 in 100 do (a test
on real data).
"""

_KIN: Mapping[str, tuple[str, ...]] = {
    "ar": ("ary", "arz"),
    "ku": ("sdh",),
    "ms": ("id",),
    "nn": ("no",),
    "no": ("nn",),
    "uz": ("uzs",),
    "zh": ("wuu", "yue"),
}
"""Varieties that a language's code stands for too, or is written like; ISO 639-3 calls most of them its members."""

_NO_LANGUAGE = "zxx"


def _is_of_another(text: str, language: str) -> bool:
    try:
        from py3langid import rank
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('`identify_language` needs its library: `pip install "drdecr[language]"`.') from error
    scores = dict(rank(text))
    code = language.replace("_", "-").partition("-")[0]
    if code not in scores:
        return False
    own = {code, _NO_LANGUAGE, *_KIN.get(code, ())}
    return max(score for name, score in scores.items() if name not in own) - scores[code] > _LEAD


logger = logging.getLogger(__name__)


def drop_repeated(dataset: Dataset, name: str) -> Dataset:
    """Keep the first of rows with the same texts and, where they name some, the same passages; say how many went."""
    columns = [column for column in KEY_COLUMNS if column in dataset.column_names]
    seen: set[int] = set()
    keep = []
    for index, values in enumerate(zip(*(dataset[column][:] for column in columns), strict=True)):
        key = row_key(dict(zip(columns, values, strict=True)))
        if key not in seen:
            seen.add(key)
            keep.append(index)
    return _kept(dataset, keep, name, "repeated rows")


def drop_leaks(dataset: Dataset, held_out: Iterable[str], name: str) -> Dataset:
    """Drop rows whose question or English text stands, normalised, among held-out texts; say how many went.

    Args:
        dataset: rows with `query` and perhaps `english`.
        held_out: questions of every set that is measured on.
        name: of the training set, for the log.
    """
    forbidden = {normalise_text(text) for text in held_out}
    columns = [column for column in ("query", "english") if column in dataset.column_names]
    batches = dataset.select_columns(columns).iter(1_000)  # whole columns of a large set would fill memory
    rows = (values for batch in batches for values in zip(*(batch[column] for column in columns), strict=True))
    leaks = {
        index
        for index, texts in enumerate(rows)
        if any(text is not None and normalise_text(text) in forbidden for text in texts)
    }
    return _kept(dataset, [i for i in range(len(dataset)) if i not in leaks], name, "rows that stand in a held-out set")


def _kept(dataset: Dataset, keep: list[int], name: str, reason: str) -> Dataset:
    dropped = len(dataset) - len(keep)
    if dropped:
        logger.warning("%s: dropped %d of %d rows: %s.", name, dropped, len(dataset), reason)
        return dataset.select(keep)
    return dataset


def log_row_counts(name: str, cleaning: Mapping[str, int], num_trained_on: int, num_dev: int) -> None:
    """Say what became of a set's rows, as a warning where more than a tenth was dropped.

    Args:
        name: of the set.
        cleaning: rows `read`, dropped by reason, and `kept`.
        num_trained_on: rows that are trained on.
        num_dev: rows that are set apart, to evaluate the loss terms on.
    """
    reasons = {reason: count for reason, count in cleaning.items() if reason not in ("read", "kept") and count}
    num_dropped = cleaning["read"] - cleaning["kept"]
    num_english = num_trained_on + num_dev - cleaning["kept"]
    parts = [f"{cleaning['read']:,} rows read"]
    parts += [f"{count:,} dropped ({reason.replace('_', ' ')})" for reason, count in reasons.items()]
    parts += [f"{num_english:,} added in English"] * (num_english > 0)
    parts += [f"{num_dev:,} set apart for evaluation"] * (num_dev > 0)
    text = f"{name}: {', '.join(parts)}, {num_trained_on:,} trained on."
    if num_dropped > cleaning["read"] / 10:
        logger.warning("%s MORE THAN A TENTH IS DROPPED: look at the data.", text)
    else:
        logger.info("%s", text)
