"""Translation behind one interface: of training text, and as the teacher's first step when questions are searched."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Translation:
    """One translated text.

    Args:
        text: the translation; empty where the engine gave none.
        score: how sure the engine is, higher is better, on a scale of its own (`Engine`); None where it does not say.
        is_cut: whether the text was longer than the engine reads, so that its end is not translated (default False).
    """

    text: str
    score: float | None = None
    is_cut: bool = False


@dataclass(frozen=True)
class Engine:
    """What tells the translations of one engine from those of another: the key of what is kept, and its provenance.

    Args:
        name: of the model or program: a Hub name, a folder, `apertium`.
        revision: the model's commit, a digest of its files, or a program's version.
        parameters: whatever else changes a translation, such as `num_beams`; values that JSON can hold.
        score: what its scores mean.
    """

    name: str
    revision: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    score: str = "none"

    @property
    def key(self) -> str:
        """Name, revision and parameters in one line of JSON."""
        return json.dumps([self.name, self.revision, dict(self.parameters)], sort_keys=True, ensure_ascii=False)


class Translator(Protocol):
    """Anything that translates: `data/teacher/apertium.py`, `_seq2seq.py` and `_chat.py`, or one of your own."""

    @property
    def engine(self) -> Engine:
        """Which engine this is."""

    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        """Translate texts of one language.

        Args:
            texts: to be translated, each by itself.
            source: code of their language, as in `language` columns (`es`).
            target: code of the wanted language (default `en`).

        Returns:
            One translation a text, in the order of the texts.

        Raises:
            ValueError: for a language that the engine does not know.
        """


def translate_questions(
    translator: Translator, texts: Sequence[str], languages: Sequence[str], target: str = "en"
) -> list[Translation]:
    """Translate questions of several languages: the teacher's first step when it is asked in any of them.

    Args:
        translator: of every language but `target`.
        texts: the questions.
        languages: the language of each.
        target: code of the wanted language (default `en`); questions in it stay as they are, without a score.

    Returns:
        One translation a question, in their order.
    """
    places: dict[str, list[int]] = {}
    for place, (_, language) in enumerate(zip(texts, languages, strict=True)):
        places.setdefault(language, []).append(place)
    done = [Translation(text) for text in texts]
    for language, found in places.items():
        if language != target:
            translated = translator.translate([texts[place] for place in found], language, target)
            for place, translation in zip(found, translated, strict=True):
                done[place] = translation
    return done
