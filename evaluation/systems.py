"""One step against two: quality, latency and cost of whole systems on the same questions and passages, in one table."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from drdecr.data.files import write_json_exactly, write_text
from drdecr.data.provenance import environment
from drdecr.data.schema import QuestionSet
from drdecr.data.sources import read_questions
from drdecr.data.teacher.translators import make_translator
from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import Hits
from drdecr.retrieval.encoder import load_encoder
from drdecr.retrieval.exact import InMemoryIndex
from drdecr.retrieval.protocol import Filter, PassageIndex
from drdecr.retrieval.retriever import (
    DirectRetriever,
    Retriever,
    TranslateTestRetriever,
    Translation,
    Translator,
    as_run,
)

from .evaluate import encode_passages, query_column
from .metrics import per_query_scores
from .results import BATCH, MEASURES, PARTS, ComparedSystems, compare, summarize
from .runs import check_words, file_names, ids_of, write_qrels, write_run
from .tables import logger, markdown_systems

DEPTH = 10
WARM_UP = 2


@dataclass(frozen=True)
class ComparedSystem:
    """A row of the table.

    Args:
        label: its name.
        model: checkpoint that reads the questions: a folder or Hub name.
        index: checkpoint that encoded the passages (default: the same).
        reads: column that is asked: `query` (default), or `english`, what a perfect translator would give.
        translator: for two steps: `engine` (apertium, seq2seq or chat), `model`, `options` as in `drdecr data translate`; perhaps
            `bytes`, its size on disk, of a program.
    """

    label: str
    model: str
    index: str | None = None
    reads: str = "query"
    translator: dict[str, Any] | None = None


@dataclass(frozen=True)
class SystemsSettings:
    """What is compared, on what.

    Args:
        systems: rows of the table; each is compared with the first.
        test: one entry of a question set, its questions in one language.
        collection: what is searched, in words.
        timed: questions that are asked one at a time, of each system in turn (default 50).
        price: of an hour of one processor core (default 0.04).
        currency: of the price.
    """

    systems: list[ComparedSystem]
    test: list[dict[str, Any]]
    collection: str
    timed: int = 50
    price: float = 0.04
    currency: str = "USD"

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        labels = [row.label for row in self.systems]
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise ValueError(
                f"systems: expected two or more with labels that differ, got {', '.join(labels) or 'none'}."
            )
        if len(self.test) != 1:
            raise ValueError(f"test: expected one question set, got {len(self.test)}. Compare on each by itself.")
        if self.timed < 1:
            raise ValueError(f"timed: expected at least 1, got {self.timed}.")
        if not 0 <= self.price < math.inf:
            raise ValueError(f"price: expected that of an hour of a core, got {self.price}. Write 0.04.")
        for row in self.systems:
            if row.translator is not None and not set(row.translator) - {"bytes"}:  # would be asked as one step
                raise ValueError(
                    f"{row.label}: expected `engine` or `model` under translator, got {row.translator}. Write `engine: "
                    "apertium`, or leave translator out."
                )


def compare_systems(settings: SystemsSettings, token_folder: Path | None = None) -> ComparedSystems:
    """Ask every system every question, in batches, and some questions one at a time.

    Args:
        settings: what is compared, on what.
        token_folder: where tokens of passages are kept, so that another call does not encode them again.

    Raises:
        ValueError: for questions in several languages, without labelled passages or without the column that a row asks.
    """
    found = read_questions(settings.test[0])
    languages = sorted(set(found.languages.values()))
    if len(languages) != 1 or not found.qrels:
        raise ValueError(
            f"{found.name}: expected questions in one language with labelled passages, got {', '.join(languages)}. Compare on "
            "each language by itself."
        )
    texts = {row.label: _texts(found, row) for row in settings.systems}
    systems = _build_systems(settings, found, languages[0], token_folder)
    query_ids = found.questions["query_id"][:]
    runs = {
        label: as_run(query_ids, _ask_in_batches(system, texts[label], label)) for label, (system, _) in systems.items()
    }
    processor = {
        label: sum(map(sum, watch.processor.values())) / len(query_ids) for label, (_, watch) in systems.items()
    }
    wall = _ask_one_by_one(systems, texts, settings.timed)
    scores = {label: per_query_scores(run, found.qrels, MEASURES) for label, run in runs.items()}
    facts = environment()
    version = f"{found.name}: {len(query_ids)} questions in {languages[0]}"
    about = {"collection": settings.collection, "data_version": version}
    results = {
        label: summarize(
            own, found.languages, collection=settings.collection, data_version=version, command=facts["command"]
        )
        for label, own in scores.items()
    }
    first = settings.systems[0].label
    return ComparedSystems(
        results,
        {label: compare(scores[first], own, found.languages) for label, own in scores.items() if label != first},
        wall,
        processor,
        {row.label: _num_bytes(row) for row in settings.systems},
        runs,
        found,
        {
            **about,
            "timed": len(next(iter(wall.values()))["total"]),
            "price": settings.price,
            "currency": settings.currency,
            "passages": len(found.passages),
            **{name: facts[name] for name in ("command", "hardware", "git_commit")},
        },
    )


@dataclass
class LatencyTimer:
    """Seconds of each part, one entry a call.

    Args:
        wall: what a user waits.
        processor: of all threads, and of programs that were called and have ended.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        started, used = perf_counter(), processor_seconds()
        yield
        self.wall.setdefault(name, []).append(perf_counter() - started)
        self.processor.setdefault(name, []).append(processor_seconds() - used)


def _build_systems(
    settings: SystemsSettings, found: QuestionSet, language: str, token_folder: Path | None
) -> dict[str, tuple[Retriever, LatencyTimer]]:
    """Return each system with its watch; models and indexes of several rows are loaded and encoded once."""
    models: dict[str, DrDecrModel] = {}
    indexes: dict[str, InMemoryIndex] = {}
    systems = {}
    for row in settings.systems:
        place = row.index or row.model
        for name in (row.model, place):
            if name not in models:
                models[name] = load_encoder(name)
        if place not in indexes:
            indexes[place] = InMemoryIndex(encode_passages(models[place], found, token_folder), found.passages)
        engine = {key: value for key, value in (row.translator or {}).items() if key != "bytes"}
        translator = make_translator(engine) if engine else None
        systems[row.label] = timed_retriever(models[row.model], indexes[place], translator, language)
    return systems


def _texts(found: QuestionSet, row: ComparedSystem) -> list[str]:
    column = query_column(found, row.reads)
    if column is None:
        raise ValueError(
            f"{row.label}: expected a text to ask in every row of a column {row.reads!r}, got the columns "
            f"{', '.join(found.questions.column_names)}. Fill it, or leave the system out."
        )
    return list(found.questions[column])


def _ask_in_batches(system: Retriever, texts: list[str], label: str) -> list[Any]:
    answers: list[Any] = []
    for start in tqdm(range(0, len(texts), BATCH), desc=label, unit="batch", disable=None):
        answers += system.search(texts[start : start + BATCH], DEPTH)
    return answers


def _ask_one_by_one(
    systems: Mapping[str, tuple[Retriever, LatencyTimer]], texts: Mapping[str, list[str]], timed: int
) -> dict[str, dict[str, list[float]]]:
    """Ask every n-th question of each system in turn, so that whatever else the machine does slows all of them alike."""
    count = len(next(iter(texts.values())))
    places = range(0, count, max(count // timed, 1))[:timed]
    warm_up = places[:WARM_UP]
    for number, place in enumerate([*warm_up, *places]):
        for label, (system, watch) in systems.items():
            if number == len(warm_up):
                watch.wall.clear()
            system.search([texts[label][place]], DEPTH)
    wall = {
        label: {part: watch.wall[part] for part in PARTS if part in watch.wall} for label, (_, watch) in systems.items()
    }
    for parts in wall.values():
        parts["total"] = [sum(values) for values in zip(*parts.values(), strict=True)]
    return wall


def _num_bytes(row: ComparedSystem) -> int | None:
    """Return the bytes of a system's models: of the reader, and of what translates for it. The index comes on top."""
    sizes = [folder_bytes(row.model)]
    if row.translator:
        sizes.append(row.translator.get("bytes") or folder_bytes(row.translator.get("model")))
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def folder_bytes(source: str | None) -> int | None:
    """Return the size of a checkpoint folder; None for a name on the Hub."""
    if source is None or not Path(source).is_dir():
        return None
    return sum(file.stat().st_size for file in Path(source).rglob("*") if file.is_file())


def processor_seconds() -> float:
    """Return the processor seconds of this process and of its ended children: a translator may be a program of its own."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass(frozen=True)
class TimedTranslator:
    """A translator whose calls are counted."""

    translator: Translator
    watch: LatencyTimer

    def translate(self, texts: list[str], source: str, target: str = "en") -> Sequence[Translation]:
        """Translate."""
        with self.watch.part("translate"):
            return self.translator.translate(texts, source, target)


@dataclass(frozen=True)
class TimedModel:
    """A model whose encoding of questions is counted."""

    model: DrDecrModel
    watch: LatencyTimer

    def encode_queries(self, texts: list[str], **settings: Any) -> list[Tensor]:
        """Encode questions."""
        with self.watch.part("encode"):
            return self.model.encode_queries(texts, **settings)


@dataclass(frozen=True)
class TimedIndex:
    """An index whose searches are counted."""

    index: PassageIndex
    watch: LatencyTimer

    def __len__(self) -> int:
        return len(self.index)

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        return self.index.passage_ids()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Filter | None = None) -> Hits:
        """Find passages."""
        with self.watch.part("search"):
            return self.index.search(query_embeddings, top_k, where)

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        return self.index.payloads(passage_ids)


def timed_retriever(
    model: DrDecrModel, index: PassageIndex, translator: Translator | None = None, source: str = ""
) -> tuple[Retriever, LatencyTimer]:
    """Return a one-step system, or with a translator one of two steps, and the watch that counts its parts.

    Args:
        model: that reads the questions, or their translations.
        index: that is searched.
        translator: to English.
        source: language of the questions, as the translator names it.
    """
    watch = LatencyTimer()
    watched_model: Any = TimedModel(model, watch)
    reader = DirectRetriever(watched_model, TimedIndex(index, watch))
    if translator is None:
        return reader, watch
    return TranslateTestRetriever(TimedTranslator(translator, watch), reader, source), watch


def write_systems(compared: ComparedSystems, output: Path) -> Path:
    """Write `systems.md`, `systems.json`, and each system's run with the judgements, into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        check_words(ids_of([compared.questions]))
        write_qrels(output / "systems.qrels", compared.questions.qrels)
        for label, name in file_names(list(compared.runs)).items():
            write_run(output / f"{name}.run", compared.runs[label], tag=name)
    except ValueError as error:  # an id that the form has no place for costs the runs, not the figures
        logger.warning("No run files are kept. %s", error)
    rows = {
        label: {
            "scores": {name: vars(result.scores[name]["avg"]) for name in MEASURES},
            "gain": vars(compared.comparisons[label].differences[MEASURES[0]]["avg"])
            if label in compared.comparisons
            else None,
            "wall_seconds": compared.wall[label],
            "processor_seconds_a_question": compared.processor[label],
            "bytes": compared.num_bytes[label],
        }
        for label, result in compared.results.items()
    }
    write_json_exactly(output / "systems.json", {"systems": rows, "metadata": compared.metadata})
    write_text(output / "systems.md", markdown_systems(compared))  # last: it says that all is there
    return output / "systems.md"
