"""Translate a data set's questions and sentences, with provenance, into a dataset that recipes and tests read."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drdecr.data.cards import write_step
from drdecr.data.passages import merge_passages
from drdecr.data.row_parts import RowParts
from drdecr.data.schema import PARALLEL_COLUMNS, check_query_ids
from drdecr.data.sources import input_digests, read_questions
from drdecr.data.step_work import StepWork, run_step

from .step_rows import TEXTS, joined_columns, pair_rows, passage_parts, question_rows
from .translated_rows import RowTranslator, TranslationFilters
from .translation import Translator
from .translation_store import StoredTranslator
from .translators import ENGINES, make_translator


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
        options: more arguments of the engine (`drdecr.data.teacher.apertium`, `translation_models`): `num_beams`,
            `dtype`, `codes` ...
        store: SQLite file in which translations are kept; default: `OUTPUT.sqlite3` beside the output.
        min_score: see `drdecr.data.teacher.translated_rows.TranslationFilters`, as the next two.
        length_factor: see there.
        min_round_trip: see there.
        back_model: checkpoint that translates back, if the model is of one direction; default: the same.
        rows_a_shard: rows a file of the output, and in memory (default 10,000).
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
    rows_a_shard: int = 10_000

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
        if self.rows_a_shard < 1:
            raise ValueError(
                f"rows_a_shard: expected at least 1, got {self.rows_a_shard}. Leave it out for the default."
            )
        self.filters  # noqa: B018 - checks the numbers

    @property
    def filters(self) -> TranslationFilters:
        """What a translation must have."""
        return TranslationFilters(self.min_score, self.length_factor, self.min_round_trip)


def load_translator(settings: TranslationSettings, store: Path, model: str | None = None) -> Translator:
    """Return the engine that the settings name, in front of it the store; `model` takes the place of theirs."""
    entry = {"engine": settings.engine, "model": model or settings.model, "options": settings.options}
    return StoredTranslator(make_translator(entry), store)


def translate(settings: TranslationSettings, output: Path, license: str | None = None) -> Path:
    """Write translated sets as a dataset: `questions` with their `passages`, and `parallel`.

    Every row says who translated it: `translation_engine`, `translation_revision`, `translation_parameters`,
    `translation_score`. English that was there is kept as `human_english`.

    Args:
        settings: what is translated, by whom, and what is kept.
        output: folder that is written whole or not at all; left alone if it was made with the same settings and from
            the same files. Until it is done `OUTPUT.parts` stands beside it, from which a killed call goes on; what was
            translated before is read back from the store.
        license: of the whole, for the card.

    Returns:
        The output folder.
    """
    inputs = input_digests(
        {name: getattr(settings, name) for name in ("questions", "parallel", "texts")},
        {"model": settings.model, "back_model": settings.back_model},
    )
    return run_step(output, asdict(settings), inputs, lambda work: _translate(settings, work, license))


def _translate(settings: TranslationSettings, work: StepWork, license: str | None) -> None:
    store = Path(settings.store) if settings.store else work.output.with_name(f"{work.output.name}.sqlite3")
    translator = load_translator(settings, store)
    back = None
    if settings.min_round_trip is not None:
        back = load_translator(settings, store, settings.back_model) if settings.back_model else translator
    translating = RowTranslator(work, translator, back, settings.filters, settings.target, settings.rows_a_shard)
    counts: Counter[str] = Counter()
    configs: dict[str, dict[str, RowParts]] = {}
    sets = [read_questions(entry) for entry in settings.questions]
    check_query_ids(sets)  # what is written is one set
    if sets:
        columns = joined_columns(sets)
        configs["questions"] = {"train": translating.make("questions", question_rows(sets, columns), columns, counts)}
        configs["passages"] = {"train": passage_parts(work, merge_passages(sets))}
    if settings.parallel or settings.texts:
        rows = pair_rows(settings.parallel, settings.texts)
        pairs = translating.make("parallel", rows, dict.fromkeys(PARALLEL_COLUMNS, TEXTS), counts)
        configs["parallel"] = {"train": pairs}
    if not any(len(splits["train"]) for name, splits in configs.items() if name != "passages"):
        work.remove()
        raise ValueError(f"Expected rows, got none: {dict(counts)}. Ask less of a translation, or look at the texts.")
    engine = translator.engine
    note = f"Translated into {settings.target} by `{Path(engine.name).name}`. Its score: {engine.score}."
    facts = {**work.facts, "engine": asdict(engine)}
    write_step(work.output, configs, "Translated sets", note, facts, dict(counts), license)
