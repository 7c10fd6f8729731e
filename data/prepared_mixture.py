"""Rows of a prepared folder in the order of a training: sources by weight, languages by temperature, in constant memory.

The order is a function of the seed and the place in it: which source and language a row comes from is drawn in blocks, and each
language of a source is used up, in an order of its own, before it starts again. So any process can read any place without what
came before, and a resumed run, or two processes, read what one uninterrupted one would have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .mixture import language_shares
from .prepare.prepared_shards import ROW_GROUP, Shard, read_provenance, shards_of
from .readers.text import locate
from .schema import PARALLEL_COLUMNS

BLOCK = 65_536
"""Places that are drawn at once."""

WINDOW = 4
"""Row groups of a language that are in memory at once, and whose rows are shuffled among each other."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Strand:
    """The rows of one language of one source.

    Args:
        source: its name.
        language: its code.
        shards: where they lie.
    """

    source: str
    language: str
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(shard.rows for shard in self.shards)


def strands_of(
    folder: str | Path, sources: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> list[Strand]:
    """Return the parallel text of a prepared folder by source and language.

    Args:
        folder: that `drdecr data prepare` wrote.
        sources: names of those that are wanted; default: all that have parallel text.
        languages: codes of those that are wanted; default: all.

    Raises:
        ValueError: for a source that is not there, or if nothing is left; or if a shard is missing or cut off.
    """
    root = locate(folder)
    provenance = read_provenance(root)
    found: dict[tuple[str, str], list[Shard]] = {}
    for shard in shards_of(provenance):
        table, source, _ = shard.path.split("/")
        if (
            table == "parallel"
            and (sources is None or source in sources)
            and (languages is None or shard.language in languages)
        ):
            found.setdefault((source, shard.language), []).append(shard)
            file = root / shard.path
            if not file.exists() or file.stat().st_size != shard.bytes:
                raise ValueError(
                    f"{file}: expected a shard of {shard.bytes} bytes. Get it again: `drdecr data prepare --verify {folder}`."
                )
    missing = set(sources or ()) - {source for source, _ in found}
    if missing or not found:
        raise ValueError(f"{folder}: expected parallel text of {', '.join(sorted(missing)) or 'any source'}, got none.")
    return [Strand(source, language, tuple(shards)) for (source, language), shards in sorted(found.items())]


class PreparedMixture(Dataset):
    """Rows of a prepared folder as a training draws them; each batch mixes sources and languages.

    Args:
        folder: that `drdecr data prepare` wrote.
        num_rows: how many are drawn in all: steps x accumulation x processes x batch size.
        weights: how often each source is drawn, by name; those that are not named are left out. Default: by size.
        language_temperature: T: a language with n rows in a source is drawn with probability proportional to n^(1/T).
        seed: of the order.
        english_share: of the rows, this share again with the English text as the question (default 0).
        languages: codes of those that are wanted; default: all.
        is_unwanted: a row for which this holds gives its place to the next one of its language; reading a row raises a
            `ValueError` where a language has no other.

    Raises:
        ValueError: for weights that are not positive or name no source, or a folder that is none.
    """

    is_ordered = True

    def __init__(
        self,
        folder: str | Path,
        num_rows: int,
        weights: Mapping[str, float] | None = None,
        language_temperature: float = 1.0,
        seed: int = 12345,
        english_share: float = 0.0,
        languages: Sequence[str] | None = None,
        is_unwanted: Callable[[Row], bool] | None = None,
    ) -> None:
        if weights is not None and (not weights or any(not weight > 0 for weight in weights.values())):
            raise ValueError(
                f"weights: expected a positive number for each source, got {weights}. Leave a source out instead."
            )
        self.strands = strands_of(folder, list(weights) if weights else None, languages)
        self.shares = _shares(self.strands, weights, language_temperature)
        self.num_rows, self.seed = num_rows, seed
        self._english = english_share / (1 + english_share)
        self._is_unwanted = is_unwanted
        self._readers = [
            _StrandReader(locate(folder), strand, (seed, index)) for index, strand in enumerate(self.strands)
        ]
        self._starts = [np.zeros(len(self.strands), dtype=np.int64)]  # rows drawn of each strand before each block
        self._block: tuple[int, np.ndarray, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.num_rows:
            raise IndexError(f"Expected a place from 0 to {self.num_rows - 1}, got {index}.")
        drawn, places, is_english = self._drawn(index // BLOCK)
        place = index % BLOCK
        row = self._wanted(int(drawn[place]), int(places[place]))
        return {**row, "query": row["english"], "language": "en"} if is_english[place] else row

    def _wanted(self, index: int, number: int) -> Row:
        """Return a row of a strand, or the next one of its pass, round to its beginning, that is wanted."""
        reader, strand = self._readers[index], self.strands[index]
        turn, place = divmod(number, strand.rows)
        for step in range(strand.rows):
            row = reader.row(turn * strand.rows + (place + step) % strand.rows)
            if self._is_unwanted is None or not self._is_unwanted(row):
                return row
        raise ValueError(
            f"{strand.source}, {strand.language}: expected a row that may be trained on, but all {strand.rows} are held out. "
            "Leave the source or the language out."
        )

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each place of a block its strand, which row of the strand it is, and whether English is asked."""
        if self._block is None or self._block[0] != block:
            while len(self._starts) <= block:
                counts = np.bincount(self._choices(len(self._starts) - 1)[0], minlength=len(self.strands))
                self._starts.append(self._starts[-1] + counts)
            drawn, is_english = self._choices(block)
            order = np.argsort(drawn, kind="stable")
            counts = np.bincount(drawn, minlength=len(self.strands))
            ranks = np.empty(BLOCK, dtype=np.int64)
            ranks[order] = np.arange(BLOCK) - np.repeat(np.cumsum(counts) - counts, counts)
            self._block = (block, drawn, self._starts[block][drawn] + ranks, is_english)
        return self._block[1:]

    def _choices(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng((self.seed, block))
        drawn = generator.choice(len(self.strands), size=BLOCK, p=self.shares)
        return drawn, generator.random(BLOCK) < self._english


class MixedStream(IterableDataset):
    """The same rows as a stream, for loaders that want one; it can be left and gone on with.

    Args:
        mixture: whose rows are read.
        batch_size: of the loader, so that processes and workers take turns by batches.
        rank: of this process (default 0).
        num_processes: that share the rows (default 1); their batches alternate.
    """

    def __init__(self, mixture: PreparedMixture, batch_size: int, rank: int = 0, num_processes: int = 1) -> None:
        if not 0 <= rank < num_processes or batch_size < 1:
            raise ValueError(
                f"Expected a rank below {num_processes} processes and a batch of rows, got {rank} and {batch_size}."
            )
        self.mixture, self.batch_size, self.rank, self.num_processes = mixture, batch_size, rank, num_processes
        self._rows_read = 0

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        start, self._rows_read = self._rows_read, 0
        for batch in range(first, -(-len(self.mixture) // (self.batch_size * self.num_processes)), step):
            for place in range(self.batch_size):
                own = batch * self.batch_size + place
                index = (batch * self.num_processes + self.rank) * self.batch_size + place
                if own >= start and index < len(self.mixture):
                    self._rows_read = own + 1
                    yield self.mixture[index]
        self._rows_read = 0

    def state_dict(self) -> dict[str, int]:
        """Return where it is: how many rows this process has read."""
        return {"rows_read": self._rows_read}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on, at the next `iter`, where the state was taken."""
        self._rows_read = state["rows_read"]


def _shares(strands: Sequence[Strand], weights: Mapping[str, float] | None, temperature: float) -> np.ndarray:
    """Return with which probability each strand is drawn."""
    sizes: dict[str, list[int]] = {}
    for strand in strands:
        sizes.setdefault(strand.source, []).append(strand.rows)
    by_source = {source: weights[source] if weights else float(sum(found)) for source, found in sizes.items()}
    total = sum(by_source.values())
    return np.concatenate(
        [by_source[source] / total * language_shares(found, temperature) for source, found in sizes.items()]
    )


class _StrandReader:
    """Rows of a strand by their number in an endless order: pass after pass, each in an order of its own."""

    def __init__(self, root: Path, strand: Strand, seed: tuple[int, ...]) -> None:
        self._root, self._seed, self._size = root, seed, strand.rows
        self._groups = [
            (shard.path, group, min(ROW_GROUP, shard.rows - group * ROW_GROUP))
            for shard in strand.shards
            for group in range(-(-shard.rows // ROW_GROUP))
        ]
        self._pass: tuple[int, np.ndarray, np.ndarray] | None = None
        self._window: tuple[tuple[int, int], pa.Table, np.ndarray] | None = None

    def row(self, number: int) -> Row:
        """Return row `number` of the endless order."""
        turn, place = divmod(number, self._size)
        order, ends = self._order(turn)
        window = int(np.searchsorted(ends, place, side="right"))
        start = int(ends[window - 1]) if window else 0
        table, shuffled = self._loaded(turn, window, order)
        found = int(shuffled[place - start])
        return {name: table.column(name)[found].as_py() for name in PARALLEL_COLUMNS}

    def _order(self, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a pass's order of row groups, and how many rows there are up to the end of each window."""
        if self._pass is None or self._pass[0] != turn:
            order = np.random.default_rng((*self._seed, turn)).permutation(len(self._groups))
            rows = np.array([self._groups[index][2] for index in order])
            ends = np.cumsum(rows)[
                [*range(WINDOW - 1, len(rows), WINDOW), *([len(rows) - 1] if len(rows) % WINDOW else [])]
            ]
            self._pass = (turn, order, ends)
        return self._pass[1:]

    def _loaded(self, turn: int, window: int, order: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        if self._window is None or self._window[0] != (turn, window):
            self._window = None  # before the next one is read
            groups = [self._groups[index] for index in order[window * WINDOW : (window + 1) * WINDOW]]
            tables = [_read_group(self._root / path, group, rows) for path, group, rows in groups]
            table = pa.concat_tables(tables).combine_chunks()
            shuffled = np.random.default_rng((*self._seed, turn, window)).permutation(table.num_rows)
            self._window = ((turn, window), table, shuffled)
        return self._window[1:]


def _read_group(file: Path, group: int, rows: int) -> pa.Table:
    """Read a row group; what its pages' checksums, or its number of rows, do not fit is refused."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            table = opened.read_row_group(group, columns=list(PARALLEL_COLUMNS))
        if (table.num_rows, set(table.column_names)) != (rows, set(PARALLEL_COLUMNS)):
            raise pa.ArrowInvalid(f"row group {group}: {table.num_rows} rows of {', '.join(table.column_names)}")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file}: expected a whole shard ({error}). Get it again: `drdecr data prepare --verify` says what is wrong."
        ) from error
    return table
