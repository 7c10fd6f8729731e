"""What a translation must have to be taken: a score, a length that is usual in its language, a way back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from nltk.translate.chrf_score import sentence_chrf

from .translation_store import Translation, Translator


@dataclass(frozen=True)
class TranslationFilters:
    """What a translation must have. What is None is not asked for.

    Args:
        min_score: on the engine's own scale.
        length_factor: how many times longer or shorter than usual a translation may be, in characters for a character of the
            text. Usual is the median of the language: scripts differ (default None; 2 to 3 is common).
        min_round_trip: chrF, 0 to 1, of the text translated back with the text itself.

    Raises:
        ValueError: for a length factor below 1, which no length is within.
    """

    min_score: float | None = None
    length_factor: float | None = None
    min_round_trip: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.length_factor is not None and not self.length_factor >= 1:
            raise ValueError(
                f"length_factor: expected at least 1, 2 to 3 is common, got {self.length_factor}. Leave it out to allow any."
            )


REASONS = ("empty", "low score", "odd length", "lost on the way back")


def accept_translations(
    texts: Sequence[str],
    translations: Sequence[Translation],
    filters: TranslationFilters,
    source: str,
    target: str = "en",
    back: Translator | None = None,
    usual: float | None = None,
) -> tuple[list[bool], dict[str, int]]:
    """Decide about the translations of one language.

    Args:
        texts: that were translated.
        translations: of them.
        filters: what is asked for.
        source: the texts' language.
        target: the translations' language (default `en`).
        back: translates from target to source; needed for `min_round_trip`.
        usual: characters for a character that are usual, where these are some of the language's texts (`usual_length`);
            default: the median of these.

    Returns:
        Which are kept, and how many went for which of `REASONS`, the first that held, beside `read` and `kept`.

    Raises:
        ValueError: if translations are to be translated back and there is nobody to do it.
    """
    if filters.min_round_trip is not None and back is None:
        raise ValueError("min_round_trip: expected a translator for the way back, got none. Give one, or leave it out.")
    ratios = length_ratios(texts, [translation.text for translation in translations])
    usual = usual_length(ratios) if usual is None else usual
    reasons = [
        _reason(translation, ratio / usual, filters) for translation, ratio in zip(translations, ratios, strict=True)
    ]
    if filters.min_round_trip is not None and back is not None:
        places = [place for place, reason in enumerate(reasons) if reason is None]
        returned = back.translate([translations[place].text for place in places], target, source)
        for place, translation in zip(places, returned, strict=True):
            if round_trip(texts[place], translation.text) < filters.min_round_trip:
                reasons[place] = REASONS[3]
    counted = Counter(reasons)
    counts = {"read": len(texts), **{reason: counted[reason] for reason in REASONS}, "kept": counted[None]}
    return [reason is None for reason in reasons], counts


def length_ratios(texts: Iterable[str], translations: Iterable[str]) -> list[float]:
    """Return characters of each translation for a character of its text."""
    return [len(after) / max(len(text), 1) for text, after in zip(texts, translations, strict=True)]


def usual_length(ratios: Iterable[float]) -> float:
    """Return the median of the ratios of translations that are not empty; 1 if there are none."""
    return median([ratio for ratio in ratios if ratio > 0] or [1.0])


def round_trip(text: str, returned: str) -> float:
    """Return chrF of a text that went there and back, 0 to 1; case does not count."""
    if not text.strip() or not returned.strip():
        return 0.0
    return float(sentence_chrf(text.casefold(), returned.casefold(), max_len=min(6, len(text), len(returned))))


def _reason(translation: Translation, length: float, filters: TranslationFilters) -> str | None:
    if not translation.text.strip():
        return REASONS[0]
    if filters.min_score is not None and (translation.score is None or translation.score < filters.min_score):
        return REASONS[1]
    factor = filters.length_factor
    return REASONS[2] if factor is not None and not 1 / factor <= length <= factor else None
