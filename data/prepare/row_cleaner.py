"""Rows that are checked one by one before they are kept, in this process or in several."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from drdecr.data.readers.candidates import Item

from .cleaning import CleaningSettings, drop_reason, row_key, text_key
from .leakage import HeldOutPassages, HeldOutTexts

Checked = tuple[str | None, int, str | None]
"""Why a row must go, or None; its key; and whether a passage leaks (`HeldOutPassages.leak`)."""


@dataclass(frozen=True)
class PreparedSource:
    """A source of rows.

    Args:
        name: of its folders and configuration.
        entry: `{format: ..., arguments}` (`open_stream`).
        share: of its rows that are kept, drawn by the rows' texts and the seed (default 1: all).
    """

    name: str
    entry: Mapping[str, Any]
    share: float = 1.0


@dataclass(frozen=True)
class Cleaner:
    """Checks batches of rows; a copy of it goes to every process.

    Args:
        settings: how strict.
        held_out: what is measured on.
        seed: of the shares.
        held_out_passages: what answers it (default: not known).
    """

    settings: CleaningSettings
    held_out: HeldOutTexts
    seed: int
    held_out_passages: HeldOutPassages = field(default_factory=lambda: HeldOutPassages([]))

    def __call__(self, items: Sequence[Item], source: PreparedSource) -> list[Checked]:
        """Return for each row of a source why it must go, or None, its key, and whether it leaks."""
        return [
            (
                *self._checked(table, row, source),
                self.held_out_passages.leak(row["text"]) if table == "passages" else None,
            )
            for table, row in items
        ]

    def _checked(self, table: str, row: Mapping[str, Any], source: PreparedSource) -> tuple[str | None, int]:
        if table == "left_out":
            return None, 0
        is_text = all(map(_can_be_written, row.values()))
        if table == "passages" and not is_text:  # questions name it, so that it cannot just go
            raise ValueError(
                f"{source.name}, passage {row['document_id']!r}: expected text, got half of a surrogate pair in it. Mend the "
                "passage in its file, or take it out with the questions that name it."
            )
        if table == "passages":  # another source may mean another text by the same id
            key = text_key(f"passages\n{source.name}\n{row['document_id']}\n{row['text']}")
            return (None if row["text"].strip() else "blank"), key
        if not is_text:
            return "control_characters", 0
        reason = drop_reason(row, self.settings, self.held_out)
        if reason is not None:
            return reason, 0
        key = text_key(f"{table}\n{row_key(row)}")
        drawn = text_key(f"{self.seed}\n{key}") + 2**63
        return ("not_sampled" if drawn >= source.share * 2**64 else None), key


def _can_be_written(value: Any) -> bool:
    """Return whether all text in a value can be written as UTF-8: JSON may hold halves of surrogate pairs."""
    if isinstance(value, str):
        return value.isascii() or not _SURROGATE.search(value)
    return all(map(_can_be_written, value)) if isinstance(value, list) else True


_SURROGATE = re.compile("[\ud800-\udfff]")


Check = Callable[[Iterable[list[Item]], PreparedSource], Iterator[tuple[list[Item], list[Checked]]]]


class checking:
    """Checks batches in order, in this process or in several, with a few batches ahead and no more."""

    def __init__(self, cleaner: Cleaner, num_processes: int) -> None:
        self._cleaner, self._num_processes = cleaner, num_processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Check:
        if self._num_processes > 1:
            self._pool = ProcessPoolExecutor(
                self._num_processes, get_context("spawn"), initializer=_set_cleaner, initargs=(self._cleaner,)
            )
        return self._checked

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _checked(
        self, batches: Iterable[list[Item]], source: PreparedSource
    ) -> Iterator[tuple[list[Item], list[Checked]]]:
        if self._pool is None:
            for batch in batches:
                yield batch, self._cleaner(batch, source)
            return
        waiting: deque[tuple[list[Item], Future[list[Checked]]]] = deque()
        for batch in batches:
            waiting.append((batch, self._pool.submit(_clean, batch, source)))
            if len(waiting) > 2 * self._num_processes:
                first, future = waiting.popleft()
                yield first, future.result()
        for batch, future in waiting:
            yield batch, future.result()


_CLEANER: Cleaner | None = None


def _set_cleaner(cleaner: Cleaner) -> None:
    global _CLEANER
    _CLEANER = cleaner


def _clean(items: Sequence[Item], source: PreparedSource) -> list[Checked]:
    if _CLEANER is None:
        raise RuntimeError("This process was not given a cleaner.")
    return _CLEANER(items, source)
