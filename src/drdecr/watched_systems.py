"""Systems that say what each question costs them: wall-clock and processor seconds of translation, encoding and search."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from torch import Tensor

from drdecr.modeling_drdecr import DrDecrModel
from drdecr.retrieval import Hits
from drdecr.retrieval.protocol import Where

from .systems import OneStepSystem, Searchable, SearchSystem, Translation, Translator, TwoStepSystem

PARTS = ("translate", "encode", "search")


@dataclass
class Watch:
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


def processor_seconds() -> float:
    """Return the processor seconds of this process and of its ended children: a translator may be a program of its own."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass(frozen=True)
class WatchedTranslator:
    """A translator whose calls are counted."""

    translator: Translator
    watch: Watch

    def translate(self, texts: list[str], source: str, target: str = "en") -> Sequence[Translation]:
        """Translate."""
        with self.watch.part("translate"):
            return self.translator.translate(texts, source, target)


@dataclass(frozen=True)
class WatchedModel:
    """A model whose encoding of questions is counted."""

    model: DrDecrModel
    watch: Watch

    def encode_queries(self, texts: list[str], **settings: Any) -> list[Tensor]:
        """Encode questions."""
        with self.watch.part("encode"):
            return self.model.encode_queries(texts, **settings)


@dataclass(frozen=True)
class WatchedIndex:
    """An index whose searches are counted."""

    index: Searchable
    watch: Watch

    def __len__(self) -> int:
        return len(self.index)

    def passage_ids(self) -> list[str]:
        """Return the ids of all passages."""
        return self.index.passage_ids()

    def search(self, query_embeddings: list[Tensor], top_k: int = 10, where: Where | None = None) -> Hits:
        """Find passages."""
        with self.watch.part("search"):
            return self.index.search(query_embeddings, top_k, where)

    def payloads(self, passage_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return what was added with passages."""
        return self.index.payloads(passage_ids)


def watched_system(
    model: DrDecrModel, index: Searchable, translator: Translator | None = None, source: str = ""
) -> tuple[SearchSystem, Watch]:
    """Return a one-step system, or with a translator one of two steps, and the watch that counts its parts.

    Args:
        model: that reads the questions, or their translations.
        index: that is searched.
        translator: to English.
        source: language of the questions, as the translator names it.
    """
    watch = Watch()
    watched_model: Any = WatchedModel(model, watch)
    reader = OneStepSystem(watched_model, WatchedIndex(index, watch))
    if translator is None:
        return reader, watch
    return TwoStepSystem(WatchedTranslator(translator, watch), reader, source), watch
