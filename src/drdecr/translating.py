"""Translate a data set's questions and sentences, with provenance, into a dataset that recipes and tests read."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets

from drdecr.data.formats import read_texts
from drdecr.data.schema import PARALLEL_COLUMNS, QuestionSet, joined_passages
from drdecr.data.sources import read_parallel, read_questions
from drdecr.data.translation import Engine, Translation, Translator
from drdecr.data.translation_apertium import ApertiumTranslator
from drdecr.data.translation_filters import TranslationFilters, keep_translations
from drdecr.data.translation_models import ChatTranslator, Seq2SeqTranslator
from drdecr.data.translation_store import StoredTranslator

from .recipe import parse_overrides, read_yaml
from .settings import check_values, known_keys
from .step_card import is_step_done, shown, write_step
from .step_inputs import input_digests

logger = logging.getLogger(__name__)

ENGINES: dict[str, Any] = {"apertium": ApertiumTranslator, "seq2seq": Seq2SeqTranslator, "chat": ChatTranslator}


@dataclass
class TranslationSettings:
    """What is translated, by whom, and what is kept.

    Args:
        questions: entries of question sets (`drdecr.data.sources`).
        parallel: entries of parallel text; its English is replaced, or with another `target` translated.
        texts: entries of text without English: `{path, column, language}` of JSON Lines.
        target: `en` (default): `query` is translated, and becomes `english`. Another language: `english` (of English sets
            `query`) is translated, and becomes `query`.
        engine: `apertium`, `seq2seq` or `chat`.
        model: its checkpoint, of the last two.
        options: more arguments of the engine (`drdecr.data.translation_apertium`, `translation_models`): `num_beams`,
            `dtype`, `codes` ...
        store: SQLite file in which translations are kept; default: `OUTPUT.sqlite3` beside the output.
        min_score: see `drdecr.data.translation_filters.TranslationFilters`, as the next two.
        length_factor: see there.
        min_round_trip: see there.
        back_model: checkpoint that translates back, if the model is of one direction; default: the same.
    """

    questions: list[dict[str, Any]] = field(default_factory=list)
    parallel: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)
    target: str = "en"
    engine: str = "seq2seq"
    model: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    store: str | None = None
    min_score: float | None = None
    length_factor: float | None = None
    min_round_trip: float | None = None
    back_model: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        if self.engine not in ENGINES:
            raise ValueError(f"engine: expected one of {', '.join(ENGINES)}, got {self.engine!r}.")
        if (self.engine == "apertium") == bool(self.model):
            raise ValueError(
                f"model: expected a checkpoint for seq2seq and chat, and none for apertium, got {self.model!r}."
            )
        if not (self.questions or self.parallel or self.texts):
            raise ValueError("Expected `questions`, `parallel` or `texts` to translate, got none.")

    @property
    def filters(self) -> TranslationFilters:
        """What a translation must have."""
        return TranslationFilters(self.min_score, self.length_factor, self.min_round_trip)


def load_translation(path: Path, overrides: list[str]) -> TranslationSettings:
    """Read the settings from YAML and apply `--key value` overrides."""
    content = {**read_yaml(path), **parse_overrides(overrides)}
    known_keys(content, list(TranslationSettings.__dataclass_fields__), str(path))
    check_values(content, TranslationSettings, str(path))
    return TranslationSettings(**content)


def load_translator(settings: TranslationSettings, store: Path, model: str | None = None) -> Translator:
    """Return the engine that the settings name, in front of it the store; `model` takes the place of theirs."""
    name = model or settings.model
    options = dict(settings.options)
    if name:
        options = {"name": name, "device": torch.accelerator.current_accelerator() or "cpu", **options}
    try:
        engine = ENGINES[settings.engine](**options)
    except TypeError as error:
        raise ValueError(f"options: {error}. See `{ENGINES[settings.engine].__name__}` for what there is.") from error
    return StoredTranslator(engine, store)


def translate(settings: TranslationSettings, output: Path, license: str | None = None) -> Path:
    """Write translated sets as a dataset: `questions` with their `passages`, and `parallel`.

    Every row says who translated it: `translation_engine`, `translation_revision`, `translation_parameters`,
    `translation_score`. English that was there is kept as `human_english`.

    Args:
        settings: what is translated, by whom, and what is kept.
        output: folder that is written whole or not at all; left alone if it was made with the same settings and from
            the same files. What was translated before a kill is read back from the store.
        license: of the whole, for the card.

    Returns:
        The output folder.
    """
    inputs = input_digests(
        {name: getattr(settings, name) for name in ("questions", "parallel", "texts")},
        {"model": settings.model, "back_model": settings.back_model},
    )
    if is_step_done(output, asdict(settings), inputs):
        logger.warning("%s is translated already.", output)
        return output
    store = Path(settings.store) if settings.store else output.with_name(f"{output.name}.sqlite3")
    translator = load_translator(settings, store)
    back = None
    if settings.min_round_trip is not None:
        back = load_translator(settings, store, settings.back_model) if settings.back_model else translator
    counts: dict[str, int] = {}
    configs: dict[str, dict[str, Dataset]] = {}
    sets = [read_questions(entry) for entry in settings.questions]
    if sets:
        rows, passages = _joined(sets)
        configs["questions"] = {"train": _translated(rows, settings, translator, back, counts)}
        documents = {"document_id": list(passages), "text": list(passages.values())}
        configs["passages"] = {"train": Dataset.from_dict(documents)}
    pairs = [read_parallel(settings.parallel)] if settings.parallel else []
    pairs += [_texts(entry) for entry in settings.texts]
    if pairs:
        configs["parallel"] = {"train": _translated(concatenate_datasets(pairs), settings, translator, back, counts)}
    engine = translator.engine
    note = f"Translated into {settings.target} by `{Path(engine.name).name}`. Its score: {engine.score}."
    facts = {"settings": asdict(settings), "inputs": inputs, "engine": asdict(engine)}
    write_step(output, configs, "Translated sets", note, facts, counts, license)
    return output


def _translated(
    rows: Dataset,
    settings: TranslationSettings,
    translator: Translator,
    back: Translator | None,
    counts: dict[str, int],
) -> Dataset:
    """Translate rows language by language, drop what the filters refuse, and add the columns."""
    into_english = settings.target == "en"
    if not into_english and "english" not in rows.column_names:
        rows = rows.add_column("english", rows["query"])  # an English set
    column = "query" if into_english else "english"
    languages = rows["language"][:] if into_english else ["en"] * len(rows)
    texts = rows[column][:]
    done: list[Translation] = [Translation(text) for text in texts]
    kept = [True] * len(rows)
    for language in dict.fromkeys(languages):
        if language == settings.target:
            continue
        places = [place for place, code in enumerate(languages) if code == language]
        asked = [texts[place] for place in places]
        found = translator.translate(asked, language, settings.target)
        keep, counted = keep_translations(asked, found, settings.filters, language, settings.target, back)
        for name, number in counted.items():
            counts[f"{language}: {name}"] = counts.get(f"{language}: {name}", 0) + number
        for place, translation, is_kept in zip(places, found, keep, strict=True):
            done[place], kept[place] = translation, is_kept
    rows = _with_translations(rows, done, settings.target, translator.engine, languages)
    return rows.select([place for place, is_kept in enumerate(kept) if is_kept])


def _with_translations(
    rows: Dataset, done: list[Translation], target: str, engine: Engine, languages: list[str]
) -> Dataset:
    into = "english" if target == "en" else "query"
    columns: dict[str, list[Any]] = {into: [found.text for found in done]}
    if target != "en":
        columns["language"] = [target] * len(rows)
    elif "english" in rows.column_names:
        columns["human_english"] = rows["english"][:]
    own = [language != target for language in languages]
    values: Mapping[str, Any] = {
        "translation_engine": shown(engine.name),
        "translation_revision": engine.revision,
        "translation_parameters": json.dumps(shown(engine.parameters), ensure_ascii=False, sort_keys=True),
    }
    columns |= {name: [value if is_own else None for is_own in own] for name, value in values.items()}
    columns["translation_score"] = [found.score for found in done]
    for name, column in columns.items():
        rows = rows.remove_columns(name) if name in rows.column_names else rows
        rows = rows.add_column(name, column)
    return rows


def _joined(sets: list[QuestionSet]) -> tuple[Dataset, dict[str, str]]:
    """Join question sets by the columns that all have."""
    common = [name for name in sets[0].questions.column_names if all(name in s.questions.column_names for s in sets)]
    return concatenate_datasets([found.questions.select_columns(common) for found in sets]), joined_passages(sets)


def _texts(entry: Mapping[str, Any]) -> Dataset:
    """Read texts of one language; each stands for its own English until it is translated."""
    known_keys(entry, ["path", "column", "language"], "texts")
    missing = next((name for name in ("path", "language") if not entry.get(name)), None)
    if missing is not None:
        raise ValueError(f"texts: expected `path` and `language`, got no {missing!r} in {dict(entry)}.")
    texts = read_texts(entry["path"], entry.get("column", "question"))
    columns = {"query": texts, "english": texts, "language": [entry["language"]] * len(texts)}
    return Dataset.from_dict(columns).select_columns(list(PARALLEL_COLUMNS))
