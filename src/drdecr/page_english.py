"""The English of a question on the page: a person's, as the sample data have it, or a translator's."""

from collections.abc import Mapping

from .first_step import FirstStep
from .page_answers import KnownQuestion, clean_question

KEPT = 1000
"""Translations that are remembered: those that may still stand in somebody's box."""


class EnglishOf:
    """Finds the English of questions.

    Args:
        known: questions of the sample by their text.
        first: translates all others (default None: their English is for people to write).
    """

    def __init__(self, known: Mapping[str, KnownQuestion], first: FirstStep | None = None) -> None:
        self.known, self.first = known, first
        self._by_people = {row.english for row in known.values()}
        self._translated: dict[str, str] = {}

    def __call__(self, question: str) -> str:
        """Return the English; an empty text where it is not known and nothing translates.

        Raises:
            ValueError: for what is no question (`clean_question`). A translator may raise anything else.
        """
        sample = self.known.get(question.strip())
        if sample is not None:
            return sample.english
        if self.first is None:
            return ""
        line = clean_question(question)
        if line not in self._translated:
            self._translated[line] = self.first.english(line)
            for oldest in list(self._translated)[:-KEPT]:
                self._translated.pop(oldest, None)
        return self._translated[line]

    def fill(self, question: str, english: str) -> str:
        """Return what the English box is to hold when a question is asked: what a person wrote there, or what is found.

        What was found for another question may stand there still, where it is asked before `follow` has answered.
        """
        english = english or ""  # a client of the API may send nothing
        if english.strip() and not self._was_filled_in(english):
            return english
        try:
            return self(question or "")
        except Exception:  # noqa: BLE001  # told by the answer, which asks for it too
            return ""

    def follow(self, question: str, english: str) -> str:
        """Return what it is to hold while a question is typed: what is known, and nothing that belonged to another one."""
        question, english = question or "", english or ""
        if question.strip() in self.known:
            return self.known[question.strip()].english
        return "" if self._was_filled_in(english) else english

    def _was_filled_in(self, english: str) -> bool:
        return english in self._by_people or self.is_translation(english)

    def is_translation(self, english: str) -> bool:
        """Return whether a text was made by the translator."""
        return bool(english) and english in list(self._translated.values())
