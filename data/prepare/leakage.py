"""What is measured on and must not be trained on: found again word for word, or nearly so."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from drdecr.data.languages import normalise_text, words_of

OVERLAP_WORDS = 4
"""Length of the word sequences that are compared."""

OVERLAP_LEAST = 4
"""Held-out texts with fewer sequences are looked for as a whole only: "what is the capital" is the start of many questions."""

OVERLAP_SHARE = 0.8
"""A text that holds at least this share of a held-out text's sequences holds the text, give or take a word at its ends."""

COPIED_WORDS = 13
"""A run of this many words that also stands in a held-out text was copied; the length that GPT-3's report (2020) used."""

COPIED_LETTERS = 26
"""The same in scripts without spaces, where a word is a letter: two letters make some one word."""


class HeldOutTexts:
    """Texts of evaluation sets, looked up by what their words are.

    Args:
        texts: questions, and their English, of every set that is measured on.

    Example:
        >>> held_out = HeldOutTexts(["Who wrote the very first novel about Finland?"])
        >>> held_out.leak("who wrote the VERY first novel about Finland"), held_out.leak(
        ...     "Please: who wrote the very first novel about Lapland?")
        ('held_out', 'overlap')
        >>> held_out.leak("Who wrote the very first novel?") is None
        True
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._whole = {normalise_text(text) for text in texts} - {""}
        self._holders: dict[int, list[int]] = {}
        self._sizes: list[int] = []
        self._runs: set[int] = set()
        for place, text in enumerate(sorted(self._whole)):  # sorted: the same in every process
            words = words_of(text)
            sequences = set(_sequences(words, OVERLAP_WORDS))
            self._sizes.append(len(sequences))
            for sequence in sequences if len(sequences) >= OVERLAP_LEAST else ():
                self._holders.setdefault(sequence, []).append(place)
            self._runs.update(_sequences(words, _run_length(words, text)))

    def __len__(self) -> int:
        return len(self._whole)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as texts: a hash of strings means something in one process only."""
        return HeldOutTexts, (sorted(self._whole),)

    def leak(self, text: str) -> str | None:
        """Return `held_out` for a text that stands there, `overlap` for one that nearly does, None for any other."""
        return self.leak_of(normalise_text(text))

    def leak_of(self, normalised_text: str) -> str | None:
        """As `leak`, for a text that is normalised already."""
        if normalised_text in self._whole:
            return "held_out"
        words = words_of(normalised_text)
        holders: dict[int, int] = {}
        for sequence in set(_sequences(words, OVERLAP_WORDS)):
            for place in self._holders.get(sequence, ()):
                holders[place] = holders.get(place, 0) + 1
        if any(count >= OVERLAP_SHARE * self._sizes[place] for place, count in holders.items()):
            return "overlap"
        if holders and not self._runs.isdisjoint(_sequences(words, _run_length(words, normalised_text))):
            return "overlap"
        return None


class HeldOutPassages:
    """Passages of evaluation sets, of which a training collection may hold copies.

    They are counted, not dropped: questions name their passages. Memory holds eight bytes a run of words.

    Args:
        texts: the passages that evaluation questions are labelled with.

    Example:
        >>> text = "The lighthouse on the far northern island was built by three brothers before the war began."
        >>> held_out = HeldOutPassages([text])
        >>> held_out.leak(text.upper()), held_out.leak(f"It is said: {text}"), held_out.leak("The lighthouse was built.")
        ('held_out', 'overlap', None)
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted({normalise_text(text) for text in texts} - {""})
        self._whole = _in_order(map(hash, self._texts))
        self._runs = _in_order(run for text in self._texts for run in _runs(text))

    def __len__(self) -> int:
        return len(self._texts)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as texts, as `HeldOutTexts` does."""
        return HeldOutPassages, (self._texts,)

    def leak(self, text: str) -> str | None:
        """Return `held_out` for a passage that stands there, `overlap` for one that nearly does, None for any other.

        Nearly: 13 words in a row are the same, in scripts without spaces 26 letters.
        """
        if not self._texts:
            return None
        key = normalise_text(text)
        if _any_in(np.array([hash(key)], dtype=np.int64), self._whole):
            return "held_out"
        return "overlap" if _any_in(np.fromiter(_runs(key), dtype=np.int64), self._runs) else None


def _runs(text: str) -> Iterable[int]:
    words = words_of(text)
    return _sequences(words, _run_length(words, text))


def _in_order(numbers: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.unique(np.fromiter(numbers, dtype=np.int64))


def _any_in(numbers: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> bool:
    places = np.searchsorted(known, numbers)
    inside = places < len(known)
    return bool((known[places[inside]] == numbers[inside]).any())


def _sequences(words: list[str], length: int) -> Iterable[int]:
    # A hash of strings differs from process to process, but only equality within one counts.
    return (hash(tuple(words[start : start + length])) for start in range(len(words) - length + 1))


def _run_length(words: list[str], text: str) -> int:
    return COPIED_LETTERS if len(words) > 2 * len(text.split()) else COPIED_WORDS
