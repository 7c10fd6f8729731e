"""Rows and what an engine made of them, part by part: first translated, then judged by what is usual in their language."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

import pyarrow as pa
from datasets import Features, Value
from nltk.translate.chrf_score import sentence_chrf

from drdecr.data.provenance import redact_paths
from drdecr.data.row_parts import RowParts
from drdecr.data.step_work import StepWork

from .translation import Translation, Translator, translate_questions

_TEXT = Value("string")
_MADE = {"_text": _TEXT, "_score": Value("float64"), "_is_cut": Value("bool")}
CUT = "cut off before it was translated"


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


class RowTranslator:
    """How rows of a step are translated.

    Args:
        work: of the step.
        translator: into the target, and
        back: from it, for `min_round_trip`.
        filters: what a translation must have.
        target: `en`: `query` is translated, and becomes `english`; else `english`, which becomes `query`.
        rows_a_shard: rows of a part, and in memory.
    """

    def __init__(
        self,
        work: StepWork,
        translator: Translator,
        back: Translator | None,
        filters: TranslationFilters,
        target: str,
        rows_a_shard: int,
    ) -> None:
        self.work, self.translator, self.back, self.filters = work, translator, back, filters
        self.target, self.rows_a_shard = target, rows_a_shard
        self.reads, self.makes = ("query", "english") if target == "en" else ("english", "query")

    def make(
        self, name: str, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Any], counts: Counter[str]
    ) -> RowParts:
        """Translate rows, and drop what the filters refuse.

        Args:
            name: of the configuration.
            rows: read once, as a stream.
            columns: their features.
            counts: what was counted is added to it, by language.

        Returns:
            The rows with their translation and who made it.
        """
        translated = self._translated(name, rows, columns)
        usual = self._usual_lengths(translated)
        parts = self.work.parts(name, Features(self._columns(columns)).arrow_schema)
        for table in translated.tables(len(parts.records)):
            kept, counted = self._judged(table.to_pylist(), columns, usual)
            parts.write(pa.Table.from_pylist(kept, parts.schema), table.num_rows, counted)
        parts.complete()
        counts.update(parts.counts())
        return parts

    def _translated(self, name: str, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Any]) -> RowParts:
        parts = self.work.parts(f"{name}.translated", Features({**columns, **_MADE}).arrow_schema)
        stream = iter(()) if parts.is_complete else islice(iter(rows), parts.taken, None)
        while batch := [dict(row) for row in islice(stream, self.rows_a_shard)]:
            texts = [self._source_text(row) for row in batch]
            languages = [self._source_language(row) for row in batch]
            found = translate_questions(self.translator, texts, languages, self.target)
            for row, translation in zip(batch, found, strict=True):
                row |= {"_text": translation.text, "_score": translation.score, "_is_cut": translation.is_cut}
            parts.write(pa.Table.from_pylist(batch, parts.schema), len(batch))
        parts.complete()
        return parts

    def _usual_lengths(self, translated: RowParts) -> dict[str, float]:
        """Return what is usual in each language; eight bytes a row, and only where it is asked for."""
        if self.filters.length_factor is None:
            return {}
        ratios: dict[str, array[float]] = {}
        for table in translated.tables():
            for language, rows in self._by_language(table.to_pylist()):
                texts = [self._source_text(row) for row in rows]
                own = ratios.setdefault(language, array("d"))
                own.extend(length_ratios(texts, [row["_text"] for row in rows]))
        return {language: usual_length(own) for language, own in ratios.items()}

    def _judged(
        self, rows: list[dict[str, Any]], columns: Mapping[str, Any], usual: Mapping[str, float]
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        counts: Counter[str] = Counter()
        dropped: set[int] = set()
        for language, own in self._by_language(rows):
            texts = [self._source_text(row) for row in own]
            made = [Translation(row["_text"], row["_score"], row["_is_cut"]) for row in own]
            keep, counted = accept_translations(
                texts, made, self.filters, language, self.target, self.back, usual.get(language, 1.0)
            )
            counts.update({f"{language}: {name}": number for name, number in counted.items()})
            counts.update({f"{language}: {CUT}": sum(found.is_cut for found in made)})
            dropped |= {id(row) for row, is_kept in zip(own, keep, strict=True) if not is_kept}
        return [self._finished(row, columns) for row in rows if id(row) not in dropped], counts

    def _finished(self, row: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        engine = self.translator.engine
        done = {name: row[name] for name in columns}
        if self.target == "en" and "english" in columns:
            done["human_english"] = row["english"]
        if self.target != "en":
            done |= {"language": self.target, "english": self._source_text(row)}
        done[self.makes] = row["_text"]
        if self._source_language(row) != self.target:
            done["translation_engine"] = redact_paths(engine.name)
            done["translation_revision"] = engine.revision
            parameters = redact_paths(engine.parameters)
            done["translation_parameters"] = json.dumps(parameters, ensure_ascii=False, sort_keys=True)
            done["translation_score"] = row["_score"]
        return done

    def _columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        added = {"human_english": _TEXT} if self.target == "en" and "english" in columns else {}
        engine = {f"translation_{name}": _TEXT for name in ("engine", "revision", "parameters")}
        return {**columns, "english": _TEXT, **added, **engine, "translation_score": Value("float64")}

    def _by_language(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the rows of each language that is translated."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(self._source_language(row), []).append(row)
        return ((language, own) for language, own in found.items() if language != self.target)

    def _source_text(self, row: Mapping[str, Any]) -> str:
        if self.target == "en" or row.get("english"):
            return row[self.reads]
        if row["language"] != "en":
            raise ValueError(
                f"{row.get('query_id', 'parallel text')}: expected English to translate into {self.target!r}, got a question in "
                f"{row['language']!r} without a text in `english`. Translate it into English first."
            )
        return row["query"]

    def _source_language(self, row: Mapping[str, Any]) -> str:
        return row["language"] if self.target == "en" else "en"


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
    ratios = length_ratios(texts, [found.text for found in translations])
    usual = usual_length(ratios) if usual is None else usual
    why = [_reason(found, ratio / usual, filters) for found, ratio in zip(translations, ratios, strict=True)]
    if filters.min_round_trip is not None and back is not None:
        places = [place for place, reason in enumerate(why) if reason is None]
        returned = back.translate([translations[place].text for place in places], target, source)
        for place, found in zip(places, returned, strict=True):
            if round_trip(texts[place], found.text) < filters.min_round_trip:
                why[place] = REASONS[3]
    counted = Counter(why)
    counts = {"read": len(texts), **{reason: counted[reason] for reason in REASONS}, "kept": counted[None]}
    return [reason is None for reason in why], counts


def length_ratios(texts: Iterable[str], translations: Iterable[str]) -> list[float]:
    """Return characters of each translation for a character of its text."""
    return [len(found) / max(len(text), 1) for text, found in zip(texts, translations, strict=True)]


def usual_length(ratios: Iterable[float]) -> float:
    """Return the median of the ratios of translations that are not empty; 1 if there are none."""
    return median([ratio for ratio in ratios if ratio > 0] or [1.0])


def round_trip(text: str, returned: str) -> float:
    """Return chrF of a text that went there and back, 0 to 1; case does not count."""
    if not text.strip() or not returned.strip():
        return 0.0
    return float(sentence_chrf(text.casefold(), returned.casefold(), max_len=min(6, len(text), len(returned))))


def _reason(found: Translation, length: float, filters: TranslationFilters) -> str | None:
    if not found.text.strip():
        return REASONS[0]
    if filters.min_score is not None and (found.score is None or found.score < filters.min_score):
        return REASONS[1]
    factor = filters.length_factor
    return REASONS[2] if factor is not None and not 1 / factor <= length <= factor else None
