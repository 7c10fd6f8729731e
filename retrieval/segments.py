"""One segment of an index: passages that were committed together, in files that never change and are memory-mapped.

Rows are sorted by length, so that passages scored together need little padding. A segment is a folder of `*.npy` (the
codec's arrays and `offsets`), and `passages.arrow` with ids and payloads.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from drdecr.modeling_drdecr.encoding_drdecr import PackedEmbeddings

from .codecs import decode_tokens, encode_tokens, similarities
from .manifest import DamagedIndexError, SegmentRecord, damages, file_record, sync_folder, write_whole
from .protocol import Where, holds
from .ragged import best_of_passages, sums_of_queries

TOKENS_A_BLOCK = 4096
"""Tokens decoded at once: enough to be worth a call, few enough to stay in a cache."""
LEAST_SHARE_OF_A_SLICE = 2
"""Rows are read in one piece where at least one in so many of it is wanted."""
PASSAGES_A_BATCH = 4096
"""Passages of a batch of the Arrow file."""
ABSENT = object()
"""What a payload without a key has there: equal to nothing that could be asked for."""


def write_segment(
    folder: Path,
    passage_ids: Sequence[str],
    embeddings: Sequence[Tensor],
    payloads: Sequence[Mapping[str, Any]],
    codec: str,
) -> SegmentRecord:
    """Write a segment whole or not at all.

    Args:
        folder: of the segment; its parent must exist. What stands there from a writer that was killed is replaced.
        passage_ids: at least one.
        embeddings: one `(tokens, dim)` tensor each.
        payloads: one mapping each, of what JSON can hold.
        codec: one of `codecs.CODECS`.

    Returns:
        The record for the manifest.
    """
    order = sorted(range(len(passage_ids)), key=lambda row: len(embeddings[row]))
    lengths = np.array([0, *(len(embeddings[row]) for row in order)], dtype=np.int64)
    arrays = {
        "offsets": lengths.cumsum(),
        **encode_tokens(torch.cat([embeddings[row] for row in order]), codec, seed=len(order)),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, array in arrays.items():
            write_whole(temporary / f"{name}.npy", partial(np.save, arr=array))
        rows = [(passage_ids[row], json.dumps(payloads[row], ensure_ascii=False)) for row in order]
        write_whole(temporary / "passages.arrow", lambda file: _write_passages(file, rows))
        files = {path.name: file_record(path) for path in sorted(temporary.iterdir())}
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return SegmentRecord(folder.name, len(order), int(arrays["offsets"][-1]), files)


def _write_passages(file: Any, rows: Sequence[tuple[str, str]]) -> None:
    # Bytes, not texts: half a surrogate pair is text to Python and no UTF-8, and comes back as it was.
    schema = pa.schema([("passage_id", pa.large_binary()), ("payload", pa.large_binary())])
    with pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(rows), PASSAGES_A_BATCH):
            columns = zip(*rows[start : start + PASSAGES_A_BATCH], strict=True)
            arrays = [
                pa.array([text.encode("utf-8", "surrogatepass") for text in column], pa.large_binary())
                for column in columns
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _texts(array: pa.Array) -> list[str]:
    return [value.decode("utf-8", "surrogatepass") for value in array.to_pylist()]


class Segment:
    """A segment, opened.

    Args:
        folder: the segment's folder.
        record: what the manifest says of it.
        codec: of its tokens.
        verify: compare checksums; without it sizes alone.

    Raises:
        DamagedIndexError: naming the files that are missing, cut off or changed.
        FileNotFoundError: if the whole segment is gone.
    """

    def __init__(self, folder: Path, record: SegmentRecord, codec: str, verify: bool = True) -> None:
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
        self._values: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return int(self.alive.sum())

    def ids(self) -> list[str]:
        """Return the ids of all rows, deleted ones too."""
        batches = range(self._reader.num_record_batches)
        return [text for number in batches for text in _texts(self._reader.get_batch(number).column(0))]

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of some rows."""
        return [self._cell(row, 0) for row in rows]

    def payload(self, row: int) -> dict[str, Any]:
        """Return what was added with a row."""
        return json.loads(self._cell(row, 1))

    def _cell(self, row: int, column: int) -> str:
        batch, place = divmod(row, PASSAGES_A_BATCH)
        return _texts(self._reader.get_batch(batch).column(column).slice(place, 1))[0]

    def payloads(self) -> Iterator[dict[str, Any]]:
        """Yield the payloads of all rows, deleted ones too."""
        for number in range(self._reader.num_record_batches):
            yield from map(json.loads, _texts(self._reader.get_batch(number).column(1)))

    def rows(self, where: Where | None = None) -> Tensor:
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

    def tokens(self, row: int) -> Tensor:
        """Return one row's tokens, decoded: float32 `(tokens, dim)`."""
        return decode_tokens(self.arrays, self.codec, slice(int(self.offsets[row]), int(self.offsets[row + 1])))

    def token_places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the tokens of rows stand, int64 `(rows, longest)` with the last one repeated, and their lengths."""
        lengths = self.lengths(rows)
        longest = int(lengths.max()) if len(rows) else 0
        within = torch.minimum(torch.arange(longest)[None, :], (lengths - 1).clamp(min=0)[:, None])
        return (self.offsets[rows][:, None] + within).clamp(max=max(self.record.tokens - 1, 0)), lengths

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
        # All that lies between is read where it is not much more: a slice costs less than what is picked out.
        first, last = int(rows[0]), int(rows[-1]) + 1
        everything = len(rows) * LEAST_SHARE_OF_A_SLICE >= last - first
        scored = torch.arange(first, last) if everything else rows
        lengths = self.lengths(scored).numpy()
        blocks = []
        for start, stop in _blocks(lengths, TOKENS_A_BLOCK):
            part = scored[start:stop]
            tokens = self._span(part) if everything else self._places(part, lengths[start:stop])
            found = similarities(queries.embeddings, self.arrays, self.codec, tokens)
            blocks.append(sums_of_queries(best_of_passages(found, lengths[start:stop]), queries))
        scores = torch.cat(blocks, dim=1)
        return scores if len(scored) == len(rows) else scores[:, rows - first]

    def _span(self, rows: Tensor) -> slice:
        """Return where the tokens of neighbouring rows stand."""
        return slice(int(self.offsets[rows[0]]), int(self.offsets[rows[-1] + 1]))

    def _places(self, rows: Tensor, lengths: np.ndarray) -> Tensor:
        """Return where the tokens of any rows stand, one behind the other: int64 `(tokens,)`."""
        before = torch.from_numpy(lengths.cumsum() - lengths)
        shifts = torch.repeat_interleave(self.offsets[rows] - before, torch.from_numpy(lengths))
        return torch.arange(len(shifts)) + shifts


def _blocks(lengths: np.ndarray, tokens: int) -> Iterator[tuple[int, int]]:
    """Cut passages into blocks `(start, stop)` of at most so many tokens, one passage at least."""
    ends = lengths.cumsum()
    start, taken = 0, 0
    while start < len(lengths):
        stop = max(int(np.searchsorted(ends, taken + tokens, side="right")), start + 1)
        yield start, stop
        start, taken = stop, int(ends[stop - 1])
