"""One segment of an index: passages that were committed together, in files that never change and are memory-mapped.

A segment is a folder of `*.npy` (the codec's arrays and `offsets`), and `passages.arrow` with ids and payloads; `writer.py`
makes it. Rows are sorted by length.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drdecr.modeling_drdecr.encoding_drdecr import PackedEmbeddings

from .codecs import check_arrays, decode_tokens, similarities
from .in_memory import PackedBlock, pack_tokens
from .manifest import DamagedIndexError, SegmentRecord, damages
from .passage_table import PassageTable
from .ragged import best_of_passages, cut_into_blocks, places_of_tokens, sums_of_queries

TOKENS_PER_BLOCK = 4096
"""Tokens decoded at once: enough to be worth a call, few enough to stay in a cache."""
QUERY_TOKENS_PER_BLOCK, SMALLEST_PART = 128, 8
"""With more query tokens blocks are smaller, down to an eighth, so that products stay in a cache, too."""
LEAST_SHARE_OF_A_SLICE = 2
"""Rows are read in one piece where at least one in so many of it is needed."""


class Segment:
    """A segment, opened.

    Args:
        folder: the segment's folder.
        record: what the manifest says of it.
        dim: width of its tokens.
        codec: of its tokens.
        verify: compare checksums; without it sizes alone.
        in_memory: copy the tokens into memory, as `pack_tokens` lays them out.

    Raises:
        DamagedIndexError: naming the files that are missing, cut off or changed, or are not what a segment consists of.
        FileNotFoundError: if the whole segment is missing.
    """

    def __init__(
        self,
        folder: Path,
        record: SegmentRecord,
        dim: int,
        codec: str,
        verify: bool = True,
        in_memory: bool = False,
    ) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: this segment of the index is missing. Restore it from a copy.")
        damaged_files = list(damages(folder, record.files, verify))
        if damaged_files:
            raise DamagedIndexError(
                f"Damaged index: {'; '.join(damaged_files)}. Restore these files from a copy, or index again."
            )
        self.record, self.codec, self.folder = record, codec, folder
        try:
            self._map_files(dim, verify)
        except (ValueError, KeyError, IndexError, TypeError, RuntimeError, EOFError) as error:
            raise DamagedIndexError(
                f"{folder}: damaged, its files are not those of {record.passages} passages in {codec} ({error}). Restore it "
                "from a copy, or index again."
            ) from error
        self._states = {path: _state_of(path) for path in map(folder.joinpath, record.files)}
        self._packed = pack_tokens(self.arrays, codec, self.offsets.diff().numpy()) if in_memory else []

    def _map_files(self, dim: int, verify: bool) -> None:
        names = [name for name in self.record.files if name.endswith(".npy") and not name.startswith("deleted")]
        # "c": pages that nobody may write to, of which torch does not complain.
        self.arrays = {name[:-4]: np.load(self.folder / name, mmap_mode="c") for name in names}
        self.offsets = torch.from_numpy(np.array(self.arrays.pop("offsets")))
        lengths, ends = self.offsets.diff(), self.offsets[[0, -1]].tolist()
        if len(lengths) != self.record.passages or ends != [0, self.record.tokens] or (lengths < 0).any():
            raise ValueError(f"offsets of {len(lengths)} passages and {ends[1]} tokens")
        check_arrays(self.arrays, self.record.tokens, dim, self.codec, verify)
        self.alive = torch.ones(self.record.passages, dtype=torch.bool)
        if self.record.deleted is not None:
            self.alive[torch.from_numpy(np.load(self.folder / self.record.deleted))] = False
        self.table = PassageTable(self.folder, self.record.passages)

    def __len__(self) -> int:
        return int(self.alive.sum())

    def check_unchanged(self) -> None:
        """Raise `DamagedIndexError` if a mapped file was written to: to read behind its end would end the process.

        A file whose place another one took, or that was deleted, is read on as it was.
        """
        for path, state in self._states.items():
            now = _state_of(path)
            if state and now and now[0] == state[0] and now != state:
                raise DamagedIndexError(
                    f"{path}: changed in place since it was opened. Open the index again; put a new one in its place by a "
                    "rename."
                )

    def rows(self, values_by_key: Mapping[str, Iterable[Hashable]] | None = None) -> Tensor:
        """Return the rows that are not deleted and pass a filter, ascending: int64 `(rows,)`.

        Args:
            values_by_key: the filter, as `filter_values` returns it (default: all rows pass).
        """
        selected = self.alive & self.table.select(values_by_key) if values_by_key else self.alive
        return selected.nonzero()[:, 0]

    def lengths(self, rows: Tensor) -> Tensor:
        """Return the tokens of each row."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def decoded(self, places: Tensor) -> Tensor:
        """Return the tokens that stand at some places, int64 `(tokens,)`, decoded: float32 `(tokens, dim)`."""
        return decode_tokens(self.arrays, self.codec, places)

    def tokens(self, row: int) -> Tensor:
        """Return one row's tokens, decoded: float32 `(tokens, dim)`."""
        return decode_tokens(self.arrays, self.codec, slice(int(self.offsets[row]), int(self.offsets[row + 1])))

    @torch.no_grad()
    def scores(self, queries: PackedEmbeddings, rows: Tensor) -> Tensor:
        """Score queries against rows with MaxSim.

        Args:
            queries: float32 tokens of some queries.
            rows: int64 `(rows,)`, ascending.

        Returns:
            float32 `(num_queries, rows)`.
        """
        if not len(rows):
            return torch.zeros(len(queries), 0)
        # All that lies between is scored where it is not much more: a slice costs less than what is picked out.
        first, last = int(rows[0]), int(rows[-1]) + 1
        is_range = len(rows) * LEAST_SHARE_OF_A_SLICE >= last - first
        packed = [block for block in self._packed if is_range and block.start < last and block.stop > first]
        if packed:
            first, last = packed[0].start, packed[-1].stop
        scored_rows = torch.arange(first, last) if is_range else rows
        products = (
            self._packed_products(queries.embeddings, packed)
            if packed
            else self._file_products(queries.embeddings, scored_rows, is_range)
        )
        scores = [sums_of_queries(best_of_passages(of_tokens, lengths), queries) for of_tokens, lengths in products]
        of_all = torch.cat(scores, dim=1)
        return of_all if len(scored_rows) == len(rows) else of_all[:, rows - first]

    def _packed_products(self, queries: Tensor, blocks: Sequence[PackedBlock]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the products of query tokens with those of some blocks, and the lengths of their rows."""
        for block in blocks:
            yield block.similarities(queries), self.lengths(torch.arange(block.start, block.stop)).numpy()

    def _file_products(self, queries: Tensor, rows: Tensor, is_range: bool) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the same for rows, which stand one behind the other where they are a range."""
        lengths = self.lengths(rows).numpy()
        ends, offset = lengths.cumsum(), int(self.offsets[rows[0]])
        part = min(max(len(queries) / QUERY_TOKENS_PER_BLOCK, 1), SMALLEST_PART)
        for start, stop in cut_into_blocks(lengths, int(TOKENS_PER_BLOCK / part)):
            block_lengths = lengths[start:stop]
            if is_range:
                tokens: slice | Tensor = slice(
                    offset + int(ends[start] - block_lengths[0]), offset + int(ends[stop - 1])
                )
            else:
                tokens = places_of_tokens(self.offsets[rows[start:stop]], block_lengths)
            yield similarities(queries, self.arrays, self.codec, tokens), block_lengths


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file that was written to from what it was; None if it is not there."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
