"""From sources to shards: read, cleaned and written; after a kill it goes on where it was, to the same bytes.

The unit of work is a part: so many rows of a source, read, cleaned, and written as one shard for each table and language. When
its shards are whole, a record of it is written, with what was counted and the keys of what was kept. Who goes on skips the rows
of recorded parts, fills the set of seen rows from their keys, and makes the next part as it would have been made.
"""

import json
import logging
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from drdecr.data.files import write_json
from drdecr.data.readers.candidates import Item
from drdecr.data.sources import files_of, open_stream
from drdecr.modeling_drdecr.hub_drdecr import TRANSPORT_ERRORS

from .cleaning import text_key
from .prepared_shards import SCHEMAS, Shard, write_shard, wrong_shards
from .row_cleaner import Check, Cleaner, PreparedSource, checking

logger = logging.getLogger(__name__)

BATCH = 1_000
"""Rows that are checked at once."""


OUTSIDE = (OSError, MemoryError, BrokenProcessPool, *TRANSPORT_ERRORS)
"""Errors that say nothing of a source's rows: what is done of it stays, as after a kill."""

COUNTED = ("read", "dropped", "kept", "left_out", "leaks")


@dataclass
class Counts:
    """What became of a source's rows.

    Args:
        read: rows by table.
        dropped: rows by reason.
        kept: rows by table and language.
        left_out: what the reader could not use, by its reason.
        leaks: passages that answer a held-out question (`held_out`), or nearly do (`overlap`). They stay: questions name them.
    """

    read: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return plain values, in alphabetical order."""
        return {name: dict(sorted(getattr(self, name).items())) for name in COUNTED}

    @property
    def has_kept(self) -> bool:
        """Whether rows stay beside the passages that they name, or, in a source of passages alone, passages."""
        rows = [group for group in self.kept if group != "passages"]
        return bool(rows) or (bool(self.kept) and set(self.read) == {"passages"})

    def add(self, other: Mapping[str, Mapping[str, int]]) -> None:
        """Add what another part counted."""
        for name, found in other.items():
            getattr(self, name).update(found)


class SeenKeys:
    """Signed 64-bit numbers in a SQLite file, which is made anew.

    The file is of use to one process while it lives: it is not written safely, and who goes on after a kill fills it again.

    Args:
        file: where.
    """

    def __init__(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self._connection = sqlite3.connect(file, isolation_level=None)
        for pragma in (
            "journal_mode=OFF",
            "synchronous=OFF",
            f"cache_size=-{CACHE_KILOBYTES}",
            "locking_mode=EXCLUSIVE",
        ):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY)")
        self._connection.execute("BEGIN")

    def add(self, key: int) -> bool:
        """Add a number; return whether it was not there."""
        return self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def update(self, keys: Iterable[int]) -> None:
        """Add numbers."""
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((key,) for key in keys))

    def close(self) -> None:
        """Close the file; it stays where it is."""
        self._connection.close()


class Preparation:
    """Work on a folder of shards, which another call can go on with.

    Args:
        folder: of the shards.
        journal: folder of the records of what is done.
        cleaner: decides about rows.
        rows_per_part: rows that are read for a part (default 100,000).
        num_processes: that check rows (default 1). The shards are the same for any number.
    """

    def __init__(
        self, folder: Path, journal: Path, cleaner: Cleaner, rows_per_part: int = 100_000, num_processes: int = 1
    ) -> None:
        if rows_per_part < 1 or num_processes < 1:
            raise ValueError(
                f"Expected at least one row a part and one process, got {rows_per_part} and {num_processes}."
            )
        self.folder, self.journal, self.cleaner = folder, journal, cleaner
        self.rows_per_part, self.num_processes = rows_per_part, num_processes
        for made in (folder, journal):
            made.mkdir(parents=True, exist_ok=True)

    def forget(self, names: Iterable[str]) -> None:
        """Delete what there is of sources."""
        for name in names:
            for folder in (self.journal, *(self.folder / table for table in SCHEMAS)):
                shutil.rmtree(folder / name, ignore_errors=True)

    def run(self, sources: Sequence[PreparedSource]) -> list[dict[str, Any]]:
        """Do what is not done yet.

        Returns:
            For each source its `name`, what was counted, and its `shards`.

        Raises:
            ValueError: for a wrong row, naming file and row, or a source without a row that stays. Nothing of that source is
                left, nor after another error that its rows set off; whole sources before it are.
        """
        self._sweep(sources)
        seen = SeenKeys(self.journal / "seen.sqlite")
        reports = []
        try:
            with checking(self.cleaner, self.num_processes) as check:
                for source in sources:
                    try:
                        reports.append(self._of_source(source, seen, check))
                    except OUTSIDE:
                        raise
                    except Exception:  # whatever a wrong row sets off: a part of its source is no preparation
                        self.forget([source.name])
                        raise
        finally:
            seen.close()
        return reports

    def _of_source(self, source: PreparedSource, seen: SeenKeys, check: Check) -> dict[str, Any]:
        records = self._records(source)
        for number in range(len(records)):
            seen.update(np.load(self._record(source, number).with_suffix(".npy")).tolist())
        read = sum(record["items"] for record in records)
        if not records or not records[-1]["last"]:
            stream = _Peeked(islice(open_stream(source.entry), read, None))
            with tqdm(desc=source.name, unit="row", initial=read, disable=None) as progress:
                while not stream.is_done:
                    records.append(self._part(source, len(records), stream, read, seen, check, progress))
                    read += records[-1]["items"]
        counts = Counts()
        for record in records:
            counts.add(record["counts"])
        if not counts.has_kept:
            raise ValueError(
                f"{_named(source)}: expected rows that stay, got none of {sum(counts.read.values())} (dropped: "
                f"{dict(counts.dropped)}). Look at the source and at `cleaning`."
            )
        shards = [shard for record in records for shard in record["shards"]]
        return {"name": source.name, **counts.as_dict(), "shards": shards}

    def _part(
        self,
        source: PreparedSource,
        number: int,
        stream: "_Peeked",
        start: int,
        seen: SeenKeys,
        check: Check,
        progress: Any,
    ) -> dict[str, Any]:
        """Make one part, and write its record when its shards are whole."""
        counts, keys = Counts(), []
        tables: dict[tuple[str, str], list[pa.Table]] = {}
        place = start
        for batch, results in check(_batched(islice(stream, self.rows_per_part)), source):
            groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for (table, row), (reason, key, leak) in zip(batch, results, strict=True):
                place += 1
                if table == "left_out":
                    counts.left_out.update(row)
                    continue
                counts.read[table] += 1
                language = "" if table == "passages" else _language(row, source, place)
                reason = reason or (None if seen.add(key) else "repeated")
                if reason is not None:
                    counts.dropped[reason] += 1
                    continue
                keys.append(key)
                if leak is not None:
                    counts.leaks[leak] += 1
                if table == "passages":
                    keys.append(_new_id(row["document_id"], source, seen, place))
                counts.kept[f"{table} {language}".strip()] += 1
                groups.setdefault((table, language), []).append({**row, "source": source.name, "row": place})
            for group, rows in groups.items():
                tables.setdefault(group, []).append(pa.Table.from_pylist(rows, schema=SCHEMAS[group[0]]))
            progress.update(len(batch))
        shards = [
            write_shard(
                self.folder, _shard_path(table, source.name, language, number), pa.concat_tables(found), language
            )
            for (table, language), found in sorted(tables.items())
        ]
        record = {
            "items": place - start,
            "last": stream.is_done,
            "counts": counts.as_dict(),
            "shards": [shard.as_dict() for shard in shards],
        }
        file = self._record(source, number)
        file.parent.mkdir(exist_ok=True)
        with file.with_suffix(".npy").open("wb") as writer:
            np.save(writer, np.array(keys, dtype=np.int64))
        write_json(file, record)
        return record

    def _record(self, source: PreparedSource, number: int) -> Path:
        return self.journal / source.name / f"{number:05d}.json"

    def _records(self, source: PreparedSource) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        while self._record(source, len(records)).exists():
            records.append(json.loads(self._record(source, len(records)).read_text(encoding="utf-8")))
        return records

    def _sweep(self, sources: Sequence[PreparedSource]) -> None:
        """Take away what no record names, and parts from the first on whose shards are not as they were written."""
        known: set[Path] = set()
        is_broken = False
        for source in sources:
            for number, record in enumerate(self._records(source)):
                shards = [Shard(**shard) for shard in record["shards"]]
                wrong = [] if is_broken else wrong_shards(self.folder, shards)
                if wrong:
                    logger.warning(
                        "%s: %s They are made again, with all that came after.", self.folder, " ".join(wrong)
                    )
                is_broken = is_broken or bool(wrong)
                if is_broken:  # what was made after it knew the rows that it had
                    self._record(source, number).unlink()
                    continue
                known |= {self.folder / shard.path for shard in shards}
        for file in self.folder.rglob("*"):
            if file.is_file() and file not in known:
                file.unlink()
        for table in self.folder.iterdir():
            if not any(table.iterdir()):  # of a source that was forgotten
                table.rmdir()


class _Peeked(Iterator[Item]):
    """A stream that knows whether there is more."""

    def __init__(self, stream: Iterator[Item]) -> None:
        self._stream = stream
        self._ahead = list(islice(stream, 1))

    def __next__(self) -> Item:
        if not self._ahead:
            raise StopIteration
        item = self._ahead.pop()
        self._ahead.extend(islice(self._stream, 1))
        return item

    @property
    def is_done(self) -> bool:
        return not self._ahead


def _batched(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, BATCH)):
        yield batch


def _language(row: Mapping[str, Any], source: PreparedSource, place: int) -> str:
    """Return a row's language, of which a file's name is made."""
    if not re.fullmatch("[A-Za-z0-9_-]+", row["language"]):
        raise ValueError(
            f"{_named(source)}, row {place}: expected a language code of letters, digits, - and _, "
            f"got {row['language']!r}. Correct it there."
        )
    return row["language"]


def _named(source: PreparedSource) -> str:
    """Return a source's name with the first of its files."""
    files = ", ".join(map(str, islice(files_of(source.entry), 3)))
    return f"{source.name} ({files})" if files else source.name


def _new_id(document_id: str, source: PreparedSource, seen: SeenKeys, place: int) -> int:
    """Note that a source has given an id its text, and return the key of that; an id that has one already is refused."""
    key = text_key(f"document_id\n{source.name}\n{document_id}")
    if not seen.add(key):
        raise ValueError(
            f"{source.name}, row {place}: expected one text for passage {document_id!r}, got a second one. Give each passage "
            "an id of its own."
        )
    return key


def _shard_path(table: str, source: str, language: str, number: int) -> str:
    return f"{table}/{source}/{f'{language}-' if language else ''}{number:05d}.parquet"


CACHE_KILOBYTES = 64_000
"""Memory for the pages that were used last."""
