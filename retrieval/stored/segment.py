"""One segment of an index: passages that were committed together, in files that never change and are memory-mapped.

A segment is a folder of `*.npy` (the codec's arrays and `offsets`), and `passages.arrow` with ids and payloads; `writing.py`
makes it. Rows are sorted by length.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from drdecr.modeling_drdecr.encoding_drdecr import PackedEmbeddings
from drdecr.retrieval.protocol import Filter, holds

from .codecs import decode_tokens, similarities
from .in_memory import HeldBlock, hold_tokens
from .manifest import DamagedIndexError, SegmentRecord, damages
from .ragged import best_of_passages, cut_into_blocks, places_of_tokens, sums_of_queries

TOKENS_PER_BLOCK = 4096
"""Tokens decoded at once: enough to be worth a call, few enough to stay in a cache."""
QUERY_TOKENS_PER_BLOCK, SMALLEST_PART = 128, 8
"""With more query tokens blocks are smaller, down to an eighth, so that products stay in a cache, too."""
LEAST_SHARE_OF_A_SLICE = 2
"""Rows are read in one piece where at least one in so many of it is wanted."""
PASSAGES_PER_BATCH = 4096
"""Passages of a batch of the Arrow file."""
ABSENT = object()
"""What a payload without a key has there: equal to nothing that could be asked for."""


def _texts(array: pa.Array) -> list[str]:
    return [_text(value) for value in array.to_pylist()]


def id_keys(ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return 64 bits of each id, by which it is found among many; two ids may have the same."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def _text(value: bytes) -> str:
    # Half a surrogate pair is text to Python and no UTF-8, and comes back as it was.
    return value.decode("utf-8", "surrogatepass")


class Segment:
    """A segment, opened.

    Args:
        folder: the segment's folder.
        record: what the manifest says of it.
        codec: of its tokens.
        verify: compare checksums; without it sizes alone.
        in_memory: hold the tokens, as `hold_tokens` lays them out.

    Raises:
        DamagedIndexError: naming the files that are missing, cut off or changed.
        FileNotFoundError: if the whole segment is gone.
    """

    def __init__(
        self, folder: Path, record: SegmentRecord, codec: str, verify: bool = True, in_memory: bool = False
    ) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: this segment of the index is missing. Restore it from a copy.")
        found = list(damages(folder, record.files, verify))
        if found:
            raise DamagedIndexError(
                f"Damaged index: {'; '.join(found)}. Restore these files from a copy, or index again."
            )
        self.record, self.codec, self.folder = record, codec, folder
        names = [name for name in record.files if name.endswith(".npy") and not name.startswith("deleted")]
        # "c": pages that nobody may write to, of which torch does not complain.
        self.arrays = {name[:-4]: np.load(folder / name, mmap_mode="c") for name in names}
        self.offsets = torch.from_numpy(np.array(self.arrays.pop("offsets")))
        self.alive = torch.ones(record.passages, dtype=torch.bool)
        if record.deleted is not None:
            self.alive[torch.from_numpy(np.load(folder / record.deleted))] = False
        self._reader = pa.ipc.open_file(pa.memory_map(str(folder / "passages.arrow")))
        self._held = hold_tokens(self.arrays, codec, self.offsets.diff().numpy()) if in_memory else []
        self._values: dict[str, list[Any]] = {}
        self._keys: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.alive.sum())

    def ids(self) -> list[str]:
        """Return the ids of all rows, deleted ones too."""
        batches = range(self._reader.num_record_batches)
        return [text for number in batches for text in _texts(self._reader.get_batch(number).column(0))]

    def rows_of(self, names: set[str], keys: npt.NDArray[np.int64]) -> list[int]:
        """Return the rows of those passages that are here and not deleted; memory keeps 8 bytes of each passage.

        Args:
            names: ids.
            keys: theirs, as `id_keys` gives them.
        """
        if self._keys is None:
            self._keys = id_keys(self.ids())
        rows = np.flatnonzero(np.isin(self._keys, keys)).tolist()
        return [row for row in rows if self.alive[row] and self.ids_of([row])[0] in names]

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of some rows."""
        return [_text(self.cell(row, 0)) for row in rows]

    def payload(self, row: int) -> dict[str, Any]:
        """Return what was added with a row."""
        return json.loads(_text(self.cell(row, 1)))

    def cell(self, row: int, column: int) -> bytes:
        """Return a row's id (column 0) or payload (1), as it is kept."""
        batch, place = divmod(row, PASSAGES_PER_BATCH)
        return self._reader.get_batch(batch).column(column)[place].as_py()

    def payloads(self) -> Iterator[dict[str, Any]]:
        """Yield the payloads of all rows, deleted ones too."""
        for number in range(self._reader.num_record_batches):
            yield from map(json.loads, _texts(self._reader.get_batch(number).column(1)))

    def rows(self, where: Filter | None = None) -> Tensor:
        """Return the rows that are not deleted and pass a filter, ascending: int64 `(rows,)`."""
        kept = self.alive
        for key, wanted in (where or {}).items():
            kept = kept & torch.tensor([holds(value, wanted) for value in self._values_of(key)], dtype=torch.bool)
        return kept.nonzero()[:, 0]

    def _values_of(self, key: str) -> list[Any]:
        if key not in self._values:  # payloads are read once for each key that is filtered by
            self._values[key] = [payload.get(key, ABSENT) for payload in self.payloads()]
        return self._values[key]

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
        everything = len(rows) * LEAST_SHARE_OF_A_SLICE >= last - first
        held = [block for block in self._held if everything and block.start < last and block.stop > first]
        if held:
            first, last = held[0].start, held[-1].stop
        scored = torch.arange(first, last) if everything else rows
        products = (
            self._of_held(queries.embeddings, held) if held else self._of_files(queries.embeddings, scored, everything)
        )
        blocks = [sums_of_queries(best_of_passages(found, lengths), queries) for found, lengths in products]
        scores = torch.cat(blocks, dim=1)
        return scores if len(scored) == len(rows) else scores[:, rows - first]

    def _of_held(self, queries: Tensor, held: Sequence[HeldBlock]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the products of query tokens with those of some blocks, and the lengths of their rows."""
        for block in held:
            yield block.similarities(queries), self.lengths(torch.arange(block.start, block.stop)).numpy()

    def _of_files(self, queries: Tensor, rows: Tensor, is_range: bool) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield the same for rows, which stand one behind the other where they are a range."""
        lengths = self.lengths(rows).numpy()
        ends, offset = lengths.cumsum(), int(self.offsets[rows[0]])
        part = min(max(len(queries) / QUERY_TOKENS_PER_BLOCK, 1), SMALLEST_PART)
        for start, stop in cut_into_blocks(lengths, int(TOKENS_PER_BLOCK / part)):
            own = lengths[start:stop]
            if is_range:
                tokens: slice | Tensor = slice(offset + int(ends[start] - own[0]), offset + int(ends[stop - 1]))
            else:
                tokens = places_of_tokens(self.offsets[rows[start:stop]], own)
            yield similarities(queries, self.arrays, self.codec, tokens), own
