"""Translate a data set's questions and sentences, with provenance, into a dataset that recipes and tests read."""

import json
import logging
import shutil
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value

from drdecr.data.cards import is_step_done, write_step
from drdecr.data.passages import mapped_rows, merge_passages, passage_rows
from drdecr.data.provenance import redact_paths
from drdecr.data.readers.text import has_fields, locate, records_of
from drdecr.data.schema import BATCH, PARALLEL_COLUMNS, QUESTION_COLUMNS, QuestionSet, check_keys, check_query_ids
from drdecr.data.shards import (
    join_processes,
    map_in_shards,
    read_shards,
    remove_work,
    sum_counts,
    unfinished_work,
    with_counts,
)
from drdecr.data.sources import QUESTION_READERS, input_digests, open_stream, read_parallel, read_questions

from .translation_filters import TranslationFilters, accept_translations, length_ratios, usual_length
from .translation_store import StoredTranslator, Translation, Translator, translate_questions
from .translators import ENGINES, make_translator

logger = logging.getLogger(__name__)

TEXT = Value("string")

CUT = "cut off before it was translated"

_TRANSLATED = {"_text": TEXT, "_score": Value("float64"), "_is_cut": Value("bool")}
"""Columns of a translation that is not judged yet."""


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
        min_score: see `drdecr.data.teacher.translation_filters.TranslationFilters`, as the next two.
        length_factor: see there.
        min_round_trip: see there.
        back_model: checkpoint that translates back, if the model is of one direction; default: the same.
        rows_per_shard: rows a file of the output, and in memory (default 10,000).
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
    rows_per_shard: int = 10_000

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
        if self.rows_per_shard < 1:
            raise ValueError(
                f"rows_per_shard: expected at least 1, got {self.rows_per_shard}. Leave it out for the default."
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
    facts = {"settings": asdict(settings), "inputs": inputs}
    if is_step_done(output, facts["settings"], inputs):
        remove_work(output)
        return output
    state = join_processes()
    with unfinished_work(output, facts) as folder:
        store = Path(settings.store) if settings.store else output.with_name(f"{output.name}.sqlite3")
        translating = _load_row_translator(settings, store, folder)
        configs, counts = _translate_sets(settings, translating)
        if not any(len(splits["train"]) for name, splits in configs.items() if name != "passages"):
            shutil.rmtree(folder)
            raise ValueError(f"Expected rows, got none: {counts}. Ask less of a translation, or look at the texts.")
        if state.is_main_process:
            engine = translating.translator.engine
            note = f"Translated into {settings.target} by `{Path(engine.name).name}`. Its score: {engine.score}."
            facts["engine"] = asdict(engine)
            write_step(output, configs, "Translated sets", note, facts, counts, license)
    return output


def _load_row_translator(settings: TranslationSettings, store: Path, folder: Path) -> "RowTranslator":
    translator = load_translator(settings, store)
    back = None
    if settings.min_round_trip is not None:
        back = load_translator(settings, store, settings.back_model) if settings.back_model else translator
    return RowTranslator(folder, translator, back, settings.filters, settings.target, settings.rows_per_shard)


def _translate_sets(
    settings: TranslationSettings, translating: "RowTranslator"
) -> tuple[dict[str, dict[str, Dataset]], dict[str, int]]:
    """Return the configurations of the output, and what was counted."""
    counts: Counter[str] = Counter()
    configs: dict[str, dict[str, Dataset]] = {}
    sets = [read_questions(entry) for entry in settings.questions]
    check_query_ids(sets)  # what is written is one set
    if sets:
        columns = joined_columns(sets)
        configs["questions"] = {
            "train": translating.translate("questions", question_rows(sets, columns), columns, counts)
        }
        configs["passages"] = {"train": passage_rows(merge_passages(sets))}
    if settings.parallel or settings.texts:
        rows = pair_rows(settings.parallel, settings.texts)
        pairs = translating.translate("parallel", rows, dict.fromkeys(PARALLEL_COLUMNS, TEXT), counts)
        configs["parallel"] = {"train": pairs}
    return configs, dict(counts)


class RowTranslator:
    """How rows are translated.

    Args:
        folder: in which shards are kept until all is done.
        translator: into the target, and
        back: from it, for `min_round_trip`.
        filters: what a translation must have.
        target: `en`: `query` is translated, and becomes `english`; else `english`, which becomes `query`.
        rows_per_shard: rows of a shard, and in memory.
    """

    def __init__(
        self,
        folder: Path,
        translator: Translator,
        back: Translator | None,
        filters: TranslationFilters,
        target: str,
        rows_per_shard: int,
    ) -> None:
        self.folder, self.translator, self.back, self.filters = folder, translator, back, filters
        self.target, self.rows_per_shard = target, rows_per_shard
        self.reads, self.writes = ("query", "english") if target == "en" else ("english", "query")

    def translate(
        self, name: str, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Any], counts: Counter[str]
    ) -> Dataset:
        """Translate rows, and drop what the filters refuse.

        Args:
            name: of the configuration.
            rows: read once, as a stream.
            columns: their features.
            counts: what was counted is added to it, by language.

        Returns:
            The rows with their translation and who made it.
        """
        source = mapped_rows(lambda: rows, list(columns), name, Features(dict(columns)).arrow_schema)
        schema = Features({**columns, **_TRANSLATED}).arrow_schema

        def translate_part(part: range) -> pa.Table:
            return pa.Table.from_pylist(self._translated(source.select(part).to_list()), schema)

        folder = self.folder / f"{name}.translated"
        translated = map_in_shards(len(source), translate_part, folder, {}, self.rows_per_shard, "translating")
        usual = self._usual_lengths(translated)
        judged_schema = Features(self._columns(columns)).arrow_schema

        def judge_part(part: range) -> pa.Table:
            batch = pq.read_table(translated[part.start // self.rows_per_shard]).to_pylist()
            accepted, counted = self._judged(batch, columns, usual)
            return with_counts(pa.Table.from_pylist(accepted, judged_schema), counted)

        shards = map_in_shards(len(source), judge_part, self.folder / name, {}, self.rows_per_shard, "judging")
        counts.update(sum_counts(shards))
        return read_shards(shards)

    def _translated(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = [self._source_text(row) for row in rows]
        languages = [self._source_language(row) for row in rows]
        translations = translate_questions(self.translator, texts, languages, self.target)
        return [
            {**row, "_text": translation.text, "_score": translation.score, "_is_cut": translation.is_cut}
            for row, translation in zip(rows, translations, strict=True)
        ]

    def _usual_lengths(self, translated: Iterable[Path]) -> dict[str, float]:
        """Return what is usual in each language; eight bytes a row, and only where it is needed."""
        if self.filters.length_factor is None:
            return {}
        ratios: dict[str, array[float]] = {}
        for shard in translated:
            for language, rows in self._by_language(pq.read_table(shard).to_pylist()):
                texts = [self._source_text(row) for row in rows]
                lengths = length_ratios(texts, [row["_text"] for row in rows])
                ratios.setdefault(language, array("d")).extend(lengths)
        return {language: usual_length(lengths) for language, lengths in ratios.items()}

    def _judged(
        self, rows: list[dict[str, Any]], columns: Mapping[str, Any], usual: Mapping[str, float]
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        counts: Counter[str] = Counter()
        dropped: set[int] = set()
        for language, group in self._by_language(rows):
            texts = [self._source_text(row) for row in group]
            translations = [Translation(row["_text"], row["_score"], row["_is_cut"]) for row in group]
            accepted, counted = accept_translations(
                texts, translations, self.filters, language, self.target, self.back, usual.get(language, 1.0)
            )
            counts.update({f"{language}: {name}": number for name, number in counted.items()})
            counts.update({f"{language}: {CUT}": sum(translation.is_cut for translation in translations)})
            dropped |= {id(row) for row, is_accepted in zip(group, accepted, strict=True) if not is_accepted}
        return [self._finished(row, columns) for row in rows if id(row) not in dropped], counts

    def _finished(self, row: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
        engine = self.translator.engine
        done = {name: row[name] for name in columns}
        if self.target == "en" and "english" in columns:
            done["human_english"] = row["english"]
        if self.target != "en":
            done |= {"language": self.target, "english": self._source_text(row)}
        done[self.writes] = row["_text"]
        if self._source_language(row) != self.target:
            done["translation_engine"] = redact_paths(engine.name)
            done["translation_revision"] = engine.revision
            parameters = redact_paths(engine.parameters)
            done["translation_parameters"] = json.dumps(parameters, ensure_ascii=False, sort_keys=True)
            done["translation_score"] = row["_score"]
        return done

    def _columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        added = {"human_english": TEXT} if self.target == "en" and "english" in columns else {}
        engine = {f"translation_{name}": TEXT for name in ("engine", "revision", "parameters")}
        return {**columns, "english": TEXT, **added, **engine, "translation_score": Value("float64")}

    def _by_language(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the rows of each language that is translated."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(self._source_language(row), []).append(row)
        return ((language, group) for language, group in groups.items() if language != self.target)

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


def joined_columns(sets: Sequence[QuestionSet]) -> dict[str, Any]:
    """Return the columns that question sets have, with a feature that holds the values of all of them.

    One that two sets have in kinds that do not go together is left out, with a warning.
    """
    features: dict[str, list[Any]] = {}
    for question_set in sets:
        for name, feature in question_set.questions.features.items():
            features.setdefault(name, []).append(feature)
    joined = {name: _joined_feature(name, kinds) for name, kinds in features.items()}
    left = [name for name, feature in joined.items() if feature is None]
    if left:
        logger.warning("Left out, for the sets hold values of different kinds there: the columns %s.", ", ".join(left))
    return {name: feature for name, feature in joined.items() if feature is not None}


def _joined_feature(name: str, features: Sequence[Any]) -> Any:
    if all(feature == features[0] for feature in features):
        return features[0]
    schemas = [pa.schema([Features({name: feature}).type.field(name)]) for feature in features]
    try:
        return Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))[name]
    except pa.ArrowException:
        return features[0] if name in QUESTION_COLUMNS else None


def question_rows(sets: Sequence[QuestionSet], columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of question sets by these columns, None in those that a set lacks."""
    for question_set in sets:
        names = [name for name in columns if name in question_set.questions.column_names]
        for batch in question_set.questions.select_columns(names).iter(BATCH):
            for values in zip(*batch.values(), strict=True):
                yield dict.fromkeys(columns) | dict(zip(batch, values, strict=True))


def pair_rows(parallel: Iterable[Mapping[str, Any]], texts: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield parallel text, read row by row where the format allows it, and texts that stand for their own English.

    An entry with `limit`, which is spread over its rows, and one of questions are read whole.
    """
    for entry in parallel:
        if not isinstance(entry, Mapping) or entry.get("limit") is not None or entry.get("format") in QUESTION_READERS:
            for row in read_parallel([entry]):
                yield {name: row[name] for name in PARALLEL_COLUMNS}
            continue
        for number, (table, row) in enumerate(open_stream(entry), start=1):
            if table != "parallel":
                raise ValueError(f"parallel text: expected a format of sentences in pairs, got {dict(entry)}.")
            blank = next((name for name in PARALLEL_COLUMNS if not _is_text(row[name])), None)
            if blank is not None:
                raise ValueError(
                    f"{entry['format']}, row {number}: expected a text in {blank!r}, got {row[blank]!r}. Drop or fill the row."
                )
            yield {name: row[name] for name in PARALLEL_COLUMNS}
    for entry in texts:
        yield from _texts(entry)


def _texts(entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    check_keys(entry, ["path", "column", "language"], "texts")
    missing = next((name for name in ("path", "language") if not entry.get(name)), None)
    if missing is not None:
        raise ValueError(f"texts: expected `path` and `language`, got no {missing!r} in {dict(entry)}.")
    column = entry.get("column", "question")
    for number, record in records_of(locate(entry["path"])):
        text = has_fields(record, (column,), entry["path"], number)[column]
        if not isinstance(text, str):
            raise ValueError(
                f"{entry['path']}, line {number}: expected a text in {column!r}, got {text!r}. Put it in quotes, or drop the row."
            )
        yield {"query": text, "english": text, "language": entry["language"]}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
