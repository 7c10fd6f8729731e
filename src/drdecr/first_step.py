"""The options `--translate-from` and `--translator`: questions are translated to English before they are asked."""

from dataclasses import dataclass

from .systems import SearchSystem, Translator, TwoStepSystem

APERTIUM = "apertium"


@dataclass(frozen=True)
class FirstStep:
    """What questions are translated by, and from.

    Args:
        translator: to English.
        source: language of the questions.
    """

    translator: Translator
    source: str

    def english(self, question: str) -> str:
        """Translate one question; an empty text where there is no translation."""
        (translation,) = self.translator.translate([question], self.source, "en")
        return translation.text.strip()


def open_first_step(translate_from: str | None, translator: str | None) -> FirstStep | None:
    """Open a translator as a command names it.

    Args:
        translate_from: code of the questions' language, such as `fi`.
        translator: `apertium`, or a sequence-to-sequence model: a folder or Hub name. More settings of it are for
            `drdecr compare-systems`, or for Python: both take what `translating.make_translator` makes.

    Returns:
        The first step; None where nothing is to be translated.

    Raises:
        ImportError: for a program that is not installed.
        ValueError: for one of both without the other, or a language that the translator does not know.
    """
    if translate_from is None and translator is None:
        return None
    if not translate_from:
        raise ValueError(
            "--translator: expected the language that the questions are in, got none. Name it: --translate-from fi."
        )
    if not translator:
        raise ValueError(
            "--translate-from: expected what translates, got nothing. Name it: --translator apertium, or a model."
        )
    from .translating import make_translator  # all that reads and writes training sets: not for a search without

    entry = {"engine": APERTIUM} if translator == APERTIUM else {"engine": "seq2seq", "model": translator}
    made = make_translator(entry)
    made.translate([], translate_from, "en")  # a language that it lacks is said now, not at the first question
    return FirstStep(made, translate_from)


def with_first_step(system: SearchSystem, first: FirstStep | None) -> SearchSystem:
    """Return a system that translates what it is asked; without a first step the same."""
    return system if first is None else TwoStepSystem(first.translator, system, first.source)
